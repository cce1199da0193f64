"""Do latent labels help when few episodes have actions? Policies of several arms, over k and seeds, rolled out.

Every policy has the same backbone, expert, number of updates and actions per update; what it learns from differs:

- action:   actions of k episodes a task, nothing else (`hlrp_action_expert_direct`).
- laq:      the same actions, and the codes of a trained quantizer on all episodes (`hlrp_action_expert_latent`).
- random:   codes of a quantizer with random weights. Separates what codes say from what more images do.
- shuffled: the trained quantizer's codes, dealt out anew among all frames.
- oracle:   actions of all episodes, no codes.
- floor:    as the oracle, but one update. Some tasks are half solved by any motion in the mean direction.

A batch of the three arms with codes holds as many frames again of episodes whose actions are not used; on average half
of the frames come from either. The labelled episodes of k = 2 are among those of k = 5, and so on. The last checkpoint
is what is evaluated, on seeds that were not recorded.

Every cell (arm, k, seed) leaves a run directory; started again, the study skips cells that are evaluated and continues
those that were cut off. Several processes may share the work: --part 0/2 and --part 1/2. --report makes the table.

On two CPU cores (docs/few_labels.md):
    python scripts/study_few_labels.py DATA --laq RUN --k 2 5 --seeds 0 1 --steps 400 --episodes 10 --output outputs/few
On a GPU, the full size: 6 tasks of 100 recorded episodes (hlrp collect --tasks button-press-topdown-v3,drawer-open-v3,
door-open-v3,window-close-v3,push-v3,pick-place-v3 --episodes 100),
    ... --k 1 2 5 10 --seeds 0 1 2 3 4 --steps 20000 --batch-size 64 --episodes 50 --device cuda
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from few_labels_report import ARMS, WITHOUT_K, Cell, cells, gather, plot, read_outcomes, table, write_csv

CODED = ("laq", "random", "shuffled")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_root", type=Path)
    parser.add_argument("--laq", type=Path, required=True, help="run of the trained quantizer")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--k", type=int, nargs="+", default=[2, 5], help="labelled episodes per task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=16, help="frames with actions in an update")
    parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes per task; 0: none")
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", default="0/1", help="I/N: this process takes every N-th cell from the I-th on")
    parser.add_argument(
        "--report", type=Path, help="only write the table, the numbers and the plot of what is done to this folder"
    )
    return parser.parse_args()


def same_study(args: argparse.Namespace) -> None:
    """Keep what all cells of a folder have in common; end the program where it is something else than before."""
    from hlrp.data.dataset_info import read_dataset
    from hlrp.files import write_json
    from hlrp.laq.checkpoint import find_model, read_manifest

    here = {key: getattr(args, key) for key in ("steps", "batch_size", "episodes", "backbone")}
    here["dataset"] = read_dataset(None, args.dataset_root).fingerprint()
    here["laq"] = read_manifest(find_model(args.laq)).weights_sha256
    path = args.output / "study.json"
    if not path.is_file():
        write_json(path, here)
    before = json.loads(path.read_text(encoding="utf8"))
    if before != here:
        other = ", ".join(f"{key} {before.get(key)}, now {here[key]}" for key in here if before.get(key) != here[key])
        sys.exit(f"{args.output} holds another study ({other}): use another --output")


def labelled_episodes(root: Path, k: int, seed: int) -> list[int]:
    """``k`` episodes of every task, drawn by the seed; those of a smaller k are among those of a larger one."""
    import numpy as np

    from hlrp.data.dataset_info import read_dataset
    from hlrp.data.episodes import read_episodes

    by_task: dict[str, list[int]] = {}
    for episode, task in enumerate(read_episodes(read_dataset(None, root)).task):
        by_task.setdefault(task, []).append(episode)
    chosen: list[int] = []
    for number, task in enumerate(sorted(by_task)):
        order = np.random.default_rng([seed, number]).permutation(by_task[task])
        chosen += [int(episode) for episode in order[:k]]
    return sorted(chosen)


def shared_table(arm: str, args: argparse.Namespace, seed: int) -> Path:
    """The latent table of an arm, made by one process while others wait."""
    import fcntl

    with (args.output / ".tables").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make_table(arm, args, seed)


def make_table(arm: str, args: argparse.Namespace, seed: int) -> Path:
    """The latent table of an arm; made once, a table that is there is complete."""
    folder = args.output / ("latents_laq" if arm == "laq" else f"latents_{arm}_s{seed}")
    if (folder / "manifest.json").is_file():
        return folder
    if arm == "shuffled":
        shuffle_table(make_table("laq", args, seed), folder, seed)
        return folder
    laq = args.laq if arm == "laq" else random_quantizer(args, seed)
    import subprocess

    command = [str(Path(sys.executable).with_name("hlrp")), "precompute-latents", "--laq", str(laq)]
    command += ["--dataset-root", str(args.dataset_root), "--output", str(folder), "--device", args.device]
    subprocess.run(command, check=True)
    return folder


def random_quantizer(args: argparse.Namespace, seed: int) -> Path:
    """A quantizer of the trained one's shape with random weights, its codebook placed among its own differences."""
    from hlrp.data.dataset_info import read_dataset
    from hlrp.data.windows import FrameWindows, WindowSource
    from hlrp.laq import LAQ
    from hlrp.laq.checkpoint import find_model, read_manifest, save
    from hlrp.laq.metrics import random_laq

    folder = args.output / f"random_laq_s{seed}"
    if (folder / "manifest.json").is_file():
        return folder
    manifest = read_manifest(find_model(args.laq))
    config = LAQ.from_checkpoint(find_model(args.laq)).config
    source = WindowSource(read_dataset(None, args.dataset_root))
    windows = FrameWindows(
        [source],
        num_frames=config.num_frames,
        offset_seconds=config.offset_seconds,
        size=config.image_size,
        cache="ram",
        drop_invalid=True,
    )
    every = max(1, len(windows) // 512)
    frames = windows.__getitems__(list(range(0, len(windows), every))[:512])["frames"]
    save(random_laq(config, [frames.float() / 255], seed=seed), folder, cameras=manifest.cameras)
    return folder


def shuffle_table(source: Path, folder: Path, seed: int) -> None:
    """A copy of a latent table whose valid codes are dealt out anew among its valid frames."""
    import hashlib

    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    manifest = json.loads((source / "manifest.json").read_text(encoding="utf8"))
    names = sorted(path.name for path in source.glob("shard-*.safetensors"))
    shards = [load_file(source / name) for name in names]
    codes, valid = (torch.cat([shard[key] for shard in shards]) for key in ("codes", "valid"))
    rows = valid.all(1).nonzero().flatten()
    codes[rows] = codes[rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]]
    parts = codes.split([len(shard["codes"]) for shard in shards])
    for name, shard, part, entry in zip(names, shards, parts, manifest["shards"], strict=True):
        with safe_open(source / name, framework="pt") as original:
            save_file({**shard, "codes": part.contiguous()}, unfinished / name, metadata=original.metadata())
        entry["sha256"] = hashlib.sha256((unfinished / name).read_bytes()).hexdigest()
    (unfinished / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf8")
    unfinished.rename(folder)


def make_data(args: argparse.Namespace, labelled: list[int] | None, *, coded: bool, seed: int) -> Any:
    """What a cell trains on; with codes, labelled and other episodes half and half."""
    from hlrp.data import LeRobotDataModule

    common: dict[str, Any] = {"root": args.dataset_root, "cache": "disk", "num_workers": 0, "seed": seed}
    if not coded or labelled is None:
        return LeRobotDataModule(episodes=labelled, batch_size=args.batch_size, **common)
    return half_labelled(labelled)(batch_size=2 * args.batch_size, **common)


def half_labelled(labelled: list[int]) -> Any:
    """A data module class that takes half of its samples from the given episodes."""
    import numpy as np

    from hlrp.data import LeRobotDataModule
    from hlrp.data.episodes import read_episodes
    from hlrp.data.sampler import ResumableSampler

    class Frames(ResumableSampler):
        """Positions in two groups of frames, as these frames."""

        def __init__(self, groups: list[Any], batch_size: int, **options: Any) -> None:
            super().__init__([len(group) for group in groups], batch_size, weights=[1.0, 1.0], **options)
            self.frames = np.concatenate(groups)

        def order(self, epoch: int) -> Any:
            return self.frames[super().order(epoch)]

    class HalfLabelled(LeRobotDataModule):
        """Two groups of episodes, as many samples of one as of the other."""

        def train_sampler(self) -> Any:
            episodes = read_episodes(self.info)
            others = sorted({*self.train_episodes} - {*labelled})
            groups = [episodes.frame_indices(group) for group in (labelled, others)]
            rank, world_size = self._place()
            return Frames(groups, self.batch_size, seed=self.seed, rank=rank, world_size=world_size)

    return HalfLabelled


def train(cell: Cell, args: argparse.Namespace) -> Path:
    """Train a cell, or go on with it; gives its run directory."""
    from hlrp.config import LightningRun, load_config
    from hlrp.policies import LeRobotPolicyAdapter
    from hlrp.runs import RunDirectory
    from trainers import LightningTrainer

    folder = args.output / cell.name / "run"
    labelled = None if cell.arm in WITHOUT_K else labelled_episodes(args.dataset_root, cell.k, cell.seed)
    coded = cell.arm in CODED
    data = make_data(args, labelled, coded=coded, seed=cell.seed)
    if (folder / "run.json").is_file():
        run = RunDirectory.open(folder)
        if run.manifest.status == "finished":
            return folder
        if run.latest() is not None:
            config = load_config(folder / "config.yaml", (), {}).config
            assert isinstance(config, LightningRun)
            LightningTrainer().resume(run, config, datamodule=data)
            return folder
        shutil.rmtree(folder)
    fields: dict[str, Any] = {"backbone": args.backbone}
    if coded:
        fields |= {"latent_table": str(shared_table(cell.arm, args, cell.seed)), "labelled_episodes": labelled}
    policy = LeRobotPolicyAdapter("hlrp_action_expert_latent" if coded else "hlrp_action_expert_direct", **fields)
    trainer = LightningTrainer(
        steps=1 if cell.arm == "floor" else args.steps,
        seed=cell.seed,
        device=args.device,
        save_freq=max(1, args.steps // 4),
        keep_last=1,
    )
    trainer.fit(policy, data, output_dir=folder)
    return folder


def run_cell(cell: Cell, args: argparse.Namespace) -> None:
    """Train and evaluate a cell, unless that is done."""
    from hlrp.evaluation.run import EvalRequest, evaluate

    folder = args.output / cell.name
    if read_outcomes(folder) is not None:
        print(f"{cell.name}: already done", flush=True)
        return
    run = train(cell, args)
    if args.episodes == 0:
        return
    shutil.rmtree(folder / "eval", ignore_errors=True)
    found = evaluate(EvalRequest(run, episodes=args.episodes, device=args.device, videos=0, output=folder / "eval"))
    print(f"{cell.name}: {found.to_json()['overall']['success_rate']:.0%}", flush=True)
    for checkpoint in (run / "checkpoints").glob("*/training_state"):
        # The optimizer's state of a cell that is done is of no more use.
        shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()


def report(planned: list[Cell], args: argparse.Namespace) -> None:
    """Print the table; with --report also write it, the numbers and the plot."""
    found = gather(args.output, planned)
    text = table(found, args.k)
    print(text)
    if args.report is None:
        return
    args.report.mkdir(parents=True, exist_ok=True)
    (args.report / "few_labels_table.md").write_text(text + "\n", encoding="utf8")
    write_csv(args.output, planned, args.report / "few_labels.csv")
    plot(found, args.k, args.report / "few_labels.svg")


def main() -> None:
    """Run this process's cells, then show what is there."""
    args = parse()
    planned = cells(args.k, args.seeds, args.arms)
    args.output.mkdir(parents=True, exist_ok=True)
    if args.report is None:
        same_study(args)
        index, count = map(int, args.part.split("/"))
        for cell in planned[index::count]:
            run_cell(cell, args)
    report(planned, args)


if __name__ == "__main__":
    main()
