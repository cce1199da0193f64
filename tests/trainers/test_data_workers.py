"""Processes that read batches ahead, at signals and at the end of the one that trains."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from interruptions import assert_gone

READS = """
import sys
from torch.utils.data import DataLoader
from hlrp.data_workers import keep_reading

if __name__ == "__main__":
    loader = DataLoader(range(99), num_workers=2, multiprocessing_context=sys.argv[1])
    for _ in range(2):
        keep_reading(loader)
    batches = iter(loader)
    print(*[next(batches).item() for _ in range(4)], *[worker.pid for worker in batches._workers], flush=True)
    sys.stdin.readline()
    print(sum(1 for _ in zip(range(50), batches)), flush=True)  # left in the middle, as by an error
"""


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_end_when_their_parent_does_and_at_no_signal_of_others(method: str) -> None:
    script = [sys.executable, "-c", READS, method]
    process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [int(word) for word in process.stdout.readline().split()]
    assert said[:4] == [0, 1, 2, 3]
    workers = [psutil.Process(number) for number in said[4:]]
    assert len(workers) == 2
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(worker.pid, number)
    time.sleep(0.3)
    assert all(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    out, err = process.communicate("\n", timeout=60)
    assert (process.returncode, out.strip(), err) == (0, "50", "")
    assert_gone(workers, limit_s=1)
