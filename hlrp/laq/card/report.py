"""The quality card of a quantizer: what it is worth on episodes that it was not trained on, next to random ones."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hlrp.data import FrameWindows, read_episodes, window_offset
from hlrp.files import write_json, write_text
from hlrp.laq.card.held_out import HeldOut, held_out_sources, run_of
from hlrp.laq.card.label_curve import LabelCurve, label_curves, to_json
from hlrp.laq.card.pictures import SourcePictures, draw_pictures
from hlrp.laq.card.probe import ProbeInputs, probe_all, probe_inputs
from hlrp.laq.card.report_html import render
from hlrp.laq.card.transfer import Transfer, measure_transfer
from hlrp.laq.card.verdict import Check, Probes, judge, overall
from hlrp.laq.checkpoint import find_model, read_manifest
from hlrp.laq.config import LAQConfig
from hlrp.laq.metrics import LAQMeter, LAQScores, code_counts, random_laq
from hlrp.laq.model import LAQ
from hlrp.runs.directory import now, package_versions

SCHEMA_VERSION = 1
JSON_NAME, HTML_NAME = "report.json", "report.html"

_MIN_PROBE_EPISODES = 3
_SETTLING_BATCHES = 8  # per source, to place a random quantizer's codebook

Batch = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Measured:
    """One quantizer's numbers on one source.

    Args:
        scores: Usage and pixels.
        counts: Uses of each code at each position, ``[S, K]``.
        probes: By features; None without true actions.
        inputs: What the probes were fitted on.
    """

    scores: LAQScores
    counts: Tensor
    probes: Probes | None
    inputs: ProbeInputs | None

    @property
    def share(self) -> Tensor:
        """Share of the pairs that use each code at each position, ``[S, K]``."""
        return self.counts / self.counts.sum(-1, keepdim=True).clamp_min(1)

    @property
    def gain_over_frames(self) -> float:
        """R2 of the actions that the codes add to the frame; nan without probes."""
        return float("nan") if self.probes is None else self.probes["frames_codes"].r2 - self.probes["frames"].r2

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with usage by position."""
        share = self.share
        positions = [
            {
                "position": i,
                "codes_used": self.scores.codes_used[i],
                "used_share": self.scores.used_share[i],
                "perplexity": self.scores.perplexity[i],
                "majority_share": float(share[i].max()),
                "counts": self.counts[i].tolist(),
            }
            for i in range(len(self.counts))
        ]
        probes: dict[str, Any] | None = None
        if self.probes is not None:
            probes = {name: asdict(result) for name, result in self.probes.items()}
            probes["gain_over_frames"] = self.gain_over_frames
        return {"scores": self.scores.to_json(), "positions": positions, "probes": probes}


@dataclass(frozen=True, eq=False)
class SourceReport:
    """The card of one camera of one dataset.

    Args:
        held_out: What was read.
        offset: Frames between the frames of a window.
        windows: Windows measured.
        laq: The quantizer's numbers.
        random: Random quantizers' on the same windows.
        probe_absent: Why there is no probe; None if there is.
        labels: What is told of actions with few labelled episodes; None without true actions.
        transfer: How codes carry over to other frames.
        checks: The gate.
        pictures: For the page.
    """

    held_out: HeldOut
    offset: int
    windows: int
    laq: Measured
    random: list[Measured]
    probe_absent: str | None
    labels: LabelCurve | None
    transfer: Transfer | None
    checks: list[Check]
    pictures: SourcePictures

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the pictures."""
        held = self.held_out
        info = held.source.info
        return {
            "name": held.name,
            "dataset": info.repo_id,
            "root": str(info.root.resolve()),
            "fingerprint": info.fingerprint(),
            "fps": info.fps,
            "camera": held.camera,
            "offset_frames": self.offset,
            "episodes": held.episodes,
            "episodes_available": held.available,
            "unseen": held.unseen,
            "why_these_episodes": held.why,
            "windows": self.windows,
            "laq": self.laq.to_json(),
            "random": [measured.to_json() for measured in self.random],
            "probe_absent": self.probe_absent,
            "labels": None if self.labels is None else to_json(self.labels),
            "transfer": None if self.transfer is None else asdict(self.transfer),
        }


@dataclass(frozen=True, eq=False)
class Report:
    """A quality card.

    Args:
        laq: The quantizer, with its manifest.
        model: Folder of its weights.
        run: Folder of its run; None outside of one.
        sources: One for each camera of each dataset.
        created: Time, ISO 8601.
        seed: Of permutations, picture choice and the first random quantizer.
    """

    laq: LAQ
    model: Path
    run: Path | None
    sources: list[SourceReport]
    created: str
    seed: int

    @property
    def checks(self) -> list[Check]:
        """The gate, source by source."""
        return [check for source in self.sources for check in source.checks]

    @property
    def passed(self) -> bool | None:
        """Whether the gate is passed; None: something could not be decided."""
        return overall(self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what is not a finite number is null."""
        assert self.laq.manifest is not None
        value = {
            "schema_version": SCHEMA_VERSION,
            "kind": "laq_report",
            "created": self.created,
            "run": None if self.run is None else str(self.run),
            "model": str(self.model),
            "parameters": self.laq.parameter_count(),
            "manifest": self.laq.manifest.model_dump(mode="json"),
            "passed": self.passed,
            "verdict": [asdict(check) for check in self.checks],
            "sources": [source.to_json() for source in self.sources],
            "seed": self.seed,
            "versions": package_versions(),
        }
        finite: dict[str, Any] = _finite(value)
        return finite

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write `report.json` and `report.html` into ``folder``, which is made if missing; returns both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / HTML_NAME, render(self))
        write_json(folder / JSON_NAME, self.to_json())
        return folder / JSON_NAME, folder / HTML_NAME


def make_report(
    path: Path,
    roots: Sequence[Path] = (),
    *,
    cameras: Sequence[str] = (),
    tolerance_s: float | None = None,
    device: str = "cpu",
    batch_size: int = 64,
    max_windows: int = 2048,
    random_models: int = 3,
    seed: int = 0,
    announce: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measure a quantizer on held-out episodes.

    Args:
        path: Run, checkpoint or model folder.
        roots: Datasets; none: the run's own.
        cameras: Cameras of them; none: those trained on, else the only one.
        tolerance_s: Most seconds between a frame's time in its table and in its video; none: the run's, or the usual.
        device: Where to compute.
        batch_size: Windows at a time.
        max_windows: Windows measured per source, spread evenly.
        random_models: Random quantizers to compare with.
        seed: Of everything that is drawn.
        announce: Told what is being done.

    Raises:
        UserError: No quantizer or dataset there, or a dataset that does not fit.
    """
    model = find_model(path)
    found = run_of(model)
    run = None if found is None else found[1]
    held = held_out_sources(run, read_manifest(model), roots, cameras, tolerance_s)
    laq = LAQ.from_checkpoint(model, device)
    # A run that kept its frames on the disk has decoded these already.
    cache: Literal["ram", "disk"] = "disk" if run is not None and run.data.cache == "disk" else "ram"
    readers = [_Reader(h, laq.config, device, batch_size, max_windows, cache, seed, announce) for h in held]
    settle = [b["frames"] for r in readers for _, b in zip(range(_SETTLING_BATCHES), r, strict=False)]
    # Drawn from all sources alike: a random quantizer keeps the first few thousand differences only.
    order = torch.randperm(len(settle), generator=torch.Generator().manual_seed(seed)).tolist()
    announce(f"drawing {random_models} random quantizers to compare with")
    random = [
        random_laq(laq.config, [settle[i] for i in order], seed=seed + k, device=device, image_model=laq.image_model)
        for k in range(random_models)
    ]
    del settle
    sources = [_report_source(laq, random, reader, announce) for reader in readers]
    return Report(laq, model, None if found is None else found[0], sources, now(), seed)


class _Reader:
    """Batches of one source's windows, on the device, mixed over its episodes; the same at every pass."""

    def __init__(
        self,
        held: HeldOut,
        config: LAQConfig,
        device: str,
        batch_size: int,
        max_windows: int,
        cache: Literal["ram", "disk"],
        seed: int,
        announce: Callable[[str], None],
    ) -> None:
        self.held, self.seed = held, seed
        self.windows = FrameWindows(
            [held.source],
            num_frames=config.num_frames,
            offset_seconds=config.offset_seconds,
            size=config.image_size,
            cache=cache,
            with_actions=True,
            drop_invalid=True,
            announce=announce,
        )
        total = len(self.windows)
        self.count = min(total, max_windows)
        shuffled = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed)).tolist()
        self._positions = [i * total // self.count for i in shuffled]
        self._batch_size, self._device = batch_size, device

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, self.count, self._batch_size):
            batch = self.windows.__getitems__(self._positions[first : first + self._batch_size])
            yield {name: value.to(self._device) for name, value in batch.items()}

    def probe_absent(self) -> str | None:
        """Why the actions cannot be probed, or None."""
        if self.windows.action_dim == 0:
            return "the dataset has no actions"
        episodes = {e for batch in self for e in batch["episode_index"].tolist()}
        if len(episodes) >= _MIN_PROBE_EPISODES:
            return None
        return (
            f"only {len(episodes)} held-out episodes are long enough; a probe needs {_MIN_PROBE_EPISODES}: "
            "hold out more with trainer.eval_split"
        )


def _report_source(laq: LAQ, random: Sequence[LAQ], reader: _Reader, announce: Callable[[str], None]) -> SourceReport:
    held = reader.held
    announce(f"measuring {held.name}: {reader.count} windows of {len(held.episodes)} episodes")
    absent = reader.probe_absent()
    measured = _measure(laq, reader, with_probe=absent is None)
    others = []
    for number, other in enumerate(random, 1):
        announce(f"measuring {held.name}: random quantizer {number} of {len(random)}")
        others.append(_measure(other, reader, with_probe=absent is None))
    labels = None
    if measured.inputs is not None:
        tasks = dict(enumerate(read_episodes(held.source.info).task))
        rivals = [m.inputs for m in others if m.inputs is not None]
        labels = label_curves(measured.inputs, rivals, tasks, seed=reader.seed)
    checks = judge(held.name, measured.scores, labels, unseen=held.unseen, why=held.why)
    return SourceReport(
        held_out=held,
        offset=window_offset(laq.config.offset_seconds, held.source.info.fps),
        windows=reader.count,
        laq=measured,
        random=others,
        probe_absent=absent,
        labels=labels,
        transfer=measure_transfer(laq, reader, measured.counts, seed=reader.seed),
        checks=checks,
        pictures=draw_pictures(laq, reader),
    )


def _measure(laq: LAQ, batches: _Reader, *, with_probe: bool) -> Measured:
    config = laq.config
    meter = LAQMeter(config, seed=batches.seed)
    counts = torch.zeros(config.code_seq_len, config.codebook_size, dtype=torch.int64)
    for batch in batches:
        out = meter.update(laq, batch["frames"], batch["valid"])
        counts += code_counts(out.codes[batch["valid"]], config.codebook_size).cpu()
    if not with_probe:
        return Measured(meter.compute(), counts, None, None)
    inputs = probe_inputs(laq, batches)
    # A code that never occurs says nothing, and thousands of such columns would cost minutes.
    inputs = replace(inputs, codes=inputs.codes[:, inputs.codes.any(0)])
    return Measured(meter.compute(), counts, probe_all(inputs), inputs)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
