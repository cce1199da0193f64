"""Everything that is changed around LeRobot's own training loop, which stays as it is.

Its data: `data_hooks`; its rollouts: `rollout_hooks`.

Nothing of LeRobot is imported at module level: the worker first chooses what LeRobot is to import.
"""

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.compat import mend_metadata
from hlrp.config import DataSection
from hlrp.data.shuffling import SHUFFLING, Shuffling
from hlrp.errors import HlrpError, UserError
from hlrp.finite import FiniteLoss
from hlrp.processes import StopRequests
from trainers.lerobot.data_hooks import (
    filter_samples,
    keep_workers_reading,
    order_frames,
    read_mixture,
    rename_cameras,
)
from trainers.lerobot.device_hooks import use_device
from trainers.lerobot.rollout_hooks import keep_rollouts_apart, report_rollouts
from trainers.lerobot.saving import save_atomically

if TYPE_CHECKING:
    from hlrp.data.policy_mixture import MixtureMetadata

Emit = Callable[..., None]
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


def install_training_hooks(
    emit: Emit,
    stop: StopRequests,
    preflight: Callable[[Any], None],
    loss: FiniteLoss,
    mixture: "Callable[[Any], MixtureMetadata] | None" = None,
    asked_filter: str | None = None,
    *,
    tf32: bool = True,
    shuffling: Shuffling = SHUFFLING,
) -> Callable[[], None]:
    """Prepare `lerobot.scripts.lerobot_train` and return its `main`.

    LeRobot's loop stays as it is; what surrounds it is wrapped:

    - our run folder may exist already (LeRobot refuses any existing output folder),
    - ``preflight(cfg)`` sees the parsed configuration before anything is built,
    - a policy that cannot be made at the run's settings is a mistake of the user's, told in one message,
    - statistics go by the names that `rename_map` gives pictures, and a simulator's only camera by the policy's name,
    - videos are read as everywhere in this project; a mixture of datasets is read in place of one,
    - a dataset's tasks stand in the order of their numbers, and cameras without statistics get an empty entry,
    - metrics leave as numbers, at full precision, instead of as text,
    - the held-out loss of this project's policies is a mean over what is supervised, of any other over batches,
    - a policy is told how long the run is; one that acts on codes is asked how far, with the held-out loss,
    - a checkpoint appears under its final name only when all of it is on disk,
    - a stop request saves a checkpoint at the end of the running step, then ends the loop,
    - a loss that is no number for many steps, and weights that are none when they are to be saved, end it too,
    - on resume the random state is restored right before the first update, so that what the data loader drew
      from it in between does not shift dropout and noise; and the data go on in the epoch they had reached,
    - rollouts begin on the seeds of `hlrp eval`, with random numbers of their own: the training goes on as if there had
      been none; what they found is told with their step, under the names of the Lightning trainer,
    - no sample begins where the run's filter leaves frames out; the order of very many samples is computed, not drawn,
    - data workers go on at signals that reach the whole run: only the training process decides what they mean,
    - on a GPU the optimizer is fused, batches are moved without waiting, and TF32 is allowed or not.

    Args:
        emit: Called as ``emit(event, **fields)``; only on the main process does it write.
        stop: Read at the end of every step.
        preflight: May raise UserError.
        loss: Sees the loss of every step.
        mixture: Gives the mixture's metadata for a configuration; None: LeRobot reads its own dataset.
        asked_filter: What of the run's `data` section decides its samples, as JSON; None: there is no filter.
        tf32: Whether float32 products may be rounded to TF32.
        shuffling: Which rules the order of samples is made by.
    """
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.scripts import lerobot_train

    from hlrp.data.lerobot_reader import install_reader

    mend_all_metadata(LeRobotDatasetMetadata)
    _accept_existing_folder(TrainPipelineConfig, emit, preflight)
    use_device(lerobot_train, tf32=tf32)
    _report_metrics(lerobot_train, emit, loss, _watch_held_out(lerobot_train))
    save_atomically(lerobot_train, emit, stop)
    restore_random_state(lerobot_train)
    keep_rollouts_apart(lerobot_train)
    report_rollouts(lerobot_train, emit)
    asked = DataSection.model_validate_json(asked_filter) if asked_filter else None
    order_frames(lerobot_train, shuffling)
    if mixture is not None:
        read_mixture(lerobot_train, mixture, asked.filter if asked else None, shuffling)
    _restore_epoch(lerobot_train)
    if asked is not None and mixture is None:
        filter_samples(lerobot_train, asked)
    refuse_unbuildable_policies(lerobot_train)
    rename_cameras(lerobot_train)
    keep_workers_reading(lerobot_train)
    if mixture is None:
        install_reader(lerobot_train)
    return lerobot_train.main


def _accept_existing_folder(config_class: Any, emit: Emit, preflight: Callable[[Any], None]) -> None:
    original = config_class.validate

    def validate(self: Any) -> None:
        output_dir, self.output_dir = self.output_dir, None
        try:
            original(self)
        except (ValueError, TypeError, OSError) as error:
            raise UserError(f"LeRobot refuses this configuration: {error}", fix="change the named setting") from error
        self.output_dir = output_dir or self.output_dir
        preflight(self)
        emit("accepted")

    config_class.validate = validate


def mend_all_metadata(metadata_class: Any) -> None:
    """Have all of LeRobot's metadata mended when it is read; see `hlrp.compat.mend_metadata`."""
    load = metadata_class._load_metadata

    def load_metadata(self: Any) -> None:
        load(self)
        mend_metadata(self)

    metadata_class._load_metadata = load_metadata


def _watch_held_out(script: Any) -> Callable[[], dict[str, float]]:
    """Tell the policy the run's length, and watch the held-out batches; gives what was found on those last seen.

    LeRobot's loop ends its pass over them by reducing its own mean: there all processes reduce ours in its place.
    """
    import torch
    from accelerate import Accelerator

    from hlrp.policies.held_out import CodeEffectMeter, HeldOutLoss, tell_length

    make, reduce = script.make_optimizer_and_scheduler, Accelerator.reduce
    losses, meter, policies = HeldOutLoss(), CodeEffectMeter(), []
    found: dict[str, float] = {}

    def make_optimizer_and_scheduler(cfg: Any, policy: Any) -> Any:
        tell_length(cfg.steps, policy)
        policies.append(policy)
        forward = policy.forward

        def watched_forward(batch: Any, *args: Any, **kwargs: Any) -> Any:
            if policy.training:
                return forward(batch, *args, **kwargs)
            meter.add(policy, batch)
            loss, outputs = forward(batch, *args, **kwargs)
            losses.add(loss, outputs)
            return loss, outputs

        if cfg.eval_steps > 0:
            policy.forward = watched_forward
        return make(cfg, policy)

    def reduce_held_out(self: Any, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if not losses:
            return reduce(self, tensor, *args, **kwargs)
        found.clear()
        found.update(losses.measure("eval", lambda sums: reduce(self, sums, reduction="sum")))
        return torch.full_like(tensor, found.get("eval_loss", math.nan))

    script.make_optimizer_and_scheduler = make_optimizer_and_scheduler
    Accelerator.reduce = reduce_held_out
    return lambda: {**found, **meter.measure(policies[0])}


_EVAL_LOSS = re.compile(r"^step (\d+): eval_loss=")


def _report_metrics(script: Any, emit: Emit, loss: FiniteLoss, held_out: Callable[[], dict[str, float]]) -> None:
    """Turn LeRobot's log records into events: its tracker passes through `logging` as an object, not as text."""
    tracker_class = script.MetricsTracker
    make_record = logging.getLogRecordFactory()

    def record_factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        if isinstance(record.msg, tracker_class):
            emit("metrics", **record.msg.to_dict())
        elif isinstance(record.msg, str) and (match := _EVAL_LOSS.match(record.msg)) and (figures := held_out()):
            emit("eval_loss", steps=int(match[1]), **figures)
        return record

    logging.setLogRecordFactory(record_factory)
    count_step = tracker_class.step

    def step(self: Any) -> None:
        count_step(self)
        emit("step", steps=self.steps)
        # LeRobot has read it from the device.
        loss.see(self.steps, math.isfinite(self.metrics["loss"].val))

    tracker_class.step = step


def restore_random_state(script: Any) -> None:
    """Set the random state once more right before the first update, where LeRobot's loop sets it while it is made."""
    update = script.update_policy

    def set_before_first_update(checkpoint: Path) -> None:
        from lerobot.utils.random_utils import load_rng_state

        def first_update(*update_args: Any, **update_kwargs: Any) -> Any:
            load_rng_state(checkpoint / "training_state")
            script.update_policy = update
            return update(*update_args, **update_kwargs)

        script.update_policy = first_update

    if hasattr(script, "load_training_state"):
        load = script.load_training_state

        def load_training_state(checkpoint_dir: Path, *args: Any, **kwargs: Any) -> Any:
            set_before_first_update(Path(checkpoint_dir))
            return load(checkpoint_dir, *args, **kwargs)

        script.load_training_state = load_training_state
        return
    resume = script.resume_before_prepare  # of a loop whose other parts are loaded later

    def resume_before_prepare(cfg: Any) -> Any:
        set_before_first_update(Path(cfg.checkpoint_path))
        return resume(cfg)

    script.resume_before_prepare = resume_before_prepare


def _restore_epoch(script: Any) -> None:
    """Keep the sampler's epoch on resume.

    LeRobot puts the sampler at the right epoch and sample; then Accelerate, whose own count starts at 0 in every
    process, sets the epoch back, and a run resumed after its first epoch repeats that epoch's order.
    """
    sampler_class = script.EpisodeAwareSampler

    class ResumedSampler(sampler_class):  # type: ignore[misc, valid-type]
        _resumed_epoch = 0

        def load_state_dict(self, state: dict[str, int]) -> None:
            super().load_state_dict(state)
            self._resumed_epoch = state["epoch"]

        def set_epoch(self, epoch: int) -> None:
            super().set_epoch(self._resumed_epoch + epoch)

    script.EpisodeAwareSampler = ResumedSampler


def refuse_unbuildable_policies(script: Any) -> None:
    """Turn what a policy's constructor raises at its settings into one message."""
    make_policy = script.make_policy

    def make(*args: Any, **kwargs: Any) -> Any:
        try:
            return make_policy(*args, **kwargs)
        except HlrpError:
            raise
        except Exception as error:
            if isinstance(error, OSError | MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY):
                raise
            config = kwargs.get("cfg") or args[0]
            raise UserError(
                f"policy {config.type!r} cannot be made: {' '.join(str(error).split()) or type(error).__name__}",
                where="model",
                fix=f"change the setting that is named; `hlrp policies {config.type}` lists the fields",
            ) from error

    script.make_policy = make
