"""Any policy that LeRobot has registered, plugins included, as a Lightning module with LeRobot's own numbers."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from hlrp.devices import LOOKED_UP, fuse
from hlrp.errors import UserError
from hlrp.means import RowMeans, last_step
from hlrp.policies.adapted import load_saved, require_loadable, save_weights
from hlrp.policies.build import Built, build_policy, optimizer_config, policy_config, scheduler_config
from hlrp.policies.figures import unread
from hlrp.policies.held_out import CodeEffectMeter, HeldOutLoss, tell_length
from hlrp.policies.made_for import policy_data, refuse_other_data, taken_over
from hlrp.policies.policy import Policy, complete

if TYPE_CHECKING:
    from lerobot.utils.sample_weighting import SampleWeighter

Batch = dict[str, Any]
_WEIGHT_EPSILON = 1e-6  # LeRobot's own, in its weighted loss


class LeRobotPolicyAdapter(Policy):
    """Trains a LeRobot policy in Lightning as `lerobot-train` would: the same weights, batches, losses and steps.

    Nothing is made before training starts: features and statistics come from the datamodule (`LeRobotDataModule`), the
    random generator stands where LeRobot's would. Optimizer, schedule and gradient clipping are the policy's presets
    unless given here or to the Trainer (`gradient_clip_val`).

    Args:
        policy_type: Name of the policy, such as `act`.
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        optimizer: LeRobot's optimizer configuration as ``{type, lr, ...}``; it then applies to all parameters alike.
        scheduler: LeRobot's scheduler configuration as ``{type, ...}``; ``{type: none}``: a constant rate.
        ema_decay: Decay in (0, 1) of a running average of the weights, which is then what is validated and saved.
        sample_weighter: LeRobot's per-sample weighting, for policies whose loss has `reduction="none"`.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        allow_download: Whether weights of an image backbone that are not on this machine may be fetched.
        **fields: Fields of the policy's own LeRobot configuration class, or their aliases (`hidden_dim`,
            `learning_rate`); `hlrp policies NAME` lists them.

    Raises:
        UserError: By `fit`, before the first step: unknown policy or field, a value that the class refuses, data that
            lack a feature or statistics, weights that do not fit.
    """

    def __init__(
        self,
        policy_type: str,
        *,
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: "SampleWeighter | None" = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
        **fields: Any,
    ) -> None:
        super().__init__()
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise UserError(f"the decay must lie between 0 and 1, not {ema_decay}", where="ema_decay", fix="try 0.999")
        self.policy_type, self.fields = policy_type, fields
        self.init_from = Path(init_from) if init_from is not None else None
        self._optimizer, self._scheduler = optimizer, scheduler
        self._ema_decay, self._weighter = ema_decay, sample_weighter
        self._rename_map, self._allow_download = rename_map, allow_download
        self.resumed = False
        self.policy: Any = None
        self.average: Any = None
        self._built: Built | None = None
        self._made_for: dict[str, str] = {}
        self._camera_keys: list[str] = []
        self._only_acts, self._updates, self._clip_norm = False, False, 0.0
        self._seen_step = 0
        self._means, self._held_out, self._meter = RowMeans(), HeldOutLoss(), CodeEffectMeter()

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: str = "cpu", **arguments: Any) -> Self:
        """A trained policy, ready to act; `fit` goes on from its weights with the statistics of the new data.

        Args:
            folder: Run, checkpoint or `pretrained_model` folder.
            device: Where it acts.
            **arguments: As for the class; `policy_type` is read from the checkpoint where the class needs it.

        Raises:
            UserError: The folder holds no policy of this kind, or its weights do not fit.
        """
        from hlrp.runs import resolve_pretrained

        saved = resolve_pretrained(Path(folder))
        if "policy_type" in inspect.signature(cls).parameters:
            config = json.loads((saved / "config.json").read_text(encoding="utf8"))
            arguments.setdefault("policy_type", config.get("type"))
        policy = cls(init_from=saved, **arguments)
        policy.load(device)
        return policy

    # ---- making the policy

    def make_config(self, device: str) -> Any:
        """LeRobot's configuration of the policy, without features.

        Raises:
            UserError: Unknown policy or field, or a value that the class refuses.
        """
        return policy_config(
            self.policy_type,
            self.fields,
            device=device,
            init_from=self.init_from,
            allow_download=self._allow_download,
        )

    def build(self, meta: Any, *, device: str = "cpu", cameras: list[str] | None = None) -> Built:
        """Make the policy for a dataset; training does so by itself.

        Args:
            meta: LeRobot's metadata of the dataset.
            device: Torch device.
            cameras: Image features to use; none: all.

        Raises:
            UserError: See the class.
        """
        config, made_for = self.make_config(device), taken_over(meta, cameras)
        built = build_policy(config, meta, cameras=cameras, rename_map=self._rename_map, resumed=self.resumed)
        self._take(built, list(meta.camera_keys))
        self._only_acts, self._made_for = False, made_for
        return built

    def load(self, device: str = "cpu") -> None:
        """Make the policy from `init_from` alone, to act and not to be trained.

        Raises:
            UserError: There is no `init_from`, or its weights do not fit.
        """
        from lerobot.policies.factory import make_pre_post_processors

        if self.init_from is None:
            raise UserError("there are no weights to load", where="init_from", fix="give a run or a checkpoint")
        config = self.make_config(device)
        policy, folder = load_saved(config), str(config.pretrained_path)
        overrides = {"device_processor": {"device": device}}
        processors = make_pre_post_processors(config, folder, preprocessor_overrides=overrides)
        self._take(Built(policy, *processors), list(config.image_features))
        self._only_acts = True
        self.policy.eval()

    def _take(self, built: Built, cameras: list[str]) -> None:
        self._built, self.policy = built, built.policy
        self._camera_keys = cameras
        self._updates = callable(getattr(built.policy, "update", None))
        if self._weighter is not None and "reduction" not in inspect.signature(built.policy.forward).parameters:
            raise UserError(
                f"the loss of policy {self.policy_type!r} cannot be weighted by sample: it has no reduction='none'",
                where="sample_weighter",
                fix="leave it out, or use a policy that has it, such as smolvla or pi0",
            )
        if self._ema_decay is not None:
            from hlrp.policies.average import RunningAverage

            self.average = RunningAverage(built.policy, self._ema_decay)
            self.average.requires_grad_(False)

    @property
    def built(self) -> Built:
        """The policy with its processors.

        Raises:
            UserError: It is not made yet.
        """
        if self._built is None:
            raise UserError(
                f"policy {self.policy_type!r} is not made yet: features and statistics come from the data",
                where=type(self).__name__,
                fix="train it, or make it with from_pretrained(folder)",
            )
        return self._built

    def setup(self, stage: str) -> None:
        """Make the policy for the trainer's data, unless that is done.

        Raises:
            UserError: It cannot be made for them, or was made for others.
        """
        name = type(self).__name__
        datamodule = policy_data(self.trainer, name)
        meta, cameras = datamodule.meta, datamodule.cameras
        if self._built is None or self._only_acts:
            # The kind of device alone is saved; Lightning has made this process's GPU the current one.
            self.build(meta, device=self.trainer.strategy.root_device.type, cameras=cameras)
        else:
            refuse_other_data(self._made_for, taken_over(meta, cameras), policy=name, where=f"dataset {meta.root}")
        datamodule.for_policy(self.built.config)

    def describe(self) -> dict[str, dict[str, Any]]:
        """The sections of a run's configuration that make this policy again."""
        model = {"policy_type": self.policy_type, **self.fields}
        if self.init_from is not None:
            model["init_from"] = str(self.init_from)
        given = {"optimizer": self._optimizer, "scheduler": self._scheduler, "ema_decay": self._ema_decay}
        trainer = {name: value for name, value in given.items() if value is not None}
        data = {"rename_map": self._rename_map} if self._rename_map else {}
        return {"model": model, "trainer": trainer, "data": data}

    def undescribed(self) -> list[str]:
        """Arguments that were given and that `describe` cannot say."""
        return [] if self._weighter is None else ["sample_weighter"]

    # ---- training

    def on_fit_start(self) -> None:
        """Set the modes of LeRobot's training: a loaded policy comes in that of inference."""
        self.policy.train()
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic

    def on_train_start(self) -> None:
        """Count steps from where a resumed run left off: its state is loaded by now."""
        self._seen_step = self.global_step

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Any:
        """All but the frames' numbers: labels are looked up by them on the host, and the preprocessor moves them."""
        host = {key: batch[key] for key in LOOKED_UP if key in batch}
        rest = {key: value for key, value in batch.items() if key not in host}
        return {**super().transfer_batch_to_device(rest, device, dataloader_idx), **host}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Scale pictures to [0, 1] and run LeRobot's preprocessor, on the device."""
        for key in self._camera_keys:
            pixels = batch.get(key)
            if isinstance(pixels, Tensor) and pixels.dtype == torch.uint8:
                # By a tensor: CUDA multiplies by the inverse of a number, which gives other last digits than LeRobot's.
                batch[key] = pixels.to(torch.float32) / torch.full((), 255.0, device=pixels.device)
        prepared: Batch = self.built.preprocessor(batch)
        return prepared

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Any] | None]:
        """LeRobot's loss of a prepared batch, and what the policy reports beside it."""
        loss: Tensor
        outputs: dict[str, Any] | None
        if self._weighter is None or not self.training:
            loss, outputs = self.policy(batch)
            return loss, unread(outputs)
        weights, statistics = self._weighter.compute_batch_weights(batch)
        losses, outputs = self.policy(batch, reduction="none")
        loss = (losses * weights).sum() / (weights.sum() + _WEIGHT_EPSILON)
        return loss, {**(unread(outputs) or {}), **{f"sample_weight_{k}": v for k, v in statistics.items()}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; the policy's own figures are kept until a row is due."""
        loss, outputs = self(batch)
        figures = {key: value for key, value in (outputs or {}).items() if key != "loss"}
        self._means.add({key: value for key, value in figures.items() if _is_number(value)})
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer says, or else at the preset's norm."""
        if gradient_clip_val is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif self._clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self._clip_norm)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After an optimizer's step: the policy's own update, and the average of the weights."""
        if self.global_step == self._seen_step:
            return  # gradients are still being accumulated
        self._seen_step = self.global_step
        self._means.log(self)
        if self._updates:
            self.policy.update()
        if self.average is not None:
            self.average.update_parameters(self.policy)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Take the loss of a held-out batch."""
        self._held_out.add(*self._shown()(batch))
        self._meter.add(self.policy, batch)

    def on_validation_epoch_end(self) -> None:
        """The loss of all held-out batches; how far the policy acts on its codes, if it has any."""
        losses = self._held_out.measure("val", lambda sums: self.trainer.strategy.reduce(sums, reduce_op="sum"))
        self.log_dict(losses | self._meter.measure(self._shown()), batch_size=1, sync_dist=True)

    def _shown(self) -> nn.Module:
        """What is validated and saved: the average where there is one."""
        module: nn.Module = self.policy if self.average is None else self.average.module
        return module

    def configure_optimizers(self) -> Any:
        """LeRobot's optimizer and schedule for this policy."""
        config = self.built.config
        optimizing = optimizer_config(config, self._optimizer)
        scheduling = scheduler_config(config, self._scheduler)
        parameters = self.policy.get_optim_params() if self._optimizer is None else self.policy.parameters()
        optimizer = optimizing.build(parameters)
        if isinstance(optimizer, dict):
            raise UserError(
                f"policy {self.policy_type!r} has {len(optimizer)} optimizers, and no loop of LeRobot's that uses them",
                where="model.policy_type",
                fix="train it with LeRobot's own scripts",
            )
        fuse(optimizer)
        self._clip_norm = optimizing.grad_clip_norm
        steps = last_step(self.trainer)
        tell_length(steps, self.policy, self._shown())
        schedule = None if scheduling is None else scheduling.build(optimizer, steps)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- acting, saving

    def select_action(self, observation: dict[str, Any]) -> Tensor:
        """See `Policy.select_action`; `task` may be among the keys. A UserError names what the policy misses."""
        built, policy = self.built, self._shown()
        device = torch.device(built.config.device)
        if next(policy.parameters()).device.type != device.type:
            policy.to(device)  # Lightning takes the weights to the CPU when a training has ended, the processors stay
        with torch.inference_mode(), complete(observation, built.preprocessor, built.config):
            action: Tensor = built.postprocessor(policy.select_action(built.preprocessor(dict(observation))))  # type: ignore[operator]
        return action

    def reset(self) -> None:
        """See `Policy.reset`."""
        self._shown().reset()  # type: ignore[operator]

    def save_pretrained(self, folder: Path | str) -> None:
        """Write LeRobot's `pretrained_model` folder, which `lerobot-eval` loads without this project."""
        built, folder = self.built, Path(folder)
        save_weights(self._shown(), folder)
        built.preprocessor.save_pretrained(folder)
        built.postprocessor.save_pretrained(folder)
        require_loadable(folder)


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
