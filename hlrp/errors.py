"""The errors that a command ends with: a mistake of the user, work that failed, an interruption."""

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_PARTS = re.compile(r"(.*?)(?:\n  where: (.*?))?(?:\n  fix:   (.*))?", re.DOTALL)


class HlrpError(Exception):
    """Base of the errors that the command line prints as one message, without a traceback.

    Each can be made of a message alone: PyTorch makes what a data-loading process raised anew in the training process,
    with the traceback as its message. Of that the error's own message is taken, so that both read alike.

    Args:
        message: What there is to say.
    """

    exit_code: int = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(self._raised(message))

    @classmethod
    def _raised(cls, message: str) -> str:
        """A message without what PyTorch writes around it, where it does."""
        if not message.startswith(f"Caught {cls.__name__} in "):
            return message
        _, found, raised = message.rpartition(f"\n{cls.__module__}.{cls.__qualname__}: ")
        return raised.removesuffix("\n") if found else message


class UserError(HlrpError):
    """A mistake in what was asked: exit code 2.

    Args:
        what: What is wrong, one sentence.
        where: The file, key or flag that holds the mistake.
        fix: What to do about it, one sentence that can be acted on.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        if (raised := self._raised(what)) != what and (parts := _PARTS.fullmatch(raised)):
            what, where, fix = parts.groups()
        self.what = what
        self.where = where
        self.fix = fix
        lines = [what]
        if where:
            lines.append(f"  where: {where}")
        if fix:
            lines.append(f"  fix:   {fix}")
        super().__init__("\n".join(lines))


class WorkError(HlrpError):
    """The request was sound but the work failed: exit code 1."""


class Interrupted(HlrpError):  # noqa: N818 - an interruption is no error
    """Stopped by a signal after saving what could be saved: exit code 130 (SIGINT) or 143 (SIGTERM).

    Args:
        message: What there is to say.
        signal_number: The signal.
        saved: Whether there is something to go on from.
    """

    def __init__(self, message: str, signal_number: int, *, saved: bool = False) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
        self.saved = saved


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it came from, and so on down to the one that it began with."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def root_cause(error: BaseException) -> str:
    """What an error began with, in one line: libraries wrap the reason of a refusal, some of them several times."""
    *_, first = causes(error)
    return " ".join(str(first).split())


def suggest(name: str, known: Iterable[str], *, limit: int = 12) -> str:
    """Return 'did you mean ...?' for close names, else the known names (all, or the first ``limit``)."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    if not options:
        return "nothing is known by that kind of name"
    shown = ", ".join(options[:limit])
    return f"known: {shown}" + (f", ... ({len(options)} in all)" if len(options) > limit else "")


def suggest_beside(path: Path, otherwise: str) -> str:
    """Return 'did you mean ...?' for what lies where ``path`` does not and is called nearly so, else ``otherwise``."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return otherwise
    return suggest(path.name, names) if difflib.get_close_matches(path.name, names) else otherwise
