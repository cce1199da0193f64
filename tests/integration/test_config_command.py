"""`hlrp config` as a person types it: output, exit codes, one message for a mistake, quick help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import assert_user_error, hlrp_in_turn

from hlrp.config import load_config, to_yaml

HLRP = [sys.executable, "-m", "hlrp_cli.main"]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def hlrp(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HLRP, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False)


def refused(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Run a command that must be refused; return its one message."""
    done = hlrp(*arguments, cwd=cwd)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    return done.stderr


def test_what_show_prints_can_be_used_again(tmp_path):
    shown = hlrp("config", "show", "-c", "lerobot/act_aloha", "trainer.seed=7", "model.chunk_size=20")
    assert shown.returncode == 0, shown.stderr
    assert "# override 'trainer.seed=7'" in shown.stdout
    (tmp_path / "again.yaml").write_text(shown.stdout)
    first = hlrp("config", "show", "-c", "lerobot/act_aloha", "trainer.seed=7", "model.chunk_size=20", "--json")
    again = hlrp("config", "show", "-c", "again.yaml", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["config"] == json.loads(first.stdout)["config"]
    origin = json.loads(again.stdout)["origin"]
    assert origin["trainer.seed"].startswith("again.yaml:")
    assert json.loads(again.stdout)["files"] == ["again.yaml"]


def test_what_a_run_and_show_write_down_can_be_trained(toy_root: Path, tmp_path: Path) -> None:
    """Both write down every section, whether it asks for anything or not."""
    data = [f"data.root={toy_root}", "data.num_workers=0", "trainer.device=cpu", "trainer.steps=3"]
    kinds = {
        "lerobot": ["model.policy_type=act", "model.dim_model=16", "model.chunk_size=4", "model.n_action_steps=4"],
        "lightning": ["model.kind=laq", "model.preset=tiny", "model.image_size=24", "data.offset_seconds=0.1"],
    }
    commands = []
    for name, model in kinds.items():
        (tmp_path / f"{name}.yaml").write_text(to_yaml(load_config(None, [*model, *data]).config))
        assert "slurm" in (tmp_path / f"{name}.yaml").read_text()
        commands.append(["train", "-c", f"{name}.yaml", "--dry-run"])
    asked = ["train", "-c", "lerobot.yaml", "slurm.partition=gpu", "--dry-run"]
    show = ["config", "show", "-c", "lightning.yaml"]
    lerobot, lightning, shown, refusal = hlrp_in_turn([*commands, show, asked], cwd=tmp_path)
    assert lerobot.code == 0 and "--policy.type=act" in lerobot.out, lerobot.err
    assert lightning.code == 0 and lightning.out.startswith("train     laq with Lightning, steps 0 to 3"), lightning.err
    assert "  partition: null" in shown.out and "  setup: []" in shown.out
    (tmp_path / "again.yaml").write_text(shown.out)
    (again,) = hlrp_in_turn([["train", "-c", "again.yaml", "--dry-run"]], cwd=tmp_path)
    assert (again.code, again.out) == (0, lightning.out), again.err
    assert_user_error(refusal, "slurm has no effect when the training runs here", "add --launcher slurm")


def test_every_shipped_file_is_valid():
    files = sorted(CONFIGS.rglob("*.yaml"))
    done = hlrp("config", "validate", *files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": ok, ") == len(files)
    assert "run of policy act" in done.stdout


def test_wrong_files_are_told_apart_from_right_ones(tmp_path):
    (tmp_path / "good.yaml").write_text("model: {policy_type: act, hidden_dim: 64}\n")
    (tmp_path / "field.yaml").write_text("model: {policy_type: act, chunk_sise: 64}\n")
    (tmp_path / "syntax.yaml").write_text("model: {policy_type: act\ndata: }\n")
    (tmp_path / "sizes.yaml").write_text("model: {policy_type: act, chunk_size: 10}\n")
    done = hlrp("config", "validate", "good.yaml", "field.yaml", "syntax.yaml", "sizes.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "good.yaml: ok" in done.stdout
    for part in ("3 of 4 files", "field.yaml:", "'chunk_sise'", "'chunk_size'", "syntax.yaml:2:", "not valid YAML"):
        assert part in done.stderr
    # What no single field is to blame for, LeRobot's own class says, as it does when the run starts.
    for part in ("Got 100 for `n_action_steps` and 10 for `chunk_size`", "where: model (chunk_size)\n"):
        assert part in done.stderr
    again = hlrp("config", "validate", "sizes.yaml", "model.n_action_steps=10", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, "sizes.yaml: ok, a lerobot run of policy act\n")
    assert "unknown policy 'akt'" in refused("config", "validate", "good.yaml", "model.policy_type=akt", cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show", "-c", "lerobot/act_aloha", "trainer.stepz=5"], ["'trainer.stepz'", "'trainer.steps'"]),
        (["show", "-c", "lerobot/act_aloha", "trainer.steps"], ["key=value"]),
        (["show", "-c", "lerobot/act_alooha"], ["'lerobot/act_aloha'"]),
        (["schema", "--trainer", "lightening"], ["'lightening'", "'lightning'"]),
        (["validate", "trainer.steps=5"], ["no file"]),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(arguments, expected):
    message = refused("config", *arguments)
    assert [part for part in expected if part not in message] == [], message


def test_the_schema_is_json_and_follows_the_trainer():
    schema = json.loads(hlrp("config", "schema", "--trainer", "lightning").stdout)
    assert "strategy" in schema["$defs"]["LightningTrainerSection"]["properties"]
    assert "LeRobotTrainerSection" not in schema["$defs"]


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys\n"
        "from hlrp_cli.main import app\n"
        "for name in ('show', 'validate', 'schema'):\n"
        "    try:\n"
        "        app(['config', name, '--help'])\n"
        "    except SystemExit as stop:\n"
        "        assert not stop.code\n"
        "heavy = {'torch', 'pydantic', 'hlrp.config.schema', 'omegaconf', 'lerobot', 'lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "key=value" in done.stdout.lower()
