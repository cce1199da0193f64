"""The arguments that LeRobot is given, and what is checked before it starts."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hlrp.config import DataSection, LeRobotRun, load_config
from hlrp.config.obeyed import OBEYED
from hlrp.data.dataset_info import read_dataset
from hlrp.errors import UserError
from trainers.lerobot.command import build_arguments, build_command
from trainers.lerobot.events import ASKED_FILTER, ASKED_POLICY, SHUFFLING_ASKED, SOURCES
from trainers.lifecycle import default_log_freq, default_save_freq

OURS = "model.policy_type=hlrp_action_expert_latent"


def _run(*overrides: str) -> LeRobotRun:
    named = any(text.startswith("model.policy_type=") for text in overrides)
    run = load_config(None, [*([] if named else ["model.policy_type=act"]), *overrides]).config
    assert isinstance(run, LeRobotRun)
    return run


def _arguments(root: Path, *overrides: str, known: dict[str, object] | None = None) -> dict[str, str]:
    run = _run(f"data.root={root}", *overrides)
    listed = build_arguments(run, read_dataset(None, root), Path("/runs/x"), run.trainer.steps, known)
    return dict(a.removeprefix("--").split("=", 1) for a in listed)


def test_schema_keys_become_lerobot_arguments(toy_root: Path) -> None:
    arguments = _arguments(
        toy_root,
        "trainer.steps=40",
        "trainer.batch_size=3",
        "trainer.seed=7",
        "trainer.learning_rate=1e-3",
        "trainer.device=cpu",
        "data.episodes=[1]",
        "model.hidden_dim=32",
        "model.use_vae=false",
        "model.pretrained_backbone_weights=null",
        "trainer.lerobot_args={wandb.enable: true}",
    )
    expected = {
        "policy.type": "act",
        "policy.dim_model": "32",
        "policy.use_vae": "false",
        "policy.pretrained_backbone_weights": "null",
        "policy.optimizer_lr": "0.001",
        "policy.device": "cpu",
        "policy.push_to_hub": "false",
        "dataset.root": str(toy_root),
        "dataset.episodes": "[1]",
        "output_dir": "/runs/x",
        "steps": "40",
        "batch_size": "3",
        "seed": "7",
        "wandb.enable": "true",
    }
    assert {k: arguments.get(k) for k in expected} == expected
    assert arguments["dataset.video_backend"] == "pyav", "one decoder, whatever else is installed"
    assert "tolerance_s" not in arguments
    other = _arguments(toy_root, "data.video_backend=torchcodec", "data.tolerance_s=0.01")
    assert (other["dataset.video_backend"], other["tolerance_s"]) == ("torchcodec", "0.01")
    assert "env.type" not in arguments, "no simulator unless rollouts are asked for"


# Key that the LeRobot trainer obeys: arguments that give it, and what becomes of it: `--NAME=VALUE` for LeRobot, a
# variable of its process (`$NAME=VALUE`), or a word of the command that starts it.
SOURCE = "data.sources=[{root: /d}]"
BECOMES: dict[str, tuple[list[str], str]] = {
    "trainer_type": ([], "trainers.lerobot.worker"),
    "output_dir": ([], "--output_dir=/runs/x"),
    "job_name": (["job_name=mine"], "--job_name=mine"),
    "allow_download": (["allow_download=true"], "$HLRP_ALLOW_DOWNLOAD=1"),
    "push_to_hub": (["push_to_hub=me/x"], "--policy.push_to_hub=false"),
    "trainer.steps": (["trainer.steps=40"], "--steps=40"),
    "trainer.max_epochs": (["trainer.max_epochs=3", "trainer.batch_size=10"], "--steps=15"),
    "trainer.batch_size": (["trainer.batch_size=3"], "--batch_size=3"),
    "trainer.learning_rate": (["trainer.learning_rate=1e-3"], "--policy.optimizer_lr=0.001"),
    "trainer.devices": (["trainer.devices=2"], "--nproc-per-node=2"),
    "trainer.precision": (["trainer.precision=bf16"], "$ACCELERATE_MIXED_PRECISION=bf16"),
    "trainer.tf32": (["trainer.tf32=false"], "$HLRP_TF32_OFF=1"),
    "trainer.seed": (["trainer.seed=7"], "--seed=7"),
    "trainer.device": (["trainer.device=cpu"], "--policy.device=cpu"),
    "trainer.log_freq": (["trainer.log_freq=3"], "--log_freq=3"),
    "trainer.save_freq": (["trainer.save_freq=5"], "--save_freq=5"),
    "trainer.eval_freq": (["trainer.eval_freq=9", "env.type=pusht"], "--env_eval_freq=9"),
    "trainer.eval_split": (["trainer.eval_split=0.5"], "--dataset.eval_split=0.5"),
    "trainer.eval_steps": (["trainer.eval_steps=4", "trainer.eval_split=0.5"], "--eval_steps=4"),
    "trainer.max_nonfinite_steps": (["trainer.max_nonfinite_steps=3"], "$HLRP_MAX_NONFINITE_STEPS=3"),
    "trainer.lerobot_args": (["trainer.lerobot_args={wandb.enable: true}"], "--wandb.enable=true"),
    "model.policy_type": (["model.policy_type=vqbet"], "--policy.type=vqbet"),
    "model.init_from": (["model.init_from=/somewhere"], "--policy.path=/somewhere"),
    "data.repo_id": (["data.repo_id=a/b"], "--dataset.repo_id=a/b"),
    "data.root": ([], "--dataset.root={root}"),
    "data.episodes": (["data.episodes=[1]"], "--dataset.episodes=[1]"),
    "data.num_workers": (["data.num_workers=1"], "--num_workers=1"),
    "data.cameras": (["data.cameras=[observation.image]"], '"cameras": ["observation.image"]'),
    "data.sources": ([SOURCE], '"root": "/d"'),
    "data.sources.repo_id": (["data.sources=[{repo_id: a/b}]"], '"repo_id": "a/b"'),
    "data.sources.root": ([SOURCE], '"root": "/d"'),
    "data.sources.weight": (["data.sources=[{root: /d, weight: 3}]"], '"weight": 3.0'),
    "data.sources.labelled_episodes": (
        ["data.sources=[{root: /d, labelled_episodes: [0, 1, 2, 9]}]"],
        '"labelled_episodes": "0-2,9-9"',
    ),
    "data.sources.table": ([OURS, "data.sources=[{root: /d, table: /t}]"], '"table": "/t"'),
    "data.sources.rename_map": (["data.sources=[{root: /d, rename_map: {a: b}}]"], '"rename_map": {"a": "b"}'),
    "data.sources.action_space": (["data.sources=[{root: /d, action_space: arm}]"], '"action_space": "arm"'),
    "data.video_backend": (["data.video_backend=pyav"], "--dataset.video_backend=pyav"),
    "data.tolerance_s": (["data.tolerance_s=0.01"], "--tolerance_s=0.01"),
    "data.rename_map": (["data.rename_map={a: b}", "model.init_from=/x"], '--rename_map={"a": "b"}'),
    "data.image_transforms": (["data.image_transforms=true"], "--dataset.image_transforms.enable=true"),
    "data.image_transforms.enable": (["data.image_transforms.enable=true"], "--dataset.image_transforms.enable=true"),
    "data.image_transforms.max_num_transforms": (
        ["data.image_transforms=true", "data.image_transforms.max_num_transforms=2"],
        "--dataset.image_transforms.max_num_transforms=2",
    ),
    "data.image_transforms.random_order": (
        ["data.image_transforms={enable: true, random_order: true}"],
        "--dataset.image_transforms.random_order=true",
    ),
    "data.image_transforms.tfs": (
        ["data.image_transforms={enable: true, tfs: {b: {type: ColorJitter, kwargs: {brightness: [0.5, 1.5]}}}}"],
        '--dataset.image_transforms.tfs={"b": {"type": "ColorJitter", "kwargs": {"brightness": [0.5, 1.5]}}}',
    ),
    "data.image_transforms.tfs.weight": (
        ["data.image_transforms={enable: true, tfs: {b: {weight: 2}}}"],
        '--dataset.image_transforms.tfs={"b": {"weight": 2.0}}',
    ),
    "data.image_transforms.tfs.type": (
        ["data.image_transforms={enable: true, tfs: {b: {type: RandomInvert}}}"],
        '--dataset.image_transforms.tfs={"b": {"type": "RandomInvert"}}',
    ),
    "data.image_transforms.tfs.kwargs": (
        ["data.image_transforms={enable: true, tfs: {b: {kwargs: {p: 1}}}}"],
        '--dataset.image_transforms.tfs={"b": {"kwargs": {"p": 1}}}',
    ),
    "data.filter": (["data.filter.motion=true"], '"motion":{"below":1.0'),
    "data.filter.motion": (["data.filter.motion=true"], '"motion":{"below":1.0'),
    "data.filter.motion.below": (["data.filter.motion=2"], '"below":2.0'),
    "data.filter.motion.above": (["data.filter.motion.above=4"], '"above":4.0'),
    "data.filter.motion.seconds": (["data.filter.motion.seconds=0.2"], '"seconds":0.2'),
    "data.filter.motion.min_seconds": (["data.filter.motion.min_seconds=2"], '"min_seconds":2.0'),
    "data.filter.idle": (["data.filter.idle=true"], '"idle":{"picture_below":1.0'),
    "data.filter.idle.picture_below": (["data.filter.idle.picture_below=2"], '"picture_below":2.0'),
    "data.filter.idle.picture_above": (["data.filter.idle.picture_above=4"], '"picture_above":4.0'),
    "data.filter.idle.robot_below": (["data.filter.idle.robot_below=0.01"], '"robot_below":0.01'),
    "data.filter.idle.robot_above": (["data.filter.idle.robot_above=0.5"], '"robot_above":0.5'),
    "data.filter.idle.seconds": (["data.filter.idle.seconds=0.2"], '"seconds":0.2'),
    "data.filter.idle.min_seconds": (["data.filter.idle=2"], '"min_seconds":2.0'),
    "latents.source": ([OURS, "latents.source=precomputed"], "--policy.latent_source=precomputed"),
    "latents.table": ([OURS, "latents.table=/t"], "--policy.latent_table=/t"),
    "latents.laq": ([OURS, "latents.laq={laq}"], "--policy.latent_laq={laq}"),
    "env": (["trainer.eval_freq=9", "env.type=pusht", "env.obs_type=state"], "--env.obs_type=state"),
    "env.type": (["trainer.eval_freq=9", "env.type=pusht"], "--env.type=pusht"),
    "env.task": (["trainer.eval_freq=9", "env.type=pusht", "env.task=PushT-v0"], "--env.task=PushT-v0"),
}


def test_the_table_of_arguments_has_every_key_that_the_lerobot_trainer_obeys() -> None:
    obeyed = {key for key, obeyers in OBEYED.items() if "lerobot policy" in obeyers}
    # Which are whoever's that starts the command, once for every process of every node.
    launchers = {"trainer.num_nodes", *(key for key in obeyed if key.partition(".")[0] == "slurm")}
    assert set(BECOMES) == obeyed - launchers


def test_one_of_several_processes_takes_its_place_among_them(toy_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    meeting = {"MASTER_ADDR": "first", "MASTER_PORT": "29500"}
    for name, value in (place | meeting).items():
        monkeypatch.setenv(name, value)
    run = _run(f"data.root={toy_root}", "trainer.devices=2", "trainer.num_nodes=2", "trainer.device=cpu")
    command = build_command(run, [])
    assert command.launcher[-2:] == ["-m", "trainers.lerobot.worker"], "no torchrun inside of torchrun"
    assert command.environment.items() >= (place | meeting | {"GROUP_RANK": "1", "ACCELERATE_USE_CPU": "true"}).items()


def test_image_transforms_are_lerobots_own_config_in_both_trainers(toy_root: Path) -> None:
    """What LeRobot's parser makes of the arguments is what the Lightning trainer builds its transforms from."""
    import draccus
    import lerobot.policies  # noqa: F401 - its parser knows the types of policies that were imported
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.transforms import ImageTransformsConfig

    from hlrp.config.sections import ImageTransformsSection
    from hlrp.data.augmentation import image_transforms

    ours = ImageTransformsSection().model_dump(exclude={"tfs"})
    assert ours == {name: getattr(ImageTransformsConfig(), name) for name in ours}
    bright = "{weight: 2, type: ColorJitter, kwargs: {brightness: [0.5, 1.5]}}"
    tfs = "{b: " + bright + ", s: {type: SharpnessJitter, kwargs: {sharpness: 2}}}"
    for given in ("true", "{enable: true, max_num_transforms: 1, random_order: true, tfs: " + tfs + "}"):
        keys = (f"data.image_transforms={given}", "model.pretrained_backbone_weights=null")
        arguments = _arguments(toy_root, *keys)
        listed = [f"--{key}={value}" for key, value in arguments.items()]
        parsed = draccus.parse(TrainPipelineConfig, args=listed).dataset.image_transforms
        built: Any = image_transforms(_run(f"data.root={toy_root}", *keys).data.image_transforms)
        assert parsed == built._cfg and parsed.enable
    assert parsed.tfs["b"].weight == 2 and parsed.tfs["b"].kwargs == {"brightness": [0.5, 1.5]}
    assert parsed.tfs["s"].type == "SharpnessJitter" and parsed.max_num_transforms == 1
    assert not [key for key in _arguments(toy_root) if "image_transforms" in key]


def test_image_transforms_among_lerobots_arguments_as_an_older_file_has_them(toy_root: Path) -> None:
    old = "trainer.lerobot_args={dataset.image_transforms.enable: true, dataset.image_transforms.max_num_transforms: 2}"
    run = _run(f"data.root={toy_root}", old)
    assert run.data.image_transforms.lerobot_fields == {"enable": True, "max_num_transforms": 2}
    assert run.trainer.lerobot_args == {}
    with pytest.raises(UserError, match=r"use data\.image_transforms"):
        _run(f"data.root={toy_root}", old, "data.image_transforms=true")


@pytest.fixture(scope="module")
def laq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hlrp.laq import LAQ
    from hlrp.laq.checkpoint import save
    from hlrp.laq.config import LAQConfig

    folder = tmp_path_factory.mktemp("laq")
    save(LAQ(LAQConfig.preset("tiny")), folder)
    return folder


@pytest.mark.parametrize("key", BECOMES)
def test_a_key_reaches_lerobot(key: str, toy_root: Path, laq: Path) -> None:
    given, expected = BECOMES[key]
    places = {"root": toy_root.absolute(), "laq": laq}
    root = [] if key.startswith("data.sources") else [f"data.root={toy_root}"]
    run = _run(*root, *[text.replace("{laq}", str(laq)) for text in given])
    info = read_dataset(None, toy_root)
    steps = run.trainer.total_steps(info.frames)
    command = build_command(run, build_arguments(run, info, Path("/runs/x"), steps, None))
    variables = [f"${name}={value}" for name, value in command.environment.items()]
    wanted = expected.replace("{root}", str(places["root"])).replace("{laq}", str(places["laq"]))
    if wanted.startswith('"'):
        told = ASKED_FILTER if key.startswith("data.filter") else ASKED_POLICY if root else SOURCES
        assert wanted in command.environment[told]
    else:
        assert wanted in [*command.typed, *variables]


@pytest.mark.parametrize(
    ("data", "told"), [("data.filter.motion=true", ASKED_FILTER), ("data.sources=[{root: /a}]", SOURCES)]
)
def test_the_process_that_trains_opens_datasets_as_asked(data: str, told: str) -> None:
    run = _run(data, "data.video_backend=torchcodec", "data.tolerance_s=0.01")
    assert DataSection.model_validate_json(build_command(run, []).environment[told]).reading == run.data.reading


def test_rollouts_during_training_name_the_simulator(toy_root: Path) -> None:
    arguments = _arguments(
        toy_root, "trainer.eval_freq=10", "env.type=metaworld_light", "env.task=drawer-close-v3", "env.image_size=64"
    )
    assert (arguments["env.type"], arguments["env.task"], arguments["env.image_size"]) == (
        "metaworld_light",
        "drawer-close-v3",
        "64",
    )
    assert arguments["env_eval_freq"] == "10"


@pytest.mark.parametrize(("known", "dtype"), [({"dtype": None}, "bfloat16"), ({}, None)])
def test_precision_is_the_policys_dtype_or_accelerates(
    toy_root: Path, known: dict[str, object], dtype: str | None
) -> None:
    assert _arguments(toy_root, "trainer.precision=bf16", known=known).get("policy.dtype") == dtype
    assert build_command(_run("trainer.precision=bf16"), []).environment["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_network_is_off_unless_asked_for() -> None:
    assert build_command(_run(), []).environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in build_command(_run("allow_download=true"), []).environment


@pytest.mark.parametrize(
    ("override", "adapters"),
    [
        ("trainer.steps=2", False),
        ("trainer.lerobot_args={peft.r: 4}", True),
        ("trainer.lerobot_args={peft: {r: 4}}", True),
        ("model.use_peft=true", True),
    ],
)
def test_process_knows_whether_adapters_are_asked_for(override: str, adapters: bool) -> None:
    """Else it would leave out the package that makes them."""
    asked = json.loads(build_command(_run(override), []).environment[ASKED_POLICY])
    assert (asked["name"], asked["fresh"], asked["adapters"]) == ("act", True, adapters)


def test_several_devices_are_processes_with_the_places_that_torchrun_would_give_them() -> None:
    command = build_command(_run("trainer.devices=2"), ["--steps=1"])
    assert command.typed[1:3] == ["-m", "torch.distributed.run"]
    assert "--nproc-per-node=2" in command.typed
    assert command.typed[-3:] == ["-m", "trainers.lerobot.worker", "--steps=1"]
    with command.started() as argv:
        assert argv[1:] == ["-m", "trainers.lerobot.worker", "--steps=1"]
    first, second = command.environments()
    assert first.items() >= command.environment.items()
    assert first["MASTER_ADDR"] == "127.0.0.1" and 15_000 <= int(first["MASTER_PORT"]) < 25_000
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    assert first.items() >= place.items()
    assert first | {"RANK": "1", "LOCAL_RANK": "1"} == second
    assert build_command(_run(), []).environments() == [build_command(_run(), []).environment]


def test_intervals_fit_short_and_long_runs() -> None:
    assert [default_log_freq(s) for s in (1, 100, 100_000)] == [1, 2, 200]
    assert [default_save_freq(s) for s in (20, 2000, 1_000_000)] == [100, 400, 20_000]


def test_a_trainer_made_in_python_checks_its_settings(toy_root: Path, tmp_path: Path) -> None:
    from trainers import LeRobotTrainer, get_trainer

    assert get_trainer("lerobot") is LeRobotTrainer
    with pytest.raises(UserError, match="stepps"):
        LeRobotTrainer(stepps=3).fit("act", dataset_root=toy_root, output_dir=tmp_path / "run")
    with pytest.raises(UserError, match="did you mean 'lerobot'"):
        get_trainer("lerobt")


def test_the_order_is_made_by_the_rules_of_the_run_and_as_in_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.datasets.sampler import EpisodeAwareSampler

    from hlrp.data import shuffling
    from hlrp.data.frame_order import FrameOrder
    from trainers.lerobot.data_hooks import order_frames

    assert SHUFFLING_ASKED not in build_command(_run(), []).environment
    assert build_command(_run(), [], "drawn").environment[SHUFFLING_ASKED] == "drawn"
    monkeypatch.setattr(shuffling, "DRAWN_SAMPLES", 20)
    orders: dict[str, list[int]] = {}
    for rules in ("drawn", "computed"):
        script = SimpleNamespace()
        order_frames(script, rules)  # type: ignore[arg-type]
        orders[rules] = list(script.EpisodeAwareSampler([0, 40], [30, 50], drop_n_last_frames=5, shuffle=True, seed=1))
        few = list(script.EpisodeAwareSampler([0], [20], shuffle=True, seed=1))
        assert few == list(EpisodeAwareSampler([0], [20], shuffle=True, seed=1)), "LeRobot's own"
    shared: dict[str, Any] = {"drop_n_last_frames": 5, "shuffle": True, "seed": 1}
    assert orders["drawn"] == list(EpisodeAwareSampler([0, 40], [30, 50], **shared))
    assert orders["computed"] == list(FrameOrder([0, 40], [30, 50], **shared)) != orders["drawn"]
    assert sorted(orders["computed"]) == sorted(orders["drawn"])
