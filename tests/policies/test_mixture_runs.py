"""One policy from several datasets, in both trainers: the same samples and losses, and runs that can be stopped."""

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import hlrp
from interruptions import assert_gone, family_of, start, wait_for_rows
from make_dataset import make_dataset
from make_labels import make_quantizer, make_table
from own_signals import deliver
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from mixtures import lerobots_loop, make_sources, sections
from tiny_runs import SMALL_CHUNKS, rows_of

from hlrp.config import load_config
from hlrp.errors import Interrupted, UserError
from hlrp.policies import LeRobotPolicyAdapter
from hlrp.runs import RunDirectory
from trainers.lightning.trainer import LightningTrainer

STEPS, SAVED = 6, 3


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The robot's and the video's frames have codes, each in its own table; the other robot's have none."""
    folder = tmp_path_factory.mktemp("mixture")
    roots = make_sources(folder)
    laq = make_quantizer(folder / "laq")
    found = sections(roots)
    for name, source in zip(("robot", "video"), found, strict=False):
        source["table"] = str(make_table(roots[name], laq, folder / f"{name}_codes"))
    return found


def _file(folder: Path, trainer: str, sources: list[dict[str, Any]], name: str = "hlrp_action_expert_latent") -> Path:
    policy = {"policy_type": name, **SMALL_CHUNKS}
    if name.endswith("latent"):
        policy["run_steps"] = STEPS  # of a loop that is not told its length
    sizes = {"steps": STEPS, "batch_size": 8, "save_freq": SAVED, "log_freq": 1, "device": "cpu"}
    data = {"sources": sources, "num_workers": 0}
    path = folder / f"{trainer}.yaml"
    path.write_text(yaml.safe_dump({"trainer_type": trainer, "trainer": sizes, "model": policy, "data": data}))
    return path


def _fit(config: Path, out: Path) -> Path:
    run: Any = load_config(config, [f"output_dir={out}"]).config
    return LightningTrainer().fit(run=run).path


@pytest.fixture(scope="module")
def whole(sources: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lightning's run, unstopped."""
    folder = tmp_path_factory.mktemp("runs")
    return _fit(_file(folder, "lightning", sources), folder / "whole")


def _weights(run: Path) -> dict[str, Any]:
    latest = RunDirectory.open(run).latest()
    assert latest is not None and latest.step == STEPS
    return load_file(latest.pretrained / "model.safetensors")


def test_a_stopped_run_goes_on_bit_for_bit(
    whole: Path, sources: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_batch = LeRobotPolicyAdapter.on_train_batch_end

    def stopping(self: LeRobotPolicyAdapter, *args: Any) -> None:
        after_batch(self, *args)
        if self.global_step == SAVED + 1:
            deliver(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(LeRobotPolicyAdapter, "on_train_batch_end", stopping)
        _fit(_file(tmp_path, "lightning", sources), tmp_path / "run")
    directory = RunDirectory.open(tmp_path / "run")
    run: Any = load_config(directory.path / "config.yaml").config
    LightningTrainer().resume(directory, run)
    for key in ("loss", "grad_norm", "latent_labelled", "action_labelled"):
        assert rows_of(directory.path, key) == rows_of(whole, key), key
    first, second = _weights(whole), _weights(directory.path)
    assert first.keys() == second.keys() and all(first[n].equal(second[n]) for n in first)


def test_the_run_says_what_it_was_trained_on_and_stays_with_it(whole: Path, sources: list[dict[str, Any]]) -> None:
    recorded = RunDirectory.open(whole).manifest.dataset
    assert [source.root for source in recorded.sources] == [source["root"] for source in sources]
    assert recorded.fingerprint == "+".join(str(source.fingerprint) for source in recorded.sources)
    # 4 of 8 samples are the robot's, of which half the episodes are labelled; 2 are a video's with codes.
    assert 0 < sum(rows_of(whole, "action_labelled")) / STEPS < 0.5
    assert sum(rows_of(whole, "latent_labelled")) / STEPS == pytest.approx(0.75, abs=0.1)
    config = json.loads((whole / "checkpoints/last/pretrained_model/config.json").read_text())
    assert [source["table"] for source in config["sources"]] == [source.get("table") for source in sources]
    assert config["input_features"]["observation.state"]["shape"] == [2]
    run: Any = load_config(whole / "config.yaml", ["data.sources.1.weight=3"]).config
    with pytest.raises(UserError, match=r"trained on other data: weights was \[2.0, 1.0, 1.0\] and is now"):
        LightningTrainer().resume(
            RunDirectory.open(shutil.copytree(whole, whole.parent / "copy")), run, steps=STEPS + 1
        )


@pytest.fixture(scope="module")
def two_robots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file of a mixture of two robots, shaped as PushT's and Meta-World's, and a run of it in Lightning."""
    folder = tmp_path_factory.mktemp("robots")
    push = make_dataset(folder / "push", episodes=2, length=18, size=96, action_dim=2)
    meta = make_dataset(folder / "meta", episodes=2, length=18, size=96, action_dim=4, state_dim=4)
    sources = [{"root": str(push), "action_space": "pusht"}, {"root": str(meta), "action_space": "metaworld"}]
    config = _file(folder, "lightning", sources, "hlrp_action_expert_direct")
    return config, _fit(config, folder / "run")


@pytest.mark.parametrize("kind", ["codes", "robots"])
def test_lerobots_loop_gives_the_same(
    kind: str,
    whole: Path,
    two_robots: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, run = (whole.parent / "lightning.yaml", whole) if kind == "codes" else two_robots
    native: Any = load_config(config, ["trainer_type=lerobot"]).config
    losses, norms = lerobots_loop(native, tmp_path / "run", monkeypatch)
    assert losses == pytest.approx(rows_of(run, "loss"), rel=1e-5) and len(losses) == STEPS
    assert norms == pytest.approx(rows_of(run, "grad_norm"), rel=1e-5)


def test_a_checkpoint_knows_its_action_spaces(two_robots: tuple[Path, Path]) -> None:
    saved = json.loads((two_robots[1] / "checkpoints/last/pretrained_model/config.json").read_text())
    assert saved["action_spaces"] == {"pusht": {"action": 2, "state": 2}, "metaworld": {"action": 4, "state": 4}}
    assert saved["action_space"] == "pusht"


@pytest.mark.parametrize(("space", "env"), [("pusht", "pusht"), ("metaworld", "metaworld_light")])
def test_one_checkpoint_acts_in_both_simulators(two_robots: tuple[Path, Path], space: str, env: str) -> None:
    from hlrp.evaluation.request import EvalRequest
    from hlrp.evaluation.run import evaluate

    _, run = two_robots
    fields = {"image_size": 96} if env == "metaworld_light" else {"observation_height": 96, "observation_width": 96}
    request = EvalRequest(
        run, env_type=env, episodes=1, videos=0, env_fields={**fields, "episode_length": 3}, action_space=space
    )
    result = evaluate(request)
    assert len(result.episodes) == 1 and result.provenance["policy"]["action_space"] == space
    other = {"pusht": "metaworld", "metaworld": "pusht"}[space]
    with pytest.raises(UserError, match=rf"do not fit: [^|]*actions of [^|]*acts as {other}, and knows {space}"):
        evaluate(replace(request, action_space=other))
    with pytest.raises(UserError, match="the policy has no action space 'push': it knows pusht, metaworld"):
        evaluate(replace(request, action_space="push"))


@pytest.mark.slow
def test_lerobots_command_goes_on_after_a_kill(whole: Path, sources: list[dict[str, Any]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(["train", "-c", str(_file(tmp_path, "lerobot", sources)), "--output-dir", str(run)])
    wait_for_rows(run, SAVED + 1, process)
    family = family_of(process)
    process.kill()  # SIGKILL
    process.communicate()
    assert_gone(family)  # the worker sees that nobody reads any more, and saves
    for later in (c for c in RunDirectory.open(run).checkpoints() if c.step > SAVED):
        shutil.rmtree(later.path)
    done = hlrp("train", "--resume", run)
    assert done.code == 0, done.err
    for key in ("loss", "grad_norm", "action_labelled", "latent_labelled"):
        assert rows_of(run, key) == pytest.approx(rows_of(whole, key), rel=1e-5), key
    first, second = _weights(whole), _weights(run)
    assert first.keys() == second.keys()
    assert max(float((first[n].double() - second[n].double()).abs().max()) for n in first) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["lightning", "lerobot"])
def test_two_processes_at_half_the_batch_give_the_curve_of_one(
    trainer: str, sources: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Of a policy that draws nothing at random; the two have different shares of what is supervised."""
    losses = {}
    for processes in (1, 2):
        run = tmp_path / str(processes)
        config = _file(tmp_path, trainer, sources, "hlrp_vla_direct")
        sizes = ["--devices", processes, "--batch-size", 8 // processes, "--output-dir", run]
        done = hlrp("train", "-c", config, *map(str, sizes), env={"OMP_NUM_THREADS": "1"})
        assert done.code == 0, done.err
        losses[processes] = rows_of(run, "loss")
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)
