"""`hlrp export` as a person types it, and `hlrp eval` of what it makes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import assert_user_error, hlrp, hlrp_in_turn
from make_dataset import make_dataset
from tiny_policies import save_tiny_act

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def act(tmp_path_factory) -> Path:
    """A checkpoint that says which data it was trained on, and in which environment."""
    folder = tmp_path_factory.mktemp("act")
    checkpoint = save_tiny_act(folder / "pretrained_model")
    root = make_dataset(folder / "data", size=96, action_dim=2, length=12, episodes=2)
    trained = {"dataset": {"repo_id": "data", "root": str(root)}, "env": {"type": "pusht", "task": "PushT-v0"}}
    (checkpoint / "train_config.json").write_text(json.dumps(trained))
    return checkpoint


def test_from_a_checkpoint_to_an_export_to_its_evaluation(act, tmp_path):
    out = tmp_path / "EXPORT"
    (typed,) = re.findall(r"^    hlrp (export .*)$", DEPLOY.read_text(encoding="utf8"), re.MULTILINE)
    stands_for = {"RUN": act, "EXPORT": out}
    done = hlrp(*(stands_for.get(word, word) for word in typed.split()), "--json", env=ONE_THREAD)
    assert done.code == 0, done.err
    assert "comparing with the policy in torch" in done.err and "Warning" not in done.err
    said = done.json()
    assert said == json.loads((out / "manifest.json").read_text())
    assert said["check"]["source"] == "recorded" and said["check"]["max_error"] <= 1e-4
    assert (said["policy"], said["format"], said["chunk"], said["n_action_steps"]) == ("act", "onnx", 10, 10)
    assert said["environment"] == {"type": "pusht", "task": "PushT-v0"} and said["fps"] == 10
    assert said["latency"]["threads"] == 1 and said["latency"]["exported"]["p50_ms"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["EXPORT"], "nothing else is left"
    (page,) = re.findall(r"```python\n(import numpy.*?)```", DEPLOY.read_text(encoding="utf8"), re.DOTALL)
    code = f"{page}\nassert action.shape == (2,)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    flags = ["--episodes", "2", "--videos", "0", "--seed", "5", "env.episode_length=12"]
    against, theirs = (tmp_path / name for name in ("eval", "alone"))
    commands = [["eval", act, *flags, "--output", theirs, "--json"]]
    commands.append(["eval", out, "--compare", act, *flags, "--output", against, "--json"])
    alone, both = hlrp_in_turn(commands, env=ONE_THREAD)
    assert both.code == 0, both.err
    assert "lerobot" in both.heavy and "transformers" not in both.heavy, "neither policy uses it, and it takes seconds"
    found = both.json()
    assert found["policy"]["type"] == "act" and found["env"]["type"] == "pusht"
    assert found["policy"]["weights_sha256"] == said["source"]["weights_sha256"]
    returns = [[e["return"] for e in result["episodes"]] for result in (found, alone.json())]
    assert returns[0] == pytest.approx(returns[1], abs=1e-3)


def test_mistakes_are_one_message(act, tmp_path):
    (tmp_path / "there").mkdir()
    new = ["--output", tmp_path / "new"]
    cases = [
        (["export", act, *new, "--format", "onxx"], ["unknown format 'onxx'", "did you mean 'onnx'"]),
        (["export", act, *new, "--quantize", "int4"], ["cannot be made 'int4'", "did you mean 'int8'"]),
        (["export", act, *new, "--format", "torch", "--quantize", "int8"], ["float32 weights alone"]),
        (["export", act, "--output", tmp_path / "there"], ["the output exists already"]),
        (["export", tmp_path / "nowhere", *new], ["does not exist"]),
    ]
    for (_, mentions), done in zip(cases, hlrp_in_turn([args for args, _ in cases]), strict=True):
        assert_user_error(done, *mentions)
        assert not done.heavy & {"torch", "lerobot"}, "said before anything heavy is imported"
    assert not (tmp_path / "new").exists()


def test_without_the_packages_the_extra_is_named(act, tmp_path):
    code = (
        "import importlib.util as u, sys; real = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'onnxscript' else real(name, *a); "
        "from hlrp_cli.main import run; run()"
    )
    argv = [sys.executable, "-c", code, "export", str(act), "--output", str(tmp_path / "new")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2, done.stderr
    assert "onnxscript must be installed" in done.stderr and "lerobot_policy_felix_bundle[export]" in done.stderr
