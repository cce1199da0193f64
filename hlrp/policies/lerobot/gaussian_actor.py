"""`GaussianActor`: the clean class of LeRobot's policy `gaussian_actor`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.policies.gaussian_actor.configuration_gaussian_actor import (
        ActorLearnerConfig,
        ActorNetworkConfig,
        ConcurrencyConfig,
        CriticNetworkConfig,
        PolicyConfig,
    )
    from lerobot.utils.sample_weighting import SampleWeighter


class GaussianActor(CleanPolicy):
    """Gaussian actor of soft actor-critic (to load; LeRobot trains it with its own scripts).

    LeRobot's policy `gaussian_actor`, trained by Lightning. Fields that are not given are LeRobot's
    defaults, or those of the checkpoint that it starts from.

    Args:
        n_obs_steps: Number of environment steps worth of observations to pass to the policy (takes the current step
            and additional steps going back).
        input_features: Features that the policy reads; taken from the data where none are given.
        output_features: Features that the policy predicts; taken from the data where none are given.
        device: Where `from_dataset` and `from_pretrained` make the policy; training is on the trainer's `device`.
        use_amp: Mixed precision of LeRobot's own loop; in Lightning it is the trainer's `precision`.
        use_peft: Whether the policy was trained with PEFT.
        push_to_hub: Whether LeRobot's own training uploads the result; Lightning's does not.
        repo_id: Name of the policy on the hub.
        private: Whether its repository is private.
        tags: Tags of the repository.
        license: Licence of the repository.
        pretrained_path: Another name of `init_from`.
        pretrained_revision: Hub revision of the pretrained weights: commit, branch or tag.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        dataset_stats: Statistics for normalizing different types of inputs.
        storage_device: Device to store the model on.
        vision_encoder_name: Name of the vision encoder model (Set to "lerobot/resnet10" for hil serl resnet10).
        freeze_vision_encoder: Whether the vision encoder is kept as it is.
        image_encoder_hidden_dim: Hidden dimension size for the image encoder.
        shared_encoder: Whether to use a shared encoder for actor and critic.
        num_discrete_actions: Number of discrete actions, eg for gripper actions.
        image_embedding_pooling_dim: Dimension of the image embedding pooling.
        state_encoder_hidden_dim: Encoder architecture Hidden dimension size for the state encoder.
        latent_dim: Not described by LeRobot.
        online_steps: Online training (TODO(Khalil): relocate to TrainRLServerPipelineConfig) Number of steps for
            online training.
        online_buffer_capacity: Capacity of the online replay buffer.
        offline_buffer_capacity: Capacity of the offline replay buffer.
        async_prefetch: Whether to use asynchronous prefetching for the buffers.
        online_step_before_learning: Number of steps before learning starts.
        actor_learner_config: Actor-learner transport (TODO(Khalil): relocate to TrainRLServerPipelineConfig).
        concurrency: Configuration for concurrency settings (you can use threads or processes for the actor and
            learner).
        actor_network_kwargs: Network architecture Configuration for the actor network architecture.
        policy_kwargs: Configuration for the policy parameters (Gaussian head).
        discrete_critic_network_kwargs: Configuration for the discrete critic network.
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        optimizer: LeRobot's optimizer configuration as ``{type, lr, ...}``; it then applies to all parameters alike.
        scheduler: LeRobot's scheduler configuration as ``{type, ...}``; ``{type: none}``: a constant rate.
        ema_decay: Decay in (0, 1) of a running average of the weights, which is then what is validated and saved.
        sample_weighter: LeRobot's per-sample weighting, for policies whose loss has `reduction="none"`.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        allow_download: Whether weights of an image backbone that are not on this machine may be fetched.
    """

    lerobot_type = "gaussian_actor"

    @as_given
    def __init__(
        self,
        *,
        n_obs_steps: int = 1,
        input_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = frozen({}),
        output_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = frozen({}),
        device: str = "cpu",
        use_amp: bool = False,
        use_peft: bool = False,
        push_to_hub: bool = True,
        repo_id: str | None = None,
        private: bool | None = None,
        tags: Sequence[str] | None = None,
        license: str | None = None,
        pretrained_path: Path | str | None = None,
        pretrained_revision: str | None = None,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ENV": "MIN_MAX", "ACTION": "MIN_MAX"}
        ),
        dataset_stats: Mapping[str, Mapping[str, Sequence[float]]] | None = frozen(
            {
                "observation.image": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
                "observation.state": {"min": [0.0, 0.0], "max": [1.0, 1.0]},
                "action": {"min": [0.0, 0.0, 0.0], "max": [1.0, 1.0, 1.0]},
            }
        ),
        storage_device: str = "cpu",
        vision_encoder_name: str | None = None,
        freeze_vision_encoder: bool = True,
        image_encoder_hidden_dim: int = 32,
        shared_encoder: bool = True,
        num_discrete_actions: int | None = None,
        image_embedding_pooling_dim: int = 8,
        state_encoder_hidden_dim: int = 256,
        latent_dim: int = 256,
        online_steps: int = 1000000,
        online_buffer_capacity: int = 100000,
        offline_buffer_capacity: int = 100000,
        async_prefetch: bool = False,
        online_step_before_learning: int = 100,
        actor_learner_config: "ActorLearnerConfig | Mapping[str, Any]" = frozen(
            {
                "learner_host": "127.0.0.1",
                "learner_port": 50051,
                "policy_parameters_push_frequency": 4,
                "queue_get_timeout": 2,
            }
        ),
        concurrency: "ConcurrencyConfig | Mapping[str, Any]" = frozen(
            {"actor": "threads", "learner": "threads", "multiprocessing_context": "spawn"}
        ),
        actor_network_kwargs: "ActorNetworkConfig | Mapping[str, Any]" = frozen(
            {"hidden_dims": [256, 256], "activate_final": True}
        ),
        policy_kwargs: "PolicyConfig | Mapping[str, Any]" = frozen(
            {"use_tanh_squash": True, "std_min": 1e-05, "std_max": 10.0, "init_final": 0.05}
        ),
        discrete_critic_network_kwargs: "CriticNetworkConfig | Mapping[str, Any]" = frozen(
            {"hidden_dims": [256, 256], "activate_final": True, "final_activation": None}
        ),
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: "SampleWeighter | None" = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
    ) -> None: ...

    from_dataset = maker_for_dataset(__init__)
    from_pretrained = maker_from_pretrained(__init__)  # type: ignore[assignment]
