"""What installed distributions ask for, by their own metadata, and whether it is here. Imports none of the packages."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet


@dataclass
class Need:
    """A required package.

    Args:
        name: Distribution.
        accepted: Versions that every requirer accepts.
        installed: Installed version, or None.
        by: Requirers, such as `lerobot[diffusion]`.
    """

    name: str
    accepted: "SpecifierSet"
    installed: str | None
    by: list[str]

    @property
    def problem(self) -> str | None:
        """'is not installed', or what is wrong with the version; None when it is fine."""
        if self.installed is None:
            return "is not installed"
        if self.installed not in self.accepted:
            return f"{self.installed} is outside of {self.accepted}"
        return None


def canonical(name: str) -> str:
    """A distribution's or extra's name in the one spelling that all spellings share."""
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache
def installed_version(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@lru_cache
def _requirements(distribution: str) -> list["Requirement"]:
    from packaging.requirements import Requirement

    try:
        return [Requirement(text) for text in metadata.requires(distribution) or []]
    except metadata.PackageNotFoundError:
        return []


def _asked(distribution: str, extra: str) -> Iterator["Requirement"]:
    """Requirements whose marker holds here with ``extra`` chosen; with '' those that hold without any extra."""
    for need in _requirements(distribution):
        if need.marker is None:
            if not extra:
                yield need
        elif need.marker.evaluate({"extra": extra}) and not (extra and need.marker.evaluate({"extra": ""})):
            yield need


def needs_of(distribution: str, extras: tuple[str, ...] = ("",)) -> dict[str, Need]:
    """Everything a distribution asks for with some extras, and what packages it asks for with extras need in turn.

    Args:
        distribution: An installed distribution.
        extras: Extras to look at; '' stands for the requirements without any.
    """
    from packaging.specifiers import SpecifierSet

    found: dict[str, Need] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(distribution, extra) for extra in extras]
    while todo:
        owner, extra = todo.pop()
        if (canonical(owner), extra) in seen:
            continue
        seen.add((canonical(owner), extra))
        label = f"{owner}[{extra}]" if extra else owner
        for need in _asked(owner, extra):
            key = canonical(need.name)
            if key != canonical(owner):
                entry = found.setdefault(key, Need(need.name, SpecifierSet(), installed_version(need.name), []))
                entry.accepted &= need.specifier
                entry.by.append(label)
            # Extras are how a distribution says that the other one's needs are its own: lerobot[training].
            todo += [(need.name, e) for e in ("", *need.extras) if need.extras]
    return found


def extra_for(distribution: str, policy: str) -> str | None:
    """The extra of a distribution that serves a policy: of the same name, or one its name begins with (pi0 -> pi)."""
    try:
        extras = metadata.metadata(distribution).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return None
    squeezed = {canonical(e).replace("-", ""): e for e in extras}
    wanted = canonical(policy).replace("-", "")
    if wanted in squeezed:
        return squeezed[wanted]
    starts = [s for s in squeezed if len(s) > 1 and wanted.startswith(s)]
    return squeezed[max(starts, key=len)] if starts else None
