"""No key of the schema is dropped: each trainer acts on it for each kind of model, or refuses it by name."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from hlrp.config import (
    LeRobotRun,
    LightningRun,
    OtherRun,
    RunConfig,
    load_config,
    refuse_unused,
    refuse_unused_by_other,
    shipped_names,
)
from hlrp.config.messages import all_keys
from hlrp.config.models import ClassPath, FoundationModel, LaqModel, PolicyModel
from hlrp.config.obeyed import OBEYED, given_keys
from hlrp.errors import UserError

KINDS: dict[str, tuple[type[BaseModel], type[BaseModel], list[str]]] = {
    "lerobot policy": (LeRobotRun, PolicyModel, ["trainer_type=lerobot", "model.policy_type=act"]),
    "lightning policy": (LightningRun, PolicyModel, ["trainer_type=lightning", "model.policy_type=act"]),
    "lightning laq": (LightningRun, LaqModel, ["model.kind=laq"]),
    "lightning foundation": (LightningRun, FoundationModel, ["model.kind=foundation"]),
    "lightning class": (LightningRun, ClassPath, ["model.class_path=hlrp.laq.module.LAQModule"]),
}

# Key to arguments that give it a value other than its default, with what it needs beside it.
GIVEN: dict[str, list[str]] = {
    "trainer_type": [],
    "output_dir": ["output_dir=o"],
    "job_name": ["job_name=j"],
    "allow_download": ["allow_download=true"],
    "push_to_hub": ["push_to_hub=me/x"],
    "trainer.steps": ["trainer.steps=3"],
    "trainer.max_nonfinite_steps": ["trainer.max_nonfinite_steps=3"],
    "trainer.max_epochs": ["trainer.max_epochs=3"],
    "trainer.batch_size": ["trainer.batch_size=3"],
    "trainer.learning_rate": ["trainer.learning_rate=0.1"],
    "trainer.devices": ["trainer.devices=2"],
    "trainer.num_nodes": ["trainer.num_nodes=2"],
    "slurm": ["slurm.nodes=2"],
    "slurm.partition": ["slurm.partition=p"],
    "slurm.time": ["slurm.time=2:00:00"],
    "slurm.nodes": ["slurm.nodes=2"],
    "slurm.gpus_per_node": ["slurm.gpus_per_node=2"],
    "slurm.cpus": ["slurm.cpus=2"],
    "slurm.account": ["slurm.account=a"],
    "slurm.qos": ["slurm.qos=q"],
    "slurm.array": ["slurm.array=3"],
    "slurm.requeue": ["slurm.requeue=false"],
    "slurm.setup": ["slurm.setup=[module load cuda]"],
    "trainer.precision": ["trainer.precision=bf16"],
    "trainer.tf32": ["trainer.tf32=false"],
    "trainer.seed": ["trainer.seed=3"],
    "trainer.device": ["trainer.device=cpu"],
    "trainer.log_freq": ["trainer.log_freq=3"],
    "trainer.save_freq": ["trainer.save_freq=3"],
    "trainer.eval_freq": ["trainer.eval_freq=3", "env.type=pusht"],
    "trainer.eval_split": ["trainer.eval_split=0.3"],
    "trainer.eval_steps": ["trainer.eval_steps=3", "trainer.eval_split=0.3"],
    "trainer.lerobot_args": ["trainer.lerobot_args={wandb.enable: true}"],
    "trainer.accumulate_grad_batches": ["trainer.accumulate_grad_batches=2"],
    "trainer.gradient_clip_val": ["trainer.gradient_clip_val=2"],
    "trainer.optimizer": ["trainer.optimizer={type: adamw}"],
    "trainer.scheduler": ["trainer.scheduler={type: none}"],
    "trainer.ema_decay": ["trainer.ema_decay=0.9"],
    "trainer.eval_episodes": ["trainer.eval_episodes=3", "trainer.eval_freq=3", "env.type=pusht"],
    "trainer.strategy": ["trainer.strategy=ddp"],
    "trainer.activation_checkpointing": ["trainer.activation_checkpointing=true"],
    "trainer.callbacks": ["trainer.callbacks=[LearningRateMonitor]"],
    "trainer.callbacks.class_path": ["trainer.callbacks=[LearningRateMonitor]"],
    "trainer.callbacks.init_args": ["trainer.callbacks=[{class_path: Timer, init_args: {interval: epoch}}]"],
    "trainer.logger": ["trainer.logger=[]"],
    "trainer.profiler": ["trainer.profiler=simple"],
    "trainer.compile": ["trainer.compile=true"],
    "trainer.keep_last": ["trainer.keep_last=2"],
    "trainer.limit_train_batches": ["trainer.limit_train_batches=2"],
    "trainer.val_check_interval": ["trainer.val_check_interval=2", "trainer.eval_split=0.3"],
    "trainer.trainer_args": ["trainer.trainer_args={deterministic: true}"],
    "model.policy_type": [],
    "model.kind": [],
    "model.class_path": [],
    "model.init_args": ["model.init_args={a: 1}"],
    "model.init_from": ["model.init_from=x"],
    "model.preset": ["model.preset=tiny"],
    "model.quantizer": ["model.quantizer=fsq"],
    "model.codebook_size": ["model.codebook_size=4"],
    "model.code_seq_len": ["model.code_seq_len=2"],
    "model.image_size": ["model.image_size=96"],
    "model.patch_size": ["model.patch_size=12"],
    "model.background_weight": ["model.background_weight=0.2"],
    "model.feature_model": ["model.feature_model=f"],
    "model.feature_weight": ["model.feature_weight=2", "model.feature_model=f"],
    "model.space": ["model.space=features", "model.feature_model=f"],
    "model.labelled_episodes": ["model.labelled_episodes=[1]"],
    "model.action_weight": ["model.action_weight=2", "model.labelled_episodes=[1]"],
    "model.labelled_share": ["model.labelled_share=0.5", "model.labelled_episodes=[1]"],
    "model.flow_model": ["model.flow_model=f"],
    "model.flow_weight": ["model.flow_weight=2", "model.flow_model=f"],
    "model.backend": ["model.backend=qwen3vl_chat"],
    "model.backbone": ["model.backbone=tiny"],
    "model.mode": ["model.mode=vectors"],
    "model.use_state": ["model.use_state=true"],
    "model.layers": ["model.layers=1"],
    "model.max_text_tokens": ["model.max_text_tokens=9"],
    "model.train_vision": ["model.train_vision=true"],
    "model.train_language": ["model.train_language=false"],
    "model.lora": ["model.lora={rank: 4}"],
    "model.lora.rank": ["model.lora.rank=4"],
    "model.lora.alpha": ["model.lora.alpha=4"],
    "model.lora.targets": ["model.lora.targets=[q_proj]"],
    "data.repo_id": ["data.repo_id=a/b"],
    "data.root": ["data.root=d"],
    "data.episodes": ["data.episodes=[1]"],
    "data.num_workers": ["data.num_workers=1"],
    "data.cache": ["data.cache=ram"],
    "data.cache_limit_gb": ["data.cache_limit_gb=1"],
    "data.streaming": ["data.streaming=true"],
    "data.streaming_files": ["data.streaming=true", "data.streaming_files=4"],
    "data.cameras": ["data.cameras=[a]"],
    "data.num_frames": ["data.num_frames=3"],
    "data.offset_seconds": ["data.offset_seconds=0.5"],
    "data.sources": ["data.sources=[{root: a}]"],
    "data.sources.repo_id": ["data.sources=[{repo_id: a/b}]"],
    "data.sources.root": ["data.sources=[{root: a}]"],
    "data.sources.weight": ["data.sources=[{root: a, weight: 2}]"],
    "data.sources.labelled_episodes": ["data.sources=[{root: a, labelled_episodes: [1]}]"],
    "data.sources.action_space": ["data.sources=[{root: a, action_space: b}]"],
    "data.sources.rename_map": ["data.sources=[{root: a, rename_map: {b: c}}]"],
    "data.sources.table": ["data.sources=[{root: a, table: t}]"],
    "data.video_backend": ["data.video_backend=pyav"],
    "data.tolerance_s": ["data.tolerance_s=0.01"],
    "data.image_transforms": ["data.image_transforms=true"],
    "data.image_transforms.enable": ["data.image_transforms.enable=true"],
    "data.image_transforms.max_num_transforms": ["data.image_transforms={enable: true, max_num_transforms: 2}"],
    "data.image_transforms.random_order": ["data.image_transforms={enable: true, random_order: true}"],
    "data.image_transforms.tfs": ["data.image_transforms={enable: true, tfs: {a: {type: RandomInvert}}}"],
    "data.image_transforms.tfs.weight": ["data.image_transforms={enable: true, tfs: {a: {weight: 2}}}"],
    "data.image_transforms.tfs.type": ["data.image_transforms={enable: true, tfs: {a: {type: RandomInvert}}}"],
    "data.image_transforms.tfs.kwargs": ["data.image_transforms={enable: true, tfs: {a: {kwargs: {p: 1}}}}"],
    "data.rename_map": ["data.rename_map={a: b}", "model.init_from=x"],
    "data.filter": ["data.filter.motion=true"],
    "data.filter.motion": ["data.filter.motion=true"],
    "data.filter.motion.below": ["data.filter.motion=2"],
    "data.filter.motion.above": ["data.filter.motion.above=4"],
    "data.filter.motion.seconds": ["data.filter.motion.seconds=0.2"],
    "data.filter.motion.min_seconds": ["data.filter.motion.min_seconds=2"],
    "data.filter.idle": ["data.filter.idle=true"],
    "data.filter.idle.picture_below": ["data.filter.idle.picture_below=2"],
    "data.filter.idle.picture_above": ["data.filter.idle.picture_above=4"],
    "data.filter.idle.robot_below": ["data.filter.idle.robot_below=0.01"],
    "data.filter.idle.robot_above": ["data.filter.idle.robot_above=0.5"],
    "data.filter.idle.seconds": ["data.filter.idle.seconds=0.2"],
    "data.filter.idle.min_seconds": ["data.filter.idle=2"],
    "latents.source": ["latents.source=precomputed"],
    "latents.table": ["latents.table=t"],
    "latents.laq": ["latents.laq=l"],
    "env": ["env.type=pusht"],
    "env.type": ["env.type=pusht"],
    "env.task": ["env.type=pusht", "env.task=t"],
}


def _keys(who: str) -> Iterator[str]:
    """Every key that the schema lets a run of this trainer and kind of model have."""
    run, model, _ = KINDS[who]
    for key in all_keys(run):
        if key != "model" and key.partition(".")[0] not in ("model",):
            yield key
    yield from all_keys(model, "model.")


SECTIONS = {"trainer", "data", "latents"}
CASES = [(who, key) for who in KINDS for key in dict.fromkeys(_keys(who)) if key not in SECTIONS]


@pytest.mark.parametrize(("who", "key"), CASES, ids=lambda value: str(value).replace(" ", "-"))
def test_every_key_is_obeyed_or_refused_by_name(who: str, key: str) -> None:
    assert key in OBEYED, f"decide who obeys {key}, in hlrp/config/obeyed.py"
    arguments = dict.fromkeys([*KINDS[who][2], *GIVEN[key]])
    if key == "data.rename_map" and who not in OBEYED[key]:
        arguments.pop("model.init_from=x")
    run = load_config(None, list(arguments)).config
    if key not in ("trainer_type",):
        assert key in set(given_keys(run)), "the value given is the default"
    if who in OBEYED[key]:
        refuse_unused(run)
        return
    with pytest.raises(UserError) as refused:
        refuse_unused(run)
    parents = {key, key.rpartition(".")[0], "data.sources", "data.streaming", "env", "trainer.eval_freq"}
    assert str(refused.value).split()[0] in parents, refused.value


def test_the_table_says_nothing_of_keys_that_do_not_exist() -> None:
    possible = {who: set(_keys(who)) for who in KINDS}
    assert [(who, key) for key, obeyers in OBEYED.items() for who in obeyers if key not in possible[who]] == []


def test_a_default_that_is_written_out_is_not_refused() -> None:
    """As in the configuration of a run that is resumed."""
    run = load_config(None, ["model.policy_type=act", "data.cache=off", "latents.source=none"]).config
    refuse_unused(run)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["model.kind=laq", "model.feature_weight=2"], "model.feature_weight"),
        (["model.kind=laq", "model.flow_weight=2"], "model.flow_weight"),
        (["model.kind=laq", "trainer.val_check_interval=2"], "trainer.val_check_interval"),
        (["trainer_type=lightning", "model.policy_type=act", "trainer.eval_episodes=3"], "trainer.eval_episodes"),
        (["model.policy_type=act", "data.rename_map={a: b}"], "data.rename_map"),
        (["model.kind=laq", "data.image_transforms.random_order=true"], "data.image_transforms.random_order"),
    ],
)
def test_a_key_that_has_no_effect_without_another_is_refused(arguments: list[str], key: str) -> None:
    with pytest.raises(UserError, match=f"{key} has no effect without"):
        refuse_unused(load_config(None, arguments).config)


@pytest.mark.parametrize("name", [name for name in shipped_names() if not name.startswith("eval/")])
def test_shipped_files_hold_no_key_that_is_not_obeyed(name: str) -> None:
    refuse_unused(load_config(name).config)


def test_both_runs_are_walked() -> None:
    assert {run for run, _, _ in KINDS.values()} == {LeRobotRun, LightningRun}
    assert all(run.__name__ in str(RunConfig) for run in (LeRobotRun, LightningRun))


def _numbers(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        annotation = str(field.annotation)
        if re.search(r"\b(int|float)\b", annotation) and "list" not in annotation and "tuple" not in annotation:
            yield f"{prefix}{name}", field


@pytest.mark.parametrize("value", ["-1", "-0.5", ".nan", ".inf", "99999999999999999999999999"])
@pytest.mark.parametrize(
    ("section", "base"),
    [
        ("trainer", ["model.policy_type=act"]),
        ("trainer", ["trainer_type=lightning", "model.policy_type=act"]),
        ("data", ["model.policy_type=act"]),
        ("model", ["model.kind=laq"]),
        ("model", ["model.kind=foundation"]),
    ],
)
def test_numbers_that_nothing_can_have_are_refused_by_every_key(section: str, base: list[str], value: str) -> None:
    """Negative ones, no numbers at all, and whole numbers beyond all counting."""
    run = load_config(None, base).config
    names = [name for name, _ in _numbers(type(getattr(run, section)))]
    assert len(names) > 1
    for name in names:
        with pytest.raises(UserError, match=f"{section}.{name}"):
            load_config(None, [*base, f"{section}.{name}={value}"])


OBEYS = {"trainer.steps", "trainer.clip", "model.policy_type", "data.root", "data.filter.idle", "data.image_transforms"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trainer": {"learning_rate": 1e-3}}, "trainer.learning_rate has no effect with the trainer 'mine'"),
        ({"trainer": {"foo": 3}}, "unknown key 'trainer.foo' of the trainer 'mine'"),
        ({"trainer": {"clop": 3}}, "did you mean 'clip'"),
        ({"data": {"root": "d", "episodes": [0]}}, "data.episodes has no effect"),
        ({"data": {"filter": {"motion": {"below": 1.0}}}}, "data.filter.motion has no effect"),
        ({"data": {"image_transforms": {"random_order": True}}}, "has no effect without data.image_transforms.enable"),
        ({"latents": {"table": "t"}}, "latents.table has no effect"),
        ({"model": {"kind": "laq"}}, "model.kind has no effect"),
        ({"output_dir": "o"}, "output_dir has no effect"),
    ],
)
def test_a_trainer_of_another_package_is_given_what_it_obeys_alone(given: dict[str, Any], said: str) -> None:
    taken = {
        "trainer_type": "mine",
        "trainer": {"steps": 3, "clip": 2.0, "seed": 1000},
        "model": {"policy_type": "act", "dim_model": 8},
        "data": {"root": "d", "filter": {"idle": {"robot_below": 1.0}}, "image_transforms": {"enable": True}},
        "slurm": {"nodes": 2},
    }
    refuse_unused_by_other(OtherRun(**taken), OBEYS)
    with pytest.raises(UserError) as refused:
        refuse_unused_by_other(OtherRun(**{"trainer_type": "mine", "model": {"policy_type": "act"}, **given}), OBEYS)
    assert said in str(refused.value)


def test_a_trainer_that_names_nothing_is_given_nothing() -> None:
    with pytest.raises(UserError, match="a trainer names the keys that it acts on in `obeys`"):
        refuse_unused_by_other(OtherRun(trainer_type="mine", model=PolicyModel(policy_type="act")), ())
