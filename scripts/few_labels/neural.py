"""The neural tier: this project's own policies, trained and evaluated as a user would."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from few_labels.design import EVALUATION_SEEDS, EVALUATION_STEPS, RANDOM_QUANTIZERS, Cell, NeuralSettings, Places
from few_labels.labels import labelled_episodes, mean_r2
from few_labels.records import Row
from hlrp.data import LeRobotDataModule, read_dataset, read_episodes
from hlrp.data.columns import read_column
from hlrp.evaluation.run import EvalRequest, evaluate
from hlrp.latents.actions import ActionDecoder, fit_actions
from hlrp.latents.pseudo_labels import PseudoLabelRequest, pseudo_label
from hlrp.latents.table import LatentTable
from hlrp.policies import LeRobotPolicyAdapter
from hlrp.runs import RunDirectory
from trainers import LightningTrainer

Finish = Callable[[Cell, dict[tuple[str, int], bool], str, str, float], list[Row]]


def run_neural(cell: Cell, places: Places, finish: Finish) -> list[Row]:
    """Train and evaluate a cell; what a killed process left of it is made anew.

    Args:
        cell: The cell.
        places: Inputs; the cell's run stays in a folder beside them until it is evaluated.
        finish: Makes the rows of outcomes, trust, true R2 of the pseudo-labels, and seconds.
    """
    started = time.monotonic()
    folder = places.root / cell.name
    shutil.rmtree(folder, ignore_errors=True)
    trust, r2 = train(cell, places, folder, NeuralSettings())
    outcomes = _evaluate(folder)
    _say_losses(cell, folder)
    shutil.rmtree(folder)
    return finish(cell, outcomes, trust, r2, time.monotonic() - started)


def train(cell: Cell, places: Places, folder: Path, settings: NeuralSettings) -> tuple[str, str]:
    """Train a cell's policy into ``folder / "run"``; gives trust and true R2 of its pseudo-labels, if it has any."""
    info = read_dataset(None, places.data)
    labelled = labelled_episodes(info, places, cell)
    trust = r2 = ""
    root, episodes = places.data, None if cell.arm == "all" else labelled
    if cell.arm.startswith("pseudo_"):
        number = cell.seed % RANDOM_QUANTIZERS
        table = LatentTable.open(places.latents if cell.arm == "pseudo_laq" else places.random_latents(number))
        root, episodes = folder / "data", None
        decoder = fit_actions(table, info, labelled)
        pseudo_label(PseudoLabelRequest(info, decoder, table, root, mask_below_floor=True))
        trust = f"{decoder.manifest.r2 or 0.0:.3f}"
        r2 = f"{_unlabelled_r2(decoder, table, places, labelled):.3f}"
    data = LeRobotDataModule(
        root=root, episodes=episodes, batch_size=settings.batch_size, cache="disk", num_workers=0, seed=cell.seed
    )
    steps = settings.few_steps if episodes is not None else settings.many_steps
    trainer = LightningTrainer(steps=steps, seed=cell.seed, device="cpu", save_freq=steps, keep_last=1)
    trainer.fit(make_policy(cell, places, episodes), data, output_dir=folder / "run")
    return trust, r2


def make_policy(cell: Cell, places: Places, labelled: list[int] | None) -> LeRobotPolicyAdapter:
    """The policy of a cell; none sees the robot's state."""
    fields: dict[str, Any] = {"use_state": False}
    if labelled is not None:
        fields["labelled_episodes"] = labelled
    if cell.arm == "vla":
        return LeRobotPolicyAdapter("hlrp_vla_direct", init_from=places.foundation, vlm="frozen", **fields)
    if cell.arm in ("latent", "latent_shuffled"):
        shuffled = cell.arm == "latent_shuffled"
        fields |= {"vlm": "frozen", "conditioning": "bottleneck"}
        fields["latent_table"] = str(places.shuffled_latents if shuffled else places.latents)
        start = places.shuffled_foundation if shuffled else places.foundation
        return LeRobotPolicyAdapter("hlrp_action_expert_latent", init_from=start, **fields)
    start = places.foundation if cell.arm == "foundation" else None
    return LeRobotPolicyAdapter("hlrp_action_expert_direct", init_from=start, **fields)


def _unlabelled_r2(decoder: ActionDecoder, table: LatentTable, places: Places, labelled: list[int]) -> float:
    """Of the decoded actions of unlabelled episodes, by what no policy sees."""
    info = read_dataset(None, places.data)
    episodes = read_episodes(info)
    others = [e for e in range(info.episodes) if e not in set(labelled)]
    decoded = np.concatenate([decoder.episode(table, info, e).actions for e in others])
    return mean_r2(decoded, read_column(info, "action")[episodes.frame_indices(others)])


def _evaluate(folder: Path) -> dict[tuple[str, int], bool]:
    request = EvalRequest(
        folder / "run",
        episodes=len(EVALUATION_SEEDS),
        seed=EVALUATION_SEEDS[0],
        device="cpu",
        videos=0,
        output=folder / "eval",
        env_fields={"episode_length": EVALUATION_STEPS},
    )
    return {(e.task, e.seed): e.success for e in evaluate(request).episodes}


def _say_losses(cell: Cell, folder: Path) -> None:
    """The training loss by quarters of the run, to see whether it had ended to fall."""
    losses = [row["loss"] for row in RunDirectory.open(folder / "run").metrics() if "loss" in row]
    quarters = [np.mean(part) for part in np.array_split(losses, 4) if len(part)]
    print(f"{cell.name}: loss by quarters {', '.join(f'{q:.4f}' for q in quarters)}", flush=True)
