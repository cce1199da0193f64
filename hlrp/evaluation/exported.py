"""An exported policy as LeRobot's rollout takes it: evaluated, served and rolled out as a checkpoint is."""

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hlrp.errors import UserError
from hlrp.runtime import RuntimePolicy, load

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ExportedPolicy(nn.Module):
    """A `RuntimePolicy` on tensors. Noise is drawn from torch's random numbers, in the order of the policy in torch.

    Args:
        runtime: The export.
        config: LeRobot's configuration of the policy.
    """

    def __init__(self, runtime: RuntimePolicy, config: Any) -> None:
        super().__init__()
        self.runtime, self.config, self.name = runtime, config, runtime.manifest.policy

    @property
    def _queues(self) -> dict[str, deque[Any]]:
        """As LeRobot's policies have them: what is left of a chunk, and the observations that are remembered."""
        queues: dict[str, deque[Any]] = {"observation": self.runtime.history}
        return queues if self.runtime.queue is None else queues | {"action": self.runtime.queue}

    def reset(self) -> None:
        """Forget the episode."""
        self.runtime.reset()

    def supports_rtc(self) -> bool:
        """Real-time chunking guides denoising steps, which lie in the graphs."""
        return False

    def select_action(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """The next actions ``[B, A]``, in the robot's units; a postprocessor has nothing left to do."""
        arrays, tasks = self._read(batch)
        return torch.from_numpy(self.runtime.step(arrays, tasks, draw=draw_noise))

    def predict_action_chunk(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """Chunks ``[B, n, A]`` from an observation on; what is remembered stays as it is."""
        arrays, tasks = self._read(batch)
        return torch.from_numpy(self.runtime.chunk_from(arrays, tasks, draw=draw_noise))

    def _read(self, batch: dict[str, Any]) -> "tuple[dict[str, NDArray[Any]], list[str]]":
        arrays: dict[str, NDArray[Any]] = {}
        for name, wanted in self.runtime.manifest.inputs.items():
            value: Tensor | None = batch.get(name)
            if value is None or tuple(value.shape[1:]) != wanted.shape:
                found = "missing" if value is None else f"{list(value.shape[1:])}"
                raise UserError(
                    f"{name} is {found}, the export takes {list(wanted.shape)}",
                    where="observation",
                    fix="an export takes pictures of the size it was trained on alone: use the checkpoint, or "
                    "--rename-map",
                )
            if wanted.picture:
                # Pictures were bytes; as floating point they are in [0, 1].
                value = value if value.dtype == torch.uint8 else (value * 255).round().to(torch.uint8)
                arrays[name] = value.cpu().numpy()
            else:
                arrays[name] = value.cpu().to(torch.float32).numpy()
        count = len(next(iter(arrays.values())))
        task = batch.get("task") or ""
        return arrays, [task] * count if isinstance(task, str) else list(task)


def draw_noise(shape: tuple[int, ...]) -> "NDArray[np.float32]":
    """Noise from torch's random numbers."""
    return torch.randn(shape).numpy()


def load_exported(config: Any) -> ExportedPolicy:
    """The policy of an export.

    Args:
        config: LeRobot's configuration in its folder, with `pretrained_path` and `device`.

    Raises:
        UserError: It is damaged, cannot be run here, or is asked to run elsewhere than on the CPU.
    """
    if torch.device(config.device).type != "cpu":
        raise UserError(
            f"exports run on the CPU, not on {config.device}",
            where="--device",
            fix="leave --device out, or use the checkpoint itself",
        )
    # torch's threads are those that a user has set; two pools of that size would be in each other's way.
    return ExportedPolicy(load(Path(config.pretrained_path), threads=torch.get_num_threads()), config)
