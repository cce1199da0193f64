"""The three policies beside LeRobot's smolvla on the same backbone and batches: speed, latency, memory.

    python scripts/bench_policies.py DATASET_ROOT --table TABLE [--backbone NAME] [--device cuda] [--batch-size 32]
        [--chunk-size 50] [--steps 4] [--rounds 9] [--chunks 100] [--compile] [--no-memory] [--output FILE]

A training step is LeRobot's own `update_policy` behind the policy's preprocessor: smolvla reads the instruction there,
the others in the model. A chunk and a queued action are what a control loop waits for: preprocessor, `select_action`,
postprocessor, one observation. Blocks of all kinds take turns, each round in another order, so that a machine that
slows down slows all of them down; ratios are taken within a round, and their median counts.

`no prefix cache`: the expert policies when the VLM reads the observation anew for each denoising step. `compiled`: they
with `compile_model`. `no labels`: `hlrp_action_expert_latent` on batches without `index`, which the preprocessor leaves
unlabelled. Memory is that of a process of its own that makes the policy and takes three steps: growth of its resident
set, or what CUDA allocated. Acting is measured first: what is being trained acts in other ways.
"""

import argparse
import ctypes
import json
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import (
    LeRobotStep,
    finish,
    in_own_process,
    markdown,
    over,
    parser,
    resident_mib,
    seconds,
    take_turns,
)

OURS = ("hlrp_action_expert_direct", "hlrp_action_expert_latent", "hlrp_vla_direct")
EXPERTS = OURS[:2]
LATENT, THEIRS = "hlrp_action_expert_latent", "smolvla"
NO_LABELS, NO_CACHE, COMPILED = "no labels", "no prefix cache", "compiled"
ACTIONS = 8
"""Actions that are executed of a chunk."""
Batch = dict[str, Any]


def arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--table", type=Path, required=True, help="latent table of the dataset")
    options.add_argument("--backbone", default="tiny", help="a SmolVLM; a pretrained one is frozen, as by default")
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", choices=["no", "bf16"], default="no", help="Accelerate's mixed precision")
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--chunk-size", type=int, default=50, help="actions of a chunk; the default is smolvla's")
    options.add_argument("--steps", type=int, default=4, help="training steps of a block")
    options.add_argument("--rounds", type=int, default=9, help="blocks of each kind")
    options.add_argument("--chunks", type=int, default=100, help="chunks of each kind")
    options.add_argument("--compile", action="store_true", help="the expert policies compiled, too: takes minutes")
    options.add_argument("--no-memory", action="store_true", help="do not measure memory")
    return options.parse_args()


class Data:
    """Batches of a dataset, in memory."""

    def __init__(self, args: argparse.Namespace, count: int = 3) -> None:
        import torch
        from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        self.meta = LeRobotDatasetMetadata(args.dataset_root.name, root=args.dataset_root)
        ahead = {"action": [i / self.meta.fps for i in range(args.chunk_size)]}
        dataset = LeRobotDataset(
            args.dataset_root.name, root=args.dataset_root, delta_timestamps=ahead, video_backend="pyav"
        )
        chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
        size = args.batch_size
        self.batches: list[Batch] = [
            torch.utils.data.default_collate([dataset[i] for i in chosen[n * size : (n + 1) * size]])
            for n in range(count)
        ]
        seen = ("task", *(k for k in self.batches[0] if k.startswith("observation.") and not k.endswith("_is_pad")))
        self.observation: Batch = {k: self.batches[0][k][0] for k in seen}


class Subject:
    """One policy with its processors and optimizer."""

    def __init__(self, name: str, args: argparse.Namespace, data: Data) -> None:
        import torch
        from lerobot.policies.factory import make_policy, make_pre_post_processors

        torch.manual_seed(0)
        config = _config(name, args)
        self._step = LeRobotStep(make_policy(config, ds_meta=data.meta), device=args.device, precision=args.precision)
        self.policy = self._step.policy
        self.before, self.after = make_pre_post_processors(config, dataset_stats=data.meta.stats)
        self._wait = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None

    def train(self, batches: Iterator[Batch], steps: int) -> float:
        """Seconds of a step."""
        self.policy.train()

        def block() -> None:
            for _ in range(steps):
                self._step(self.before(dict(next(batches))))
            self._wait()

        return seconds(block) / steps

    def act(self, observation: Batch) -> float:
        """Seconds of an action."""
        return seconds(lambda: self.after(self.policy.select_action(self.before(dict(observation)))))

    @contextmanager
    def recomputing(self, observation: Batch) -> Iterator[None]:
        """The VLM reads the observation anew for every denoising step."""
        batch, velocity = self.before(dict(observation)), self.policy.expert.velocity
        self.policy.expert.velocity = lambda _, *rest: velocity(self.policy.prefix(batch), *rest)
        try:
            yield
        finally:
            del self.policy.expert.velocity


def _config(name: str, args: argparse.Namespace) -> Any:
    from lerobot.policies.factory import make_policy_config

    from hlrp.foundation.backbones import resolve_backbone

    shared = {"chunk_size": args.chunk_size, "n_action_steps": ACTIONS, "push_to_hub": False}
    name, _, compiled = name.partition(", ")
    if name != THEIRS:
        own = {} if name == "hlrp_action_expert_direct" else {"latent_table": str(args.table)}
        own |= {"compile_model": True} if compiled else {}
        return make_policy_config(name, device=args.device, backbone=args.backbone, **shared, **own)
    folder = resolve_backbone(args.backbone, "smol_latent_head", allow_download=False)
    side = json.loads((folder / "config.json").read_text(encoding="utf8"))["vision_config"]["image_size"]
    pretrained = args.backbone != "tiny"
    return make_policy_config(
        name,
        device=args.device,
        vlm_model_name=str(folder),
        load_vlm_weights=pretrained,
        freeze_vision_encoder=pretrained,
        train_expert_only=pretrained,
        num_vlm_layers=0,
        resize_imgs_with_padding=(side, side),
        **shared,
    )


def memory_of(name: str, args: argparse.Namespace) -> float:
    """The MiB that a policy's making and three steps take."""
    import torch

    data = Data(args, count=1)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest resident set, from now on
    before = resident_mib("VmRSS")
    Subject(name, args, data).train(cycle(data.batches), 3)
    if args.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resident_mib("VmHWM") - before


def keep_memory() -> None:
    """Have glibc keep what is freed.

    Of several policies in one process, only the largest would otherwise be handed new pages at every step.
    """
    trim_threshold, mmap_threshold = -1, -3
    ctypes.CDLL(None).mallopt(trim_threshold, 2**31 - 1)
    ctypes.CDLL(None).mallopt(mmap_threshold, 2**25)


def measure_training(args: argparse.Namespace, subjects: dict[str, Subject], data: Data) -> dict[str, list[float]]:
    unlabelled = [_unlabelled(batch) for batch in data.batches]
    kinds = {name: partial(subject.train, cycle(data.batches), args.steps) for name, subject in subjects.items()}
    kinds[NO_LABELS] = partial(subjects[LATENT].train, cycle(unlabelled), args.steps)
    take_turns(kinds, 1)  # first steps allocate
    return take_turns(kinds, args.rounds)


def _unlabelled(batch: Batch) -> Batch:
    return {k: v for k, v in batch.items() if k != "index"}


def measure_acting(args: argparse.Namespace, subjects: dict[str, Subject], data: Data) -> dict[str, list[list[float]]]:
    """Seconds of each action of each chunk: the first one makes the chunk."""

    def chunk(subject: Subject, recompute: bool) -> list[float]:
        subject.policy.reset()
        with subject.recomputing(data.observation) if recompute else nullcontext():
            return [subject.act(data.observation) for _ in range(1 if recompute else ACTIONS)]

    kinds = {name: partial(chunk, subject, False) for name, subject in subjects.items()}
    kinds |= {f"{name}, {NO_CACHE}": partial(chunk, subjects[name], True) for name in EXPERTS}
    take_turns(kinds, 3)
    return take_turns(kinds, args.chunks)


def label_seconds(subject: Subject, data: Data) -> float:
    """Seconds of a batch's labels: the preprocessor with an index in the batch, less without."""
    batches = {"with": data.batches[0], "without": _unlabelled(data.batches[0])}
    kinds = {name: partial(seconds, lambda b=batch: subject.before(dict(b))) for name, batch in batches.items()}
    found = take_turns(kinds, 100)
    return statistics.median(a - b for a, b in zip(found["with"], found["without"], strict=True))


def _percentiles_ms(values: list[float]) -> list[float]:
    return [round(1e3 * float(value), 2) for value in np.percentile(values, [50, 99], method="higher")]


def report(args: argparse.Namespace, memory: dict[str, float], subjects: dict[str, Subject], data: Data) -> Batch:
    acts, steps = measure_acting(args, subjects, data), measure_training(args, subjects, data)
    chunks = {name: [times[0] for times in rows] for name, rows in acts.items()}
    labels = label_seconds(subjects[LATENT], data)
    rows: dict[str, dict[str, Any]] = {}
    for name, actions in acts.items():
        row, (base, _, way) = rows.setdefault(name, {}), name.partition(", ")
        if name in subjects:
            row["samples/s"] = round(args.batch_size / statistics.median(steps[name]), 1)
            row["step / smolvla"] = over(steps, name, THEIRS)
            row["queued ms p50, p99"] = _percentiles_ms([t for times in actions for t in times[1:]])
        if name in memory:
            row["MiB"] = round(memory[name])
        if way:
            row["chunk / cached"] = over(chunks, name, base)
        if way == COMPILED:
            row["step / eager"] = over(steps, name, base)
        row["chunk ms p50, p99"] = _percentiles_ms(chunks[name])
        row["chunk / smolvla"] = over(chunks, name, THEIRS)
    return {
        "policies": rows,
        "labels": {
            "step_over_unlabelled": over(steps, LATENT, NO_LABELS),
            "ms_per_batch": round(1e3 * labels, 3),
            "share_of_step": round(labels / statistics.median(steps[NO_LABELS]), 4),
        },
    }


def main() -> None:
    args = arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault(
        "PYTORCH_NVML_BASED_CUDA_CHECK", "1"
    )  # looking for a GPU must not start CUDA before the forks
    import lerobot.scripts.lerobot_train  # noqa: F401 - for all children at once
    from lerobot.utils.import_utils import register_third_party_plugins

    from hlrp.devices import choose_device

    register_third_party_plugins()
    # Children of a process that has the imports and has computed nothing: none of another policy's memory.
    names = [*OURS, THEIRS]
    memory = {} if args.no_memory else {name: in_own_process("fork", memory_of, name, args) for name in names}
    keep_memory()
    choose_device(args.device)
    data = Data(args)
    names += [f"{name}, {COMPILED}" for name in EXPERTS if args.compile]
    subjects = {name: Subject(name, args, data) for name in names}
    result = report(args, memory, subjects, data)
    finish(result, args)
    print(markdown(result["policies"]))


if __name__ == "__main__":
    main()
