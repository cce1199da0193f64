"""Which data a policy is made for: it takes over their features and statistics, and is trained on no others."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from hlrp.errors import UserError


def policy_data(trainer: Any, asked_by: str) -> Any:
    """The data that a Trainer was given.

    Args:
        trainer: Lightning's.
        asked_by: Name of the policy's class, for the error.

    Raises:
        UserError: They do not say which features and statistics they have.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    if getattr(datamodule, "meta", None) is None or not hasattr(datamodule, "for_policy"):
        raise UserError(
            "these data do not say which features and statistics they have",
            where=f"LightningTrainer.fit({asked_by}, {type(datamodule).__name__})",
            fix="give a LeRobotDataModule",
        )
    return datamodule


def taken_over(meta: Any, cameras: Iterable[str] | None) -> dict[str, str]:
    """What a policy takes over from a dataset: of every feature for policies its kind, shape and statistics, as text.

    Args:
        meta: LeRobot's metadata of the dataset.
        cameras: Image features that are used; None: all.
    """
    from lerobot.utils.feature_utils import dataset_to_policy_features

    unused = set() if cameras is None else set(meta.camera_keys) - set(cameras)
    said = {}
    for name, feature in dataset_to_policy_features(meta.features).items():
        if name not in unused:
            statistics = {kind: np.asarray(value).tolist() for kind, value in (meta.stats or {}).get(name, {}).items()}
            said[name] = json.dumps([feature.type.value, list(feature.shape), statistics], sort_keys=True)
    return said


def refuse_other_data(made_for: dict[str, str], given: dict[str, str], *, policy: str, where: str) -> None:
    """Refuse to train a policy on data whose features or statistics are not those that it was made with.

    Args:
        made_for: Of `taken_over`, when the policy was made.
        given: The same of the data that it is to be trained on.
        policy: Name of its class.
        where: Names the data in the error.

    Raises:
        UserError: Naming the features.
    """
    other = sorted(name for name in {*made_for, *given} if made_for.get(name) != given.get(name))
    if other:
        raise UserError(
            f"this {policy} was made for data with other features or statistics: {', '.join(other)}",
            where=where,
            fix=f"train {policy}.from_pretrained(FOLDER) on these data, FOLDER being its run, or what "
            "save_pretrained(FOLDER) wrote",
        )
