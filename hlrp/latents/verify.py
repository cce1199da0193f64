"""Checking a latent table against the dataset it claims to label, and against the quantizer."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from hlrp.data import (
    BadVideoError,
    DatasetInfo,
    FrameWindows,
    WindowSource,
    read_dataset,
    read_episodes,
)
from hlrp.data.dataset_info import TOLERANCE_S
from hlrp.data.episodes import Episodes, code_offset
from hlrp.errors import UserError
from hlrp.files import sha256_of
from hlrp.laq.checkpoint import find_model, read_manifest
from hlrp.laq.model import LAQ
from hlrp.latents.shards import count_codes, plan_shards, read_header
from hlrp.latents.spec import describe
from hlrp.latents.table import LatentTable

MAX_DIFFERENT = 0.01
"""Share of codes of the sample that may differ: another device or batch size rounds sums differently, and a code that
lies between two may come out as the other one."""

_BATCH = 64
_MOST_PROBLEMS = 20


@dataclass
class Verification:
    """What was found.

    Args:
        rows: Frames of the table.
        shards: Shards whose content was checked.
        sampled: Valid pairs that were encoded again; 0 without a quantizer.
        different: Share of their codes that came out differently; None if none was encoded.
        problems: What is wrong, one sentence each; empty for a good table.
    """

    rows: int = 0
    shards: int = 0
    sampled: int = 0
    different: float | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_table(
    folder: Path,
    dataset_root: Path,
    laq: Path | None = None,
    *,
    sample: int = 256,
    seed: int = 0,
    device: str = "cpu",
    tolerance_s: float = TOLERANCE_S,
) -> Verification:
    """Check a latent table: every frame once, hashes, the manifest against the dataset, and a sample encoded again.

    Args:
        folder: The table.
        dataset_root: The dataset.
        laq: Run, checkpoint or model folder of the quantizer; None: nothing is encoded again.
        sample: Frames to encode again.
        seed: Of the choice of frames.
        device: Where to encode.
        tolerance_s: How far a frame's time in its video may lie from its time in the tables.

    Raises:
        UserError: There is no table, dataset or quantizer to check.
    """
    info = read_dataset(None, dataset_root, where="--dataset-root", tolerance_s=tolerance_s)
    model = find_model(laq) if laq is not None else None
    result = Verification()
    try:
        table = LatentTable.open(folder)
    except UserError as error:
        if not any(folder.glob("shard-*.safetensors")):
            raise
        result.problems.append(error.what)
        return result
    result.rows = len(table)
    sha256 = read_manifest(model).weights_sha256 if model is not None else None
    differ = table.identity.misfits(info, {"laq_sha256": sha256})
    result.problems += [describe([difference], "the table", "asked for is") for difference in differ]
    try:
        code_offset(info, table.identity.offset_seconds)
    except UserError as error:  # older versions labelled such datasets
        result.problems.append(error.what)
    if result.problems:
        return result
    episodes = read_episodes(info)
    _check_plan(table, episodes, result)
    if result.ok:
        for number in range(len(table.manifest.shards)):
            if len(result.problems) < _MOST_PROBLEMS:
                result.problems += _shard_problems(table, number, episodes)
            result.shards += 1
    if result.ok:
        _check_sums(table, result)
    if result.ok and model is not None and sample > 0:
        _encode_sample(table, info, LAQ.from_checkpoint(model, device), sample, seed, result)
    return result


def _check_plan(table: LatentTable, episodes: Episodes, result: Verification) -> None:
    planned = plan_shards(episodes, table.identity.shard_frames)
    listed = [entry.range for entry in table.manifest.shards]
    if listed != planned:
        wrong = next((i for i, pair in enumerate(zip(listed, planned, strict=False)) if pair[0] != pair[1]), None)
        what = f"shard {wrong} has other rows" if wrong is not None else f"{len(listed)} of {len(planned)} are listed"
        result.problems.append(f"the manifest does not list every frame once: {what}")


def _shard_problems(table: LatentTable, number: int, episodes: Episodes) -> list[str]:
    entry = table.manifest.shards[number]
    path = table.folder / entry.range.name
    if not path.is_file():
        return [f"{path.name} is missing"]
    digest = sha256_of(path)
    if digest != entry.sha256:
        return [f"{path.name} has SHA-256 {digest[:16]}..., the manifest says {entry.sha256[:16]}..."]
    try:
        header = read_header(path)
    except UserError as error:
        return [f"{path.name}: {error.what}"]
    if header.identity != table.identity or header.range != entry.range:
        return [f"{path.name} is of another labelling than the manifest"]
    rows = np.arange(entry.range.first_row, entry.range.end_row)
    if not np.array_equal(table.array(number, "index"), rows):
        return [f"{path.name} does not hold the frames {rows[0]} to {rows[-1]} once each, in order"]
    identity, of = table.identity, episodes.episode_of(rows)
    steps = np.arange(1, identity.num_frames) * identity.offset_frames
    expected = (rows[:, None] + steps < episodes.end[of][:, None]) & ~np.isin(of, header.bad_episodes)[:, None]
    episode, codes, valid = (table.array(number, name) for name in ("episode_index", "codes", "valid"))
    counts = header.code_counts
    finite = not identity.vector_dim or np.isfinite(table.array(number, "vectors")).all()
    wrong = {
        "assigns frames to other episodes than the dataset": not np.array_equal(episode, of),
        "marks other pairs valid than those that lie inside their episode": not np.array_equal(valid, expected),
        f"has codes outside of [0, {identity.codebook_size})": codes.min() < 0 or codes.max() >= identity.codebook_size,
        "has codes where nothing is valid": codes[~valid].any(),
        "has continuous latents that are not finite": not finite,
    }
    if counts is not None and not any(wrong.values()):
        found = count_codes(codes, valid, identity.codebook_size)
        wrong["says other counts of its codes than it holds"] = not np.array_equal(found, counts)
    return [f"{path.name} {what}" for what, is_wrong in wrong.items() if is_wrong]


def _check_sums(table: LatentTable, result: Verification) -> None:
    manifest = table.manifest
    valid = sum(int(table.array(i, "valid").sum()) for i in range(len(manifest.shards)))
    if valid != manifest.valid_pairs:
        result.problems.append(f"{valid} pairs are valid, the manifest says {manifest.valid_pairs}")
    bad = sorted(e for s in manifest.shards for e in read_header(table.folder / s.range.name).bad_episodes)
    if bad != manifest.bad_episodes:
        result.problems.append(f"the shards say that episodes {bad} are bad, the manifest {manifest.bad_episodes}")


def _encode_sample(
    table: LatentTable, info: DatasetInfo, laq: LAQ, sample: int, seed: int, result: Verification
) -> None:
    good = sorted(set(range(info.episodes)) - set(table.manifest.bad_episodes))
    if not good:
        return
    source = WindowSource(info, good, [table.identity.camera])
    windows = FrameWindows(
        [source],
        num_frames=laq.config.num_frames,
        offset_seconds=laq.config.offset_seconds,
        size=laq.config.image_size,
    )
    count = min(sample, len(windows))
    chosen = np.sort(np.random.default_rng(seed).choice(len(windows), count, replace=False)).tolist()
    equal, total = 0, 0
    try:
        for start in range(0, count, _BATCH):
            batch = windows.__getitems__(chosen[start : start + _BATCH])
            codes, valid = table.codes(batch["index"])
            if not torch.equal(valid, batch["valid"]):
                result.problems.append("the sample's windows end elsewhere than the table says")
                return
            again = laq.encode(batch["frames"]).cpu()
            result.sampled += int(valid.sum())
            equal += int((again == codes)[valid].sum())
            total += codes[valid].numel()
    except BadVideoError as error:
        result.problems.append(f"the sample cannot be decoded: {error.path}, episode {error.episode}: {error.reason}")
        return
    if total:
        result.different = 1 - equal / total
        if result.different > MAX_DIFFERENT:
            result.problems.append(
                f"{result.different:.1%} of the codes of {result.sampled} pairs came out differently when encoded again"
            )
