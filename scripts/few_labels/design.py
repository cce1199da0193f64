"""What the study compares: arms, cells, the settings that all cells of a tier share, and which cells there are."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hlrp.data import DatasetInfo, read_episodes
from hlrp.latents.step_features import Inputs

Tier = Literal["ridge", "moving", "trust", "neural"]

TASKS = ("button-press-topdown-v3", "drawer-open-v3", "window-close-v3", "reach-v3")
"""Tasks with head-room, by the pilot in docs/few_labels.md."""

EPISODES, IMAGE_SIZE, NOISE = 40, 96, 0.1
CAMERA_SHAKE = 0.05
"""Metres, in the tier `moving`, which else is the tier `ridge`."""
EVALUATION_SEEDS = tuple(range(1000, 1020))
"""First states of the evaluation; recording used 0 and the next ones."""
EVALUATION_STEPS = 160
"""Steps an episode may take: the experts need 40 to 80."""
RANDOM_QUANTIZERS = 3
"""Quantizers with random weights; a draw uses the one of its number modulo this."""

TRUST_DRAWS = 12
"""Draws of the tier `trust` that share the levels below: each has one of each line, in a random combination."""
QuantizerVideo = Literal["all", "labelled", "other"]
QUANTIZER_STEPS = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 125, 200)
QUANTIZER_VIDEO: tuple[QuantizerVideo, ...] = ("all",) * 4 + ("labelled",) * 4 + ("other",) * 4
QUANTIZER_LATENTS: tuple[tuple[int, int, Inputs], ...] = ((4, 16, "both"),) * 4 + ((1, 8, "both"),) * 4
QUANTIZER_LATENTS += ((1, 4, "codes"),) * 4
LATE_FRAMES = (0,) * 6 + (4, 8, 12, 16, 20, 24)
OTHER_TASKS, OTHER_EPISODES = ("door-open-v3", "drawer-close-v3", "push-v3"), 10
"""What a quantizer learned from that has seen other tasks alone."""

SUGGESTED = -1
"""The seed of the draw that `hlrp fit-actions --suggest` chooses, in place of a random one."""

ARMS: dict[str, str] = {
    "actions": "actions only",
    "pseudo_laq": "pseudo-labels from LAQ",
    "pseudo_random": "pseudo-labels from a random quantizer",
    "pseudo_pixels": "pseudo-labels from pixel differences",
    "pseudo_frames": "pseudo-labels from frame pairs",
    "pseudo_grounded": "pseudo-labels from LAQ grounded in the labelled actions",
    "pseudo_features": "pseudo-labels from LAQ on image features",
    "pseudo_own": "pseudo-labels from the draw's own quantizer",
    "latent": "latents predicted, then decoded",
    "latent_shuffled": "the same with shuffled latents",
    "foundation": "direct expert from the foundation",
    "vla": "vla_direct, foundation frozen",
    "all": "all actions",
}

TIER_ARMS: dict[Tier, tuple[str, ...]] = {
    "ridge": (
        "actions",
        "pseudo_laq",
        "pseudo_random",
        "pseudo_pixels",
        "pseudo_frames",
        "pseudo_grounded",
        "pseudo_features",
        "latent",
        "latent_shuffled",
        "all",
    ),
    "moving": ("actions", "pseudo_laq", "pseudo_random", "pseudo_pixels", "all"),
    "trust": ("actions", "pseudo_own"),
    "neural": ("actions", "vla", "pseudo_laq", "pseudo_random", "latent", "latent_shuffled", "foundation", "all"),
}

ENDPOINTS = (("vla", "actions"), ("pseudo_laq", "pseudo_random"), ("latent", "latent_shuffled"))
"""The primary ones, at k = 2, in the order of the study's first lines."""


@dataclass(frozen=True)
class Cell:
    """One policy of the study.

    Args:
        tier: Of `TIER_ARMS`.
        arm: Of `ARMS`.
        k: Labelled episodes a task; 0 for the arm that has all.
        seed: Of the draw of labelled episodes, the initial weights and the order of samples.
    """

    tier: Tier
    arm: str
    k: int
    seed: int

    @property
    def name(self) -> str:
        """For folders and messages."""
        return f"{self.tier}_{self.arm}_k{self.k}_s{self.seed}"


@dataclass(frozen=True)
class NeuralSettings:
    """How the policies of the neural tier are trained: long enough for each arm's plateau, by the pilot.

    Args:
        few_steps: Updates of arms that see k episodes alone.
        many_steps: Updates of arms that see all videos.
        batch_size: Frames of an update.
    """

    few_steps: int = 500
    many_steps: int = 1500
    batch_size: int = 16


def fingerprint(tier: Tier) -> str:
    """Name of everything that the cells of a tier have in common; rows of another one are not of this study."""
    shared = {
        "tasks": TASKS,
        "episodes": EPISODES,
        "image_size": IMAGE_SIZE,
        "noise": NOISE,
        "seeds": EVALUATION_SEEDS,
        "steps": EVALUATION_STEPS,
        "random_quantizers": RANDOM_QUANTIZERS,
        "version": 1,
    }
    own: dict[str, Any] = asdict(NeuralSettings()) if tier == "neural" else {}
    if tier == "moving":
        own = {"camera_shake": CAMERA_SHAKE}
    if tier == "trust":
        levels = (QUANTIZER_STEPS, QUANTIZER_VIDEO, QUANTIZER_LATENTS, LATE_FRAMES)
        own = {"levels": levels, "other": (OTHER_TASKS, OTHER_EPISODES)}
    return hashlib.sha256(json.dumps([tier, shared, own], sort_keys=True).encode()).hexdigest()[:8]


def cells(tier: Tier, arms: list[str], ks: list[int], seeds: list[int]) -> list[Cell]:
    """The cells, seed by seed, so that what is done first can be compared; ridge on all actions depends on no seed."""
    planned = []
    for k in ks:
        for seed in seeds:
            for arm in arms:
                if arm == "all":
                    planned.append(Cell(tier, arm, 0, seed if tier == "neural" else 0))
                else:
                    planned.append(Cell(tier, arm, k, seed))
    return list(dict.fromkeys(planned))


def draw(info: DatasetInfo, k: int, seed: int) -> list[int]:
    """``k`` episodes of every task, drawn by the seed; those of a smaller k are among those of a larger one."""
    by_task: dict[str, list[int]] = {}
    for episode, task in enumerate(read_episodes(info).task):
        by_task.setdefault(task, []).append(episode)
    chosen: list[int] = []
    for number, task in enumerate(sorted(by_task)):
        order = np.random.default_rng([seed, number]).permutation(by_task[task])
        chosen += [int(episode) for episode in order[:k]]
    return sorted(chosen)


def _own_name(cell: Cell) -> str:
    return f"{cell.arm}_k{cell.k}_s{cell.seed}" if cell.arm in ("pseudo_grounded", "pseudo_own") else cell.arm


@dataclass(frozen=True)
class Places:
    """Where the study keeps what it makes, in one folder.

    Args:
        root: The folder.
        camera_shake: Of the recordings in it, and of the evaluation.
    """

    root: Path
    camera_shake: float = 0.0

    @classmethod
    def of(cls, output: Path, tier: Tier) -> "Places":
        """A tier's; with a moving camera everything is another recording."""
        return cls(output / tier, CAMERA_SHAKE) if tier == "moving" else cls(output)

    @property
    def data(self) -> Path:
        """The recorded videos and actions."""
        return self.root / "data"

    @property
    def other_data(self) -> Path:
        """Videos of other tasks."""
        return self.root / "other_data"

    @property
    def laq(self) -> Path:
        """Run of the quantizer."""
        return self.root / "laq"

    @property
    def latents(self) -> Path:
        """The quantizer's table."""
        return self.root / "latents"

    def random_laq(self, number: int) -> Path:
        """A quantizer with random weights."""
        return self.root / f"random_laq_{number}"

    def random_latents(self, number: int) -> Path:
        """Its table."""
        return self.root / f"random_latents_{number}"

    def own_laq(self, cell: Cell) -> Path:
        """Run of the quantizer that only this arm has, or only this cell where its labelled episodes matter."""
        return self.root / f"laq_{_own_name(cell)}"

    def own_latents(self, cell: Cell) -> Path:
        """Its table."""
        return self.root / f"latents_{_own_name(cell)}"

    @property
    def foundation(self) -> Path:
        """Run of the foundation model."""
        return self.root / "foundation"

    @property
    def shuffled_latents(self) -> Path:
        """The quantizer's table, its codes and vectors dealt out anew among all frames."""
        return self.root / "shuffled_latents"

    @property
    def shuffled_foundation(self) -> Path:
        """A foundation model that was trained on those."""
        return self.root / "shuffled_foundation"
