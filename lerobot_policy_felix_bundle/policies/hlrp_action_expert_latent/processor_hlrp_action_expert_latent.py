"""Pre- and postprocessor of `hlrp_action_expert_latent`; LeRobot finds the function by its name."""

from typing import Any

from lerobot_policy_felix_bundle.policies.common.processor import Pipelines, make_pipelines
from lerobot_policy_felix_bundle.policies.hlrp_action_expert_latent.configuration_hlrp_action_expert_latent import (
    HLRPActionExpertLatentConfig,
)


def make_hlrp_action_expert_latent_pre_post_processors(
    config: HLRPActionExpertLatentConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> Pipelines:
    """See `make_pipelines`."""
    return make_pipelines(config, dataset_stats)
