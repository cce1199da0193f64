"""One client's own state of a policy: what it has queued, seen and drawn in its episode. The weights are shared."""

import contextlib
import copy
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lerobot.utils.random_utils import get_rng_state, set_rng_state, set_seed
from torch._dynamo import OptimizedModule

from hlrp.deploy.observations import Request
from hlrp.errors import UserError, WorkError
from hlrp.evaluation.frames import reads_next_observation
from hlrp.evaluation.policy import LoadedPolicy

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Session:
    """A policy and its processors with a state of their own, as if nobody else used them.

    Args:
        loaded: The policy; its parameters and what is compiled of it are used, all else is copied.
        seed: Start of the random numbers of every episode; None: those of the process, in the order of the requests.
        alone: There is never another session at the same time, so nothing is copied.

    Raises:
        UserError: The policy holds something that cannot be copied.
    """

    def __init__(self, loaded: LoadedPolicy, *, seed: int | None = None, alone: bool = False) -> None:
        self._config, self._seed = loaded.config, seed
        own = (loaded.policy, loaded.preprocessor, loaded.postprocessor)
        self._policy, self._preprocessor, self._postprocessor = own if alone else _own_state(*own)
        self._random: dict[str, Any] | None = None
        self.begin_episode()

    def begin_episode(self) -> None:
        """Forget the episode, and start its random numbers anew where there is a seed."""
        for part in (self._policy, self._preprocessor, self._postprocessor):
            part.reset()
        if self._seed is not None:
            set_seed(self._seed)
            self._random = get_rng_state()

    def act(self, request: Request) -> "NDArray[np.float32]":
        """The actions of the policy from now until it looks at another observation, in the robot's own units.

        They are those that `select_action` gives one by one: a whole chunk, where the policy takes its actions from a
        queue, or one, where it looks at every observation.

        Returns:
            float32 `[n, A]`, n of at least 1.

        Raises:
            WorkError: An action is not finite.
        """
        device = torch.device(self._config.device)
        amp = torch.autocast(device_type=device.type) if self._config.use_amp else contextlib.nullcontext()
        with self._random_numbers(), torch.inference_mode(), amp:
            batch = self._preprocessor(_batch(request, device))
            found = [self._action(batch)]
            while not reads_next_observation(self._policy):
                found.append(self._action(batch))
        actions = np.stack(found)
        if not np.isfinite(actions).all():
            raise WorkError("the policy gave actions that are not finite")
        return actions

    def _action(self, batch: dict[str, Any]) -> "NDArray[np.float32]":
        action = self._postprocessor(self._policy.select_action(batch))
        array: NDArray[np.float32] = action.to("cpu", torch.float32).numpy()[0]
        return array

    @contextlib.contextmanager
    def _random_numbers(self) -> Iterator[None]:
        if self._random is None:
            yield
            return
        set_rng_state(self._random)
        yield
        self._random = get_rng_state()


def _batch(request: Request, device: torch.device) -> dict[str, Any]:
    """A batch of one, as LeRobot's rollout gives it to the preprocessor."""
    batch: dict[str, Any] = {"task": [request.prompt]}
    for name, array in request.arrays.items():
        values = torch.from_numpy(array).to(device)
        if values.dtype == torch.uint8:
            values = values.to(torch.float32).div_(255)
        batch[name] = values.unsqueeze(0)
    return batch


def _own_state(policy: Any, preprocessor: Any, postprocessor: Any) -> tuple[Any, Any, Any]:
    """Copies in which whatever may change is their own: queues, histories, buffers, processor steps and their links."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in policy.parameters()}
    # What is compiled computes from what it is given. A copy of it would not be compiled, or anew for each client.
    compiled = (m for m in policy.modules() if m._compiled_call_impl is not None or isinstance(m, OptimizedModule))
    shared |= {id(module): module for module in compiled}
    if (transformers := sys.modules.get("transformers")) is not None:
        # Copying a tokenizer means reading its vocabulary again, seconds of some; requests use it one after another.
        kinds = (transformers.PreTrainedTokenizerBase, transformers.ProcessorMixin)
        for holder in (*policy.modules(), *preprocessor.steps, *postprocessor.steps):
            shared |= {id(value): value for value in vars(holder).values() if isinstance(value, kinds)}
    try:
        # Together, since steps of one processor may hold those of the other.
        own = copy.deepcopy((policy, preprocessor, postprocessor), shared)
    except Exception as error:
        raise UserError(
            f"policy {policy.config.type!r} holds something that cannot be copied, so clients cannot each have a state "
            f"of their own: {error}",
            where="--max-clients",
            fix="serve one client at a time: --max-clients 1",
        ) from error
    return own
