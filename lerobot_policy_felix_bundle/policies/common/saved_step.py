"""What the policies' own processor steps have in common: their fields are saved, and features pass as they are."""

from dataclasses import dataclass, fields
from typing import Any

from lerobot.configs import PipelineFeatureType, PolicyFeature
from lerobot.processor import ProcessorStep


@dataclass
class SavedStep(ProcessorStep):
    """A step that is saved with a checkpoint by its fields, and changes no feature's name or shape."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        """Features as they are."""
        return features
