"""Callbacks that monitor what rollouts found: they look once after each, at the checkpoint that was rolled out.

Lightning's look when an epoch or a validation ends; rollouts come between. All use of what Lightning's callbacks keep
of when they look is in this module.
"""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from hlrp.errors import UserError
from trainers.lightning.loops import callbacks_of

SUCCESS = "eval_success"
"""What the names of all that rollouts find begin with."""


def watch_rollouts(callbacks: Sequence[Callback]) -> None:
    """Have the callbacks that monitor rollouts look after them alone; for runs that make some.

    Raises:
        UserError: One of them is told to look at other times.
    """
    for callback in _watching(callbacks):
        if isinstance(callback, ModelCheckpoint):
            steps, interval = callback._every_n_train_steps, callback._train_time_interval
            told = callback._save_on_train_epoch_end is not None or steps or interval or callback.every_n_epochs != 1
            names = "every_n_epochs, every_n_train_steps, train_time_interval and save_on_train_epoch_end"
            callback._save_on_train_epoch_end = False
        else:
            told = callback._check_on_train_epoch_end is not None
            names = "check_on_train_epoch_end"
            callback._check_on_train_epoch_end = False
        if told:
            raise UserError(
                f"{type(callback).__name__} monitors {callback.monitor}, which it looks at after all rollouts, "
                "and is told to look at other times",
                where="trainer.callbacks",
                fix=f"leave {names} out; trainer.eval_freq says how often there are rollouts",
            )
        setattr(callback, "on_validation_end", _not_now)  # noqa: B010 - of this one, not of its class


def look_at_rollouts(trainer: Trainer) -> None:
    """Have the callbacks look at what rollouts of the step that is complete have found; in all processes alike."""
    for callback in _watching(callbacks_of(trainer)):
        of_its_class: Any = type(callback).on_validation_end
        of_its_class(callback, trainer, trainer.lightning_module)


def _watching(callbacks: Sequence[Callback]) -> list[EarlyStopping | ModelCheckpoint]:
    looking = [callback for callback in callbacks if isinstance(callback, EarlyStopping | ModelCheckpoint)]
    return [callback for callback in looking if str(callback.monitor).startswith(SUCCESS)]


def _not_now(*_: Any) -> None:
    """A validation says nothing of rollouts."""
