# Made by scripts/make_policy_classes.py: run it, do not edit.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lerobot.configs.types import NormalizationMode, PolicyFeature
from lerobot.policies.gaussian_actor.configuration_gaussian_actor import (
    ActorLearnerConfig,
    ActorNetworkConfig,
    ConcurrencyConfig,
    CriticNetworkConfig,
    PolicyConfig,
)
from lerobot.utils.sample_weighting import SampleWeighter

from hlrp.policies.clean import CleanPolicy

class GaussianActor(CleanPolicy):
    def __init__(
        self,
        *,
        n_obs_steps: int = 1,
        input_features: Mapping[str, PolicyFeature | Mapping[str, Any]] | None = {},
        output_features: Mapping[str, PolicyFeature | Mapping[str, Any]] | None = {},
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
        normalization_mapping: Mapping[str, NormalizationMode | str] = {
            "VISUAL": "MEAN_STD",
            "STATE": "MIN_MAX",
            "ENV": "MIN_MAX",
            "ACTION": "MIN_MAX",
        },
        dataset_stats: Mapping[str, Mapping[str, Sequence[float]]] | None = {
            "observation.image": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            "observation.state": {"min": [0.0, 0.0], "max": [1.0, 1.0]},
            "action": {"min": [0.0, 0.0, 0.0], "max": [1.0, 1.0, 1.0]},
        },
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
        actor_learner_config: ActorLearnerConfig | Mapping[str, Any] = {
            "learner_host": "127.0.0.1",
            "learner_port": 50051,
            "policy_parameters_push_frequency": 4,
            "queue_get_timeout": 2,
        },
        concurrency: ConcurrencyConfig | Mapping[str, Any] = {
            "actor": "threads",
            "learner": "threads",
            "multiprocessing_context": "spawn",
        },
        actor_network_kwargs: ActorNetworkConfig | Mapping[str, Any] = {
            "hidden_dims": [256, 256],
            "activate_final": True,
        },
        policy_kwargs: PolicyConfig | Mapping[str, Any] = {
            "use_tanh_squash": True,
            "std_min": 1e-05,
            "std_max": 10.0,
            "init_final": 0.05,
        },
        discrete_critic_network_kwargs: CriticNetworkConfig | Mapping[str, Any] = {
            "hidden_dims": [256, 256],
            "activate_final": True,
            "final_activation": None,
        },
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: SampleWeighter | None = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
    ) -> None: ...
