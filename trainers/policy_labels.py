"""What a run's `latents` section and `init_from` mean for this project's own policies, whichever trainer runs them."""

from pathlib import Path
from typing import Any

from hlrp.config import LatentsSection, LeRobotRun, LightningRun, PolicyModel
from hlrp.data.dataset_info import DatasetInfo
from hlrp.errors import UserError
from hlrp.runs.checkpoints import is_foundation

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
    if latents.source == "none" or not isinstance(model, PolicyModel):
        return {}
    if not model.policy_type.startswith(OURS):
        raise UserError(
            f"policy {model.policy_type!r} has no use for latent labels",
            where="latents, --latents, --online-laq",
            fix="leave them out, or train hlrp_action_expert_latent",
        )
    fields: dict[str, Any] = {"latent_source": latents.source}
    if run.data.cameras is not None and len(run.data.cameras) == 1:
        fields["latent_camera"] = run.data.cameras[0]
    if latents.source == "precomputed":
        return fields | ({} if latents.table is None else {"latent_table": str(latents.table.absolute())})
    return fields | _online(latents, dataset)


def _online(latents: LatentsSection, dataset: DatasetInfo | None) -> dict[str, Any]:
    from hlrp.data.episodes import window_offset
    from hlrp.laq.checkpoint import read_manifest

    if dataset is None:
        raise UserError(
            "labels are made while training only for a dataset that is on this machine",
            where="data.repo_id",
            fix="fetch the dataset first, and give its folder with --dataset-root",
        )
    assert latents.laq is not None, "the schema asks for it"
    offset = window_offset(read_manifest(latents.laq).offset_seconds, dataset.fps)
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
