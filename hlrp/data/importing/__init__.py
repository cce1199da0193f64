"""Videos as a LeRobotDataset v3.0 without actions: streams are copied where that is right, else encoded once."""

from typing import TYPE_CHECKING

from hlrp.data.importing.request import ImportProgress, ImportRequest, ImportResult
from hlrp.lazy import lazy_names

if TYPE_CHECKING:
    from hlrp.data.importing.run import import_video

__all__ = ["ImportProgress", "ImportRequest", "ImportResult", "import_video"]

__getattr__ = lazy_names(__name__, {"run": ["import_video"]})
