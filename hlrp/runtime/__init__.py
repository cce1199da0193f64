"""Running an exported policy: NumPy and onnxruntime (or openvino) are all it needs, neither torch nor LeRobot.

`load("EXPORT").select_action({"observation.image": picture, "observation.state": state, "task": "push it"})` is a
robot's next action.
"""

from typing import TYPE_CHECKING

from hlrp.lazy import lazy_names

if TYPE_CHECKING:
    from hlrp.runtime.manifest import Manifest
    from hlrp.runtime.policy import RuntimePolicy, load

__all__ = ["Manifest", "RuntimePolicy", "load"]

__getattr__ = lazy_names(__name__, {"manifest": ["Manifest"], "policy": ["RuntimePolicy", "load"]})
