"""Where commands write for people: a Rich console that turns plain when nobody watches a terminal."""

import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@lru_cache
def console() -> "Console":
    """Console on standard error, so that `--json` on standard output stays machine-readable."""
    from rich.console import Console

    # Without a terminal Rich guesses 80 columns and breaks paths apart; lines of a log may be as long as they are.
    width = None if sys.stderr.isatty() else int(os.environ.get("COLUMNS", "160"))
    return Console(stderr=True, width=width, highlight=False, soft_wrap=not sys.stderr.isatty())


def is_terminal() -> bool:
    """Whether live progress can be drawn (standard error is a terminal)."""
    return console().is_terminal
