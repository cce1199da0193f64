"""Rollouts of a policy while Lightning trains it: each looks at a checkpoint, and leaves the training as it was."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities.seed import isolate_rng

from hlrp.config import LightningTrainerSection
from hlrp.evaluation.request import EvalRequest
from hlrp.evaluation.run import evaluate
from hlrp.runs.results import WHILE_TRAINING
from trainers.lightning.monitors import SUCCESS

_LOG = logging.getLogger("hlrp.train")


@dataclass(frozen=True)
class Rollouts:
    """What is rolled out, and how often.

    Args:
        section: The run's `trainer` section; its `eval_freq` is above 0.
        folder: `eval/` of the run; the rollouts of a step go to a folder of their own.
    """

    section: LightningTrainerSection
    folder: Path

    def __call__(self, checkpoint: Path) -> dict[str, float]:
        """Roll a checkpoint out on the seeds of `hlrp eval`.

        A simulator that fails costs the rollouts, not the run: it is a warning.

        Args:
            checkpoint: Folder `checkpoints/<step>` that is complete.

        Returns:
            `eval_success` and, with several tasks, `eval_success_<task>`, in [0, 1]; empty when it failed.
        """
        folder = self.folder / f"{WHILE_TRAINING}{checkpoint.name}"
        # Left by a run that went past this step, was killed and continues from before it.
        shutil.rmtree(folder, ignore_errors=True)
        section = self.section
        request = EvalRequest(
            checkpoint, episodes=section.eval_episodes, device=section.device, videos=1, output=folder
        )
        try:
            with isolate_rng(include_cuda=True):
                result = evaluate(request)
        except Exception as error:
            _LOG.warning("the rollouts at step %s failed: %s", checkpoint.name, " ".join(str(error).split()))
            return {}
        found = result.to_json()
        scores = {SUCCESS: float(found["overall"]["success_rate"])}
        if len(found["tasks"]) > 1:
            scores |= {f"{SUCCESS}_{task}": float(row["success_rate"]) for task, row in found["tasks"].items()}
        return scores
