"""The datasets of a policy's mixture, joined by their metadata alone: features, episodes and labels of all together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from hlrp.config import FilterSection
from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import split_episodes
from hlrp.data.filtering import Selection, select_for_policy
from hlrp.data.policy_checks import STATE
from hlrp.errors import UserError, suggest

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
        action_space: Name of what its actions and states mean; None: there is one such meaning in the mixture.
    """

    info: DatasetInfo
    weight: float
    names: dict[str, str]
    labelled: list[int]
    table: Path | None
    where: str
    action_space: str | None = None

    @cached_property
    def features(self) -> dict[str, dict[str, Any]]:
        """The dataset's features by their names in the mixture."""
        new = {own: name for name, own in self.names.items()}
        return {new.get(own, own): feature for own, feature in self.info.features.items()}

    def own_name(self, name: str) -> str:
        """What the dataset calls a feature of the mixture."""
        return self.names.get(name, name)

    def describe(self) -> dict[str, Any]:
        """The section of `data.sources` that makes this source again."""
        section: dict[str, Any] = {"repo_id": self.info.repo_id, "root": self.info.root.absolute()}
        section |= {"weight": self.weight, "labelled_episodes": self.labelled or "none"}
        section |= {"table": self.table, "action_space": self.action_space}
        return section | {"rename_map": {own: name for name, own in self.names.items()}}

    @property
    def renamed(self) -> DatasetInfo:
        """The dataset's metadata with the features' names in the mixture; its tables have the old ones."""
        return replace(self.info, features=self.features)

    def __str__(self) -> str:
        return f"{self.where} ({self.info.repo_id})"


class ActionSpace(NamedTuple):
    """What one kind of robot is told and tells, among the numbers of all kinds.

    Args:
        name: Of the configuration; empty where there is one kind.
        action: Where its numbers stand in an action of the mixture.
        state: Where they stand in a state; empty if its sources have none.
    """

    name: str
    action: range
    state: range


class PolicySources:
    """A mixture of datasets as if it were one: episodes, frames and tasks are numbered through all sources.

    Args:
        sources: The datasets; at least one episode of one of them is labelled.
        cameras: Pictures that the policy sees; a source may lack some.
        sizes: Height and width that each is read in.
        states_shown: Whether states of episodes that are not labelled may reach the policy.

    Raises:
        UserError: Sources of one action space whose actions or states are not of one kind.
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
        self.spaces = self._find_spaces()
        self.has_state = any(space.state for space in self.spaces)
        self.info = DatasetInfo(
            Path(" + ".join(str(s.info.root) for s in sources)),
            "+".join(s.info.repo_id for s in sources),
            self._features(),
            self._labelled[0].info.fps,
            sum(s.info.episodes for s in sources),
            sum(s.info.frames for s in sources),
        )

    @property
    def _labelled(self) -> list[PolicySource]:
        return [s for s in self.sources if s.labelled]

    def _find_spaces(self) -> tuple[ActionSpace, ...]:
        groups: dict[str, list[PolicySource]] = {}
        for source in self._labelled:
            groups.setdefault(source.action_space or "", []).append(source)
        if "" in groups and len(groups) > 1:
            raise UserError(
                f"{groups[''][0]} has labelled episodes and no action_space, as other sources have",
                where="data.sources",
                fix="name the action_space of every labelled source",
            )
        self._require_known({*groups} - {""})
        spaces, actions, states = [], 0, 0
        for name, group in groups.items():
            self._same(ACTION, group)
            self._same_rate(group)
            shown = [s for s in group if STATE in s.features]
            if self.states_shown and shown:
                shown += [s for s in self.sources if STATE in s.features and (s.action_space or "") == name]
            self._same(STATE, shown)
            action, state = _width(group[0], ACTION), _width(shown[0], STATE) if shown else 0
            spaces.append(ActionSpace(name, range(actions, actions + action), range(states, states + state)))
            actions, states = actions + action, states + state
        return tuple(spaces)

    def _require_known(self, names: set[str]) -> None:
        for source in self.sources:
            if source.action_space is not None and source.action_space not in names:
                raise UserError(
                    f"no labelled source has the action space {source.action_space!r}",
                    where=f"{source.where}.action_space",
                    fix=f"{suggest(source.action_space, names)}; or leave it out: nothing is known of its actions",
                )

    @staticmethod
    def _same(name: str, sources: Sequence[PolicySource]) -> None:
        if len({tuple(s.features[name]["shape"]) for s in sources}) > 1:
            widths = listed(sources, lambda s: "x".join(map(str, s.features[name]["shape"])))
            raise UserError(
                f"{name!r} differs in width: {widths}",
                where="data.sources",
                fix="give each kind of robot an action_space of its own, or labelled_episodes: none",
            )

    @staticmethod
    def _same_rate(sources: Sequence[PolicySource]) -> None:
        if len({s.info.fps for s in sources}) > 1:
            raise UserError(
                f"chunks of actions would last for different times: {listed(sources, lambda s: s.info.fps)} "
                "frames per second",
                where="data.sources",
                fix="record them at one rate, or give each rate an action_space of its own; sources with "
                "labelled_episodes: none may have any",
            )

    def space_of(self, source: PolicySource) -> int | None:
        """The number of a source's action space; None: it has none that is known."""
        if len(self.spaces) == 1 and not self.spaces[0].name:
            return 0
        return next((i for i, space in enumerate(self.spaces) if space.name == source.action_space), None)

    def _features(self) -> dict[str, dict[str, Any]]:
        result: dict[str, dict[str, Any]] = {}
        for camera, size in self.sizes.items():
            names = ["height", "width", "channels"]
            result[camera] = {"dtype": "video", "shape": [*size, 3], "names": names}
        for name in (STATE, ACTION) if self.has_state else (ACTION,):
            having = [s for s in self._labelled if name in s.features]
            result[name] = dict(having[0].features[name])
            if len(self.spaces) > 1:
                last = self.spaces[-1]
                result[name] |= {"shape": [(last.action if name == ACTION else last.state).stop], "names": None}
        return result | {name: self.sources[0].features[name] for name in self.shared}

    @cached_property
    def shared(self) -> list[str]:
        """Further numeric columns, those that all sources have alike; of several action spaces none that is seen."""
        head, *rest = [s.features for s in self.sources]
        kinds = {n: (f["dtype"], list(f["shape"])) for n, f in head.items() if str(f["dtype"]).startswith(_NUMBERS)}
        alike = [n for n, k in kinds.items() if all(n in o and k == (o[n]["dtype"], list(o[n]["shape"])) for o in rest)]
        seen = (ACTION, "observation.") if len(self.spaces) > 1 else ()
        return [n for n in alike if n not in (ACTION, STATE) and not n.startswith(seen)]

    @property
    def partial_cameras(self) -> list[str]:
        """Cameras that a source lacks."""
        return [c for c in self.cameras if any(c not in s.features for s in self.sources)]

    def shows_state(self, source: PolicySource, *, labelled: bool) -> bool:
        """Whether the policy is given the state in an episode of ``source``."""
        number = self.space_of(source)
        known = number is not None and bool(self.spaces[number].state)
        return known and STATE in source.features and (labelled or self.states_shown)

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

    def selections(self, section: FilterSection, episodes: Sequence[Sequence[int]], **options: Any) -> list[Selection]:
        """What a filter leaves of each source's ``episodes``; empty without a filter. See `select_for_policy`."""
        found: list[Selection] = []
        for source, kept in zip(self.sources, episodes, strict=True):
            cameras = [source.own_name(camera) for camera in self.cameras if camera in source.features]
            found += select_for_policy(section, source.info, kept, cameras, **options)
        return found


def _width(source: PolicySource, name: str) -> int:
    return math.prod(source.features[name]["shape"])


def _running(counts: Sequence[int]) -> list[int]:
    return [sum(counts[:i]) for i in range(len(counts))]


def listed(sources: Sequence[PolicySource], value: Callable[[PolicySource], object]) -> str:
    """Something of each source, for messages."""
    return ", ".join(f"{source} {value(source)}" for source in dict.fromkeys(sources))
