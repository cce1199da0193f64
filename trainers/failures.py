"""What ended a training, in one sentence, with what to do where that is known."""

from collections.abc import Sequence

_KNOWN_FAILURES = {
    ("out of memory",): "the device ran out of memory: use a smaller --batch-size, or --precision bf16",
    ("No space left",): "the disk is full: free space and go on with --resume",
    ("killed by signal", "exited unexpectedly"): "a data worker died, mostly for want of memory: "
    "set a smaller data.num_workers or --batch-size",
    (
        "outgoing traffic has been disabled",
        "LocalEntryNotFound",
        "offline mode",
        "couldn't connect",
    ): "a file is needed "
    "that is not on this machine, and nothing is downloaded unless asked: give a local folder, or add --allow-download",
}


def explain_failure(
    error: str, message: str, code: int = 1, tail: Sequence[str] = (), *, process: str = "the process"
) -> str:
    """One readable sentence of why training ended, with what to do where that is known.

    Args:
        error: Class of the error; empty if nothing was raised.
        message: Its text.
        code: Exit code of the process, where it was one of its own.
        tail: The last lines that it printed.
        process: What it is called.
    """
    first_line = next(iter(message.strip().splitlines()), "no message")
    for signs, advice in _KNOWN_FAILURES.items():
        if any(sign in f"{error} {message}" for sign in signs):
            return f"{advice} ({first_line})"
    if error:
        return f"{error}: {first_line}"
    if code < 0:
        return f"{process} was killed by signal {-code}" + (" (often: out of memory)" if code == -9 else "")
    last = next((line for line in reversed(tail) if line.strip()), "no output")
    return f"LeRobot's process ended with code {code}: {last.strip()}"
