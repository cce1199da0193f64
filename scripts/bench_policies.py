"""The three policies beside LeRobot's smolvla on the same backbone and batches: speed, latency, memory.

    python scripts/bench_policies.py DATASET_ROOT --table TABLE [--backbone NAME] [--device cuda] [--batch-size 32]
        [--chunk-size 50] [--steps 4] [--rounds 9] [--chunks 100] [--output FILE]

A training step is LeRobot's own `update_policy` behind the policy's preprocessor: smolvla reads the instruction there,
the others in the model. A chunk and a queued action are what a control loop waits for: preprocessor, `select_action`,
postprocessor, one observation. Blocks of all kinds take turns, each round in another order, so that a machine that
slows down slows all of them down; ratios are taken within a round, and their median counts.

`no prefix cache`: the expert policies when the VLM reads the observation anew for each denoising step. `no labels`:
`hlrp_action_expert_latent` on batches without `index`, which the preprocessor leaves unlabelled. Memory is that of a
process of its own that makes the policy and takes three steps: growth of its resident set, or what CUDA allocated.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

OURS = ("hlrp_action_expert_direct", "hlrp_action_expert_latent", "hlrp_vla_direct")
LATENT, THEIRS = "hlrp_action_expert_latent", "smolvla"
NO_LABELS, NO_CACHE = "no labels", "no prefix cache"
ACTIONS = 8
"""Actions that are executed of a chunk."""
Batch = dict[str, Any]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_root", type=Path)
    parser.add_argument("--table", type=Path, required=True, help="latent table of the dataset")
    parser.add_argument("--backbone", default="tiny", help="a SmolVLM; a pretrained one is frozen, as by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no", help="Accelerate's mixed precision")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--chunk-size", type=int, default=50, help="actions of a chunk; the default is smolvla's")
    parser.add_argument("--steps", type=int, default=4, help="training steps of a block")
    parser.add_argument("--rounds", type=int, default=9, help="blocks of each kind")
    parser.add_argument("--chunks", type=int, default=100, help="chunks of each kind")
    parser.add_argument("--output", type=Path, help="write the result as JSON here")
    return parser.parse_args()


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
        from accelerate import Accelerator
        from lerobot.policies.factory import make_policy, make_pre_post_processors

        torch.manual_seed(0)
        config = _config(name, args)
        self.device = torch.device(args.device)
        policy = make_policy(config, ds_meta=data.meta)
        self.before, self.after = make_pre_post_processors(config, dataset_stats=data.meta.stats)
        preset = config.get_optimizer_preset()
        self._clip = preset.grad_clip_norm
        self._accelerator = Accelerator(
            cpu=self.device.type == "cpu", mixed_precision=args.precision, step_scheduler_with_optimizer=False
        )
        self.policy: Any
        self.policy, self._optimizer = self._accelerator.prepare(policy, preset.build(policy.get_optim_params()))
        self._tracker: Any = SimpleNamespace(update_metrics=lambda outputs: None)

    def train(self, batches: Iterator[Batch], steps: int) -> float:
        """Seconds of a step."""
        from lerobot.scripts.lerobot_train import update_policy

        self.policy.train()
        began = time.perf_counter()
        for _ in range(steps):
            prepared = self.before(dict(next(batches)))
            update_policy(self._tracker, self.policy, prepared, self._optimizer, self._clip, self._accelerator)
        self._wait()
        return (time.perf_counter() - began) / steps

    def act(self, observation: Batch) -> float:
        """Seconds of an action."""
        began = time.perf_counter()
        self.after(self.policy.select_action(self.before(dict(observation))))
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()

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
    if name != THEIRS:
        labels = {} if name == "hlrp_action_expert_direct" else {"latent_table": str(args.table)}
        return make_policy_config(name, device=args.device, backbone=args.backbone, **shared, **labels)
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


def memory_of(name: str, args: argparse.Namespace, found: Any) -> None:
    """Put the MiB that a policy's making and three steps take into ``found``."""
    import torch

    data = Data(args, count=1)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest resident set, from now on
    before = _resident("VmRSS")
    Subject(name, args, data).train(cycle(data.batches), 3)
    if args.device.startswith("cuda"):
        found.put(torch.cuda.max_memory_allocated() / 2**20)
    else:
        found.put(_resident("VmHWM") - before)


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure_memory(args: argparse.Namespace) -> dict[str, float]:
    # Children of a process that has the imports and has computed nothing: none of another policy's memory.
    context, result = multiprocessing.get_context("fork"), {}
    for name in (*OURS, THEIRS):
        found = context.Queue()
        process = context.Process(target=memory_of, args=(name, args, found))
        process.start()
        result[name] = found.get(timeout=300)
        process.join()
    return result


def keep_memory() -> None:
    """Have glibc keep what is freed.

    Of several policies in one process, only the largest would otherwise be handed new pages at every step.
    """
    trim_threshold, mmap_threshold = -1, -3
    ctypes.CDLL(None).mallopt(trim_threshold, 2**31 - 1)
    ctypes.CDLL(None).mallopt(mmap_threshold, 2**25)


def take_turns(kinds: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each kind measured, round by round; every round begins with another kind."""
    names = list(kinds)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(kinds[name]())
    return found


def measure_training(args: argparse.Namespace, subjects: dict[str, Subject], data: Data) -> dict[str, list[float]]:
    unlabelled = [{k: v for k, v in batch.items() if k != "index"} for batch in data.batches]

    def block(name: str, batches: list[Batch]) -> Callable[[], float]:
        endless = cycle(batches)
        return lambda: subjects[name].train(endless, args.steps)

    kinds = {name: block(name, data.batches) for name in subjects}
    kinds[NO_LABELS] = block(LATENT, unlabelled)
    take_turns(kinds, 1)  # first steps allocate
    return take_turns(kinds, args.rounds)


def measure_acting(args: argparse.Namespace, subjects: dict[str, Subject], data: Data) -> dict[str, list[list[float]]]:
    """Seconds of each action of each chunk: the first one makes the chunk."""
    kinds = [(name, False) for name in subjects] + [(name, True) for name in OURS if "expert" in name]
    names = {kind: f"{kind[0]}, {NO_CACHE}" if kind[1] else kind[0] for kind in kinds}
    found: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    warm = 3
    for number in range(args.chunks + warm):
        turn = number % len(kinds)
        for name, recompute in kinds[turn:] + kinds[:turn]:
            subject = subjects[name]
            subject.policy.reset()
            if recompute:
                with subject.recomputing(data.observation):
                    times = [subject.act(data.observation)]
            else:
                times = [subject.act(data.observation) for _ in range(ACTIONS)]
            if number >= warm:
                found[names[name, recompute]].append(times)
    return found


def label_seconds(subject: Subject, data: Data) -> float:
    """Seconds of a batch's labels: the preprocessor with an index in the batch, less without."""
    with_index = data.batches[0]
    without = {k: v for k, v in with_index.items() if k != "index"}

    def seconds(batch: Batch) -> float:
        began = time.perf_counter()
        subject.before(dict(batch))
        return time.perf_counter() - began

    pairs = [(seconds(a), seconds(b)) for a, b in [(with_index, without)] * 100]
    return statistics.median(a - b for a, b in pairs)


def _over(found: dict[str, list[float]], name: str, other: str) -> float:
    return round(statistics.median(a / b for a, b in zip(found[name], found[other], strict=True)), 3)


def _percentile(values: list[float], share: float) -> float:
    return round(1e3 * sorted(values)[min(len(values) - 1, int(share * len(values)))], 2)


def report(args: argparse.Namespace, memory: dict[str, float], subjects: dict[str, Subject], data: Data) -> Batch:
    steps, acts = measure_training(args, subjects, data), measure_acting(args, subjects, data)
    chunks = {name: [times[0] for times in rows] for name, rows in acts.items()}
    labels = label_seconds(subjects[LATENT], data)
    rows = {}
    for name, seconds in chunks.items():
        queued = [t for times in acts[name] for t in times[1:]]
        base = name.removesuffix(f", {NO_CACHE}")
        row: dict[str, Any] = {"chunk_ms": [_percentile(seconds, 0.5), _percentile(seconds, 0.99)]}
        row["chunk_over_smolvla"] = _over(chunks, name, THEIRS)
        if queued:
            row["queued_ms"] = [_percentile(queued, 0.5), _percentile(queued, 0.99)]
            row["samples_per_s"] = round(args.batch_size / statistics.median(steps[name]), 1)
            row["step_over_smolvla"] = _over(steps, name, THEIRS)
            row["memory_mib"] = round(memory[name])
        else:
            row["chunk_over_cached"] = _over(chunks, name, base)
        rows[name] = row
    return {
        "policies": rows,
        "labels": {
            "step_over_unlabelled": _over(steps, LATENT, NO_LABELS),
            "ms_per_batch": round(1e3 * labels, 3),
            "share_of_step": round(labels / statistics.median(steps[NO_LABELS]), 4),
        },
    }


def show(result: Batch) -> None:
    print("| policy | samples/s | step / smolvla | chunk ms p50, p99 | chunk / smolvla | queued ms p50, p99 | MiB |")
    print("|---|---|---|---|---|---|---|")
    for name, row in result["policies"].items():
        cells = [
            row.get("samples_per_s", ""),
            row.get("step_over_smolvla", ""),
            "{}, {}".format(*row["chunk_ms"]),
            row["chunk_over_smolvla"],
            "{}, {}".format(*row["queued_ms"]) if "queued_ms" in row else "",
            row.get("memory_mib", ""),
        ]
        print(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    cached = {n: r["chunk_over_cached"] for n, r in result["policies"].items() if "chunk_over_cached" in r}
    print(f"\nchunk without over with the prefix cache: {json.dumps(cached)}")
    print(f"labels: {json.dumps(result['labels'])}")


def main() -> None:
    args = arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault(
        "PYTORCH_NVML_BASED_CUDA_CHECK", "1"
    )  # looking for a GPU must not start CUDA before the forks
    import lerobot.scripts.lerobot_train  # noqa: F401 - for all children at once
    import torch
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    memory = measure_memory(args)
    keep_memory()
    data = Data(args)
    subjects = {name: Subject(name, args, data) for name in (*OURS, THEIRS)}
    result = report(args, memory, subjects, data)
    show(result)
    result["settings"] = {
        **{k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "output"},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu",
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
