"""What a run is refused for is found before it starts, by both trainers and by a dry run alike, and leaves nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from make_dataset import make_dataset

from hlrp.config import load_config
from hlrp.errors import UserError
from trainers import get_trainer

TINY = {
    "chunk_size": 6,
    "n_action_steps": 6,
    "dim_model": 32,
    "n_heads": 2,
    "dim_feedforward": 32,
    "n_encoder_layers": 1,
    "n_vae_encoder_layers": 1,
    "pretrained_backbone_weights": None,
}
BOTH = ("lerobot", "lightning")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of 24 frames at 10 fps."""
    return make_dataset(tmp_path_factory.mktemp("plan") / "toy", episodes=3)


def _run(root: Path, out: Path, trainer: str | None, *arguments: str) -> Any:
    named = any(text.startswith(("model.policy_type=", "model.kind=", "model.class_path=")) for text in arguments)
    settings: dict[str, Any] = {"data.root": root, "output_dir": out, "trainer.device": "cpu", "trainer.steps": 2}
    settings |= {} if trainer is None else {"trainer_type": trainer}
    if not named:
        given = {text.partition("=")[0] for text in arguments}
        settings |= {"model.policy_type": "act"} | {
            f"model.{key}": value for key, value in TINY.items() if f"model.{key}" not in given
        }
    # None is a value of a policy's field: it can only be said as an argument.
    texts = [f"{key}=null" for key, value in settings.items() if value is None]
    flags = {key: (value, f"--{key}") for key, value in settings.items() if value is not None}
    return load_config(None, [*arguments, *texts], flags).config


def _refusal(root: Path, out: Path, trainer: str | None, *arguments: str) -> str:
    """The message with which a dry run is refused."""
    with pytest.raises(UserError) as refused:
        run = _run(root, out, trainer, *arguments)
        get_trainer(run.trainer_type).dry_run(run)
    assert not out.exists()
    return str(refused.value)


@pytest.mark.parametrize("trainer", BOTH)
def test_a_sound_run_passes_and_nothing_is_written(trainer: str, root: Path, tmp_path: Path) -> None:
    run = _run(root, tmp_path / "run", trainer)
    shown = get_trainer(trainer).dry_run(run)
    assert ("--steps=2" in shown) if trainer == "lerobot" else ("steps 0 to 2" in shown)
    assert list(tmp_path.iterdir()) == []


POLICY_MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "no chunk": (["model.chunk_size=0"], ["model.chunk_size = 0", "at least 1"]),
    "negative chunk": (["model.chunk_size=-4"], ["model.chunk_size = -4"]),
    "more steps than the chunk has": (["model.n_action_steps=7"], ["7", "6"]),
    "heads that do not divide the width": (["model.n_heads=3"], ["'act' cannot be made", "divisible"]),
    "unknown backbone": (["model.vision_backbone=resnet99"], ["resnet99"]),
    "another kind of backbone": (["model.vision_backbone=vgg16"], ["vgg16"]),
    "not a number": (["model.kl_weight=.nan"], ["kl_weight", "finite"]),
    "negative rate": (["model.optimizer_lr_backbone=-1"], ["optimizer_lr_backbone", "at least 0"]),
    "no rate": (["model.optimizer_lr=0"], ["optimizer_lr", "greater than 0"]),
    "dropout above one": (["model.dropout=2"], ["dropout", "at most 1"]),
    "unknown camera": (["data.cameras=[observation.imgae]"], ["'observation.imgae'", "'observation.image'"]),
    "unknown environment": (
        ["env.type=pushtt", "trainer.eval_freq=2"],
        ["unknown environment type 'pushtt'", "'pusht'"],
    ),
    "unknown task": (["env.type=pusht", "env.task=PushT-v9", "trainer.eval_freq=2"], ["PushT-v9", "PushT-v0"]),
    "unknown field of the environment": (
        ["env.type=pusht", "env.episode_lenght=5", "trainer.eval_freq=2"],
        ["episode_lenght", "episode_length"],
    ),
    "everything held out": (["trainer.eval_split=0.99"], ["leaves none of 3 episodes"]),
    "unknown transform": (
        ["data.image_transforms={enable: true, tfs: {a: {type: ColourJitter}}}"],
        ["'ColourJitter'", "data.image_transforms.tfs.a"],
    ),
    "a transform of another size": (
        ["data.image_transforms={enable: true, tfs: {a: {type: Resize, kwargs: {size: [16, 16]}}}}"],
        ["(3, 16, 16)", "observation.image"],
    ),
    "a precision that the policy cannot take": (
        ["model.policy_type=vqbet", "trainer.precision=bf16"],
        ["'vqbet' cannot be trained in bf16", "give 32"],
    ),
    "labels for a policy without use for them": (["latents.source=precomputed"], ["no use for latent labels"]),
}


@pytest.mark.parametrize("trainer", BOTH)
@pytest.mark.parametrize("case", POLICY_MISTAKES)
def test_a_policys_mistake_is_found_by_a_dry_run(case: str, trainer: str, root: Path, tmp_path: Path) -> None:
    arguments, mentions = POLICY_MISTAKES[case]
    message = _refusal(root, tmp_path / "run", trainer, *arguments)
    assert [text for text in mentions if text not in message] == [], message


OTHER_MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "strategy": (["trainer.strategy=deepspeed_stage_2"], ["'deepspeed_stage_2'", "pickled format", "use fsdp"]),
    "a compiled sharded module": (["trainer.strategy=fsdp", "trainer.compile=true"], ["trainer.compile", "use ddp"]),
    "misspelt strategy": (["trainer.strategy=dpp"], ["'ddp'"]),
    "callback": (["trainer.callbacks=[EarlyStoping]"], ["'EarlyStopping'"]),
    "a callback's arguments": (["trainer.callbacks=[EarlyStopping]"], ["monitor"]),
    "an average that is not saved": (
        ["trainer.callbacks=[{class_path: EMAWeightAveraging, init_args: {decay: 0.9}}]"],
        ["EMAWeightAveraging would be validated, and not saved", "trainer.ema_decay"],
    ),
    "an average at the end": (
        ["trainer.callbacks=[{class_path: StochasticWeightAveraging, init_args: {swa_lrs: 0.1}}]"],
        ["trainer.callbacks", "StochasticWeightAveraging", "trainer.ema_decay"],
    ),
    "a foreign callback": (["trainer.callbacks=[{class_path: os.system}]"], ["--allow-import os"]),
    "trainer argument": (["trainer.trainer_args={determinstic: true}"], ["'deterministic'"]),
    "how to clip, but not where": (
        ["trainer.trainer_args={gradient_clip_algorithm: value}"],
        ["trainer.trainer_args.gradient_clip_algorithm", "give trainer.gradient_clip_val"],
    ),
    "precision": (["trainer.precision=fp16"], ["fp16 needs a GPU"]),
    "device": (["trainer.devices=2", "trainer.strategy=ddp_spawn"], ["copies of this process"]),
    "optimizer": (["trainer.optimizer={type: adamww}"], ["adamww", "adamw"]),
    "scheduler": (["trainer.scheduler={type: cosine}"], ["'cosine'"]),
    "a rate beside the optimizer": (
        ["trainer.optimizer={type: adamw, lr: 0.1}", "trainer.learning_rate=0.2"],
        ["no effect beside trainer.optimizer", "trainer.learning_rate", "give it as trainer.optimizer.lr"],
    ),
    "a field of the policy's optimizer": (
        ["trainer.optimizer={type: adamw, lr: 0.1}", "model.optimizer_lr_backbone=0.2"],
        ["model.optimizer_lr_backbone", "say it in trainer.optimizer"],
    ),
    "a field of the policy's schedule": (
        ["model.policy_type=diffusion", "trainer.scheduler={type: none}", "model.scheduler_warmup_steps=3"],
        ["model.scheduler_warmup_steps", "say it in trainer.scheduler"],
    ),
    "a window longer than the episodes": (
        ["model.kind=laq", "model.preset=tiny", "data.num_frames=1000"],
        ["spans 1000 frames", "longest of the 3 episodes", "has 24"],
    ),
    "an offset longer than the episodes": (
        ["model.kind=laq", "model.preset=tiny", "data.offset_seconds=3"],
        ["2 frames 3 s apart", "spans 31 frames"],
    ),
    "labels for a quantizer": (["model.kind=laq", "latents.table=t"], ["latents.table", "'laq'"]),
    "a quantizer for a quantizer": (["model.kind=laq", "latents.laq=t"], ["latents.laq", "'laq'"]),
    "a quantizer's sizes": (["model.kind=laq", "model.preset=tiny", "model.patch_size=7"], ["patch_size 7"]),
    "a quantizer's transforms": (
        ["model.kind=laq", "data.image_transforms={enable: true, tfs: {a: {type: JPEGCompression}}}"],
        ["'a' (JPEGCompression)", "8 bits"],
    ),
    "a quantizer's camera": (["model.kind=laq", "data.cameras=[observation.imgae]"], ["'observation.imgae'"]),
    "no labels": (["model.kind=foundation"], ["latents.source is none"]),
    "layers that are out of reach": (
        ["model.policy_type=smolvla", "trainer.compile=true"],
        ["'smolvla'", "model.compile_model=true"],
    ),
    "layers in pieces": (
        ["model.policy_type=smolvla", "trainer.activation_checkpointing=true"],
        ["'smolvla'", "in pieces", "trainer.activation_checkpointing"],
    ),
    "layers in pieces that can be computed again": (
        ["model.policy_type=pi0", "trainer.activation_checkpointing=true"],
        ["'pi0'", "model.gradient_checkpointing=true"],
    ),
    "a class that is none": (["model.class_path=hlrp.errors.UserError"], ["not a LightningModule"]),
}


@pytest.mark.parametrize("case", OTHER_MISTAKES)
def test_a_lightning_runs_mistake_is_found_by_a_dry_run(case: str, root: Path, tmp_path: Path) -> None:
    arguments, mentions = OTHER_MISTAKES[case]
    trainer = None if any(text.startswith(("model.kind", "model.class")) for text in arguments) else "lightning"
    message = _refusal(root, tmp_path / "run", trainer, *arguments)
    assert [text for text in mentions if text not in message] == [], message


_REPLACED = (
    "trainer.lerobot_args={use_policy_training_preset: false, optimizer.type: adamw, optimizer.lr: 0.2, "
    "scheduler.type: diffuser, scheduler.num_warmup_steps: 0}"
)


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        (["trainer.lerobot_args={wandb.enabel: true}"], "wandb.enabel"),
        (["trainer.lerobot_args={tolerance_s: many}"], "tolerance_s"),
        (["trainer.lerobot_args={peft.r: 4}"], "this run starts a new one"),
        ([_REPLACED, "trainer.learning_rate=0.1"], "give it as trainer.lerobot_args.optimizer.lr"),
        ([_REPLACED, "model.optimizer_weight_decay=0.1"], "say it in trainer.lerobot_args.optimizer"),
        (["trainer.lerobot_args={optimizer.lr: 0.1}"], "give use_policy_training_preset: false beside it"),
        (["push_to_hub=true"], "such as me/my-policy"),
    ],
)
def test_a_lerobot_runs_mistake_is_found_by_a_dry_run(
    arguments: list[str], mention: str, root: Path, tmp_path: Path
) -> None:
    assert mention in _refusal(root, tmp_path / "run", "lerobot", *arguments)


@pytest.mark.parametrize("trainer", BOTH)
@pytest.mark.parametrize(
    ("what", "mention"),
    [("no rate", "'fps' is 0"), ("cut statistics", "stats.json cannot be read"), ("no state", "state")],
)
def test_data_that_cannot_be_used_are_found_by_a_dry_run(
    what: str, mention: str, trainer: str, root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(root, copy)
    info, stats = copy / "meta" / "info.json", copy / "meta" / "stats.json"
    if what == "cut statistics":
        stats.write_text(stats.read_text()[:100])
    else:
        values = json.loads(info.read_text())
        values |= {"fps": 0} if what == "no rate" else {}
        if what == "no state":
            del values["features"]["observation.state"]
            del values["features"]["observation.image"]
        info.write_text(json.dumps(values))
    assert mention in _refusal(copy, tmp_path / "run", trainer)


def test_a_quantizer_must_be_told_which_of_two_cameras(tmp_path: Path) -> None:
    cameras = ("observation.images.front", "observation.images.wrist")
    two = make_dataset(tmp_path / "two", episodes=2, length=4, cameras=cameras)
    message = _refusal(two, tmp_path / "run", None, "model.kind=laq", "model.preset=tiny")
    assert "has 2 cameras" in message and ", ".join(cameras) in message


def test_a_policy_that_cannot_be_made_leaves_nothing_in_lightning(root: Path, tmp_path: Path) -> None:
    run = _run(root, tmp_path / "run", "lightning", "model.n_heads=3")
    with pytest.raises(UserError, match="divisible"):
        get_trainer("lightning")().fit(run=run)
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_cannot_be_made_is_a_mistake_in_lerobots_loop_too(root: Path, monkeypatch: Any) -> None:
    from lerobot.datasets import LeRobotDatasetMetadata
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.scripts import lerobot_train

    from trainers.lerobot.hooks import refuse_unbuildable_policies

    monkeypatch.setattr(lerobot_train, "make_policy", lerobot_train.make_policy)
    refuse_unbuildable_policies(lerobot_train)
    config = ACTConfig(device="cpu", dim_model=32, n_heads=3, pretrained_backbone_weights=None)
    with pytest.raises(UserError, match="divisible"):
        lerobot_train.make_policy(cfg=config, ds_meta=LeRobotDatasetMetadata("toy", root=root), rename_map={})


def test_epochs_are_passes_over_what_is_trained_on(root: Path, tmp_path: Path) -> None:
    """Of three episodes of 24 frames one is held out, one is not chosen: 24 frames are left."""
    from trainers.lerobot.trainer import plan

    settings = {"trainer.max_epochs": (2, ""), "data.root": (root, ""), "output_dir": (tmp_path / "run", "")}
    more = ["model.policy_type=act", "trainer.batch_size=10", "trainer.eval_split=0.5", "data.episodes=[0, 2]"]
    run: Any = load_config(None, more, settings).config
    assert plan(run).steps == 2 * 3


@pytest.mark.parametrize("name", ["null", "a${x}"])
def test_a_lightning_run_in_an_oddly_named_folder_goes_on_from_its_own_configuration(
    name: str, root: Path, tmp_path: Path
) -> None:
    from hlrp.runs import RunDirectory

    odd, out = tmp_path / name, tmp_path / "[run]"
    shutil.copytree(root, odd)
    stats = json.loads((odd / "meta" / "stats.json").read_text())
    stats["observation.image"]["mean"] = float("nan")
    (odd / "meta" / "stats.json").write_text(json.dumps(stats))
    run = _run(odd, out, "lightning")
    trainer = get_trainer("lightning")
    fresh = trainer().fit(run=run)
    again: Any = load_config(out / "config.yaml").config
    assert again == run
    result = trainer().resume(RunDirectory.open(out), again, steps=3)
    assert [row["step"] for row in RunDirectory.open(out).metrics()][-1] == 3
    assert result.path == out
    assert result.warnings == fresh.warnings
    assert "statistics of 'observation.image' are not finite" in "".join(result.warnings)
