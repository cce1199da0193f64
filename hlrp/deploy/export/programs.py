"""What a policy computes for one observation, as functions of tensors that can be traced into graphs.

A new kind of policy is one class, and one line in `PROGRAMS`. Shapes: n actions of a chunk, A numbers of an action.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from lerobot.processor import (
    DeviceProcessorStep,
    NewLineTaskProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    TokenizerProcessorStep,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hlrp.errors import UserError
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.runtime.manifest import ENCODE, STEP, WHOLE, Noise
from hlrp.runtime.policy import ACTIONS, NEXT, NOISE, NUMBER, SAMPLE, TOKENS, TOKENS_MASK

Tensors = dict[str, Tensor]

# What a robot's side does in other ways: names, tokens and devices.
_OUTSIDE = (RenameObservationsProcessorStep, NewLineTaskProcessorStep, TokenizerProcessorStep, DeviceProcessorStep)


class _ResizeAsProducts(TorchFunctionMode):
    """Inside, antialiased resizing is two products with constant weights, as it is linear along each axis.

    ONNX has a node for it, but OpenVINO (2026.4) computes that without antialiasing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[tuple[Any, ...], Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is not functional.interpolate or not options.get("antialias") or options.get("size") is None:
            return func(*args, **options)
        pixels, size = args[0] if args else options.pop("input"), options.pop("size")
        height, width = (size, size) if isinstance(size, int) else size
        wide: Tensor = pixels @ self._between(pixels.shape[-1], width, pixels.dtype, options)
        return self._between(pixels.shape[-2], height, pixels.dtype, options).mT @ wide

    def _between(self, before: int, after: int, dtype: torch.dtype, options: dict[str, Any]) -> Tensor:
        """What each place of an axis, by rows, gives to each of its places afterwards."""
        key = (before, after, dtype, options.get("mode"), options.get("align_corners"))
        if key not in self._weights:
            # Each row is a picture of one line, with light in one place.
            light = torch.eye(before, dtype=dtype)[None, None]
            self._weights[key] = functional.interpolate(light, size=(before, after), **options)[0, 0]
        return self._weights[key]


class Named(nn.Module):
    """A function of tensors by name as a module of tensors in order, which is what torch traces.

    Args:
        policy: Whose weights it uses.
        compute: The function.
        example: What it takes. It is run once: what a policy makes at its first observation and keeps, tracing would
            leave in it as tensors without numbers.
    """

    def __init__(self, policy: nn.Module, compute: Callable[[Tensors], Tensors], example: Tensors) -> None:
        super().__init__()
        self.policy, self._compute, self.example = policy, compute, example
        self._resizing = _ResizeAsProducts()
        with torch.no_grad(), self._resizing:
            self.found = compute(example)
        self.inputs, self.outputs = tuple(example), tuple(self.found)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The function's values in the order of `outputs`."""
        with self._resizing:
            return tuple(self._compute(dict(zip(self.inputs, tensors, strict=True))).values())


class Program:
    """A policy with its processors, in one graph or, where it denoises, in two: `encode` and `step`.

    Args:
        loaded: The policy, in float32.
    """

    steps: int = 0
    """Denoising steps; 0: one graph, of `act`."""
    noise: Noise | None = None
    language: ClassVar[bool] = False

    def __init__(self, loaded: LoadedPolicy) -> None:
        self.loaded, self.policy, self.config = loaded, loaded.policy, loaded.config
        kept = [step for step in loaded.preprocessor.steps if not isinstance(step, _OUTSIDE)]
        before = loaded.preprocessor
        self._before: PolicyProcessorPipeline[Any, Any] = PolicyProcessorPipeline(
            kept, to_transition=before.to_transition, to_output=before.to_output
        )
        self.pictures = {n for n, f in self.config.input_features.items() if f.type.value == "VISUAL"}

    # ---- what each kind of policy has of its own

    def act(self, batch: dict[str, Any]) -> Tensor:
        """A chunk ``[1, n, A]``, normalised, where there is one graph."""
        return self.policy.predict_action_chunk(batch)

    def encode(self, batch: dict[str, Any]) -> Tensors:
        """What a denoising step needs to know of an observation."""
        raise NotImplementedError

    def denoise(self, sample: Tensor, number: Tensor, noise: Tensor | None, encoded: Mapping[str, Tensor]) -> Tensor:
        """The sample after step ``number``, int64 ``[1]``."""
        raise NotImplementedError

    def chunk(self, sample: Tensor) -> Tensor:
        """The chunk ``[1, n, A]``, normalised, that a sample is."""
        return sample

    def tokens(self, instruction: str) -> list[int]:
        """Token ids of an instruction, where the policy reads language."""
        raise NotImplementedError

    def reads_language(self) -> bool:
        """Whether other instructions give other tokens; the others have one prompt for all."""
        return self.language

    @contextmanager
    def _tokens_given(self, batch: dict[str, Any], given: Tensors) -> Iterator[dict[str, Any]]:
        """A preprocessed batch with the tokens where the policy finds them."""
        yield batch

    # ---- what they have in common

    def roles(self, example: Tensors) -> Iterator[tuple[str, Named]]:
        """The graphs: role and function.

        Args:
            example: An observation: pictures uint8 ``[1, C, H, W]``, numbers float32, tokens.
        """
        if not self.steps:
            yield WHOLE, Named(self.policy, self._act, example)
            return
        encode = Named(self.policy, self._encode, example)
        yield ENCODE, encode
        assert self.noise is not None
        sample = torch.zeros(1, *self.noise.shape)
        # Another tensor: of one that is given twice, tracing would make one input.
        again = {NOISE: torch.ones_like(sample)} if self.noise.draws > 1 else {}
        taken = {SAMPLE: sample, NUMBER: torch.zeros(1, dtype=torch.int64)} | again | encode.found
        yield STEP, Named(self.policy, self._step, taken)

    def _batch(self, given: Tensors) -> dict[str, Any]:
        batch: dict[str, Any] = {"task": [""]}
        for name, value in given.items():
            if name not in (TOKENS, TOKENS_MASK, NOISE):
                batch[name] = value.to(torch.float32) / 255 if name in self.pictures else value
        return self._before(batch)

    def _act(self, given: Tensors) -> Tensors:
        with self._tokens_given(self._batch(given), given) as batch:
            return {ACTIONS: self._in_units(self.act(batch))}

    def _encode(self, given: Tensors) -> Tensors:
        with self._tokens_given(self._batch(given), given) as batch:
            # A graph may not give out what it was given, or one tensor twice.
            return {name: tensor.clone() for name, tensor in self.encode(batch).items()}

    def _step(self, given: Tensors) -> Tensors:
        sample = self.denoise(given[SAMPLE], given[NUMBER], given.get(NOISE), given)
        return {NEXT: sample, ACTIONS: self._in_units(self.chunk(sample))}

    def _in_units(self, chunk: Tensor) -> Tensor:
        """Actions ``[n, A]`` of the robot."""
        actions: Tensor = self.loaded.postprocessor(chunk[0].float())
        return actions


class ACTProgram(Program):
    """ACT: one pass; its latent is zero when it acts."""


class FlowProgram(Program, ABC):
    """A policy that integrates a flow in `num_steps` steps of Euler's, from noise at time 1 to actions at time 0."""

    def __init__(self, loaded: LoadedPolicy) -> None:
        super().__init__(loaded)
        if (rtc := getattr(self.config, "rtc_config", None)) is not None and rtc.enabled:
            raise UserError(
                "real-time chunking guides the denoising steps, which an export cannot",
                where="rtc_config",
                fix="export a checkpoint whose config.json has rtc_config null",
            )
        self.steps = int(self.config.num_steps)
        self._times = torch.tensor([1.0 - step / self.steps for step in range(self.steps)])

    @abstractmethod
    def velocity(self, sample: Tensor, time: Tensor, encoded: Mapping[str, Tensor]) -> Tensor:
        """The flow at ``sample`` and ``time`` ``[1]``."""

    def denoise(self, sample: Tensor, number: Tensor, noise: Tensor | None, encoded: Mapping[str, Tensor]) -> Tensor:
        """One of Euler's steps."""
        return sample - self.velocity(sample, self._times[number], encoded) / self.steps


def make_program(loaded: LoadedPolicy) -> Program:
    """What a policy computes.

    Raises:
        UserError: Policies of its type cannot be exported.
    """
    from hlrp.deploy.export.diffusion import DiffusionProgram
    from hlrp.deploy.export.vlm_policies import ExpertProgram, SmolVLAProgram, VLADirectProgram

    known: dict[str, type[Program]] = {
        "act": ACTProgram,
        "diffusion": DiffusionProgram,
        "smolvla": SmolVLAProgram,
        "hlrp_vla_direct": VLADirectProgram,
        "hlrp_action_expert_latent": ExpertProgram,
        "hlrp_action_expert_direct": ExpertProgram,
    }
    name = loaded.config.type
    if name not in known:
        raise UserError(
            f"policies of type {name!r} cannot be exported",
            where="RUN",
            fix=f"known: {', '.join(known)}; `hlrp serve` takes any policy",
        )
    if getattr(loaded.config, "sources", None) or getattr(loaded.config, "action_spaces", None):
        raise UserError(
            "a policy of a mixture sees with the cameras that are there, which a graph cannot",
            where="RUN",
            fix="`hlrp serve` takes it, with --action-space NAME if it knows several robots",
        )
    return known[name](loaded)
