"""A server in a thread of the test, observations to send it, and what `select_action` gives for them in process."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.utils.random_utils import set_seed

from hlrp.deploy.served import Served, load_served
from hlrp.deploy.server import PolicyServer, ServerSettings


class Running:
    """A server that listens."""

    def __init__(self, served: Served, **settings: Any) -> None:
        self.log: list[str] = []
        self.address = ""
        self._ready = threading.Event()
        self._server = PolicyServer(served, ServerSettings(port=0, **settings), self.log.append)
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),))

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self._server.run(self._stop, self._take)

    def _take(self, address: str) -> None:
        self.address = address
        self._ready.set()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(60), self.log

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def running(served: Served, **settings: Any) -> Iterator[Running]:
    server = Running(served, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def observations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """For policies of PushT."""
    rng = np.random.default_rng(seed)
    return [
        {
            "observation.image": rng.integers(0, 256, (96, 96, 3), np.uint8),
            "observation.state": rng.uniform(0, 512, 2).astype(np.float32),
        }
        for _ in range(count)
    ]


def in_process(folder: Path, shown: list[dict[str, Any]], *, seed: int | None = None, task: str = "") -> np.ndarray:
    """Actions `[n, A]` of LeRobot's own loop: preprocessor, `select_action`, postprocessor at every observation."""
    loaded = load_served(folder, device="cpu").loaded
    if seed is not None:
        set_seed(seed)
    for part in (loaded.policy, loaded.preprocessor, loaded.postprocessor):
        part.reset()
    actions = []
    for observation in shown:
        image = torch.from_numpy(observation["observation.image"]).permute(2, 0, 1)[None].contiguous()
        state = torch.from_numpy(observation["observation.state"])[None]
        batch = {"observation.image": image.type(torch.float32) / 255, "observation.state": state, "task": [task]}
        with torch.inference_mode():
            actions.append(loaded.postprocessor(loaded.policy.select_action(loaded.preprocessor(batch)))[0].numpy())
    return np.stack(actions)


def acted(client: Any, shown: list[dict[str, Any]]) -> np.ndarray:
    """Actions `[n, A]` that a client gets which executes all that it is given before it looks again."""
    actions: list[np.ndarray] = []
    while len(actions) < len(shown):
        actions += list(client.infer(shown[len(actions)])["actions"])
    return np.stack(actions[: len(shown)])
