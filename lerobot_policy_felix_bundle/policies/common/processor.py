"""Pre- and postprocessor of the policies: LeRobot's own steps, and the one that labels."""

from typing import Any

from lerobot.lerobot_types import PolicyAction
from lerobot.processor import (
    PolicyProcessorPipeline,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)

from lerobot_policy_felix_bundle.policies.common.action_spaces import PlaceState, TakeAction
from lerobot_policy_felix_bundle.policies.common.configuration import HLRPPolicyConfig
from lerobot_policy_felix_bundle.policies.common.labels import LatentLabelsStep

Pipelines = tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]


def make_pipelines(config: HLRPPolicyConfig, dataset_stats: dict[str, dict[str, Any]] | None = None) -> Pipelines:
    """The pipelines of a policy.

    Instructions stay text: the backbone's tokenizer belongs to the model, which caches what it has tokenised.

    Args:
        config: The policy's configuration; one that the policy has been built from knows what its labels mean.
        dataset_stats: Statistics to normalise with.

    Returns:
        Preprocessor and postprocessor.
    """
    steps = make_default_policy_processor_steps(config, dataset_stats)
    spaces, acting = config.action_spaces, config.action_space
    place = [PlaceState(spaces, str(acting))] if spaces is not None else []
    take = [TakeAction(spaces, str(acting))] if spaces is not None else []
    return make_policy_processor_pipelines(
        input_steps=[
            steps.rename_observations,
            steps.add_batch_dim,
            *place,
            LatentLabelsStep.of(config),
            steps.to_device,
            steps.normalize,
        ],
        output_steps=[steps.unnormalize, *take, steps.to_cpu],
    )
