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
# In levels of 8 bits. Sums of float32 in another order are off by a few 1e-5 of a level.
_BORDER = 2e-4
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

    @property
    def rounds_pictures(self) -> bool:
        """Whether it resizes pictures and rounds the result to levels: the last digit decides at the border of two."""
        return self._pixels() is not None

    def level_effect(self, shown: Sequence[Observed]) -> float:
        """How far actions move, in normalised units, as what lies at the border of two levels is rounded up, or down.

        The largest sum of both for any observation: an engine may round some values up and others down.
        """
        pixels, scale, moved = self._pixels(), self.scale(), []
        for seed, observed in enumerate(shown):
            chunks = []
            for border in (0.0, _BORDER, -_BORDER):
                set_seed(seed)
                with pixels.rounding_from(border):
                    chunks.append(self.chunk(observed).astype(np.float64) / scale)
            moved.append(sum(float(np.abs(chunk - chunks[0]).max()) for chunk in chunks[1:]))
        return max(moved)

    def _pixels(self) -> Any:
        """What rounds them; None: nothing does."""
        pixels = getattr(getattr(self._loaded.policy, "backend", None), "pixels", None)
        return pixels if hasattr(pixels, "rounding_from") else None

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


def allowed_error(eager: Eager, runtime: RuntimePolicy, shown: Sequence[Observed], errors: Errors) -> float:
    """How far an export's actions may be from those of the policy in torch.

    It is `TOLERANCE`, unless the policy rounds resized pictures to levels and is off by more. What lies at the border
    of two levels is rounded either way by the last digit, as in torch on another machine. Pictures of one colour have
    nothing at a border: with these the export has to be the policy within `TOLERANCE`. With those that are shown it may
    be off by as much more as the policy itself moves when all that lies at a border is rounded up, and down.

    Raises:
        WorkError: It is not the policy with pictures of one colour.
    """
    if errors.largest <= TOLERANCE or not eager.rounds_pictures:
        return TOLERANCE
    refuse_errors(measure_errors(eager, runtime, [_in_one_colour(observed) for observed in shown]))
    return TOLERANCE + eager.level_effect(shown)


def _in_one_colour(observed: Observed) -> Observed:
    """The observation with pictures of their mean colour, in whole levels."""

    def flat(array: "NDArray[Any]") -> "NDArray[Any]":
        if array.dtype != np.uint8:
            return array
        mean = array.mean((-2, -1), keepdims=True).round().astype(np.uint8)
        return np.broadcast_to(mean, array.shape).copy()

    return Observed([{name: flat(array) for name, array in frame.items()} for frame in observed.frames], observed.task)


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
