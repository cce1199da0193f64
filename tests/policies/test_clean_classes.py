"""The clean classes: up to date, complete, strict about names, and the same runs as the adapter's."""

import dataclasses
import inspect
import re
import shutil
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode

import hlrp.policies.lerobot as clean
from hlrp.aliases import policy_aliases
from hlrp.catalog import build_catalog, cached_catalog
from hlrp.config import load_config
from hlrp.data import LeRobotDataModule
from hlrp.errors import UserError
from hlrp.policies import LeRobotPolicyAdapter
from hlrp.policies.lerobot import ACT, Diffusion, HLRPActionExpertLatent, VQBeT
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import make_policy_classes as maker
from policy_fields import NOTHING_SAID, documented, meanings, shared_fields
from tiny_runs import TINY

from trainers.lightning.trainer import LightningTrainer

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {"steps": 8, "save_freq": 4, "log_freq": 1, "device": "cpu"}
OWN = ("ACT", "Diffusion", "VQBeT", "SmolVLA", "Pi0", "Pi05", "HLRPVLADirect", "HLRPActionExpertLatent")


@pytest.fixture(scope="module")
def configs() -> dict[str, type]:
    """Configuration classes by policy, without those of plugins that are not this project's."""
    build_catalog()
    pinned = re.search(r"^lerobot==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if pinned is None or metadata.version("lerobot") != pinned[1]:
        pytest.skip("the classes are those of the LeRobot that constraints.txt pins")
    known = PreTrainedConfig.get_known_choices()
    return {name: cls for name, cls in known.items() if cls.__module__.partition(".")[0] in maker.SOURCES}


def test_the_catalog_reads_the_list_of_installed_packages_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It takes a second or more: once a policy, the first command of an installation takes half a minute."""
    listed = metadata.packages_distributions()
    reads: list[int] = []
    monkeypatch.setattr(metadata, "packages_distributions", lambda: reads.append(1) or listed)
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path))
    found = build_catalog()
    assert reads == [1]
    assert found.policies["act"].distribution == "lerobot"
    assert found.policies["hlrp_vla_direct"].distribution == "lerobot_policy_felix_bundle"
    assert cached_catalog() == found


def _data(root: Path) -> LeRobotDataModule:
    return LeRobotDataModule(root=root, cache="ram", batch_size=4, num_workers=0)


def _rows(run: Path) -> list[dict[str, Any]]:
    timed = {"update_s", "data_s", "data_wait", "samples_per_s", "rss_mb", "time"}
    return [{k: v for k, v in row.items() if k not in timed} for row in RunDirectory.open(run).metrics()]


def _weights(run: Path, step: int) -> bytes:
    return (run / "checkpoints" / f"{step:06d}" / "pretrained_model" / "model.safetensors").read_bytes()


def test_the_classes_are_what_the_script_makes_of_the_installed_lerobot(configs: dict[str, type]) -> None:
    texts = maker.generate()
    assert maker.differences(texts) == "", "run scripts/make_policy_classes.py"

    @dataclasses.dataclass
    class ACTConfig(configs["act"]):  # type: ignore[misc, name-defined]
        """LeRobot's, a release later."""

        dim_model: int = 1024
        rotary: bool = True  # Whether positions are rotary embeddings.

    changed = maker.differences(texts | maker.formatted(maker.module_texts("act", ACTConfig)))
    assert "-        dim_model: int = 512," in changed
    assert "+        dim_model: int = 1024," in changed
    assert "+        rotary: bool = True," in changed
    assert "+        rotary: Whether positions are rotary embeddings." in changed


def test_signatures_list_every_field_with_its_default(configs: dict[str, type]) -> None:
    assert {getattr(clean, name).lerobot_type for name in clean.__all__} == set(configs)
    for name in clean.__all__:
        cls = getattr(clean, name)
        parameters = inspect.signature(cls).parameters
        for field in dataclasses.fields(configs[cls.lerobot_type]):
            shown = parameters[field.name].default
            if field.default is not dataclasses.MISSING:
                assert shown == field.default, (name, field.name)
            else:
                assert isinstance(shown, types.MappingProxyType | tuple), (name, field.name)
            assert parameters[field.name].annotation is not inspect.Parameter.empty
    parameters = inspect.signature(ACT).parameters
    assert (parameters["hidden_dim"].default, parameters["learning_rate"].default) == (512, 1e-5)


def test_docstrings_say_what_fields_mean_and_what_all_policies_share_once(configs: dict[str, type]) -> None:
    shared = set(shared_fields())
    assert {"device", "init_from", "normalization_mapping"} < shared
    for name in clean.__all__:
        cls = getattr(clean, name)
        said, meant = documented(inspect.cleandoc(cls.__doc__)), meanings(configs[cls.lerobot_type])
        assert said.keys() == {field for field, text in meant.items() if text != NOTHING_SAID}, name
        assert not shared & said.keys()
        for alias, field in policy_aliases(cls.lerobot_type).items():
            takes = inspect.signature(cls).parameters
            assert alias in said or alias not in takes or f"`{alias}`" in cls.__doc__, (name, alias, field)
        if name in OWN:
            assert meant.keys() == said.keys(), name


def test_a_subclass_shows_its_own_arguments_and_its_fields_are_checked() -> None:
    class Narrow(ACT):
        def __init__(self, width: int = 64, **fields: Any) -> None:
            super().__init__(dim_model=width, **fields)

    class Same(ACT):
        """Takes what the class above it takes."""

    assert list(inspect.signature(Narrow).parameters) == ["width", "fields"]
    assert inspect.signature(Same) == inspect.signature(ACT)
    assert Narrow(32, chunk_size=7).fields == {"dim_model": 32, "chunk_size": 7}
    with pytest.raises(UserError, match=r"Narrow has no argument 'chunk_sice'"):
        Narrow(chunk_sice=7)


def test_names_are_checked_when_the_policy_is_written_down() -> None:
    with pytest.raises(UserError, match=r"(?s)no argument 'chunk_sice'.*chunk_size"):
        ACT(chunk_sice=3)  # type: ignore[call-arg]
    for both in ({"hidden_dim": 256, "dim_model": 512}, {"lr": 1e-4, "learning_rate": 1e-4}):
        with pytest.raises(UserError, match="are the same field of policy 'act'"):
            ACT(**both)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="same field"):
        ACT(init_from="a", pretrained_path="b")
    with pytest.raises(UserError, match="by name"):
        ACT(512)  # type: ignore[misc]
    with pytest.raises(UserError, match="by name"):
        ACT.from_dataset("data", 512)  # type: ignore[misc]
    with pytest.raises(UserError, match=r"(?s)no argument 'chunk_sice'.*chunk_size"):
        ACT.from_dataset("data", chunk_sice=3)  # type: ignore[call-arg]
    with pytest.raises(UserError, match=r"left out|leave"):
        ACT.from_pretrained("a", init_from="b")
    with pytest.raises(UserError, match="between 0 and 1"):
        VQBeT(ema_decay=2.0)
    assert ACT.from_config({"hidden_dim": 64, "chunk_size": 7}).fields == {"hidden_dim": 64, "chunk_size": 7}
    assert HLRPActionExpertLatent(allow_download=True).make_config("cpu").allow_download is True


def test_only_what_is_given_is_set() -> None:
    """Mutable values stay the caller's, LeRobot's own types are taken, and all else is LeRobot's default."""
    mapping = {"VISUAL": NormalizationMode.MEAN_STD, "STATE": "MIN_MAX", "ACTION": NormalizationMode.MIN_MAX}
    policy = Diffusion(normalization_mapping=mapping, crop_shape=(56, 56), down_dims=(16, 32), n_obs_steps=2)
    assert set(policy.fields) == {"normalization_mapping", "crop_shape", "down_dims", "n_obs_steps"}
    config = policy.make_config("cpu")
    assert config.normalization_mapping["STATE"] is NormalizationMode.MIN_MAX
    assert (config.crop_shape, config.down_dims, config.horizon) == ((56, 56), (16, 32), 64)
    config.normalization_mapping["STATE"] = NormalizationMode.IDENTITY
    assert mapping["STATE"] == "MIN_MAX"
    default = inspect.signature(ACT).parameters["normalization_mapping"].default
    with pytest.raises(TypeError):
        default["STATE"] = "IDENTITY"


@pytest.fixture(scope="module")
def trained(square_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clean") / "run"
    LightningTrainer(**SETTINGS).fit(ACT(**TINY["act"], learning_rate=1e-4), _data(square_root), output_dir=out)
    return out


def test_a_run_is_the_adapters_bit_for_bit_and_resumes(trained: Path, square_root: Path, tmp_path: Path) -> None:
    adapter = LeRobotPolicyAdapter("act", **TINY["act"], learning_rate=1e-4)
    LightningTrainer(**SETTINGS).fit(adapter, _data(square_root), output_dir=tmp_path / "adapter")
    assert _rows(trained) == _rows(tmp_path / "adapter")
    assert _weights(trained, 8) == _weights(tmp_path / "adapter", 8)
    configs = [(run / "config.yaml").read_text() for run in (trained, tmp_path / "adapter")]
    assert configs[0] == configs[1].replace(str(tmp_path / "adapter"), str(trained))
    run: Any = load_config(trained / "config.yaml").config
    assert run.model.policy_fields["pretrained_backbone_weights"] is None

    resumed = tmp_path / "resumed"
    shutil.copytree(trained, resumed, symlinks=True)
    shutil.rmtree(resumed / "checkpoints" / "000008")
    LightningTrainer().resume(RunDirectory.open(resumed), run)
    assert _rows(resumed) == _rows(trained)
    assert _weights(resumed, 8) == _weights(trained, 8)


def test_from_pretrained_keeps_the_checkpoints_fields(trained: Path, tmp_path: Path) -> None:
    policy = ACT.from_pretrained(trained, n_action_steps=2)
    assert isinstance(policy, ACT)
    assert (policy.built.config.chunk_size, policy.built.config.n_action_steps) == (6, 2)
    observation = {"observation.image": torch.rand(1, 3, 64, 64), "observation.state": torch.ones(1, 2)}
    action = policy.select_action(observation)
    policy.save_pretrained(tmp_path / "saved")
    again = LeRobotPolicyAdapter.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.select_action(observation), action)
    with pytest.raises(UserError, match="holds a policy 'act', not 'diffusion'"):
        Diffusion.from_pretrained(trained)


def test_from_dataset_acts_and_is_trained_as_it_is(square_root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = ACT.from_dataset(square_root, **TINY["act"])
    assert not policy.policy.training
    observation = {"observation.image": torch.rand(1, 3, 64, 64), "observation.state": torch.ones(1, 2)}
    assert policy.select_action(observation).shape == (1, 3)
    policy.reset()
    other = {"observation.images.top": observation["observation.image"], "task": ["push"]}
    with pytest.raises(UserError) as refusal:
        policy.select_action(other)
    assert refusal.value.what == (
        "the observation lacks observation.state, observation.image; it has observation.images.top, task"
    )
    assert refusal.value.fix == "the policy reads observation.state, observation.image"
    head = policy.policy.model.action_head.weight
    before = head.detach().clone()
    settings = {**SETTINGS, "steps": 1}
    LightningTrainer(**settings).fit(policy, _data(square_root), output_dir=tmp_path / "run")
    assert policy.policy.model.action_head.weight is head
    assert 0 < float((head.detach() - before).abs().max()) < 1e-4
    with pytest.raises(UserError, match=r"'cuda'.*'cpu'"):
        LightningTrainer(**settings).fit(ACT(device="cuda"), _data(square_root), output_dir=tmp_path / "other")
    with pytest.raises(UserError, match="no dataset folder"):
        ACT.from_dataset(tmp_path / "none")
    with pytest.raises(UserError, match="not on this machine"):
        ACT.from_dataset("nobody/nothing")


def test_the_example_runs(square_root: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    import clean_classes

    checkpoint = clean_classes.train(square_root, tmp_path / "run")
    assert clean_classes.act(checkpoint, square_root).shape == (1, 3)


def test_importing_the_package_costs_nothing_and_a_class_no_policy() -> None:
    code = """
import sys
import hlrp.policies.lerobot as clean
assert "ACT" in dir(clean) and not {"torch", "lerobot"} & set(sys.modules)
import hlrp.data.lerobot_data_module, hlrp.policies.adapter
before = set(sys.modules)
clean.ACT, clean.HLRPVLADirect
more = {name for name in set(sys.modules) - before if not name.startswith("hlrp.policies.")}
assert not more, more
try:
    clean.Act
except AttributeError:
    sys.exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_type_checker_finds_the_marked_mistakes_and_no_other(tmp_path: Path) -> None:
    """Other packages are left out, which a checker does not need for it: seconds in place of minutes."""
    folder = ROOT / "examples"
    options = [
        "--no-site-packages",
        "--ignore-missing-imports",
        "--cache-dir",
        str(tmp_path),
        "--follow-imports=silent",
    ]
    argv = [sys.executable, "-m", "mypy", *options, str(folder / "mistakes.py"), str(folder / "clean_classes.py")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    found = [line.split(":", 2) for line in done.stdout.splitlines() if ": error:" in line]
    lines = (folder / "mistakes.py").read_text().splitlines()
    marked = {number: line.partition("# error: ")[2] for number, line in enumerate(lines, 1) if "# error: " in line}
    assert [int(number) for _, number, _ in found] == list(marked), done.stdout + done.stderr
    for path, number, message in found:
        assert Path(path).name == "mistakes.py"
        assert marked[int(number)] in message
