"""What is passed to `self.log`: on its way to the run's rows, and from there to the loggers and callbacks.

Lightning hands a figure of a step to the loggers for as long as its epoch lasts, whether it was logged again or not,
forgets it at the epoch's end, and looks only at every n-th step. Rows take what was logged since the last one, each
figure once. All use of Lightning's private handing over of figures is in this module.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector

Figures = Mapping[str, Any]


class RowFigures(_LoggerConnector):
    """Takes the place of Lightning's own.

    Args:
        trainer: Of the run.
        receive: Gets what an epoch of training or a validation has come to, and what the end of an epoch erases.
    """

    def __init__(self, trainer: Trainer, receive: Callable[[Figures], None]) -> None:
        super().__init__(trainer)
        self._receive = receive

    def update_train_step_metrics(self) -> None:
        """Nothing: rows ask for the figures of steps when they are due."""

    def update_train_epoch_metrics(self) -> None:
        """Hand over the epoch's means, and the figures of steps that would be erased with them."""
        self._receive({**self.take(), **self.metrics["log"]})
        self.reset_results()

    def log_eval_end_metrics(self, metrics: Any) -> None:
        """Hand over what a validation has come to."""
        if metrics and not self.trainer.sanity_checking:
            self._receive(metrics)

    def take(self) -> dict[str, Any]:
        """Figures of steps since this was last asked, the newest of each name; tensors where they were logged."""
        results = self.trainer.fit_loop.epoch_loop._results
        found = results.metrics(on_step=True)["log"]
        for result in results.values():
            result._forward_cache = None
        return dict(found)

    def has(self, name: str) -> bool:
        """Whether the module itself logs a figure of this name."""
        return any(result.meta.name == name for result in self.trainer.fit_loop.epoch_loop._results.values())


def gather_figures(trainer: Trainer, receive: Callable[[Figures], None]) -> RowFigures:
    """Have ``receive`` get the figures that Lightning would hand to the loggers."""
    trainer._logger_connector = gathered = RowFigures(trainer, receive)
    return gathered
