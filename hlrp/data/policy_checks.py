"""What LeRobot's policies need of a dataset beyond sound data: names of pictures and their axes, a state."""

import shlex
from collections.abc import Iterator, Sequence

from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.problems import Problem

STATE = "observation.state"
# These read the state whatever their configuration says; LeRobot's own checks do not ask for it.
_READ_STATE = frozenset(
    ("act", "diffusion", "eo1", "evo1", "molmoact2", "multi_task_dit", "pi0", "pi05", "pi0_fast", "smolvla", "tdmpc")
) | {"vqbet", "wall_x"}
_SEEN = "observation."


def policy_problems(
    info: DatasetInfo, policy: str | None = None, cameras: Sequence[str] | None = None
) -> Iterator[Problem]:
    """What keeps a policy from being trained on the dataset, seen from its metadata.

    Args:
        info: The dataset.
        policy: Name of the policy; none: any.
        cameras: Image features that it will see; none: all.
    """
    where, seen = str(info.root / INFO), list(cameras) if cameras is not None else info.cameras
    yield from _camera_names(info, seen, where)
    for camera in seen:
        names, shape = info.features[camera].get("names"), list(info.features[camera]["shape"])
        axes = '["channels", "height", "width"]' if shape[0] in (1, 3, 4) else '["height", "width", "channels"]'
        if not isinstance(names, list) or len(names) != len(shape):
            yield Problem(
                f"the picture {camera!r} of shape {shape} has 'names': {names!r}: LeRobot reads from them where the "
                "channels are",
                f"{where}, feature {camera}",
                f'write "names": {axes} there',
            )
    if policy in _READ_STATE and STATE not in info.features:
        have = ", ".join(sorted(name for name in info.features if name.startswith(_SEEN))) or "no observations"
        yield Problem(
            f"policy {policy!r} reads {STATE!r}, which the dataset does not have (it has {have})",
            where,
            "use a dataset with a state, or a policy that needs none, such as hlrp_vla_direct",
        )


def _camera_names(info: DatasetInfo, cameras: Sequence[str], where: str) -> Iterator[Problem]:
    other = [c for c in cameras if not c.startswith(_SEEN)]
    if not other:
        return
    renamed = " ".join(shlex.quote(f"{c}=observation.images.{c.rpartition('.')[2]}") for c in other)
    root = info.root.absolute()
    places = f"{shlex.quote(str(root))} {renamed} --output {shlex.quote(f'{root}_renamed')}"
    yield Problem(
        f"LeRobot's policies see only pictures whose names begin with 'observation.images.' (or are "
        f"'observation.image'); this dataset's are {', '.join(other)}",
        where,
        f"rename them in a copy, whose videos are links: hlrp data rename {places}",
    )
