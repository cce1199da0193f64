"""Pre- and postprocessor of `hlrp_vla_direct`; LeRobot finds the function by its name."""

from typing import Any

from lerobot_policy_felix_bundle.policies.common.processor import Pipelines, make_pipelines
from lerobot_policy_felix_bundle.policies.hlrp_vla_direct.configuration_hlrp_vla_direct import HLRPVLADirectConfig


def make_hlrp_vla_direct_pre_post_processors(
    config: HLRPVLADirectConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> Pipelines:
    """See `make_pipelines`."""
    return make_pipelines(config, dataset_stats)
