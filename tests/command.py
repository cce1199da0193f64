"""Running the installed command as a user does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
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
