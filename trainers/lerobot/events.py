"""How a training process tells the process that started it what happens: one JSON object a line, marked."""

import contextlib
import json
import os
import time
from collections.abc import Collection
from typing import Any

# ASCII record separator: no log line holds one, and it survives launchers that pass lines through.
MARK = "\x1e"
ALLOW_DOWNLOAD = "HLRP_ALLOW_DOWNLOAD"
ASKED_DEVICE = "HLRP_ASKED_DEVICE"
ASKED_POLICY = "HLRP_ASKED_POLICY"
ASKED_FILTER = "HLRP_ASKED_FILTER"
MAX_NONFINITE_STEPS = "HLRP_MAX_NONFINITE_STEPS"
SHUFFLING_ASKED = "HLRP_SHUFFLING"
SOURCES = "HLRP_SOURCES"
TF32_OFF = "HLRP_TF32_OFF"
FOLLOWS = "HLRP_FOLLOWS"
OUTCOMES = ("refused", "failed", "interrupted")
_STEP_INTERVAL_S = 0.25


class Emitter:
    """Writes events to standard output in one system call each; silent on all ranks but the first.

    One whose output another process reads, on whatever node, says how it ended.
    """

    def __init__(self) -> None:
        self._rank = int(os.environ.get("RANK", "0"))
        self._said: Collection[str] | None = None if self._rank == 0 else OUTCOMES if FOLLOWS in os.environ else ()
        self._last_step = 0.0

    def __call__(self, event: str, **fields: Any) -> None:
        """Write one event; `step` events are thinned to a few a second, which is all that a progress bar needs."""
        if self._said is not None and event not in self._said:
            return
        if event == "step":
            moment = time.monotonic()
            if moment - self._last_step < _STEP_INTERVAL_S:
                return
            self._last_step = moment
        if self._rank:
            fields["rank"] = self._rank
        line = MARK + json.dumps({"event": event, **fields}) + "\n"
        with contextlib.suppress(BrokenPipeError):
            os.write(1, line.encode())


def parse_line(line: str) -> tuple[str, dict[str, Any] | None]:
    """Split a line of output into its log text and the event it carries, if any."""
    text, mark, payload = line.partition(MARK)
    if not mark:
        return text, None
    try:
        event = json.loads(payload)
    except ValueError:
        return line, None
    return text, event if isinstance(event, dict) else None
