"""The datasets of a policy's mixture, joined by their metadata alone: features, episodes and labels of all together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import split_episodes
from hlrp.data.policy_checks import STATE
from hlrp.errors import UserError

ACTION = "action"
_NUMBERS = ("float", "int", "uint", "bool")


@dataclass(frozen=True, eq=False)
class PolicySource:
    """One dataset of a policy's mixture.

    Args:
        info: The dataset.
        weight: How often it is sampled, relative to the other sources, > 0.
        names: Name of a feature in the mixture to its name in the dataset, where these differ.
        labelled: Episodes whose actions and states may reach the policy, ascending.
        table: Its latent table, if it has one of its own.
        where: Its key in the configuration, for messages.
    """

    info: DatasetInfo
    weight: float
    names: dict[str, str]
    labelled: list[int]
    table: Path | None
    where: str

    @cached_property
    def features(self) -> dict[str, dict[str, Any]]:
        """The dataset's features by their names in the mixture."""
        new = {own: name for name, own in self.names.items()}
        return {new.get(own, own): feature for own, feature in self.info.features.items()}

    def own_name(self, name: str) -> str:
        """What the dataset calls a feature of the mixture."""
        return self.names.get(name, name)

    @property
    def renamed(self) -> DatasetInfo:
        """The dataset's metadata with the features' names in the mixture; its tables have the old ones."""
        return replace(self.info, features=self.features)

    def __str__(self) -> str:
        return f"{self.where} ({self.info.repo_id})"


class PolicySources:
    """A mixture of datasets as if it were one: episodes, frames and tasks are numbered through all sources.

    Args:
        sources: The datasets; at least one episode of one of them is labelled.
        cameras: Pictures that the policy sees; a source may lack some.
        sizes: Height and width that each is read in.
        states_shown: Whether states of episodes that are not labelled may reach the policy.

    Raises:
        UserError: Sources whose actions or states are not of one kind.
    """

    def __init__(
        self,
        sources: Sequence[PolicySource],
        cameras: Sequence[str],
        sizes: dict[str, tuple[int, int]],
        *,
        states_shown: bool = False,
    ) -> None:
        self.sources = tuple(sources)
        self.cameras = list(cameras)
        self.sizes = sizes
        self.states_shown = states_shown
        self.first_frame = _running([s.info.frames for s in sources])
        self.first_episode = _running([s.info.episodes for s in sources])
        first = self._labelled[0]
        self._same(ACTION, self._labelled)
        stated = [s for s in self._labelled if STATE in s.features]
        self.has_state = bool(stated)
        if stated:
            shown = [s for s in self.sources if STATE in s.features] if states_shown else stated
            self._same(STATE, [stated[0], *shown])
        fps = {s.info.fps for s in self._labelled}
        if len(fps) > 1:
            raise UserError(
                f"chunks of actions would last for different times: {listed(self._labelled, lambda s: s.info.fps)} "
                "frames per second",
                where="data.sources",
                fix="record them at one rate; sources with labelled_episodes: none may have any",
            )
        self.info = DatasetInfo(
            Path(" + ".join(str(s.info.root) for s in sources)),
            "+".join(s.info.repo_id for s in sources),
            self._features(first, stated),
            first.info.fps,
            sum(s.info.episodes for s in sources),
            sum(s.info.frames for s in sources),
        )

    @property
    def _labelled(self) -> list[PolicySource]:
        return [s for s in self.sources if s.labelled]

    def _same(self, name: str, sources: Sequence[PolicySource]) -> None:
        shapes = {tuple(s.features[name]["shape"]) for s in sources}
        if len(shapes) > 1:
            widths = listed(sources, lambda s: "x".join(map(str, s.features[name]["shape"])))
            raise UserError(
                f"{name!r} differs in width: {widths}",
                where="data.sources",
                fix="label sources of one robot only; of the others give labelled_episodes: none",
            )

    def _features(self, first: PolicySource, stated: Sequence[PolicySource]) -> dict[str, dict[str, Any]]:
        result: dict[str, dict[str, Any]] = {}
        for camera, size in self.sizes.items():
            names = ["height", "width", "channels"]
            result[camera] = {"dtype": "video", "shape": [*size, 3], "names": names}
        if stated:
            result[STATE] = stated[0].features[STATE]
        result[ACTION] = first.features[ACTION]
        return result | {name: self.sources[0].features[name] for name in self.shared}

    @cached_property
    def shared(self) -> list[str]:
        """Further numeric columns, those that all sources have alike."""
        head, *rest = [s.features for s in self.sources]
        kinds = {n: (f["dtype"], list(f["shape"])) for n, f in head.items() if str(f["dtype"]).startswith(_NUMBERS)}
        alike = [n for n, k in kinds.items() if all(n in o and k == (o[n]["dtype"], list(o[n]["shape"])) for o in rest)]
        return [n for n in alike if n not in (ACTION, STATE)]

    @property
    def partial_cameras(self) -> list[str]:
        """Cameras that a source lacks."""
        return [c for c in self.cameras if any(c not in s.features for s in self.sources)]

    def shows_state(self, source: PolicySource, *, labelled: bool) -> bool:
        """Whether the policy is given the state in an episode of ``source``."""
        return self.has_state and STATE in source.features and (labelled or self.states_shown)

    @property
    def hides_states(self) -> bool:
        """Whether there are samples without a state."""
        return self.has_state and any(
            not self.shows_state(s, labelled=len(s.labelled) == s.info.episodes) for s in self.sources
        )

    def split(self, fraction: float) -> list[tuple[list[int], list[int]]]:
        """Training and held-out episodes of each source, by LeRobot's rule in each.

        Raises:
            UserError: Nothing, or no action, would be left to train on.
        """
        parts = [split_episodes(s.info, fraction) for s in self.sources]
        if not any({*s.labelled} & {*train} for s, (train, _) in zip(self.sources, parts, strict=True)):
            raise UserError(
                "all labelled episodes are held out: no action is left to train on",
                where="trainer.eval_split, data.sources",
                fix="label more episodes, or train without trainer.eval_split",
            )
        return parts


def _running(counts: Sequence[int]) -> list[int]:
    return [sum(counts[:i]) for i in range(len(counts))]


def listed(sources: Sequence[PolicySource], value: Callable[[PolicySource], object]) -> str:
    """Something of each source, for messages."""
    return ", ".join(f"{source} {value(source)}" for source in dict.fromkeys(sources))
