"""Writing `checkpoints/<step>/` of a Lightning run: whole or not at all, and only as many as are to be kept.

And `best/<step>/`, for those who ask for Lightning's `ModelCheckpoint`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from hlrp.files import clear_leftovers, discard_folder, new_folder, replace_link, unfinished_path
from hlrp.finite import require_finite_weights
from hlrp.runs import list_checkpoints
from hlrp.runs.checkpoints import LIGHTNING_STATE, PRETRAINED, TRAINING_STATE
from hlrp.sharded import whole_weights
from trainers.lightning.loops import callbacks_of
from trainers.lightning.models import export


def save_checkpoint(trainer: Trainer, module: LightningModule, folder: Path, *, keep_last: int | None) -> None:
    """Save the step that ``trainer`` has completed below ``folder``; every process has to call it.

    The checkpoint appears by a rename once its files are on disk, so that a kill at any moment leaves either all of
    it or nothing. Older ones are removed only after that.

    Args:
        trainer: In the middle of `fit`.
        module: What is trained; what it exports goes to `pretrained_model/`.
        folder: `checkpoints/` of the run; used by the first process alone.
        keep_last: Checkpoints to keep; None: all.

    Raises:
        NonFiniteError: The weights are no numbers; nothing is written.
    """
    final = folder / f"{trainer.global_step:06d}"
    _write(trainer, module, final, lambda state: trainer.save_checkpoint(state, weights_only=False))
    if trainer.is_global_zero:
        # As in LeRobot's runs: `checkpoints/last/pretrained_model` is what other tools are given.
        replace_link(folder / "last", final.name)
        _prune(folder, keep_last)
    trainer.strategy.barrier("hlrp checkpoint")


def _write(trainer: Trainer, module: LightningModule, final: Path, save_state: Callable[[Path], None]) -> None:
    require_finite_weights(module, trainer.global_step)
    if not trainer.is_global_zero:
        save_state(unfinished_path(final) / TRAINING_STATE)
        with whole_weights(module, wanted=False):
            return
    clear_leftovers(final.parent)
    with new_folder(final, replace=True) as temporary:
        # Collectives: the processes gather what each of them knows, and the first one writes.
        save_state(temporary / TRAINING_STATE)
        with whole_weights(module, device="cpu"):
            export(module, temporary / PRETRAINED)


def _prune(folder: Path, keep_last: int | None) -> None:
    if keep_last is None:
        return
    whole = [checkpoint for checkpoint in list_checkpoints(folder) if checkpoint.complete]
    for checkpoint in whole[:-keep_last]:
        discard_folder(checkpoint.path)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, whose checkpoints are folders like the run's: `hlrp eval` takes them.

    They lie in `best/<step>/` of the run, beside `checkpoints/`, and neither replaces the other. A kill may have left
    ones that the checkpoint which a run goes on from does not know: they are removed, or they would stay for ever.

    Args:
        run: The run directory.
        **arguments: Lightning's: `monitor`, `mode`, `save_top_k`, ...
    """

    FILE_EXTENSION = ""

    def __init__(self, run: Path, **arguments: Any) -> None:
        self._best = run / "best"
        place = {"dirpath": self._best, "filename": "{step:06d}", "auto_insert_metric_name": False}
        super().__init__(**{**place, **arguments})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what a resumed run is going to do once more; its state is loaded by now."""
        super().on_train_start(trainer, pl_module)
        if not trainer.is_global_zero or trainer.global_step == 0:
            return
        keeping = [callback for callback in callbacks_of(trainer) if isinstance(callback, BestCheckpoint)]
        paths = [(*best.best_k_models, best.best_model_path, best.last_model_path) for best in keeping]
        known = {Path(path).name for found in paths for path in found}
        for state in self._best.glob(f"*/{TRAINING_STATE}/{LIGHTNING_STATE}"):
            step, folder = json.loads(state.read_text(encoding="utf8"))["checkpoint"]["global_step"], state.parents[1]
            later = step > trainer.global_step or (step == trainer.global_step and folder.name not in known)
            if later and not folder.is_symlink():  # `save_last: link` makes one
                discard_folder(folder)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As Lightning does, which forgets the newest score."""
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        save_state = super()._save_checkpoint
        _write(trainer, trainer.lightning_module, Path(filepath), lambda state: save_state(trainer, str(state)))
        self._last_checkpoint_saved = filepath
        trainer.strategy.barrier("hlrp best checkpoint")
