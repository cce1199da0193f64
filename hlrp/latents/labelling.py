"""Labelling a dataset: codes of every frame into a latent table, at the speed of the decoder or of the encoder."""

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hlrp.data import BadVideoError, DatasetInfo, read_episodes
from hlrp.data.decode import SequentialDecoder
from hlrp.data.episodes import Episodes, check_camera, code_offset
from hlrp.data.frame_pipeline import DeviceChunk, FramePipeline
from hlrp.laq.checkpoint import LAQManifest, find_model, read_manifest
from hlrp.laq.config import LAQConfig
from hlrp.laq.model import LAQ
from hlrp.latents.shards import LatentIdentity, ShardRange, ShardRows, plan_shards, shard_frames_for
from hlrp.latents.spec import CodeSpec
from hlrp.latents.table import MANIFEST, check_same_work, finish_table
from hlrp.latents.window_batches import WindowBatcher
from hlrp.ranks import Ranks, is_first_process

_LOG = logging.getLogger("hlrp.data")
CHUNK = 64
"""Frames that are decoded and sent at a time."""

_IN_FLIGHT = 2


class WindowEncoder(Protocol):
    """What turns windows into codes: `LAQEncoder`, or something to measure the rest with."""

    def __call__(self, windows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Uint8 ``[B, T, C, H, W]`` to codes ``[B, T-1, S]`` and, if they are asked for, vectors ``[B, T-1, S, D]``."""


class LAQEncoder:
    """A quantizer as `label` takes it.

    Args:
        laq: The model, on its device.
        vectors: Give continuous latents too.
    """

    def __init__(self, laq: LAQ, *, vectors: bool = False) -> None:
        self._laq, self._vectors = laq, vectors

    def __call__(self, windows: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `WindowEncoder`."""
        # The layout in which training and verification give frames: another one may round differently.
        vectors = self._laq.encode_vectors(windows.contiguous())
        return self._laq.codes_of(vectors), vectors if self._vectors else None


@dataclass(frozen=True)
class LabelRequest:
    """What to label.

    Args:
        info: The dataset.
        camera: Feature to read; None: the only one there is.
        output: Folder of the table.
        config: Shapes and meaning of the codes.
        laq_sha256: SHA-256 of the quantizer's weights.
        vectors: Keep continuous latents too.
        batch_size: Windows that are encoded at a time. Sums are rounded differently at other sizes, so a code that
            lies between two may come out as the other one.
        skip_bad: Mark episodes that cannot be decoded invalid; otherwise they are an error.
        shard_frames: Frames of a shard, about; None: see `shard_frames_for`.
        ranks: Which process of how many this is.
    """

    info: DatasetInfo
    camera: str | None
    output: Path
    config: LAQConfig
    laq_sha256: str
    vectors: bool = False
    batch_size: int = 256
    skip_bad: bool = False
    shard_frames: int | None = None
    ranks: Ranks = field(default_factory=Ranks)

    def identity(self) -> LatentIdentity:
        """What the table's codes will mean.

        Raises:
            UserError: No such camera, or frames that lie too far from the offset.
        """
        spec = CodeSpec.of_quantizer(self.config, self.laq_sha256, vectors=self.vectors)
        return LatentIdentity(
            **spec.model_dump(),
            dataset_fingerprint=self.info.fingerprint(),
            camera=check_camera(self.info, self.camera),
            offset_frames=code_offset(self.info, spec.offset_seconds),
            rows=self.info.frames,
            episodes=self.info.episodes,
            shard_frames=self.shard_frames or shard_frames_for(self.info.frames, self.output),
            video_backend=self.info.video_backend,
        )


@dataclass(frozen=True)
class LabelProgress:
    """How far a labelling is.

    Args:
        done: Frames of this process that are labelled, those of former runs included.
        total: Frames of this process.
        made: Frames labelled in this run.
        elapsed_s: Seconds since this run's first frame was asked for.
    """

    done: int
    total: int
    made: int
    elapsed_s: float

    @property
    def rate(self) -> float:
        """Frames per second of this run."""
        return self.made / self.elapsed_s if self.elapsed_s > 0 else 0.0


@dataclass(frozen=True)
class LabelResult:
    """What a labelling did.

    Args:
        output: Folder of the table.
        complete: Whether all shards are there and the manifest is written.
        frames: Frames labelled in this run.
        kept: Frames of this process that a former run had labelled.
        seconds: Duration.
        bad: Episodes that could not be decoded, in this run.
        missing_shards: Shards that other processes have yet to write.
    """

    output: Path
    complete: bool
    frames: int
    kept: int
    seconds: float
    bad: list[BadVideoError]
    missing_shards: int


def choose_camera(info: DatasetInfo, manifest: LAQManifest, asked: str | None) -> str:
    """The camera to label: the one asked for, else the one that the quantizer was trained on, else the only one.

    That it was not trained on the only one is said in a warning: videos of people have cameras of their own names.

    Raises:
        UserError: It is not clear which, or there is no such camera.
    """
    trained = [camera for camera in manifest.cameras if camera in info.cameras]
    chosen = check_camera(info, asked if asked is not None else trained[0] if len(trained) == 1 else None)
    if asked is None and manifest.cameras and not trained and is_first_process():
        _LOG.warning(
            "the quantizer labels %s, the only camera of %s, and was trained on %s; name the camera (--camera, "
            "data.cameras) if it is meant",
            chosen,
            info.repo_id,
            ", ".join(manifest.cameras),
        )
    return chosen


def default_output(laq: Path, info: DatasetInfo, camera: str) -> Path:
    """Where a table goes if nobody says: ``<run>/latents/<dataset>``, with the camera if there are several."""
    run = next((p for p in (laq, *laq.absolute().parents[:3]) if (p / "run.json").is_file()), laq)
    name = info.repo_id.replace("/", "--")
    return run / "latents" / (name if len(info.cameras) == 1 else f"{name}--{camera}")


def load_encoder(path: Path, device: str, *, vectors: bool = False) -> tuple[LAQEncoder, LAQManifest]:
    """A quantizer from a run, checkpoint or model folder, ready to label, with its manifest.

    Raises:
        UserError: No quantizer there, or its files do not fit together.
    """
    folder = find_model(path)
    return LAQEncoder(LAQ.from_checkpoint(folder, device), vectors=vectors), read_manifest(folder)


def label(
    request: LabelRequest,
    encoder: WindowEncoder,
    *,
    device: str = "cpu",
    progress: Callable[[LabelProgress], None] | None = None,
    workers: int = 0,
) -> LabelResult:
    """Write the codes of every frame into a latent table; continues what a killed run has left.

    Every frame is decoded once and sent to the device once. Decoding, transfer and encoding overlap, and memory does
    not grow with the dataset.

    Args:
        request: What to label.
        encoder: Gives the codes.
        device: Where ``encoder`` wants its windows.
        progress: Called after every shard and about twice a second.
        workers: Threads that decode; 0: one per core. The result does not depend on it.

    Raises:
        UserError: The folder holds labels of another kind, or there is no such camera.
        BadVideoError: An episode cannot be decoded and ``skip_bad`` is off; shards before it are kept.
    """
    identity = request.identity()
    table = read_episodes(request.info)
    shards = plan_shards(table, identity.shard_frames)
    check_same_work(request.output, identity)
    request.output.mkdir(parents=True, exist_ok=True)
    mine = [shards[i] for i in request.ranks.share(len(shards))]
    # A shard that is gone in spite of a manifest is made again, and the manifest with it.
    todo = [shard for shard in mine if not (request.output / shard.name).is_file()]
    work = _Labelling(request, identity, table, encoder, torch.device(device), progress)
    began = time.monotonic()
    work.run(todo, sum(shard.rows for shard in mine), workers)
    missing = sum(not (request.output / shard.name).is_file() for shard in shards)
    # One that is there may be of what another process read before a shard was written here.
    described = not todo and (request.output / MANIFEST).is_file()
    complete = missing == 0 and (described or finish_table(request.output, identity, shards))
    kept = sum(shard.rows for shard in mine) - work.made
    return LabelResult(request.output, complete, work.made, kept, time.monotonic() - began, work.bad, missing)


@dataclass
class _Labelling:
    """One process's pass over its shards."""

    request: LabelRequest
    identity: LatentIdentity
    table: Episodes
    encoder: WindowEncoder
    device: torch.device
    progress: Callable[[LabelProgress], None] | None
    made: int = 0
    bad: list[BadVideoError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._waiting: deque[tuple[ShardRows, NDArray[np.int64], Tensor, Tensor | None, Any]] = deque()
        self._steps = np.arange(1, self.identity.num_frames) * self.identity.offset_frames
        self._reported = self._began = 0.0
        self._seen = self._kept = self._total = 0

    def run(self, todo: list[ShardRange], total: int, workers: int) -> None:
        """Label the shards ``todo``; ``total`` frames are this process's in all."""
        self._total, self._kept = total, total - sum(shard.rows for shard in todo)
        self._began = self._reported = time.monotonic()
        self._report(force=True)
        if not todo:
            return
        episodes = np.concatenate([np.arange(shard.first_episode, shard.end_episode) for shard in todo]).tolist()
        decoder = SequentialDecoder(self.table, self.identity.camera, self.request.config.image_size)
        frames = FramePipeline(
            decoder, episodes, self.device, chunk=CHUNK, skip_bad=self.request.skip_bad, workers=workers
        )
        batcher = WindowBatcher(self.identity.num_frames, self.identity.offset_frames, self.request.batch_size, CHUNK)
        current: ShardRows | None = None
        coming = iter(todo)
        shard = next(coming)
        with closing(iter(frames)) as items:
            for item in items:
                while item.episode >= shard.end_episode:
                    shard = next(coming)
                current = current or ShardRows(self.identity, shard, self.table, frames.source)
                self._take(item, current, batcher)
                length = int(self.table.lengths[item.episode])
                ended = isinstance(item, BadVideoError) or item.start + len(item.frames) == length
                if ended and item.episode == shard.end_episode - 1:
                    # At once: what comes next may be an error or a kill.
                    self._close(current, batcher)
                    current = None

    def _take(self, item: DeviceChunk | BadVideoError, shard: ShardRows, batcher: WindowBatcher) -> None:
        episode = item.episode
        if isinstance(item, BadVideoError):
            # What was decoded before may be garbage too: the whole episode is left out, once its windows are through.
            self._encode_all(batcher.flush(), shard)
            self._resolve(0)
            shard.spoil(episode)
            self.bad.append(item)
            return
        first, length = int(self.table.start[episode]), int(self.table.lengths[episode])
        self._encode_all(batcher.add(item, first, length), shard)
        self._seen += len(item.frames)
        self._report()

    def _encode_all(self, batches: Any, shard: ShardRows) -> None:
        for rows, windows in batches:
            codes, vectors = self.encoder(windows)
            self._waiting.append((shard, rows, *_to_host(codes, vectors)))
            self._resolve(_IN_FLIGHT)

    def _resolve(self, leave: int) -> None:
        """Take results from the device, all but the newest ``leave``: waiting for these would stop the pipeline."""
        while len(self._waiting) > leave:
            shard, rows, codes, vectors, ready = self._waiting.popleft()
            if ready is not None:
                ready.synchronize()
            ends = self.table.end[self.table.episode_of(rows)]
            valid = rows[:, None] + self._steps < ends[:, None]
            shard.fill(rows, codes.numpy(), valid, None if vectors is None else vectors.numpy())

    def _close(self, shard: ShardRows, batcher: WindowBatcher) -> None:
        self._encode_all(batcher.flush(), shard)
        self._resolve(0)
        folder = self.request.output
        if not (folder / shard.range.name).is_file():  # else the same command runs twice, and the other one was first
            # It tells of the shard that was here before: without one the table is finished anew, after a kill too.
            (folder / MANIFEST).unlink(missing_ok=True)
            shard.write(folder)
        self.made += shard.range.rows
        self._seen = self.made
        self._report(force=True)

    def _report(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if self.progress is not None and (force or now - self._reported > 0.5):
            self._reported = now
            done = min(self._kept + self._seen, self._total)
            self.progress(LabelProgress(done, self._total, self._seen, now - self._began))


def _to_host(codes: Tensor, vectors: Tensor | None) -> tuple[Tensor, Tensor | None, Any]:
    """Start the copies to the host; the last item tells when they are done, None if they are."""
    if vectors is not None:
        vectors = vectors.float()
    if codes.device.type != "cuda":
        return codes.cpu(), None if vectors is None else vectors.cpu(), None
    # Of their own device: the current one may be another, and knows nothing of these copies.
    copying = torch.cuda.current_stream(codes.device)
    codes = codes.to("cpu", non_blocking=True)
    vectors = None if vectors is None else vectors.to("cpu", non_blocking=True)
    return codes, vectors, copying.record_event()
