"""What a policy's codes mean, taken from its labels or its foundation model, and refused where two of them disagree."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.camera_names import with_only_camera
from hlrp.data.columns import ACTION_CONFIDENCE
from hlrp.data.dataset_info import DatasetInfo, check_episodes, read_dataset
from hlrp.data.episodes import code_offset
from hlrp.data.labelled_statistics import LabelledRows, labelled_statistics
from hlrp.errors import UserError, suggest
from hlrp.latents.spec import CODE_FIELDS, CodeSpec, describe
from lerobot_policy_felix_bundle.policies.common.configuration import HLRPPolicyConfig
from lerobot_policy_felix_bundle.policies.common.labels import open_joined, open_rows

if TYPE_CHECKING:
    from hlrp.data.policy_sources import PolicySource, PolicySources


def resolve_meaning(config: HLRPPolicyConfig, dataset_meta: Any | None) -> None:
    """Fill in what ``config`` leaves open about its labels.

    Args:
        config: Changed in place.
        dataset_meta: LeRobot's metadata of the dataset that is trained on; None where nothing is trained: then no
            label is looked at, and no folder of labels need exist. With `labelled_episodes` its statistics of actions
            and states become those of these episodes.

    Raises:
        UserError: The labels are not those of the dataset, or mean something else than the policy's weights, or there
            is nothing that says what the codes mean.
    """
    info, mixture = None, getattr(dataset_meta, "sources", None)
    if mixture is not None:
        info = mixture.info
        _resolve_sources(config, mixture)
    elif dataset_meta is not None:
        config.sources = None
        _refuse_other_spaces(config, None)
        info = read_dataset(dataset_meta.repo_id, Path(dataset_meta.root))
        check_episodes(info, config.labelled_episodes)
        weighted = config.use_action_confidence and ACTION_CONFIDENCE in info.features
        config.confidence_dataset = str(info.root.absolute()) if weighted else None
        if config.labelled_episodes is not None:
            # LeRobot makes the processors afterwards, from these; so plain `lerobot-train` has them too.
            known = labelled_statistics(LabelledRows(info, config.labelled_episodes))
            dataset_meta.stats = {**(dataset_meta.stats or {}), **known}
    if config.action_space is not None and config.action_spaces is None:
        raise UserError(
            f"the policy has one action space, there is none to choose ({config.action_space!r})",
            where="policy.action_space / --action-space",
            fix="leave it out",
        )
    if not config.uses_latents:
        return
    if info is not None and config.latent_source != "none":
        config.latent_dataset = str(info.root.absolute()) if mixture is None else None
        (_resolve_rows if config.latent_source == "precomputed" else _resolve_laq)(config, info)
    if None in config.code_fields().values() and config.init_from is not None:
        from hlrp.foundation.checkpoint import read_manifest

        _agree(config, read_manifest(Path(config.init_from)).config.spec, f"the foundation model {config.init_from}")
    if None in config.code_fields().values():
        raise UserError(
            f"policy {config.type!r} predicts latent codes, and nothing says which",
            where="policy.latent_table, policy.latent_laq, policy.latent_source, policy.init_from",
            fix="give labels (hlrp train --latents TABLE or --online-laq RUN, lerobot-train --policy.latent_table=...),"
            " or train hlrp_action_expert_direct, which needs none",
        )


def _resolve_sources(config: HLRPPolicyConfig, mixture: "PolicySources") -> None:
    """Write into ``config`` what the datasets of a mixture carry; who is labelled its samples say themselves."""
    from hlrp.latents.column import LatentColumn
    from hlrp.latents.joined import rows_of_sources
    from hlrp.latents.table import LatentTable

    config.labelled_episodes = None  # of a checkpoint: these were other data's
    spaces = None
    if len(mixture.spaces) > 1:
        spaces = {space.name: {"action": len(space.action), "state": len(space.state)} for space in mixture.spaces}
    _refuse_other_spaces(config, spaces)
    config.action_spaces = spaces
    if spaces is not None:
        config.action_space = config.action_space or next(iter(spaces))
    looks_up = config.uses_latents and config.latent_source == "precomputed"
    labels: Sequence[LatentTable | LatentColumn | None] = [None] * len(mixture.sources)
    if looks_up:
        labels = rows_of_sources(mixture.sources, config.latent_table, config.latent_camera)
    config.confidence_dataset, config.sources = None, []
    for source, rows in zip(mixture.sources, labels, strict=True):
        info = source.info
        config.sources.append(
            {
                "frames": info.frames,
                "root": str(info.root.absolute()),
                "table": str(rows.folder.absolute()) if isinstance(rows, LatentTable) else None,
                "column": isinstance(rows, LatentColumn),
                "confidence": bool(config.use_action_confidence and source.labelled)
                and ACTION_CONFIDENCE in info.features,
                "action": _columns(mixture, source),
            }
        )


def _columns(mixture: "PolicySources", source: "PolicySource") -> list[int]:
    """First and last, exclusive, of a source's own numbers in an action of the mixture."""
    number = mixture.space_of(source)
    own = range(0) if number is None else mixture.spaces[number].action
    return [own.start, own.stop]


def _refuse_other_spaces(config: HLRPPolicyConfig, spaces: dict[str, dict[str, int]] | None) -> None:
    """Refuse data with other action spaces than a checkpoint knows, or one to act in that they do not have."""
    if config.action_spaces not in (None, spaces):
        raise UserError(
            f"the policy that training starts from has the action spaces {config.action_spaces}, the data {spaces}",
            where="data.sources: action_space",
            fix="give data.sources with the same action spaces, in the same order",
        )
    if spaces is not None and config.action_space not in (None, *spaces):
        raise UserError(
            f"no source has the action space {config.action_space!r}",
            where="policy.action_space / model.action_space",
            fix=suggest(str(config.action_space), spaces),
        )


def spec_of(config: HLRPPolicyConfig) -> CodeSpec:
    """What the codes mean; ``config`` is resolved."""
    return CodeSpec(**config.code_fields())


def _resolve_rows(config: HLRPPolicyConfig, info: DatasetInfo) -> None:
    if config.sources is not None:
        joined = open_joined(config.sources)
        joined.check(**config.code_fields())
        _agree(config, joined.identity, "the labels")
        return
    rows = open_rows(config.latent_table, str(info.root))
    rows.check(dataset=info, camera=_own_camera(config, info), **config.code_fields())
    if config.latent_table is not None:
        # A checkpoint may be resumed from another folder.
        config.latent_table = str(Path(config.latent_table).absolute())
    identity = rows.identity
    _agree(config, identity, "the labels")
    config.latent_camera, config.latent_offset_frames = identity.camera, identity.offset_frames


def _resolve_laq(config: HLRPPolicyConfig, info: DatasetInfo) -> None:
    from hlrp.laq.checkpoint import read_manifest
    from hlrp.latents.labelling import choose_camera

    path = Path(str(config.latent_laq)).absolute()
    manifest = read_manifest(path)
    found = CodeSpec.of_quantizer(manifest.config, manifest.weights_sha256, vectors=config.predicts != "codes")
    _agree(config, found, f"the quantizer {path}")
    config.latent_laq, own = str(path), choose_camera(info, manifest, _own_camera(config, info))
    if config.latent_camera not in config.cameras:
        # Labels are made from batches in which cameras are renamed already.
        config.latent_camera = with_only_camera([own], config.cameras, {}).get(own, own)
    frames = code_offset(info, manifest.offset_seconds)
    if config.latent_offset_frames != frames:
        raise UserError(
            f"latent_offset_frames is {config.latent_offset_frames}, but the quantizer's {manifest.offset_seconds} s "
            f"are {frames} frames of this dataset ({info.fps:g} per second)",
            where="policy.latent_offset_frames",
            fix=f"set it to {frames}; hlrp train does",
        )


def _own_camera(config: HLRPPolicyConfig, info: DatasetInfo) -> str | None:
    """What the dataset calls the camera of the labels; None: only the name that the policy has for it is known."""
    camera = config.latent_camera
    return None if camera in config.cameras and camera not in info.cameras else camera


def _agree(config: HLRPPolicyConfig, found: CodeSpec, source: str) -> None:
    if differ := found.differences(config.code_fields()):
        raise UserError(
            f"{source} and the policy disagree ({describe(differ, source, 'the policy')})",
            where="policy." + ", policy.".join(CODE_FIELDS),
            fix="use the labels that the policy was trained with, or train a new policy",
        )
    for name in CODE_FIELDS:
        setattr(config, name, getattr(found, name))
