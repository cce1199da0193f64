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


def quiet_libraries(allow_download: bool) -> None:
    """Keep libraries from writing over the progress display, and off the network, before they are imported."""
    import logging

    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not allow_download:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")

    class OneLine(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            reason = f": {record.exc_info[1]}" if record.exc_info and record.exc_info[1] else ""
            return f"{record.levelname.lower()}: {record.getMessage()}{reason}"

    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
