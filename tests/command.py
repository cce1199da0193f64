"""Running the installed command as a user does."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def hlrp_argv(*args: str | Path) -> list[str]:
    """The installed command, as a list for a subprocess."""
    return [str(Path(sys.executable).with_name("hlrp")), *map(str, args)]


def hlrp(
    *args: str | Path, cwd: Path | None = None, timeout: float = 300, env: dict[str, str] | None = None
) -> Finished:
    """Run the installed command as a user does."""
    done = subprocess.run(
        hlrp_argv(*args),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | (env or {}),
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def instead(usual: list[str], more: Iterable[str | Path]) -> list[str]:
    """Arguments with ``more`` in place of what ``usual`` says of the same flags and keys: none may be given twice."""
    texts = [str(text) for text in more]
    flags = {text for text in texts if text.startswith("--")}
    keys = {text.partition("=")[0] for text in texts if "=" in text and not text.startswith("-")}
    kept: list[str] = []
    for position, text in enumerate(usual):
        value_of = usual[position - 1] if position else ""
        if text in flags or value_of in flags or text.partition("=")[0] in keys:
            continue
        kept.append(text)
    return [*kept, *texts]


def assert_user_error(done: Finished, *mentions: str) -> None:
    """One message that mentions all of ``mentions``, exit code 2, no traceback."""
    assert done.code == 2, done
    assert "Traceback" not in done.err + done.out, done.err
    assert done.err.count("error:") == 1, done.err
    for text in mentions:
        assert text in done.err, (text, done.err)


HEAVY = ("torch", "lerobot", "lightning", "transformers", "mujoco", "pydantic", "omegaconf", "numpy")
"""Packages that take a second or more to import, or would be felt in every `--help`."""

_IN_TURN = """
import contextlib, io, json, os, pathlib, sys, tempfile
asked = json.loads(sys.stdin.read())
from hlrp_cli.main import run
done = []
for args, typed in zip(asked["commands"], asked["typed"]):
    code, out, err = 0, io.StringIO(), io.StringIO()
    with tempfile.TemporaryFile() as lines:
        lines.write(typed.encode())
        lines.seek(0)
        os.dup2(lines.fileno(), 0)
    sys.argv = ["hlrp", *args]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run()
        except SystemExit as end:
            code = end.code or 0
    heavy = [name for name in asked["heavy"] if name in sys.modules]
    done.append([code, out.getvalue(), err.getvalue(), heavy])
pathlib.Path(asked["answer"]).write_text(json.dumps(done))
"""


@dataclass(frozen=True)
class InTurn(Finished):
    """A command that ended in a process which had run others before it.

    Args:
        heavy: Those of `HEAVY` that it or one before it had imported.
    """

    heavy: frozenset[str]


def hlrp_in_turn(
    commands: Sequence[Sequence[str | Path]],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    typed: Sequence[str] | None = None,
) -> list[InTurn]:
    """Run commands that end early, such as those with a mistake, one after another in one process.

    Each has its own output and exit code, and one start serves them all. What only a process of its own shows, like
    signals and what C libraries print, is left to `hlrp`. Each reads its text of ``typed`` from standard input.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        lists = [list(map(str, command)) for command in commands]
        asked = {"commands": lists, "typed": typed or [""] * len(lists), "heavy": HEAVY, "answer": str(answer)}
        ended = subprocess.run(
            [sys.executable, "-c", _IN_TURN],
            input=json.dumps(asked),
            cwd=cwd,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert answer.is_file(), ended.stderr
        return [InTurn(code, out, err, frozenset(heavy)) for code, out, err, heavy in json.loads(answer.read_text())]
