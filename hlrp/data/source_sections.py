"""From the `data.sources` of a policy's run to its mixture, checked source against source; no table is read."""

from collections.abc import Sequence

from hlrp.config import DataSection, SourceSection
from hlrp.data.dataset_info import DatasetInfo, check_episodes, named_episodes, read_dataset
from hlrp.data.decode import frame_size
from hlrp.data.episodes import check_camera, check_camera_names
from hlrp.data.policy_sources import ACTION, PolicySource, PolicySources, listed
from hlrp.errors import UserError, suggest


def read_policy_sources(
    data: DataSection,
    policy: str,
    *,
    masks: bool,
    image_size: Sequence[int] | None = None,
    states_shown: bool = False,
) -> PolicySources:
    """The sources that a run's `data` section names, checked against each other; no table is read.

    Args:
        data: The section.
        policy: Name of the policy, for messages.
        masks: Whether the policy masks what a sample lacks; if not, all sources must have all that it reads.
        image_size: Height and width that the policy brings pictures to, if it does.
        states_shown: See `PolicySources`.

    Raises:
        UserError: A source is missing, or does not fit the others.
    """
    sources = [_read(section, number, data) for number, section in enumerate(data.sources)]
    if not any(s.labelled for s in sources):
        raise UserError(
            "no source has labelled episodes, so there are no actions to learn",
            where="data.sources",
            fix="add a source with actions, or name its labelled_episodes",
        )
    cameras = _cameras(sources, data.cameras)
    sizes = {camera: _size(camera, sources, image_size if masks else None) for camera in cameras}
    joined = PolicySources(sources, cameras, sizes, states_shown=states_shown)
    if not masks:
        _require_whole(joined, policy)
    return joined


def _read(section: SourceSection, number: int, data: DataSection) -> PolicySource:
    where = f"data.sources.{number}"
    info = read_dataset(section.repo_id, section.root, where=where, **data.reading)
    languages = [name for name, feature in info.features.items() if "language" in str(feature["dtype"])]
    if languages:
        raise UserError(
            f"{info.repo_id} has a language column ({languages[0]}), which only LeRobot's own reader knows",
            where=where,
            fix="train on that dataset alone, with data.root",
        )
    for own, new in section.rename_map.items():
        if own not in info.features:
            raise UserError(
                f"{info.repo_id} has no feature {own!r}", where=f"{where}.rename_map", fix=suggest(own, info.features)
            )
        taken = new in info.features and new not in section.rename_map
        if taken or list(section.rename_map.values()).count(new) > 1:
            raise UserError(
                f"two features of {info.repo_id} would be called {new!r}",
                where=f"{where}.rename_map",
                fix="give each its own name",
            )
    names = {new: own for own, new in section.rename_map.items()}
    labelled = _labelled(section, info, names.get(ACTION, ACTION), where)
    return PolicySource(info, section.weight, names, labelled, section.table, where, section.action_space)


def _labelled(section: SourceSection, info: DatasetInfo, action: str, where: str) -> list[int]:
    has_action, named = action in info.features, named_episodes(section.labelled_episodes, info)
    if named is None:
        return list(range(info.episodes)) if has_action else []
    check_episodes(info, named)
    if named and not has_action:
        raise UserError(
            f"{info.repo_id} has labelled episodes, but no 'action' (it has {', '.join(sorted(info.features))})",
            where=f"{where}.labelled_episodes",
            fix="leave it out, or name the column: rename_map",
        )
    return named


def _cameras(sources: Sequence[PolicySource], asked: list[str] | None) -> list[str]:
    """Pictures of the mixture: those asked for, else all; every source has at least one of them."""
    known = list(dict.fromkeys(camera for s in sources for camera in s.renamed.cameras))
    cameras = known if asked is None else check_camera_names(asked, known, "data.cameras, any of data.sources")
    for source in sources:
        seen = [c for c in cameras if c in source.renamed.cameras]
        if not seen:
            raise UserError(
                f"{source.info.repo_id} has none of the cameras {', '.join(cameras)} (it has "
                f"{', '.join(source.renamed.cameras) or 'none'})",
                where=source.where,
                fix="give its camera the name of another source's with rename_map",
            )
        for camera in seen:
            check_camera(source.renamed, camera)
    return cameras


def _size(camera: str, sources: Sequence[PolicySource], image_size: Sequence[int] | None) -> tuple[int, int]:
    """Height and width that a camera is read in: as recorded, where all sources agree."""
    having = [s for s in sources if camera in s.features]
    found = {frame_size(s.renamed, camera) for s in having}
    if len(found) == 1:
        return next(iter(found))
    if image_size is None:
        sizes = listed(having, lambda s: "x".join(map(str, frame_size(s.renamed, camera))))
        raise UserError(
            f"pictures of {camera!r} differ in size: {sizes}",
            where="data.sources",
            fix="give model.image_size=[HEIGHT,WIDTH], which hlrp_vla_direct and the hlrp_action_expert policies have",
        )
    height, width = image_size
    return int(height), int(width)


def _require_whole(joined: PolicySources, policy: str) -> None:
    """Refuse a mixture of whose samples some lack what others have, for a policy that cannot mask it."""
    if len(joined.spaces) > 1:
        raise UserError(
            f"policy {policy!r} has one action space, the sources have {len(joined.spaces)}: "
            f"{', '.join(space.name for space in joined.spaces)}",
            where="data.sources: action_space",
            fix="train hlrp_vla_direct or an hlrp_action_expert policy, or use sources of one robot",
        )
    needed: dict[str, PolicySource] = {}
    for source in joined.sources:
        for name in source.features:
            if name.startswith((ACTION, "observation.")) and (name not in source.renamed.cameras):
                needed.setdefault(name, source)
    fix = "train hlrp_vla_direct or an hlrp_action_expert policy, which mask what is missing, or leave the source out"
    for source in joined.sources:
        lacks = [name for name in [*needed, *joined.cameras] if name not in source.features]
        if lacks or len(source.labelled) < source.info.episodes:
            what = (
                f"lacks {', '.join(lacks)}"
                if lacks
                else f"has actions to train on in {len(source.labelled)} of its {source.info.episodes} episodes only"
            )
            raise UserError(
                f"policy {policy!r} cannot mask what a sample lacks, and {source.info.repo_id} {what}",
                where=source.where,
                fix=fix,
            )
        for name, other in needed.items():
            here, there = list(source.features[name]["shape"]), list(other.features[name]["shape"])
            if here != there:
                raise UserError(
                    f"{name!r} has shape {here} in {source.info.repo_id} and {there} in {other.info.repo_id}",
                    where=source.where,
                    fix="use sources of one robot",
                )
