"""What cameras are called: short names, and LeRobot's name for the only camera, which fits any other only camera."""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping

from hlrp.errors import suggest

UNNAMED = "observation.image"
"""LeRobot's name of the picture where there is one camera; what `hlrp collect` recorded before cameras had names."""
NAMED = "observation.images."
_OBSERVED = "observation."
_EMPTY = "empty_camera"


def full_name(asked: str, known: Collection[str]) -> str | None:
    """The feature among ``known`` that is called ``asked``, or whose last part alone is; None: none, or several."""
    if asked in known:
        return asked
    ending = [name for name in known if name.endswith(f".{asked}")]
    return ending[0] if len(ending) == 1 else None


def suggest_camera(asked: str, known: Collection[str]) -> str:
    """What to write in place of a camera that is not ``known``, in the words of `suggest`."""
    short = [end for end in (name.rpartition(".")[2] for name in known) if full_name(end, known)]
    return suggest(asked, short if difflib.get_close_matches(asked, short) else known)


def with_only_camera(
    given: Iterable[str],
    wanted: Iterable[str],
    rename: Mapping[str, str],
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """The renaming that applies between two sides: ``rename``, and the one that goes without saying.

    Where each side has one camera, and one of the two is called by the name that LeRobot has for an only camera, both
    are the same. Two cameras that have names of their own, or more than one on a side, are left to the user.

    Args:
        given: Features of a dataset, a simulator, a robot or a client.
        wanted: Features that the policy reads, by its own names.
        rename: Name of the given side to the policy's, as asked for or saved.
        announce: Given one line if something is added.
    """
    theirs, ours = cameras_among(given), cameras_among(wanted)
    if len(theirs) != 1 or len(ours) != 1 or theirs[0] in rename:
        return dict(rename)
    trained = next((old for old, new in rename.items() if new == ours[0]), ours[0])
    if theirs[0] in (trained, ours[0]) or UNNAMED not in (trained, theirs[0]):
        return dict(rename)
    announce(f"camera {theirs[0]} is taken for {ours[0]}: there is one on each side")
    return {old: new for old, new in rename.items() if new != ours[0]} | {theirs[0]: ours[0]}


def known_as(camera: str, known: Iterable[str], announce: Callable[[str], None] = lambda _: None) -> str:
    """What a dataset with the cameras ``known`` calls one that a file names; the same name where they do not say."""
    found = with_only_camera(known, [camera], {}, announce)
    return next(iter(found), camera)


def rename_pairs(given: Iterable[str], missing: Iterable[str]) -> list[str]:
    """The pairs `GIVEN=MISSING` to ask for, each name once and the closest first, where features of a policy lack."""
    left, pairs = [name for name in given if name.startswith(_OBSERVED)], []
    for name in missing:
        same_kind = [other for other in left if bool(cameras_among([other])) == bool(cameras_among([name]))]
        if same_kind:
            [closest] = difflib.get_close_matches(name, same_kind, n=1, cutoff=0.0)
            pairs.append(f"{closest}={name}")
            left.remove(closest)
    return pairs


def cameras_among(names: Iterable[str]) -> list[str]:
    """The pictures among features. Policies may ask for empty ones, which nobody gives."""
    return [name for name in names if (name == UNNAMED or name.startswith(NAMED)) and _EMPTY not in name]
