"""What a run's `latents`, `init_from` and `data.sources` mean for a policy, whichever trainer runs it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.config import LatentsSection, LeRobotRun, LightningRun, PolicyModel
from hlrp.data.dataset_info import DatasetInfo
from hlrp.errors import UserError
from hlrp.runs import resolve_pretrained
from hlrp.runs.checkpoints import is_foundation

if TYPE_CHECKING:
    from hlrp.data.policy_sources import PolicySources

OURS = "hlrp_"


def label_fields(run: LeRobotRun | LightningRun, dataset: DatasetInfo | None) -> dict[str, Any]:
    """Fields of the policy's configuration class that say where its labels come from.

    Args:
        run: A run of a policy.
        dataset: The local dataset; needed for labels that are made while training.

    Raises:
        UserError: The policy has no use for labels, or the dataset is not here.
    """
    latents, model = run.latents, run.model
    tables = any(source.table for source in run.data.sources)
    source = "precomputed" if latents.source == "none" and tables else latents.source
    if source == "none" or not isinstance(model, PolicyModel):
        return {}
    if not model.policy_type.startswith(OURS):
        raise UserError(
            f"policy {model.policy_type!r} has no use for latent labels",
            where="data.sources: table" if tables else "latents, --latents, --online-laq",
            fix="leave them out, or train hlrp_action_expert_latent",
        )
    if source == "online" and tables:
        raise UserError(
            "labels are made while training, and a source has a table of them",
            where="data.sources: table, latents.laq",
            fix="leave one of them out",
        )
    fields: dict[str, Any] = {"latent_source": source}
    if run.data.cameras is not None and len(run.data.cameras) == 1:
        camera = run.data.cameras[0]
        fields["latent_camera"] = run.data.rename_map.get(camera, camera)
    if source == "precomputed":
        return fields | ({} if latents.table is None else {"latent_table": str(latents.table.absolute())})
    return fields | _online(latents, dataset)


def _online(latents: LatentsSection, dataset: DatasetInfo | None) -> dict[str, Any]:
    from hlrp.data.episodes import code_offset
    from hlrp.laq.checkpoint import read_manifest

    if dataset is None:
        raise UserError(
            "labels are made while training only for a dataset that is on this machine",
            where="data.repo_id",
            fix="fetch the dataset first, and give its folder with --dataset-root",
        )
    assert latents.laq is not None, "the schema asks for it"
    offset = code_offset(dataset, read_manifest(latents.laq).offset_seconds)
    return {"latent_laq": str(latents.laq.absolute()), "latent_offset_frames": offset}


def foundation_of(model: PolicyModel) -> Path | None:
    """The foundation model that one of this project's policies starts from; None: `init_from` is a policy, or not set.

    Raises:
        UserError: Another policy cannot start from it.
    """
    if model.init_from is None or not Path(model.init_from).exists() or not is_foundation(Path(model.init_from)):
        return None
    if not model.policy_type.startswith(OURS):
        raise UserError(
            f"{model.init_from} holds a foundation model, from which policy {model.policy_type!r} cannot start",
            where="--init-from / model.init_from",
            fix="train hlrp_action_expert_latent, hlrp_action_expert_direct or hlrp_vla_direct from it",
        )
    return Path(model.init_from).absolute()


def mixture_of(run: LeRobotRun | LightningRun) -> "PolicySources | None":
    """The mixture that a policy is trained on; None: a single dataset, or no policy.

    Raises:
        UserError: A source is missing or does not fit the others, or a setting beside them means one dataset.
    """
    data, model = run.data, run.model
    if not data.sources or not isinstance(model, PolicyModel):
        return None
    from hlrp.data.source_sections import read_policy_sources

    fields, ours = model.policy_fields, model.policy_type.startswith(OURS)
    for key, given, fix in (
        ("data.rename_map", data.rename_map, "give rename_map to each source"),
        ("model.labelled_episodes", ours and fields.get("labelled_episodes"), "give labelled_episodes to each source"),
    ):
        if given:
            raise UserError(f"{key} does not say which of data.sources it means", where=key, fix=fix)
    saved = saved_fields(model)
    mixture = read_policy_sources(
        data,
        model.policy_type,
        masks=ours,
        image_size=fields.get("image_size", saved.get("image_size")),
        states_shown=bool(fields.get("state_of_unlabelled", saved.get("state_of_unlabelled", False))),
    )
    if run.latents.source == "online":
        _check_online(mixture)
    return mixture


def check_held_out(run: LeRobotRun | LightningRun, datasets: Sequence[DatasetInfo]) -> list[str]:
    """See that the held-out loss of one of this project's policies will have something to measure.

    Args:
        run: The configuration.
        datasets: Its datasets; none if LeRobot is to download one.

    Returns:
        Warnings, one line each.

    Raises:
        UserError: Of no held-out episode anything is known that the policy could be right or wrong about.
    """
    from hlrp.data.episodes import split_episodes

    model, trainer, share = run.model, run.trainer, run.trainer.eval_split
    measured = share > 0 and (isinstance(run, LightningRun) or trainer.eval_steps > 0)
    if not (measured and datasets and isinstance(model, PolicyModel) and model.policy_type.startswith(OURS)):
        return []
    fields, mixture = saved_fields(model) | model.policy_fields, mixture_of(run)
    if mixture is not None:
        where, parts = "data.sources: labelled_episodes", mixture.split(share)
        known = any({*source.labelled} & {*held} for source, (_, held) in zip(mixture.sources, parts, strict=True))
    else:
        where, named = "model.labelled_episodes", fields.get("labelled_episodes")
        held = split_episodes(datasets[0], share, episodes=run.data.episodes)[1]
        known = named is None or bool({*named} & {*held})
    if known:
        return []
    what = "none of the held-out episodes, the last of every task, has labelled actions"
    labels = run.latents.source != "none" or any(source.table for source in run.data.sources)
    labels |= any(fields.get(name) not in (None, "none") for name in ("latent_source", "latent_table", "latent_laq"))
    if labels and fields.get("latent_weight") != 0:
        return [f"{what}: the held-out loss is that of the codes alone ({where}, trainer.eval_split)"]
    raise UserError(
        f"{what}, so there is no held-out loss",
        where=f"trainer.eval_split, {where}",
        fix="label one of them, or leave trainer.eval_split and trainer.eval_steps out",
    )


def saved_fields(model: PolicyModel) -> dict[str, Any]:
    """The configuration of the policy that a run starts from."""
    path = Path(model.init_from) if model.init_from is not None else None
    if path is None or not path.exists() or is_foundation(path):
        return {}
    loaded: dict[str, Any] = json.loads((resolve_pretrained(path) / "config.json").read_text(encoding="utf8"))
    return loaded


def _check_online(mixture: "PolicySources") -> None:
    """Labels made while training come from windows at one rate, of pictures as they were recorded."""
    from hlrp.data.decode import frame_size

    for source in mixture.sources:
        resized = [
            camera
            for camera in mixture.cameras
            if camera in source.features and frame_size(source.renamed, camera) != mixture.sizes[camera]
        ]
        if source.info.fps != mixture.info.fps or resized:
            what = f"{source.info.fps:g} frames per second, the mixture {mixture.info.fps:g}"
            raise UserError(
                f"labels cannot be made while training: {source.info.repo_id} has "
                + (f"another size of {resized[0]}" if resized else what),
                where=f"{source.where}, latents.laq",
                fix="label each source with hlrp precompute-latents, and give it as its table",
            )
