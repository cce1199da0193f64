"""What becomes of what LeRobot's process says: rows, and the reason of a failure."""

import pytest

from trainers.lerobot.session import metrics_row
from trainers.lifecycle import explain_failure


def test_data_wait_is_the_share_of_a_step() -> None:
    row = metrics_row({"steps": 5, "loss": 0.5, "update_s": 0.3, "dataloading_s": 0.1})
    assert row["step"] == 5
    assert row["data_wait"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("error", "message", "code", "says"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate", 1, "--batch-size"),
        ("OSError", "[Errno 28] No space left on device", 1, "free space"),
        ("RuntimeError", "DataLoader worker (pid 3) is killed by signal: Killed.", 1, "data.num_workers"),
        ("LocalEntryNotFoundError", "outgoing traffic has been disabled", 1, "--allow-download"),
        ("ValueError", "something new\nwith details", 1, "ValueError: something new"),
        ("", "", -9, "signal 9"),
        ("", "", 3, "the last line"),
    ],
)
def test_a_failure_is_one_readable_sentence(error: str, message: str, code: int, says: str) -> None:
    reason = explain_failure(error, message, code, ["first", "the last line", ""])
    assert says in reason
    assert "\n" not in reason
