"""The Python on the pages about policies and trainers runs as it stands there, but for the length of the runs."""

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from command import assert_user_error, hlrp

from hlrp.runs import RunDirectory
from hlrp.sim.catalog import recording_of

sys.path.insert(0, str(Path(__file__).parents[1] / "policies"))
from tiny_runs import TINY

DOCS = Path(__file__).parents[2] / "docs"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# What is shortened; each must be on the page.
PAGES = {
    "lightning_policies.md": {"steps=2000, eval_steps=500": "steps=2, eval_steps=2"},
    "policy_classes.md": {"steps=2000": "steps=2", "steps=500": "steps=1"},
}


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf8"), re.DOTALL)


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square that moves, with PushT's pictures and actions."""
    from make_dataset import make_dataset

    return make_dataset(tmp_path_factory.mktemp("docs") / "square", episodes=4, length=12, size=96, action_dim=2)


@pytest.fixture(scope="module")
def metaworld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the camera that `hlrp collect --env metaworld` writes, as `data/mw` of the pages has it."""
    from make_dataset import make_dataset

    said = recording_of("metaworld")
    (camera,) = said.cameras
    return make_dataset(
        tmp_path_factory.mktemp("docs") / "mw",
        episodes=4,
        length=12,
        size=said.image_size,
        state_dim=len(said.state),
        action_dim=len(said.action),
        camera=f"observation.images.{camera}",
    )


@pytest.mark.parametrize("page", PAGES)
def test_python_on_the_page_runs(
    page: str, metaworld: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    shutil.copytree(metaworld, tmp_path / "data" / "mw")
    blocks, seen = _blocks(page, "python"), set()
    assert blocks
    for written in blocks:
        block = written
        for said, short in PAGES[page].items():
            seen |= {said} if said in written else set()
            block = block.replace(said, short)
        names: dict[str, Any] = {"__name__": "page"}
        exec(compile(block, page, "exec"), names)
        if "result" in names:
            assert names["result"].checkpoint.is_dir()
        if "action" in names:
            assert names["action"].shape == (1, 4)
    assert seen == set(PAGES[page])


@pytest.mark.slow
def test_the_trainer_on_the_page_is_one_of_the_command(square: Path, tmp_path: Path) -> None:
    """Installed as its package would be: it trains, resumes exactly, is rolled out, and has Lightning's numbers."""
    (code,), (toml,) = _blocks("new_trainer.md", "python"), _blocks("new_trainer.md", "toml")
    site = tmp_path / "site"
    info = site / "torch_trainer-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "torch_trainer.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_trainer\nVersion: 1.0\n")
    groups = tomllib.loads(toml)["project"]["entry-points"]
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in names.items()) for group, names in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))

    env = {**ONE_THREAD, "PYTHONPATH": str(site)}
    keys = [f"model.{key}={json.dumps(value)}" for key, value in TINY["act"].items()]
    common = ["--policy", "act", "--dataset-root", str(square), "--device", "cpu", "--batch-size", "4", *keys]
    common += ["--steps", "4", "trainer.save_freq=2", "data.cache=ram", "--episodes", "0,2", "--lr", "1e-3"]
    mine = ["train", "--trainer", "torch", *common, "trainer.max_grad_norm=0.5"]
    whole = tmp_path / "whole"
    done = hlrp(*mine, "--output-dir", whole, env=env)
    assert done.code == 0, done.err
    resumed = tmp_path / "resumed"
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "000004")
    done = hlrp("train", "--resume", resumed, env=env)
    assert done.code == 0, done.err
    rows = [[row | {"time": 0} for row in RunDirectory.open(run).metrics()] for run in (whole, resumed)]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4]
    weights = [run / "checkpoints/000004/pretrained_model/model.safetensors" for run in (whole, resumed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    lightning = tmp_path / "lightning"
    clipped = ["trainer.log_freq=1", "trainer.gradient_clip_val=0.5"]
    done = hlrp("train", "--trainer", "lightning", *common, *clipped, "--output-dir", lightning, env=env)
    assert done.code == 0, done.err
    assert [row["loss"] for row in rows[0]] == pytest.approx(
        [r["loss"] for r in RunDirectory.open(lightning).metrics()]
    )

    _goes_on(resumed, [*mine, "--output-dir", resumed], env)
    _refuses(mine, tmp_path / "refused", env)

    pusht = ["--env", "pusht", "env.observation_height=96", "env.observation_width=96", "env.episode_length=6"]
    done = hlrp("eval", whole, *pusht, "--episodes", "1", "--videos", "0", "--json", env=env)
    assert done.code == 0, done.err
    assert len(done.json()["episodes"]) == 1
    assert_user_error(hlrp("train", "--trainer", "toch", *common, env=env), "'toch'", "'torch'")
    assert_user_error(hlrp("train", "--trainer", "torch", *common, env=ONE_THREAD), "'torch'", "lightning")


def _goes_on(run: Path, again: list[Any], env: dict[str, str]) -> None:
    """A run of four steps: it is complete, is made longer, and is complete at its new length."""
    final = RunDirectory.open(run).manifest.final_metrics
    assert final is not None and final["step"] == 4
    assert_user_error(hlrp("train", "--resume", run, env=env), "the run is complete: it has 4 of 4 steps")
    assert RunDirectory.open(run).manifest.final_metrics == final
    done = hlrp(*again, "--resume", "auto", "--json", env=env)
    assert (done.code, done.json()["metrics"]["step"]) == (0, 4), done.err
    done = hlrp("train", "--resume", run, "--steps", "6", env=env)
    assert done.code == 0, done.err
    manifest = RunDirectory.open(run).manifest
    assert (manifest.steps, manifest.final_metrics and manifest.final_metrics["step"]) == (6, 6)
    assert_user_error(hlrp("train", "--resume", run, env=env), "the run is complete: it has 6 of 6 steps")


def _refuses(mine: list[str], out: Path, env: dict[str, str]) -> None:
    """What it does not act on is refused before anything is written, in a dry run too."""
    for given, said in (
        ("trainer.precision=bf16", "trainer.precision has no effect with the trainer 'torch'"),
        ("trainer.max_grad_norm=much", "the norm is 'much'"),
    ):
        kept = [word for word in mine if not word.startswith("trainer.max_grad_norm")]
        assert_user_error(hlrp(*kept, given, "--output-dir", out, env=env), said)
        assert not out.exists()
    assert_user_error(hlrp(*mine, "data.tolerance_s=0.1", "--dry-run", env=env), "data.tolerance_s has no effect")
