"""Lightning datamodule of the foundation model: single frames with instruction and label."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from hlrp.config import FoundationModel, LightningRun, SourceSection, require_dataset
from hlrp.data import FrameDataModule, WindowSource, read_dataset
from hlrp.data.augmentation import blank_frame
from hlrp.data.mixture import Batch
from hlrp.errors import UserError
from hlrp.foundation.windows import FoundationSamples, cameras_of, is_read_on_host, own_cameras
from hlrp.latents.sources import LabelSource, resolve_labels

_log = logging.getLogger("hlrp.data")
_STATISTICS_BATCH = 64


class FoundationDataModule(FrameDataModule):
    """Single frames with instruction and label for a run: as `FrameDataModule`, but batches are `FoundationSamples`'.

    Precomputed and online labels give the same samples in the same order.

    Args:
        run: A run whose model has kind `foundation`.
        labels: Where labels come from; none: as the run's `latents` section says.
        max_val_windows: Held-out samples per validation, spread evenly over all of them.
        cache_root: Where frame stores live; none: in the platform's cache folder.
        announce: Given a sentence before frames are decoded into the cache.
        progress: Called meanwhile as (frames done, frames to do).

    Raises:
        UserError: No dataset or labels, or they do not belong together.
    """

    def __init__(
        self,
        run: LightningRun,
        *,
        labels: LabelSource | None = None,
        max_val_windows: int = 2048,
        cache_root: Path | None = None,
        announce: Callable[[str], None] = _log.warning,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        require_dataset(run)
        if not isinstance(run.model, FoundationModel):
            raise UserError("the run's model is no foundation model", where="model", fix="set model.kind=foundation")
        data = run.data
        sections = data.sources or [SourceSection(repo_id=data.repo_id, root=data.root)]
        infos = [
            read_dataset(s.repo_id, s.root, tolerance_s=data.tolerance_s, video_backend=data.video_backend)
            for s in sections
        ]
        self.labels = labels or resolve_labels(run, infos, vectors=run.model.mode != "codes")
        self.cameras = cameras_of(infos, data.cameras, self.labels)
        self._model = run.model
        super().__init__(
            run,
            size=run.model.image_size,
            offset_seconds=self.labels.spec.offset_seconds,
            max_val_windows=max_val_windows,
            cache_root=cache_root,
            cache_limit_gb=data.cache_limit_gb,
            announce=announce,
            progress=progress,
        )

    @property
    def frame_keys(self) -> tuple[str, ...]:
        """The cameras: labels made while training are of the frames as recorded, as those of a table are."""
        return self.cameras

    def _blank_frames(self, size: int | tuple[int, int] | None) -> dict[str, torch.Tensor]:
        infos = [source.info for source in self.train_sources]
        return {
            camera: blank_frame(info.features[own], size)
            for info in infos
            for camera, own in own_cameras(info, self.cameras).items()
        }

    def open_windows(self, sources: list[WindowSource]) -> FoundationSamples:
        """The samples of some sources."""
        shared = ("cache", "cache_root", "cache_limit_gb", "announce", "progress")
        return FoundationSamples(
            sources,
            self.labels,
            cameras=self.cameras,
            size=self._model.image_size,
            use_state=self._model.use_state,
            **{name: self._options[name] for name in shared},
        )

    def filtered_cameras(self, source: WindowSource) -> list[str]:
        """Those of the model's cameras that the source has, by its own names."""
        return list(own_cameras(source.info, self.cameras).values())

    @property
    def filtered_size(self) -> int | tuple[int, int] | None:
        """The model's."""
        return self._model.image_size

    @property
    def train_samples(self) -> FoundationSamples:
        """What is trained on; opened if need be."""
        self.setup("fit")
        assert isinstance(self.train_windows, FoundationSamples)
        return self.train_windows

    def spread(self, count: int) -> Iterator[Batch]:
        """Batches of ``count`` training samples, spread evenly over all of them and always the same."""
        samples = self.train_samples
        count = min(count, len(samples))
        positions = [i * len(samples) // count for i in range(count)]
        for first in range(0, count, _STATISTICS_BATCH):
            yield samples.__getitems__(positions[first : first + _STATISTICS_BATCH])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one: the data, their order and the labels' origin."""
        return {**super().state_dict(), "laq_sha256": self.labels.spec.laq_sha256}

    def transfer_batch_to_device(self, batch: dict[str, Any], device: torch.device, dataloader_idx: int) -> Any:
        """All but what is read on the host."""
        host = {key: value for key, value in batch.items() if is_read_on_host(key)}
        rest = {key: value for key, value in batch.items() if key not in host}
        return {**super().transfer_batch_to_device(rest, device, dataloader_idx), **host}
