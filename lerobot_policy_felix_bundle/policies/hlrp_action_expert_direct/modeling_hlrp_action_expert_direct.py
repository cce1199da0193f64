"""`hlrp_action_expert_direct`: image, state and language to actions, through a VLM and a flow-matching expert."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lerobot_policy_felix_bundle.policies.common.expert_policy import ExpertPolicy
from lerobot_policy_felix_bundle.policies.common.losses import Term
from lerobot_policy_felix_bundle.policies.hlrp_action_expert_direct.configuration_hlrp_action_expert_direct import (
    HLRPActionExpertDirectConfig,
)


class HLRPActionExpertDirectPolicy(ExpertPolicy):
    """See `HLRPActionExpertDirectConfig`; loss, chunks and queue are documented in `HLRPPolicy`."""

    config_class = HLRPActionExpertDirectConfig
    name = "hlrp_action_expert_direct"
    config: HLRPActionExpertDirectConfig

    def build(self, backbone_folder: Path | None) -> None:
        """Without the head that would predict codes, and with nothing trained that no action depends on."""
        super().build(backbone_folder)
        self.backend.drop_head()

    def terms(self, batch: Mapping[str, Any], **given: Any) -> dict[str, Term]:
        """The flow's squared error."""
        actions, mask = self.supervised_actions(batch)
        losses = self.expert.flow_losses(self.prefix(batch), actions, **given)
        return {"action": self.action_term(losses, mask, batch)}
