"""Where commands write for people: a Rich console that turns plain when nobody watches a terminal."""

import io
import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_streams() -> None:
    """Have what a stream's encoding cannot say written as escapes: a path with an umlaut must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@lru_cache
def console(*, result: bool = False) -> "Console":
    """A Rich console: what a command found on standard output, how it goes on standard error.

    Args:
        result: Write to standard output; the default keeps that free for `--json`.
    """
    from rich.console import Console

    stream = sys.stdout if result else sys.stderr
    # Without a terminal Rich guesses 80 columns and breaks paths apart; lines of a log may be as long as they are.
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", "160"))
    return Console(stderr=not result, width=width, highlight=False, soft_wrap=not stream.isatty())
