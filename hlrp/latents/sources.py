"""Where the labels of a foundation model come from, behind one interface: looked up, or made while training.

Shapes: B batch, T frames of a window, S codes per transition, P = (T - 1) * S positions, K codes, D width of a vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from hlrp.config import LightningRun, SourceSection
from hlrp.data import DatasetInfo
from hlrp.data.compact import FrameRanges
from hlrp.data.episodes import code_offset
from hlrp.errors import UserError
from hlrp.laq import LAQ
from hlrp.laq.checkpoint import find_model, read_manifest
from hlrp.laq.metrics import code_counts
from hlrp.latents import LatentTable
from hlrp.latents.column import CODES, LatentColumn, rows_of
from hlrp.latents.joined import refuse_other_spans
from hlrp.latents.labelling import choose_camera
from hlrp.latents.spec import CodeSpec, describe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FRAMES, VALID = "label_frames", "label_valid"
_COUNTED = 65_536
CODES_KEY, MASK_KEY, VECTORS_KEY = "target_codes", "target_mask", "target_vectors"


@dataclass(frozen=True)
class Labels:
    """The labels of a batch, on its device.

    Args:
        codes: int64 ``[B, P]`` in ``[0, K)``, 0 where there is no label.
        mask: bool ``[B, P]``, True where there is one.
        vectors: Continuous latents, float32 ``[B, P, D]``; None where they are not asked for.
    """

    codes: Tensor
    mask: Tensor
    vectors: Tensor | None = None


@dataclass(frozen=True)
class LabelWindow:
    """Frames that have to be read with each sample, beside what the model sees.

    Args:
        size: Height and width.
        cameras: The camera of each source.
    """

    size: tuple[int, int]
    cameras: tuple[str, ...]


class LabelSource(Protocol):
    """Labels of the samples of a run; of these methods, `labels` alone has no default."""

    spec: CodeSpec
    """What the labels mean."""
    cameras: tuple[str, ...]
    """The camera that each source is labelled from."""
    window: LabelWindow | None = None
    """Frames that `labels` needs in the batch (`label_frames`, `label_valid`); None: none."""

    def read(self, source: int, index: "NDArray[np.int64]") -> "dict[str, NDArray[Any]]":
        """What goes into a batch for the samples ``index`` ``[n]`` of a source; called where batches are gathered."""
        return {}

    def labels(self, batch: Mapping[str, Tensor]) -> Labels:
        """The labels of a batch that is on the device."""

    def code_counts(self, starts: Sequence[FrameRanges]) -> Tensor | None:
        """How often each code is the label of the samples ``starts`` of each source, int64 ``[P, K]``.

        None where that is not known before they have been read.
        """
        return None

    def to(self, device: torch.device) -> None:
        """Bring what makes the labels to the device."""
        return


class PrecomputedLabels(LabelSource):
    """Labels from a latent table or from a dataset's own column, by frame index.

    Args:
        rows: Table or column of each source; None: it has no labels.
        vectors: Whether continuous latents are needed.

    Raises:
        UserError: The sources' labels mean different things, or lack what is needed.
    """

    def __init__(self, rows: Sequence[LatentTable | LatentColumn | None], *, vectors: bool = False) -> None:
        self._rows, self._vectors = tuple(rows), vectors
        labelled = [row for row in rows if row is not None]
        first = labelled[0].identity
        self.spec = first.codes(vectors=vectors)
        for row in labelled:
            row.check(**first.codes().model_dump())
            if vectors:
                row.vectors([0])  # an error now rather than in a worker process
        self.cameras = tuple(first.camera if row is None else row.identity.camera for row in rows)

    def read(self, source: int, index: "NDArray[np.int64]") -> "dict[str, NDArray[Any]]":
        """Codes, mask and vectors of the samples."""
        import numpy as np

        row, spec, count = self._rows[source], self.spec, len(index)
        result: dict[str, NDArray[Any]] = {}
        if row is None:
            result[CODES_KEY] = np.zeros((count, spec.positions), np.int64)
            result[MASK_KEY] = np.zeros((count, spec.positions), bool)
            if spec.vector_dim:
                result[VECTORS_KEY] = np.zeros((count, spec.positions, spec.vector_dim), np.float32)
            return result
        codes, valid = row.codes(index)
        result[CODES_KEY] = codes.numpy().reshape(count, spec.positions)
        result[MASK_KEY] = np.repeat(valid.numpy(), spec.code_seq_len, axis=1)
        if spec.vector_dim:
            result[VECTORS_KEY] = row.vectors(index).numpy().reshape(count, spec.positions, spec.vector_dim)
        return result

    def labels(self, batch: Mapping[str, Tensor]) -> Labels:
        """As they were read."""
        return Labels(batch[CODES_KEY], batch[MASK_KEY], batch.get(VECTORS_KEY))

    def code_counts(self, starts: Sequence[FrameRanges]) -> Tensor | None:
        """Of the shards of a table as they say; what they do not say, and columns, is counted, a part at a time."""
        counts = torch.zeros(self.spec.positions, self.spec.codebook_size, dtype=torch.int64)
        for source, (row, frames) in enumerate(zip(self._rows, starts, strict=True)):
            if isinstance(row, LatentTable):
                for shard in range(len(row.manifest.shards)):
                    counts += self._counts_of_shard(row, shard, source, frames)
            elif row is not None:
                counts += self._counted(source, frames)
        return counts

    def _counts_of_shard(self, table: LatentTable, shard: int, source: int, frames: FrameRanges) -> Tensor:
        rows = table.manifest.shards[shard].range
        inside = frames.within(rows.first_row, rows.end_row)
        outside = frames.missing(rows.first_row, rows.end_row)
        said = table.code_counts(shard) if len(outside) < len(inside) else None
        if said is None:
            return self._counted(source, inside)
        return torch.from_numpy(said) - self._counted(source, outside)

    def _counted(self, source: int, frames: FrameRanges) -> Tensor:
        counts = torch.zeros(self.spec.positions, self.spec.codebook_size, dtype=torch.int64)
        for index in frames.blocks(_COUNTED):
            read = self.read(source, index)
            codes, mask = torch.from_numpy(read[CODES_KEY]), torch.from_numpy(read[MASK_KEY])
            counts += code_counts(codes, self.spec.codebook_size, mask)
        return counts


class OnlineLabels(LabelSource):
    """Labels made by a frozen quantizer from the frames of the window, on the device, while training.

    Its codes are those of `hlrp precompute-latents`, but for codes that lie between two: sums round differently at
    another batch size.

    Args:
        laq: The quantizer; its weights are not part of what is trained or saved.
        sha256: SHA-256 of its weights.
        cameras: The camera of each source.
        vectors: Whether continuous latents are needed.
    """

    def __init__(self, laq: LAQ, sha256: str, cameras: Sequence[str], *, vectors: bool = False) -> None:
        self._laq = laq.eval().requires_grad_(False)
        self.cameras = tuple(cameras)
        self.spec = CodeSpec.of_quantizer(laq.config, sha256, vectors=vectors)
        self.window = LabelWindow(laq.config.image_size, self.cameras)

    @torch.no_grad()
    def labels(self, batch: Mapping[str, Tensor]) -> Labels:
        """Encode the windows of the batch, in the precision that tables are made in."""
        frames, valid = batch[FRAMES], batch[VALID]
        with torch.autocast(frames.device.type, enabled=False):
            vectors = self._laq.encode_vectors(frames.contiguous())
            codes = self._laq.codes_of(vectors).flatten(1)
        mask = valid.repeat_interleave(self.spec.code_seq_len, 1)
        kept = vectors.flatten(1, 2).float() if self.spec.vector_dim else None
        return Labels(
            torch.where(mask, codes, 0), mask, None if kept is None else torch.where(mask[..., None], kept, 0)
        )

    def to(self, device: torch.device) -> None:
        """Move the quantizer."""
        self._laq.to(device)


class NoLabels(LabelSource):
    """Every label is code 0, at no cost: what is left when the labels' own cost is to be measured.

    Args:
        spec: What the labels would mean.
        cameras: The camera of each source.
    """

    def __init__(self, spec: CodeSpec, cameras: Sequence[str]) -> None:
        self.spec = spec
        self.cameras = tuple(cameras)

    def labels(self, batch: Mapping[str, Tensor]) -> Labels:
        """Zeros, all of them to be trained on."""
        shape, device = (len(batch["index"]), self.spec.positions), batch["index"].device
        codes = torch.zeros(shape, dtype=torch.int64, device=device)
        return Labels(codes, torch.ones(shape, dtype=torch.bool, device=device))


def resolve_labels(run: LightningRun, infos: Sequence[DatasetInfo], *, vectors: bool = False) -> LabelSource:
    """The labels that a run's `latents` section names, checked against its data.

    Args:
        run: The run; its sources belong to ``infos``.
        infos: Datasets of the sources.
        vectors: Whether continuous latents are needed.

    Raises:
        UserError: No labels, or labels that do not belong to the data or are not what the run asks for.
    """
    if run.latents.source == "online":
        return _online(run, infos, vectors=vectors)
    if run.latents.source == "none" and not any(section.table for section in run.data.sources):
        raise UserError(
            "a foundation model needs latent labels, but latents.source is none",
            where="latents.source",
            fix="give --latents TABLE, or --online-laq RUN, or latents.source=precomputed for the dataset's own column",
        )
    sections: Sequence[SourceSection | None] = run.data.sources or [None] * len(infos)
    shared = LatentTable.open(run.latents.table) if run.latents.table is not None else None
    rows = [rows_of(s.table if s else None, info, shared) for s, info in zip(sections, infos, strict=True)]
    if shared is not None and shared not in rows:
        shared.check(dataset=infos[0])
    if all(row is None for row in rows):
        raise UserError(
            f"no dataset of the run has labels: none has a column {CODES!r}",
            where="latents",
            fix="give --latents TABLE, or --online-laq RUN",
        )
    for row in rows:
        if row is not None:
            row.check(num_frames=run.data.num_frames, offset_seconds=run.data.offset_seconds, camera=_camera(run, row))
    refuse_other_spans(rows, infos)
    return PrecomputedLabels(rows, vectors=vectors)


def _camera(run: LightningRun, row: LatentTable | LatentColumn) -> str | None:
    """The camera that labels must be of: one that the run reads, if it says which."""
    cameras = run.data.cameras
    return None if cameras is None or row.identity.camera in cameras else cameras[0]


def _online(run: LightningRun, infos: Sequence[DatasetInfo], *, vectors: bool) -> OnlineLabels:
    assert run.latents.laq is not None, "the schema asks for it"
    folder = find_model(run.latents.laq)
    manifest = read_manifest(folder)
    spec = CodeSpec.of_quantizer(manifest.config, manifest.weights_sha256)
    asked = {"num_frames": run.data.num_frames, "offset_seconds": run.data.offset_seconds}
    if differ := spec.differences(asked):
        raise UserError(
            f"the quantizer does not fit: {describe(differ, 'the quantizer', 'the run asks for')}",
            where=f"data.num_frames, data.offset_seconds, {run.latents.laq}",
            fix="leave these keys out: the labels' own values are taken",
        )
    for info in infos:
        code_offset(info, manifest.offset_seconds)
    asked_camera = run.data.cameras[0] if run.data.cameras is not None and len(run.data.cameras) == 1 else None
    cameras = [choose_camera(info, manifest, asked_camera) for info in infos]
    # Making a model draws random numbers: the run's own model must not depend on where its labels come from.
    with torch.random.fork_rng(devices=[]):
        laq = LAQ.from_checkpoint(folder)
    return OnlineLabels(laq, manifest.weights_sha256, cameras, vectors=vectors)
