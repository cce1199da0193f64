"""Training a latent action quantizer with Lightning."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from hlrp.config import LaqModel, LightningRun
from hlrp.laq.checkpoint import LAQSource
from hlrp.laq.config import LAQConfig
from hlrp.laq.grounding import ActionHead, action_width, grounded
from hlrp.laq.image_model import FrozenFeatures
from hlrp.laq.losses import feature_loss, masked_mean, pixel_loss
from hlrp.laq.metrics import USED_FLOOR, LAQMeter, code_counts, is_distributed, moving_pixels, perplexity, summed
from hlrp.laq.model import LAQ, LAQOutput
from hlrp.laq.schedules import LEARNING_RATES, USAGE_WINDOW, adamw_with_cosine, replacement_at
from hlrp.laq.teachers import FeatureHead, FlowHead, RaftFlow
from hlrp.means import RowMeans
from hlrp.runs.model_folder import check_state
from hlrp.sharded import whole_weights

_LOG = logging.getLogger("hlrp.train")
_BETAS = (0.9, 0.99)
_FLOW_RAMP = 0.25  # share of the run over which the flow loss reaches its weight
_COUNTS = ("uses", "window")  # buffers: uses of each code since the last replacement, and since the last report
_JUDGED_FROM = 200  # steps: before them the replacement of unused codes is still at work

Batch = Mapping[str, Tensor]


class LAQModule(LightningModule):
    """Loss, codebook upkeep and metrics of a quantizer.

    Batches hold ``frames`` uint8 ``[B, T, C, H, W]`` (``[B, T, V, C, H, W]`` with several cameras, which then count
    as windows of their own), ``valid`` bool ``[B, T-1]``, ``source`` int64 ``[B]``, and, where actions of labelled
    episodes are used, ``action_sum`` ``[B, T-1, A]`` and ``has_action`` bool ``[B]``.

    Args:
        run: A run whose model has kind `laq`.
        datamodule: The run's data, for what the checkpoint says of its origin; None if there is none to name.

    Raises:
        UserError: The model's settings do not fit together, or a file that they name is missing.
    """

    initialised: Tensor
    uses: Tensor
    window: Tensor

    def __init__(self, run: LightningRun, datamodule: Any = None) -> None:
        super().__init__()
        config = LAQConfig.from_run(run)
        assert isinstance(run.model, LaqModel)
        self.run, self.settings = run, run.model
        self.laq = LAQ(config)
        sources = getattr(datamodule, "train_sources", [])
        infos = [source.info for source in sources]
        named = [LAQSource(repo_id=i.repo_id, fingerprint=i.fingerprint(), fps=i.fps) for i in infos]
        # Labelled episodes of a dataset and its others are sources of their own to the sampler.
        self._sources = list(dict.fromkeys(named))
        self._cameras = list(dict.fromkeys(camera for s in sources for camera in (s.cameras or s.info.cameras)))
        self._meter: LAQMeter | None = None
        # The last step's vectors and which of them are valid.
        self._recent: tuple[Tensor, Tensor] | None = None
        self._is_placed: bool | None = None
        self._seen_step = 0
        self._means = RowMeans()
        self._collapsed = False
        size, positions = config.codebook_size, config.code_seq_len
        # Saved with the training state, so that a resumed run replaces the same codes at the same steps.
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("uses", torch.zeros(positions, size, dtype=torch.int64))
        self.register_buffer("window", torch.zeros(positions, size, dtype=torch.int64))
        # Each process counts its own: before every step DDP would overwrite the others' counts by the first one's.
        self._ddp_params_and_buffers_to_ignore = set(_COUNTS)
        self._teachers: dict[str, nn.Module] = {}
        self.heads = self._make_heads(config, datamodule)
        if run.model.init_from is not None:
            stored = LAQ.from_checkpoint(run.model.init_from).state_dict()
            check_state(stored, self.laq.state_dict(), f"model.init_from: {run.model.init_from}")
            self.laq.load_state_dict(stored)
            self.initialised.fill_(True)

    def _make_heads(self, config: LAQConfig, datamodule: Any) -> nn.ModuleDict:
        """Heads for the targets that are asked for; their teachers are kept out of the checkpoint."""
        heads = nn.ModuleDict()
        if self.settings.feature_model is not None:
            teacher = FrozenFeatures.load(self.settings.feature_model, config.grid)
            if self.laq.image_model is not None:
                self.laq.image_model.load_state_dict(teacher.state_dict())
            else:
                self._teachers["feature"] = teacher
                heads["feature"] = FeatureHead(config.dim, teacher.config.width)
        if self.settings.flow_model is not None:
            self._teachers["flow"] = RaftFlow(self.settings.flow_model)
            heads["flow"] = FlowHead(config.dim, config.patch_size, config.grid)
        if grounded(self.run) and datamodule is not None:
            heads["action"] = ActionHead(config.code_seq_len * config.code_dim, action_width(datamodule))
        return heads

    def forward(self, frames: Tensor, valid: Tensor | None = None) -> LAQOutput:
        """As `LAQ.forward`."""
        return self.laq(frames, valid)

    # ---- training

    def on_fit_start(self) -> None:
        """Bring the teachers to the device."""
        for teacher in self._teachers.values():
            teacher.to(self.device)
        self._is_placed = None
        if "action" in self.heads:
            windows = self.trainer.datamodule.train_windows  # type: ignore[attr-defined]
            self._action_head().standardise_by(torch.from_numpy(windows.action_sums()))

    def on_train_start(self) -> None:
        """Count where a resumed run left off: its state is loaded by now, and in `on_fit_start` it is not."""
        self._seen_step = self.global_step
        if self.global_rank > 0:
            # What all processes had counted was saved together, and is the first one's.
            for name in _COUNTS:
                getattr(self, name).zero_()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Place the codebook among the first batch's own differences, once."""
        if self._is_placed is None:
            # A resumed run's is loaded by now. Read once: reading it in every step would wait for the device.
            self._is_placed = bool(self.initialised)
        if self._is_placed:
            return
        frames, valid, _ = _windows(batch)
        with whole_weights(self.laq):
            vectors = self.laq.encode_vectors(frames)[valid]
        with whole_weights(self.laq.quantizer, changed=True):
            if len(vectors):
                self.laq.quantizer.initialise(vectors)
                self._share_codebook()
                self.initialised.fill_(True)
                self._is_placed = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        frames, valid, _ = _windows(batch)
        out = self.laq(frames, valid)
        parts = self._losses(out, frames, valid)
        if "action" in self.heads:
            parts["action"] = self.settings.action_weight * self._action_loss(out, batch)
        loss = torch.stack(list(parts.values())).sum()
        self._means.add({f"loss_{name}": part for name, part in parts.items()})
        with torch.no_grad():
            counts = code_counts(out.codes.flatten(0, 1), self.laq.config.codebook_size, valid.flatten()[:, None])
            self._recent = out.vectors.detach(), valid
            self.uses += counts
            self.window += counts
        return loss

    def _losses(self, out: LAQOutput, frames: Tensor, valid: Tensor) -> dict[str, Tensor]:
        pixels = frames.float() / 255 if frames.dtype == torch.uint8 else frames
        background = self.settings.background_weight
        parts = {"pixel": pixel_loss(out.recon.float(), pixels, valid, background)}
        if self.settings.quantizer == "vq":
            parts["quantizer"] = masked_mean(out.quantizer_loss, valid)
        if out.features is not None and out.feature_target is not None:
            parts["feature"] = self.settings.feature_weight * feature_loss(
                out.features, out.feature_target, pixels, valid, background
            )
        if "feature" in self.heads:
            target = self._teachers["feature"](pixels[:, 1:].flatten(0, 1)).unflatten(0, valid.shape)
            error = ((self.heads["feature"](out.tokens) - target) ** 2).mean((2, 3))
            parts["feature"] = self.settings.feature_weight * masked_mean(error, valid)
        if "flow" in self.heads:
            current, following = pixels[:, :-1], pixels[:, 1:]
            target = self._teachers["flow"](current.flatten(0, 1), following.flatten(0, 1)).unflatten(0, valid.shape)
            weight = background + (1 - background) * moving_pixels(current, following)
            error = (weight * (self.heads["flow"](out.tokens) - target) ** 2).mean((2, 3, 4))
            ramp = min(1.0, self.global_step / max(1.0, _FLOW_RAMP * self._total_steps()))
            parts["flow"] = ramp * self.settings.flow_weight * masked_mean(error, valid)
        return parts

    def _action_loss(self, out: LAQOutput, batch: Batch) -> Tensor:
        sums, known = batch["action_sum"], batch["valid"] & batch["has_action"][:, None]
        views = len(out.vectors) // len(sums)
        sums, known = sums.repeat_interleave(views, 0), known.repeat_interleave(views, 0)
        return self._action_head().loss(out.vectors, sums, known)

    def _action_head(self) -> ActionHead:
        head = self.heads["action"]
        assert isinstance(head, ActionHead)
        return head

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Replace unused codes and report usage, after the optimizer's step is complete."""
        step = self.global_step
        if step == self._seen_step:
            return  # gradients are still being accumulated
        self._seen_step = step
        self._means.log(self)
        threshold = replacement_at(step, self._total_steps())
        if threshold is not None:
            self._replace(threshold)
        if step % USAGE_WINDOW == 0:
            self._report_usage()

    def _replace(self, threshold: float) -> None:
        uses = summed(self.uses)
        with whole_weights(self.laq.quantizer, changed=True):
            if self.global_rank == 0 and self._recent is not None:
                vectors, valid = self._recent
                self.laq.quantizer.replace(uses, threshold, vectors[valid])
            self._share_codebook()
        self.uses.zero_()

    def _share_codebook(self) -> None:
        """Give every process the first one's codebook: what is drawn must be drawn once."""
        if is_distributed():
            for value in self.laq.quantizer.state_dict().values():
                torch.distributed.broadcast(value, src=0)

    def _report_usage(self) -> None:
        counts = summed(self.window)
        share = float((counts > 0).double().mean())
        total = counts.sum(0)
        self.log("codes_used", share, batch_size=1)
        self.log("perplexity", float(perplexity(counts.double()).mean()), batch_size=1)
        self.window.zero_()
        self._warn(float((total > 0).double().mean()), "training", int(total.sum()))

    def _warn(self, share: float, where: str, uses: int) -> None:
        """Say once that codes are not in use, unless there were too few uses or steps to tell."""
        enough = uses >= self.laq.config.codebook_size and self.global_step >= _JUDGED_FROM
        collapsed = enough and share < USED_FLOOR
        if collapsed and not self._collapsed:
            _LOG.warning(
                "only %.0f %% of the codes are in use (%s, step %d): the codebook is collapsing; try a smaller "
                "model.codebook_size, a longer data.offset_seconds, or model.quantizer=fsq",
                100 * share,
                where,
                self.global_step,
            )
        self._collapsed = collapsed

    # ---- validation

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._meter = LAQMeter(self.laq.config, max(1, len(self._sources)), seed=0)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """In validation all but what pairs are picked by, which is looked at on the host."""
        host = {} if self.trainer.training else {key: batch[key] for key in ("valid", "source") if key in batch}
        rest = {key: value for key, value in batch.items() if key not in host}
        return {**super().transfer_batch_to_device(rest, device, dataloader_idx), **host}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure one batch; nothing of the codebook changes."""
        frames, valid, source = _windows(batch)
        assert self._meter is not None, "Lightning starts an epoch before its first step"
        out = self._meter.update(self.laq, frames, valid, source)
        valid = valid.to(frames.device, non_blocking=True)
        pixels = frames.float() / 255 if frames.dtype == torch.uint8 else frames
        loss = pixel_loss(out.recon.float(), pixels, valid, self.settings.background_weight)
        if out.features is not None and out.feature_target is not None:
            loss = feature_loss(out.features, out.feature_target, pixels, valid, self.settings.background_weight)
        self.log("val_loss", loss, batch_size=len(frames), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of all sources together, and of each where there are several."""
        if self._meter is None:
            return
        scores = self._meter.compute()
        if scores.pairs == 0:
            return
        metrics = {
            "val_psnr": scores.psnr,
            "val_psnr_gain": scores.psnr_gain,
            "val_permutation_gap": scores.permutation_gap,
            "val_codes_used": scores.codebook_used,
        }
        names = [source.repo_id for source in self._sources] if len(self._sources) > 1 else []
        groups = {"val": scores} | {f"val_{n}": self._meter.compute(i) for i, n in enumerate(names)}
        for prefix, group in groups.items():
            for position, (share, spread) in enumerate(zip(group.used_share, group.perplexity, strict=True)):
                metrics[f"{prefix}_codes_used_{position}"] = share
                metrics[f"{prefix}_perplexity_{position}"] = spread
            # A source that is judged by itself may collapse while the others hide it.
            self._warn(group.codebook_used, prefix, group.pairs)
        self.log_dict({k: v for k, v in metrics.items() if math.isfinite(v)}, batch_size=1)

    # ---- optimizer, checkpoint

    def _total_steps(self) -> int:
        trainer = self.run.trainer
        return trainer.steps if trainer.max_epochs is None else int(self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> Any:
        """AdamW with a warm-up and a cosine; neither codebook nor vectors of norms and biases decay."""
        rate = self.run.trainer.learning_rate or LEARNING_RATES[self.settings.preset]
        codebook = set(self.laq.quantizer.parameters())
        return adamw_with_cosine(self, codebook, lr=rate, betas=_BETAS, total=self._total_steps())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what all processes have counted together."""
        if is_distributed():
            checkpoint["state_dict"] |= {name: summed(getattr(self, name)) for name in _COUNTS}

    def save_pretrained(self, folder: Path) -> None:
        """Write the quantizer alone, as `LAQ.from_checkpoint` reads it."""
        self.laq.save(folder, cameras=self._cameras, sources=self._sources, step=self.global_step)


def _windows(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Frames ``[B, T, C, H, W]``, validity and source; each camera of a batch becomes windows of its own."""
    frames, valid = batch["frames"], batch["valid"]
    source = batch["source"] if "source" in batch else torch.zeros(len(frames), dtype=torch.int64, device=valid.device)
    if frames.ndim == 6:
        views = frames.shape[2]
        frames = frames.transpose(1, 2).flatten(0, 1)
        valid, source = valid.repeat_interleave(views, 0), source.repeat_interleave(views, 0)
    return frames, valid, source
