"""Training any backend of the foundation model with Lightning."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from hlrp.config import FoundationModel, LightningRun
from hlrp.errors import UserError
from hlrp.foundation.backbones import resolve_backbone
from hlrp.foundation.backends.interfaces import BackendMode, FoundationBatch, VLABackend
from hlrp.foundation.backends.registry import backend_class
from hlrp.foundation.checkpoint import (
    BACKBONE,
    BackboneRecord,
    FoundationManifest,
    LabelStatistics,
    check_same_model,
    find_model,
    load_weights,
    read_manifest,
    record_backbone,
    save,
)
from hlrp.foundation.config import BackendConfig
from hlrp.foundation.data_module import FoundationDataModule
from hlrp.foundation.trainable import Adapters, choose_trainable
from hlrp.foundation.validation import Validation
from hlrp.foundation.windows import INSTRUCTION, STATE, present
from hlrp.laq.checkpoint import LAQSource
from hlrp.laq.metrics import code_counts, summed
from hlrp.laq.schedules import adamw_with_cosine
from hlrp.means import RowMeans
from hlrp.runs.directory import MANIFEST

_BETAS = (0.9, 0.95)
_RATE_RANDOM, _RATE_PRETRAINED, _RATE_FROZEN = 5e-4, 2e-5, 1e-4
_STATISTICS_SAMPLES = 2048
_SMALLEST_STD = 1e-3
"""Of continuous latents and states: what hardly varies is not blown up."""

_COUNTS = "label_counts"


class FoundationModule(LightningModule):
    """Loss, labels and metrics of a backend.

    Args:
        run: A run whose model has kind `foundation`.
        datamodule: The run's data.

    Raises:
        UserError: The settings do not fit together, the backbone is not on this machine, or the checkpoint to start
            from is of another kind of labels or backbone.
    """

    vector_mean: Tensor
    vector_std: Tensor
    vectors_known: Tensor

    def __init__(self, run: LightningRun, datamodule: FoundationDataModule) -> None:
        super().__init__()
        if not isinstance(run.model, FoundationModel):
            raise UserError("the run's model is no foundation model", where="model", fix="set model.kind=foundation")
        self.run = run
        self.settings = run.model
        self._data = datamodule
        self._labels = datamodule.labels
        samples = datamodule.train_samples
        self.tasks = samples.tasks
        self.config = BackendConfig(
            backend=run.model.backend,
            mode=BackendMode(run.model.mode),
            spec=self._labels.spec,
            cameras=datamodule.cameras,
            image_size=run.model.image_size,
            state_dim=samples.state_dim,
            max_text_tokens=run.model.max_text_tokens,
            layers=run.model.layers,
        )
        self.backend, self.backbone, start = self._make_backend()
        self._choose_trainable()
        self._register_statistics(start)
        # Counted while training where they are not known before; not a buffer, which processes would overwrite.
        self._known_counts = self._labels.code_counts(samples.starts)
        self._counts = torch.zeros(self.config.spec.positions, self.config.spec.codebook_size, dtype=torch.int64)
        self._all_counts = self._counts
        self._validation: Validation | None = None
        self._means = RowMeans()
        self._seen_step = 0

    def _make_backend(self) -> tuple[VLABackend, BackboneRecord, FoundationManifest | None]:
        """The backend, where its backbone came from, and the checkpoint that it starts from, if any."""
        model, cls = self.settings, backend_class(self.settings.backend)
        folder = record = None
        if model.init_from is None or model.backbone is not None:
            name = model.backbone or "tiny"
            folder = resolve_backbone(name, model.backend, allow_download=self.run.allow_download)
            record = record_backbone(name, folder)
        if model.init_from is None:
            assert folder is not None and record is not None
            return cls.from_backbone(self.config, folder), record, None
        place = find_model(Path(model.init_from))
        manifest = read_manifest(place)
        check_same_model(manifest, self.config, record)
        backend = cls.from_backbone(self.config, place / BACKBONE, weights=False)
        load_weights(backend, place, manifest)
        return backend, manifest.backbone, manifest

    def _choose_trainable(self) -> None:
        """As the model section says; the vision part of a pretrained backbone is frozen unless asked otherwise."""
        model, lora = self.settings, self.settings.lora
        choose_trainable(
            self.backend,
            vision=not self.backbone.pretrained if model.train_vision is None else model.train_vision,
            language=model.train_language,
            adapters=None if lora is None else Adapters(lora.rank, lora.alpha, lora.targets),
        )

    def _register_statistics(self, start: FoundationManifest | None) -> None:
        """What inputs and continuous targets are standardised with; a checkpoint's, since its weights rely on it."""
        known = start.statistics if start is not None else LabelStatistics(code_counts=[])
        found = self._data.train_samples.state_statistics()
        mean, std = (found[0].tolist(), found[1].tolist()) if found is not None else ([], [])
        mean, std = known.state_mean or mean, known.state_std or std
        # No buffers: the state stays on the CPU.
        self.state_mean = torch.tensor(mean, dtype=torch.float32)
        self.state_std = torch.tensor(std).float().clamp_min(_SMALLEST_STD)
        width = self.config.spec.vector_dim or 0
        self.register_buffer("vector_mean", torch.tensor(known.vector_mean or [0.0] * width))
        self.register_buffer("vector_std", torch.tensor(known.vector_std or [1.0] * width))
        self.register_buffer("vectors_known", torch.tensor(width == 0 or known.vector_mean is not None))

    # ---- batches

    def observation(self, batch: Mapping[str, Any]) -> FoundationBatch:
        """What the model sees of a batch of `FoundationSamples`, without labels."""
        masks = {c: mask for c in self.config.cameras if (mask := present(batch, c)) is not None}
        state = (batch[STATE].cpu() - self.state_mean) / self.state_std if STATE in batch else None
        return FoundationBatch(
            images={camera: batch[camera] for camera in self.config.cameras},
            instruction=batch[INSTRUCTION],
            image_masks=masks or None,
            state=state,
            meta={"index": batch["index"], "source": batch["source"]},
        )

    def labelled(self, batch: Mapping[str, Any]) -> FoundationBatch:
        """The batch with its labels."""
        labels = self._labels.labels(batch)
        return replace(
            self.observation(batch),
            target_codes=labels.codes,
            target_mask=labels.mask,
            target_vectors=labels.vectors,
        )

    # ---- training

    def on_fit_start(self) -> None:
        """Bring what makes the labels to the device, and measure continuous labels before the first step."""
        self._labels.to(self.device)
        self._counts = self._counts.to(self.device)
        if not bool(self.vectors_known):
            self._measure_vectors()
        if self.config.mode is not BackendMode.CODES:
            self.backend.set_target_statistics(self.vector_mean, self.vector_std)

    def on_train_start(self) -> None:
        """Count steps from where a resumed run left off: its state is loaded by now."""
        self._seen_step = self.global_step

    def _measure_vectors(self) -> None:
        count = torch.zeros((), dtype=torch.float64, device=self.device)
        total, squares = count, count
        for batch in self._data.spread(_STATISTICS_SAMPLES):
            on_device = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            labels = self._labels.labels(on_device)
            assert labels.vectors is not None
            values = torch.where(labels.mask[..., None], labels.vectors.double(), 0).flatten(0, 1)
            count = count + labels.mask.sum()
            total, squares = total + values.sum(0), squares + values.square().sum(0)
        mean = total / count.clamp(min=1)
        deviation = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt().clamp_min(_SMALLEST_STD)
        self.vector_mean.copy_(mean)
        self.vector_std.copy_(deviation)
        self.vectors_known.fill_(True)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss of one batch."""
        inputs = self.labelled(batch)
        out = self.backend.loss_from_batch(inputs)
        codes, mask = inputs.target_codes, inputs.target_mask
        assert codes is not None and mask is not None
        if self._known_counts is None:
            self._counts += code_counts(codes, self.config.spec.codebook_size, mask)
        metrics = dict(out.metrics)
        if out.logits is not None:
            right = (out.logits.argmax(-1) == codes) & mask
            metrics["accuracy"] = right.sum() / mask.sum().clamp(min=1)
        self._means.add(metrics)
        return self._shared_mean(out.loss, mask)

    def _shared_mean(self, loss: Tensor, mask: Tensor) -> Tensor:
        """Weight the loss so that the processes' mean is the mean over all that is supervised in any of them."""
        if self.trainer.world_size == 1:
            return loss
        count = mask.sum().to(torch.float32)
        return loss * (count * self.trainer.world_size / summed(count).clamp(min=1))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Report the figures of a row, after the optimizer's step is complete."""
        if self.global_step != self._seen_step:  # else gradients are still being accumulated
            self._seen_step = self.global_step
            self._means.log(self)

    # ---- validation

    def on_validation_start(self) -> None:
        """Validation alone, without training, needs the labels on the device too."""
        self._labels.to(self.device)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        batches = self.trainer.num_val_batches
        count = int(sum(batches) if isinstance(batches, list) else batches)
        self._validation = Validation(self.backend, self.config, self.tasks, batches=count, device=self.device)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Measure one batch."""
        assert self._validation is not None, "Lightning starts an epoch before its first step"
        inputs = self.labelled(batch)
        out = self._validation.update(inputs, batch_idx)
        self.log("val_loss", out.loss, batch_size=inputs.batch_size, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the scores, and leave sample pictures in the run's folder."""
        if self._validation is None:
            return
        metrics = self._validation.compute(self._majority())
        self.log_dict({k: v for k, v in metrics.items() if math.isfinite(v)}, batch_size=1)
        folder = Path(self.trainer.default_root_dir)
        # Only beside a run's manifest: whoever uses Lightning's trainer directly has not asked for files.
        if self.trainer.is_global_zero and (folder / MANIFEST).is_file():
            self._validation.write_pictures(folder / "samples" / f"{self.global_step:06d}.png")
        self._validation = None

    def _majority(self) -> Tensor:
        """The most frequent code of each position in training, ``[P]``."""
        counts = self._known_counts if self._known_counts is not None else summed(self._counts)
        return counts.argmax(1)

    # ---- optimizer, checkpoint

    def _total_steps(self) -> int:
        trainer = self.run.trainer
        return trainer.steps if trainer.max_epochs is None else int(self.trainer.estimated_stepping_batches)

    def learning_rate(self) -> float:
        """The run's, or one that suits the backbone."""
        if self.run.trainer.learning_rate is not None:
            return self.run.trainer.learning_rate
        if not self.backbone.pretrained:
            return _RATE_RANDOM
        whole = self.settings.train_language and self.settings.lora is None
        return _RATE_PRETRAINED if whole else _RATE_FROZEN

    def configure_optimizers(self) -> Any:
        """AdamW with a warm-up and a cosine; neither norms and biases nor embeddings decay."""
        embeddings = {p for m in self.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
        return adamw_with_cosine(self, embeddings, lr=self.learning_rate(), betas=_BETAS, total=self._total_steps())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the labels that were counted, of all processes together."""
        self._all_counts = summed(self._counts)
        checkpoint[_COUNTS] = self._all_counts.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting in the first process; where weights are spread, this comes after `on_fit_start`."""
        counts = checkpoint[_COUNTS].to(self.device, copy=True)
        self._counts = counts if self.global_rank == 0 else torch.zeros_like(counts)

    def save_pretrained(self, folder: Path) -> None:
        """Write the model alone, as `Foundation.from_checkpoint` reads it."""
        counts = self._known_counts if self._known_counts is not None else self._all_counts
        vectors = self.config.spec.vector_dim is not None
        infos = [source.info for source in self._data.train_sources]
        statistics = LabelStatistics(
            code_counts=counts.tolist(),
            vector_mean=self.vector_mean.tolist() if vectors else None,
            vector_std=self.vector_std.tolist() if vectors else None,
            state_mean=self.state_mean.tolist() or None,
            state_std=self.state_std.tolist() or None,
        )
        save(
            self.backend,
            folder,
            backbone=self.backbone,
            statistics=statistics,
            instructions=self.tasks,
            sources=[LAQSource(repo_id=i.repo_id, fingerprint=i.fingerprint(), fps=i.fps) for i in infos],
            step=self.global_step,
        )
