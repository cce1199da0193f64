"""Checkpoints of LeRobot's own loop: whole or not at all, and a stop right behind one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hlrp.files import new_folder, replace_link, unfinished_path
from hlrp.finite import require_finite_weights
from hlrp.policies.adapted import add_configuration, require_loadable
from hlrp.processes import StoppedBySignal, StopRequests
from hlrp.runs.checkpoints import PRETRAINED
from trainers.lifecycle import STEPS_BETWEEN_QUESTIONS, patient_group


def save_atomically(script: Any, emit: Callable[..., None], stop: StopRequests) -> None:
    """Have checkpoints appear whole and loadable, and a stop request end the loop right after one.

    Args:
        script: `lerobot.scripts.lerobot_train`; changed in place.
        emit: Told of every checkpoint.
        stop: Asked at the end of every step.
    """
    from accelerate import Accelerator, PartialState
    from torch.distributed import barrier

    save, due, wait = script.save_checkpoint, script.should_save_checkpoint, Accelerator.wait_for_everyone
    stopping = saving = False
    patient: Any = None

    def should_save_checkpoint(step: int, *args: Any, **kwargs: Any) -> bool:
        nonlocal stopping
        stopping = _agree_to_stop(stop.number is not None, step)
        return stopping or due(step, *args, **kwargs)

    def save_checkpoint(*, checkpoint_dir: Path, **kwargs: Any) -> None:
        nonlocal saving
        require_finite_weights(kwargs["policy"], kwargs["step"])
        saving = True
        # A loop that hands over its accelerator saves in all processes, and waits for them at the end.
        together, state = "accelerator" in kwargs, PartialState()
        if together and not state.is_main_process:
            state.wait_for_everyone()
            save(checkpoint_dir=unfinished_path(checkpoint_dir), **kwargs)
        else:
            with new_folder(checkpoint_dir, replace=True) as temporary:
                if together:
                    state.wait_for_everyone()  # nobody writes before the place is empty
                save(checkpoint_dir=temporary, **kwargs)
                add_configuration(kwargs["policy"], temporary / PRETRAINED)
                require_loadable(temporary / PRETRAINED)
        saving = False

    def update_last_checkpoint(checkpoint_dir: Path) -> Path:
        # LeRobot unlinks `last` and makes it anew: a kill in between leaves none. A rename has no in-between.
        last = checkpoint_dir.parent / "last"
        replace_link(last, checkpoint_dir.name)
        emit("checkpoint", name=checkpoint_dir.name)
        return last

    def wait_for_everyone(self: Any) -> None:
        nonlocal patient
        if self.num_processes == 1:
            wait(self)
        else:
            # After rollouts, which the first process makes alone, as after a checkpoint.
            patient = patient or patient_group()
            barrier(group=patient)
        if stopping and not saving:  # the checkpoint is whole, and all processes are here
            raise StoppedBySignal

    script.save_checkpoint = save_checkpoint
    script.should_save_checkpoint = should_save_checkpoint
    script.update_last_checkpoint = update_last_checkpoint
    Accelerator.wait_for_everyone = wait_for_everyone


def _agree_to_stop(told: bool, step: int) -> bool:
    """Whether one of the processes was told to stop; all come to the same answer, or some would wait for ever."""
    from accelerate import PartialState
    from torch import tensor
    from torch.distributed import ReduceOp, all_reduce

    state = PartialState()
    if state.num_processes == 1:
        return told
    if state.device.type != "cpu" and step % STEPS_BETWEEN_QUESTIONS:
        return False
    asked = tensor(int(told), device=state.device)
    all_reduce(asked, ReduceOp.MAX)
    return bool(asked.item())
