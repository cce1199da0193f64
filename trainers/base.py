"""The interface of a trainer: it executes one run configuration and leaves a run directory."""

import logging
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hlrp.config.from_config import FromConfig

if TYPE_CHECKING:
    from hlrp.evaluation.run import EvalResult
    from hlrp.runs import RunDirectory


@dataclass(frozen=True)
class RunResult:
    """What a training run left.

    Args:
        path: The run directory.
        checkpoint: Newest complete checkpoint folder; None when none was written.
        metrics: The last logged values (loss, grad_norm, lr, ...).
        warnings: What the user should know of the numbers.
        published: Its page on the Hub, if it was to be published.
    """

    path: Path
    checkpoint: Path | None
    metrics: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    published: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        checkpoint = str(self.checkpoint) if self.checkpoint else None
        found = {"run": str(self.path), "checkpoint": checkpoint, "metrics": self.metrics, "warnings": self.warnings}
        return found if self.published is None else found | {"published": self.published}


def from_weights(path: Path) -> str:
    """The command that starts a run from the weights of the one at ``path``, as it is typed."""
    return f"hlrp train --init-from {shlex.quote(str(path))} ..."


@contextmanager
def without_log_lines() -> Iterator[None]:
    """Inside, nothing is logged: a check that imports LeRobot or Lightning is to say what it found and no more."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class BaseTrainer(FromConfig, ABC):
    """A way to execute runs. Subclasses set ``trainer_type`` and register themselves in `trainers.registry`."""

    trainer_type: ClassVar[str]
    obeys: ClassVar[frozenset[str]] = frozenset()
    """Of a trainer of another package: dotted keys of a run that it acts on, each with those below it, and keys of
    `trainer` that only it has; every other one that is given is refused. The own ones are in `hlrp.config.obeyed`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not isinstance(getattr(cls, "trainer_type", None), str):
            raise TypeError(f"{cls.__name__} must set `trainer_type` to the name it is registered under")

    @abstractmethod
    def fit(self, *args: Any, **kwargs: Any) -> RunResult:
        """Train and leave a run directory.

        Raises:
            hlrp.errors.UserError: A mistake in what was asked; nothing is left on disk.
            hlrp.errors.WorkError: Training failed; the run says why.
            hlrp.errors.Interrupted: Stopped by a signal after a checkpoint was saved.
        """

    @abstractmethod
    def resume(self, directory: "RunDirectory", run: Any, *, steps: int | None = None) -> RunResult:
        """Continue ``directory`` from its newest complete checkpoint, up to ``steps`` if given."""

    @staticmethod
    @abstractmethod
    def dry_run(run: Any, *, resume: "RunDirectory | None" = None, steps: int | None = None) -> str:
        """What would be started, as text; nothing is written."""

    def evaluate(self, policy_path: Path | str, **request: Any) -> "EvalResult":
        """Roll a trained policy out in a simulator; keyword arguments are those of `EvalRequest`."""
        from hlrp.evaluation.run import EvalRequest, evaluate

        return evaluate(EvalRequest(policy_path=Path(policy_path), **request))
