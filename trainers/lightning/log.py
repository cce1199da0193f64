"""The log of a Lightning run: every record goes to its `log.txt` once, and none to the terminal."""

import logging
import sys
from collections.abc import Callable
from logging.handlers import MemoryHandler
from pathlib import Path
from types import TracebackType
from typing import Self

from hlrp.runs.directory import LOG

_MOST_KEPT = 10_000


class RunLog:
    """A context in which what Python, LeRobot, Lightning and `warnings` log is kept, and written once there is a file.

    The handlers that write to the terminal are put aside: LeRobot's import installs one for all of Python, Lightning
    and others have their own. Warnings of this project's own modules are passed on as well.

    Args:
        warn: Told these warnings.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._ours = _Warnings(warn)
        # Records of any level wait for the file.
        self._handler = MemoryHandler(_MOST_KEPT, flushLevel=sys.maxsize)
        self._aside: list[tuple[logging.Logger, logging.Handler]] = []
        self._added: list[logging.Logger] = []
        self._level = logging.NOTSET

    def __enter__(self) -> Self:
        logging.getLogger("hlrp").addHandler(self._ours)
        steps = logging.getLogger("hlrp.train")
        self._level = steps.level
        steps.setLevel(logging.INFO)
        logging.captureWarnings(True)
        self._add(logging.getLogger())
        self.silence()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.captureWarnings(False)
        for logger in self._added:
            logger.removeHandler(self._handler)
        for logger, handler in self._aside:
            logger.addHandler(handler)
        logging.getLogger("hlrp.train").setLevel(self._level)
        logging.getLogger("hlrp").removeHandler(self._ours)
        file = self._handler.target
        self._handler.close()
        if file is not None:
            file.close()

    def write_to(self, folder: Path) -> None:
        """Write what was kept, and all that comes, to the run's log."""
        file = logging.FileHandler(folder / LOG, encoding="utf8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._handler.setTarget(file)
        self._handler.capacity = 1
        self._handler.flush()

    def silence(self) -> None:
        """Put the terminal's handlers aside, those too that an import since has installed."""
        loggers = [item for item in logging.root.manager.loggerDict.values() if isinstance(item, logging.Logger)]
        for logger in (logging.getLogger(), *loggers):
            for handler in [h for h in logger.handlers if _is_terminal(h, logger)]:
                logger.removeHandler(handler)
                self._aside.append((logger, handler))
                if not logger.propagate:
                    self._add(logger)  # what it logs would reach no other handler

    def _add(self, logger: logging.Logger) -> None:
        if logger not in self._added:
            logger.addHandler(self._handler)
            self._added.append(logger)


def _is_terminal(handler: logging.Handler, logger: logging.Logger) -> bool:
    if not isinstance(handler, logging.StreamHandler) or isinstance(handler, logging.FileHandler):
        return False
    # Lightning's own write to what was the terminal when it was imported, which somebody may have replaced since.
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return handler.stream in streams or logger.name.startswith("lightning")


class _Warnings(logging.Handler):
    """Passes warnings of this project's modules on."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self._warn(record.getMessage())
