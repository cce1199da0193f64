"""Labels in LeRobot's training loop: a step of the preprocessor that is saved with the checkpoint.

LeRobot's default conversion drops every column of a dataset but a few; `index` and `episode_index` survive. So the step
looks the codes up by `index`, from a latent table or the dataset's own column, or has a frozen quantizer make them from
the frames of the label's window. How much actions of a dataset with pseudo-labels count is looked up alike. Where there
is no `index`, as at inference, it does nothing and needs no file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lerobot.lerobot_types import EnvTransition, TransitionKey
from lerobot.processor import ProcessorStepRegistry
from lerobot.utils.constants import OBS_PREFIX

from hlrp.errors import UserError
from hlrp.latents.spec import describe
from lerobot_policy_felix_bundle.policies.common.action_weights import ActionWeights, JoinedWeights
from lerobot_policy_felix_bundle.policies.common.configuration import HLRPPolicyConfig
from lerobot_policy_felix_bundle.policies.common.saved_step import SavedStep

if TYPE_CHECKING:
    from torch import Tensor

    from hlrp.latents.joined import JoinedRows
    from hlrp.latents.sources import Labels, OnlineLabels

CODES, CODE_MASK, ACTION_MASK, STAMP = "hlrp.codes", "hlrp.code_mask", "hlrp.action_mask", "hlrp.labels"
"""What the step adds to a batch: int64 ``[B, P]``, bool ``[B, P]``, bool ``[B]``, and which labels these are."""
VECTORS = "hlrp.vectors"
"""And, for policies that predict continuous latents, these: float32 ``[B, P, D]``."""

ACTION_WEIGHT, WEIGHTS_OF = "hlrp.action_weight", "hlrp.weights_of"
"""And, of a dataset with pseudo-labels: float32 ``[B, H, A]`` in [0, 1], and whose weights these are."""

_PAD = "_is_pad"


@ProcessorStepRegistry.register(name="hlrp_latent_labels")
@dataclass
class LatentLabelsStep(SavedStep):
    """Adds latent codes and which actions may be trained on to a training batch.

    Args:
        source: `none`, `precomputed` or `online`.
        table: Folder of a latent table; None with `precomputed`: the column of ``dataset``.
        dataset: Folder of the dataset that is trained on.
        laq: Run of the quantizer that labels `online`.
        camera: The camera whose frames it labels.
        meaning: What the codes must mean: `codebook_size`, `code_seq_len`, `num_frames`, `offset_seconds`,
            `laq_sha256`; with `vector_dim` there are continuous latents beside them.
        labelled_episodes: Episodes whose actions may be trained on; None: all.
        confidence: Folder of the dataset whose columns weight the actions; None: all count alike.
        chunk_size: Actions H of a chunk, from the current frame on, that are weighted.
        sources: What each dataset of a mixture carries, in place of ``table``, ``dataset`` and ``confidence``; see
            `HLRPPolicyConfig`. `index` is then numbered through all of them.
    """

    source: str = "none"
    table: str | None = None
    dataset: str | None = None
    laq: str | None = None
    camera: str | None = None
    meaning: dict[str, Any] = field(default_factory=dict)
    labelled_episodes: list[int] | None = None
    confidence: str | None = None
    chunk_size: int | None = None
    sources: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        self._rows: Any = None
        self._online: OnlineLabels | None = None
        self._episodes: Tensor | None = None
        self._weights: ActionWeights | JoinedWeights | None = None
        self._weighs = self.confidence is not None or any(s["confidence"] for s in self.sources or ())
        labels = {k: v for k, v in self.get_config().items() if k not in ("confidence", "chunk_size")}
        self.stamp = hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def of(cls, config: HLRPPolicyConfig) -> "LatentLabelsStep":
        """The step that a policy's configuration asks for."""
        return cls(
            source=config.latent_source if config.uses_latents else "none",
            table=config.latent_table,
            dataset=config.latent_dataset,
            laq=config.latent_laq,
            camera=config.latent_camera,
            meaning=config.code_fields() if config.uses_latents else {},
            labelled_episodes=config.labelled_episodes,
            confidence=config.confidence_dataset,
            chunk_size=None if config.confidence_dataset is None and config.sources is None else config.chunk_size,
            sources=config.sources,
        )

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """Label a batch that has an `index`; anything else passes unchanged.

        Raises:
            UserError: The labels are missing or do not mean what the policy expects.
        """
        known = transition.get(TransitionKey.COMPLEMENTARY_DATA) or {}
        if "index" not in known:
            return transition
        observation = transition.get(TransitionKey.OBSERVATION) or {}
        batch = self._coded({**observation, **known})
        # A checkpoint's dataset may be gone, or another one be trained on: the policy looks its own up where it must.
        with suppress(UserError):
            batch = self._weighed(batch)
        result = dict(transition)
        result[TransitionKey.OBSERVATION] = {k: batch[k] for k in observation}
        # LeRobot keeps flags of padded images twice: as observations, and here.
        result[TransitionKey.COMPLEMENTARY_DATA] = {
            k: v for k, v in batch.items() if k in known or k not in observation
        }
        return result

    def label(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch with these labels, in place of any that it has; with these or without an `index`, as it is.

        Args:
            batch: `index` ``[B]``, `episode_index` ``[B]``, `observation.*` entries, of which with `online` each has an
                axis of T frames behind the batch's, and `*_is_pad` flags.

        Returns:
            The batch with the observation at time t, and the entries `CODES`, `CODE_MASK`, `ACTION_MASK`,
            `ACTION_WEIGHT` and `STAMP` that there are.

        Raises:
            UserError: The labels are missing or do not mean what the policy expects.
        """
        return self._weighed(self._coded(batch))

    def _coded(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        if batch.get(STAMP) == self.stamp or (STAMP not in batch and "index" not in batch):
            return dict(batch)
        result = {k: v for k, v in batch.items() if k not in (CODES, CODE_MASK, ACTION_MASK, VECTORS)} | {
            STAMP: self.stamp
        }
        if self.source == "precomputed":
            result[CODES], result[CODE_MASK] = self._look_up(batch["index"])
            if self.meaning.get("vector_dim"):
                vectors = self._rows.vectors(batch["index"].reshape(-1).cpu())
                result[VECTORS] = vectors.flatten(1, 2).to(batch["index"].device)
        elif self.source == "online":
            made = self._make(batch)
            result[CODES], result[CODE_MASK] = made.codes, made.mask
            if made.vectors is not None:
                result[VECTORS] = made.vectors
            result |= {k: _first_frame(k, v) for k, v in batch.items() if k.startswith(OBS_PREFIX)}
        if self.labelled_episodes is not None:
            result[ACTION_MASK] = self._in_labelled_episodes(batch["episode_index"])
        return result

    def _weighed(self, batch: dict[str, Any]) -> dict[str, Any]:
        mark = f"{self.confidence or self.sources}, {self.chunk_size} actions" if self._weighs else None
        if batch.get(WEIGHTS_OF) == mark:
            return batch
        result = {k: v for k, v in batch.items() if k not in (ACTION_WEIGHT, WEIGHTS_OF)}
        if not self._weighs or "index" not in batch:
            return result
        if self._weights is None:
            one = self.confidence
            self._weights = JoinedWeights(self.sources or []) if one is None else ActionWeights(Path(one))
        return result | {
            ACTION_WEIGHT: self._weights.chunks(batch["index"], int(self.chunk_size or 1)),
            WEIGHTS_OF: mark,
        }

    def _look_up(self, index: "Tensor") -> "tuple[Tensor, Tensor]":
        if self._rows is None:
            self._rows = open_joined(self.sources) if self.sources else open_rows(self.table, self.dataset)
            self._rows.check(**self.meaning)
        codes, valid = self._rows.codes(index.reshape(-1).cpu())
        mask = valid.repeat_interleave(codes.shape[2], 1)
        return codes.flatten(1).to(index.device), mask.to(index.device)

    def _make(self, batch: Mapping[str, Any]) -> "Labels":
        import torch

        from hlrp.latents.sources import FRAMES, VALID

        frames = batch[str(self.camera)]
        if frames.ndim != 5:
            raise UserError(
                f"labels made while training need a window of {self.meaning['num_frames']} frames of {self.camera}, "
                f"the batch has {list(frames.shape)}",
                where="latent_laq",
                fix="train with LeRobot's datasets, which read the windows that the policy asks for",
            )
        if self._online is None:
            self._online = open_online(str(self.laq), str(self.camera), self.meaning)
        self._online.to(frames.device)
        padded = batch.get(f"{self.camera}{_PAD}")
        if padded is None:
            padded = torch.zeros(frames.shape[:2], dtype=torch.bool, device=frames.device)
        assert self._online.window is not None, "a quantizer reads frames"
        window = {FRAMES: _resized(frames, self._online.window.size), VALID: ~padded[:, 1:].bool()}
        return self._online.labels(window)

    def _in_labelled_episodes(self, episode: "Tensor") -> "Tensor":
        import torch

        if self._episodes is None:
            self._episodes = torch.tensor(sorted(self.labelled_episodes or []), dtype=torch.int64)
        self._episodes = self._episodes.to(episode.device)
        return torch.isin(episode.reshape(-1), self._episodes)


def open_rows(table: str | None, dataset: str | None) -> Any:
    """A latent table, or the column of a dataset: both have `identity`, `check` and `codes`.

    Raises:
        UserError: It is missing, unfinished or damaged.
    """
    if table is not None:
        from hlrp.latents.table import LatentTable

        return LatentTable.open(Path(table))
    from hlrp.data.dataset_info import read_dataset
    from hlrp.latents.column import LatentColumn

    return LatentColumn(read_dataset(None, Path(str(dataset))))


def open_joined(sources: Sequence[Mapping[str, Any]]) -> "JoinedRows":
    """The labels of a mixture.

    Args:
        sources: As `LatentLabelsStep.sources`.

    Raises:
        UserError: Labels are missing, unfinished or damaged, or mean different things.
    """
    from hlrp.latents.joined import JoinedRows

    rows = [open_rows(s["table"], s["root"]) if s["table"] or s["column"] else None for s in sources]
    return JoinedRows(rows, [s["frames"] for s in sources])


def open_online(laq: str, camera: str, meaning: Mapping[str, Any]) -> "OnlineLabels":
    """The quantizer that labels while training, checked against what the policy expects.

    Raises:
        UserError: There is none, or its codes mean something else.
    """
    import torch

    from hlrp.laq import LAQ
    from hlrp.laq.checkpoint import find_model, read_manifest
    from hlrp.latents.sources import OnlineLabels

    folder = find_model(Path(laq))
    sha256, vectors = read_manifest(folder).weights_sha256, bool(meaning.get("vector_dim"))
    # Making a model draws random numbers: at the first batch, when those of a resumed run are set already.
    with torch.random.fork_rng(devices=[]):
        quantizer = LAQ.from_checkpoint(folder)
    made = OnlineLabels(quantizer, sha256, (camera,), vectors=vectors)
    if differ := made.spec.differences(meaning):
        raise UserError(
            f"the quantizer does not fit the policy: {describe(differ, 'the quantizer', 'the policy')}",
            where=laq,
            fix="use the quantizer that the policy was trained with",
        )
    return made


def _first_frame(name: str, value: Any) -> Any:
    if not hasattr(value, "ndim"):
        return value
    return value[:, :1] if name.endswith(_PAD) else value[:, 0]


def _resized(frames: "Tensor", size: tuple[int, int]) -> "Tensor":
    """Windows ``[B, T, C, H, W]`` in [0, 1] as uint8 of the quantizer's size, as latent tables are made from.

    On a GPU a level may differ by one: there PyTorch resizes in floating point, on a CPU in whole numbers.
    """
    import torch

    from hlrp.data.decode import resize_tensor

    pixels = frames if frames.dtype == torch.uint8 else (frames * 255).round().to(torch.uint8)
    return resize_tensor(pixels.flatten(0, 1), (size[0], size[1])).unflatten(0, pixels.shape[:2])
