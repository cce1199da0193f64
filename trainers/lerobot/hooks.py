"""What is changed around LeRobot's own loop so that a user's mistake is told from a failure."""

from typing import Any

from hlrp.data.episodes import check_camera_names
from hlrp.errors import HlrpError, UserError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


def choose_cameras(cfg: Any, cameras: list[str] | None) -> None:
    """Have a new policy see only some of the dataset's cameras, as the Lightning trainer does.

    Args:
        cfg: LeRobot's `TrainPipelineConfig` after validation; the policy's input features are filled in.
        cameras: Image features to use; None: all.

    Raises:
        UserError: The dataset has no such camera.
    """
    if cameras is None or cfg.policy is None or cfg.policy.input_features:
        return
    from lerobot.datasets import LeRobotDatasetMetadata
    from lerobot.utils.feature_utils import dataset_to_policy_features

    meta = LeRobotDatasetMetadata(cfg.dataset.repo_id, root=cfg.dataset.root, revision=cfg.dataset.revision)
    check_camera_names(cameras, meta.camera_keys, f"dataset {meta.root}")
    features = dataset_to_policy_features(meta.features)
    left_out = set(meta.camera_keys) - set(cameras)
    cfg.policy.input_features = {k: f for k, f in features.items() if f.type.value != "ACTION" and k not in left_out}


def refuse_unbuildable_policies(script: Any) -> None:
    """Turn what a policy's constructor raises at its settings into one message.

    Args:
        script: `lerobot.scripts.lerobot_train`; its `make_policy` is wrapped.
    """
    make_policy = script.make_policy

    def make(*args: Any, **kwargs: Any) -> Any:
        try:
            return make_policy(*args, **kwargs)
        except HlrpError:
            raise
        except Exception as error:
            if isinstance(error, OSError | MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY):
                raise
            config = kwargs.get("cfg") or args[0]
            raise UserError(
                f"policy {config.type!r} cannot be made: {' '.join(str(error).split()) or type(error).__name__}",
                where="model",
                fix=f"change the setting that is named; `hlrp policies {config.type}` lists the fields",
            ) from error

    script.make_policy = make
