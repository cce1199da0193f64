"""What serving a policy costs beside its inference: round trips on loopback, and the same inference in this process.

    python scripts/bench_serve.py [--requests 100] [--cameras 2] [--size 480x640] [--device cuda] [--json]

A tiny diffusion policy with random weights, which resizes its pictures and so is quick, is served by `hlrp serve` in a
process of its own. In turn, an observation is sent there and acted on here. `overhead` is a round trip less what the
server reports from the arrays to the actions, which is also done here: so coding, sockets, waiting for a turn. On a
machine with other work most of that is waiting for the others. `transport` is a round trip of so many bytes between two
processes by the websockets library alone, with no policy and no coding. `CPU overhead` does not wait: the processor
time of both processes for a request, less that of the same inference here; the mean, since it comes in steps of 10 ms.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hlrp.deploy.client import PolicyClient
from hlrp.deploy.served import load_served
from hlrp.deploy.session import Session


def save_policy(folder: Path, cameras: int, size: tuple[int, int]) -> None:
    """A policy of two denoising steps, with a ResNet-18 on pictures of 64x64."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    names = [f"observation.images.camera{number}" for number in range(cameras)]
    small = {"n_groups": 4, "down_dims": (16, 32), "num_inference_steps": 2, "spatial_softmax_num_keypoints": 4}
    config = make_policy_config(
        "diffusion",
        device="cpu",
        push_to_hub=False,
        pretrained_backbone_weights=None,
        resize_shape=(64, 64),
        n_obs_steps=1,
        horizon=16,
        n_action_steps=10,
        input_features={name: PolicyFeature(FeatureType.VISUAL, (3, *size)) for name in names}
        | {"observation.state": PolicyFeature(FeatureType.STATE, (7,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
        **small,
    )
    torch.manual_seed(0)
    policy = get_policy_class("diffusion")(config)
    numbers = {"min": torch.zeros(7), "max": torch.ones(7)}
    pictures = {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)}
    stats = {"observation.state": numbers, "action": numbers} | dict.fromkeys(names, pictures)
    for part in (policy, *make_pre_post_processors(config, dataset_stats=stats)):
        part.save_pretrained(folder)


def answer_bytes(port: Any) -> None:
    """A server that takes messages and answers with few bytes."""
    from websockets.asyncio.server import ServerConnection, serve

    async def answer(connection: ServerConnection) -> None:
        async for _ in connection:
            await connection.send(bytes(400))

    async def run() -> None:
        async with serve(answer, "127.0.0.1", 0, compression=None, max_size=None) as server:
            port.send(next(iter(server.sockets)).getsockname()[1])
            await asyncio.Future()

    asyncio.run(run())


def transport(size: int, requests: int) -> list[float]:
    """Round trips of ``size`` bytes, in seconds."""
    from websockets.sync.client import connect

    here, there = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=answer_bytes, args=(there,), daemon=True)
    server.start()
    times, message = [], os.urandom(size)
    with connect(f"ws://127.0.0.1:{here.recv()}", compression=None, max_size=None) as connection:
        for _ in range(requests + 3):
            began = time.perf_counter()
            connection.send(message)
            connection.recv()
            times.append(time.perf_counter() - began)
    server.terminate()
    return times[3:]


def percentiles(times: list[float]) -> dict[str, float]:
    """p5, p50 and p99 in milliseconds."""
    return {f"p{p}": round(float(np.percentile(times, p)) * 1e3, 2) for p in (5, 50, 99)}


def measure(folder: Path, address: str, requests: int, server: psutil.Process, device: str) -> dict[str, Any]:
    """Round trips and inference here, in turn."""
    served = load_served(folder, device=device)
    session = Session(served.loaded, seed=0, alone=True)
    rng = np.random.default_rng(0)
    told: dict[str, list[float]] = {"round trip": [], "inference there": [], "overhead": [], "inference here": []}
    cpu_trip, cpu_here, cpu_there = 0.0, 0.0, 0.0
    with PolicyClient(address) as client:
        for number in range(requests + 3):
            if number == 3:
                cpu_trip, cpu_here, cpu_there = 0.0, 0.0, sum(server.cpu_times()[:2])
            message = {
                name: rng.integers(0, 255, said["shape"]).astype(said["dtype"])
                for name, said in client.metadata["observation"].items()
            }
            began, cpu = time.perf_counter(), time.process_time()
            answer = client.infer(message)
            trip, cpu_trip = time.perf_counter() - began, cpu_trip + time.process_time() - cpu
            began, cpu = time.perf_counter(), time.process_time()
            actions = session.act(served.reader.read(message))
            here, cpu_here = time.perf_counter() - began, cpu_here + time.process_time() - cpu
            if number == 0:
                assert np.array_equal(actions, answer["actions"]), "served actions are not those of this process"
            if number >= 3:
                there = answer["server_timing"]["infer_ms"] / 1e3
                for name, value in zip(told, (trip, there, trip - there, here), strict=True):
                    told[name].append(value)
        cpu = cpu_trip + sum(server.cpu_times()[:2]) - cpu_there - cpu_here
    found = {name: percentiles(times) for name, times in told.items()}
    return found | {"CPU overhead": {"mean": round(cpu / requests * 1e3, 2)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--size", default="480x640", help="height x width")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    height, width = (int(part) for part in arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "pretrained_model"
        save_policy(folder, arguments.cameras, (height, width))
        argv = [sys.executable, "-m", "hlrp_cli.main", "serve", str(folder), "--port", "0", "--seed", "0"]
        argv += ["--device", arguments.device]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                address = server.stdout.readline().split()[-1]
                trips = transport(arguments.cameras * height * width * 3, arguments.requests)
                found = measure(folder, address, arguments.requests, psutil.Process(server.pid), arguments.device)
            finally:
                server.terminate()
    found["transport"] = percentiles(trips)
    load = round(os.getloadavg()[0], 1)
    if arguments.json:
        print(json.dumps({**found, "load": load, "cores": os.cpu_count()}))
        return
    asked = f"{arguments.cameras} pictures of {arguments.size}, {arguments.requests} requests"
    print(f"{asked}; load {load}, {os.cpu_count()} cores")
    for what, times in found.items():
        print(f"{what:<16}" + "  ".join(f"{p} {value:7.2f} ms" for p, value in times.items()))


if __name__ == "__main__":
    main()
