"""Comparing an export with the policy in torch: actions at equal noise, and how long both take."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lerobot.utils.random_utils import set_seed

from hlrp.deploy.export.observed import Observed
from hlrp.deploy.latencies import percentiles
from hlrp.errors import WorkError
from hlrp.evaluation.exported import draw_noise
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.runtime import RuntimePolicy

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-4
_WARM_UP = 3


@dataclass(frozen=True)
class Errors:
    """How far the actions of an export are from those of the policy in torch.

    Args:
        largest: In the policy's normalised units, 1 being about the spread of the data's actions.
        in_units: In the robot's units.
    """

    largest: float
    in_units: float


class Eager:
    """The policy in torch, with its processors.

    Args:
        loaded: The policy.
    """

    def __init__(self, loaded: LoadedPolicy) -> None:
        self._loaded = loaded

    def chunk(self, observed: Observed) -> "NDArray[np.float32]":
        """Actions ``[n, A]`` in the robot's units."""
        policy, config = self._loaded.policy, self._loaded.config
        policy.reset()
        with torch.inference_mode():
            batches = [self._loaded.preprocessor(_batch(frame, observed.task)) for frame in observed.frames]
            batch = batches[-1]
            if len(batches) > 1:
                batch = batch | {n: torch.stack([b[n] for b in batches], 1) for n in config.input_features}
            actions: NDArray[np.float32] = self._in_units(policy.predict_action_chunk(batch)[0])
        return actions

    def scale(self) -> "NDArray[np.float32]":
        """What 1 of the policy's normalised units is in the robot's, ``[A]``."""
        count = self._loaded.config.output_features["action"].shape[0]
        with torch.inference_mode():
            ends = [self._in_units(torch.full((1, count), end)) for end in (1.0, 0.0)]
        return np.maximum(np.abs(ends[0] - ends[1])[0], np.finfo(np.float32).tiny)

    def _in_units(self, actions: torch.Tensor) -> "NDArray[np.float32]":
        found: NDArray[np.float32] = self._loaded.postprocessor(actions).to("cpu", torch.float32).numpy()
        return found


def _batch(frame: "dict[str, NDArray[Any]]", task: str) -> dict[str, Any]:
    batch: dict[str, Any] = {"task": [task]}
    for name, array in frame.items():
        tensor = torch.from_numpy(array)
        batch[name] = tensor.to(torch.float32) / 255 if tensor.dtype == torch.uint8 else tensor
    return batch


def exported_chunk(runtime: RuntimePolicy, observed: Observed) -> "NDArray[np.float32]":
    """Actions ``[n, A]`` of an export, its noise from torch's random numbers."""
    runtime.reset()
    runtime.history.extend(observed.frames[:-1])
    return runtime.chunk_from(observed.frames[-1], [observed.task], draw=draw_noise)[0]


def measure_errors(eager: Eager, runtime: RuntimePolicy, shown: Sequence[Observed]) -> Errors:
    """The largest difference of any action, the policies drawing the same noise.

    Raises:
        WorkError: An action is not finite.
    """
    scale, largest, in_units = eager.scale(), 0.0, 0.0
    for seed, observed in enumerate(shown):
        set_seed(seed)
        there = eager.chunk(observed).astype(np.float64)
        set_seed(seed)
        here = exported_chunk(runtime, observed)
        if here.shape != there.shape or not np.isfinite(here).all():
            what = f"{list(here.shape)}, torch {list(there.shape)}"
            raise WorkError(f"the export gives actions that are not finite, or of another shape: {what}")
        off = np.abs(here - there)
        largest, in_units = max(largest, float((off / scale).max())), max(in_units, float(off.max()))
    return Errors(largest, in_units)


def refuse_errors(errors: Errors, tolerance: float = TOLERANCE) -> None:
    """Refuse an export in float32 that is not the policy.

    Raises:
        WorkError: Its actions differ by more than the tolerance.
    """
    if not errors.largest <= tolerance:
        raise WorkError(
            f"the export is not the policy: its actions differ by up to {errors.largest:.3g} in normalised units "
            f"({errors.in_units:.3g} in the robot's), more than {tolerance:g}; nothing was written"
        )


def measure_latencies(
    eager: Eager, runtime: RuntimePolicy, shown: Sequence[Observed], repeats: int
) -> dict[str, dict[str, float]]:
    """`p50_ms` and `p99_ms` from an observation to a chunk, in torch and exported, measured in turn."""
    ways: dict[str, Callable[[Observed], Any]] = {
        "eager": eager.chunk,
        "exported": lambda observed: exported_chunk(runtime, observed),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(_WARM_UP + repeats):
        observed = shown[number % len(shown)]
        for name, way in ways.items():
            began = time.perf_counter()
            way(observed)
            if number >= _WARM_UP:
                times[name].append(time.perf_counter() - began)
    return {name: percentiles(found) for name, found in times.items()}
