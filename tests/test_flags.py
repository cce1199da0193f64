"""Flags of every command: none is given twice, none has no effect beside the others."""

import sys
from pathlib import Path

import pytest

from hlrp.errors import UserError
from hlrp_cli.flags import EXCLUDE, NEEDS, all_commands
from hlrp_cli.main import command

COMMANDS = dict(all_commands(command()))


def _refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as refused:
        command()([*arguments], standalone_mode=False)
    return str(refused.value)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flag_given_twice_is_refused_by_every_command(name: str) -> None:
    options = [p for p in COMMANDS[name].params if p.param_type_name == "option" and p.name != "help"]
    for option in options:
        words = [max(option.opts, key=len), *([] if getattr(option, "is_flag", False) else ["1"])]
        if option.multiple:
            continue
        assert f"{words[0]} is given twice" in _refusal(*name.split(), *words, *words)


def test_the_short_and_the_long_name_are_one_flag() -> None:
    assert "--config is given twice" in _refusal("train", "-c", "a", "--config", "b")


def test_the_tables_name_flags_that_exist() -> None:
    for table in (NEEDS, EXCLUDE):
        for name, pairs in table.items():
            flags = {option.name for option in COMMANDS[name].params}
            rows = pairs.items() if isinstance(pairs, dict) else pairs
            assert [flag for row in rows for flag in row if flag not in flags] == []


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        (["latents", "verify", "t", "--dataset-root", "d", "--sample", "3"], "--sample has no effect without --laq"),
        (["latents", "verify", "t", "--dataset-root", "d", "--device", "cpu"], "--device has no effect without --laq"),
        (
            ["latents", "verify", "t", "--dataset-root", "d", "--tolerance-s", "1"],
            "--tolerance-s has no effect without",
        ),
        (["precompute-latents", "--laq", "l", "--copy"], "--copy has no effect without --write-column"),
        (["collect", "--tasks", "a", "--output", "o", "--slurm", "time=1"], "--slurm has no effect without --launcher"),
        (
            ["collect", "--tasks", "a", "--output", "o", "--launcher", "local", "--slurm", "time=1"],
            "without --launcher",
        ),
        (["train", "--policy", "act", "--model", "laq"], "--policy and --model exclude each other"),
        (["train", "--policy", "act", "--latents", "a", "--online-laq", "b"], "--latents and --online-laq exclude"),
        (["train", "--policy", "act", "--dry-run", "--json"], "--dry-run and --json exclude each other"),
        (["train", "--resume", "r", "--config", "c"], "a resumed run keeps its settings; --config cannot be changed"),
        # Of a run that begins or goes on the file says what it is, as in sweeps and jobs.
        (["train", "--resume", "auto", "--config", "nowhere.yaml", "--output-dir", "o"], "nowhere.yaml"),
        (["train", "--policy", "act", "trainer.steps=3", "--steps", "4"], "trainer.steps is given twice: 3 and 4"),
        (["eval", "run", "env.episode_length=3", "env.episode_length=4"], "env.episode_length is given twice"),
        (["eval", "run", "--seed", "3", "seed=4"], "eval.seed is given twice"),
    ],
)
def test_a_flag_without_effect_is_refused(arguments: list[str], mention: str) -> None:
    assert mention in _refusal(*arguments)


FITTED = ("--episodes 0", "--output new")
LABELLED = ("--decoder decoder", "--output new")
VALUES = {"kind": "ridge", "inputs": "codes", "action_form": "direct", "launcher": "local"}
"""Choices have to be one of what there is; every other flag takes a 1."""


@pytest.mark.parametrize(
    ("name", "given", "idle"),
    [
        ("fit-actions", ("--laq laq", *FITTED), {"latents", "seed", "suggest"}),
        ("fit-actions", ("--laq laq", "--kind ensemble", *FITTED), {"latents", "suggest"}),
        ("fit-actions", ("--latents table", *FITTED), {"laq", "camera", "tolerance_s", "seed", "device", "suggest"}),
        ("fit-actions", ("--latents table", "--kind ensemble", *FITTED), {"laq", "camera", "tolerance_s", "suggest"}),
        (
            "fit-actions",
            ("--laq laq", "--suggest 1"),
            {"latents", "kind", "action_form", "horizon", "floor", "seed", "output"},
        ),
        (
            "fit-actions",
            ("--latents table", "--suggest 1"),
            {"laq", "camera", "tolerance_s", "device", "kind", "action_form", "horizon", "floor", "seed", "output"},
        ),
        ("pseudo-label", ("--laq laq", *LABELLED), {"latents", "slurm"}),
        (
            "pseudo-label",
            ("--latents table", *LABELLED),
            {"laq", "device", "skip_bad", "decode_workers", "tolerance_s", "slurm"},
        ),
    ],
)
def test_every_flag_of_a_mode_has_an_effect_or_is_refused(
    name: str, given: tuple[str, ...], idle: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused names the flag; what is not goes on to the dataset, which is not there."""
    monkeypatch.chdir(tmp_path)
    words = [name, "--dataset-root", "missing", *" ".join(given).split()]
    refused = set()
    for option in COMMANDS[name].params:
        flag = max(option.opts, key=len)
        if option.name in (None, "help") or flag in words:
            continue
        value = "cpu" if option.name == "device" else VALUES.get(str(option.name), "1")
        message = _refusal(*words, *([flag] if getattr(option, "is_flag", False) else [flag, value]))
        if "missing" in message:
            continue
        assert ("has no effect without" in message or "exclude each other" in message) and flag in message
        refused.add(option.name)
    assert refused == idle


@pytest.mark.parametrize(
    "flag",
    [
        "--seed 3",
        "--videos 0",
        "--batch-size 2",
        "--device cpu",
        "--rename-map a=b",
        "--action-space a",
        "--async-envs",
        "--compare x",
    ],
)
def test_a_replay_alone_refuses_what_only_a_policy_needs(flag: str, toy_root: Path) -> None:
    message = _refusal("eval", "--replay", str(toy_root), *flag.split())
    assert message.startswith(
        f"{flag.split(maxsplit=1)[0]} has no effect when recorded actions are replayed without a policy"
    )


def test_a_class_of_a_package_that_is_allowed_passes_the_check_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hlrp.config import class_path

    (tmp_path / "my_callbacks_xy.py").write_text("from lightning.pytorch import Callback\nclass Mine(Callback): pass\n")
    run = "trainer_type: lightning\nmodel: {policy_type: act}\ntrainer: {callbacks: [my_callbacks_xy.Mine]}\n"
    (tmp_path / "run.yaml").write_text(run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(class_path, "_given", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    for words in (["config", "validate", "run.yaml"], ["config", "show", "-c", "run.yaml"]):
        assert "--allow-import my_callbacks_xy" in _refusal(*words)
        command()([*words, "--allow-import", "my_callbacks_xy"], standalone_mode=False)
        monkeypatch.setattr(class_path, "_given", [])
    assert "run.yaml: ok, a lightning run of policy act" in capsys.readouterr().out
