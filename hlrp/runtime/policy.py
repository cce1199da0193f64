"""An exported policy that acts: its graphs, its queue of actions, what it remembers of an episode.

Shapes: B robots or simulators side by side, A numbers of an action.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hlrp.errors import UserError
from hlrp.runtime.engines import Graph, choose_engine, open_graph
from hlrp.runtime.manifest import ENCODE, STEP, WHOLE, Input, Instructions, Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Draw = Callable[[tuple[int, ...]], NDArray[np.float32]]

ACTIONS, SAMPLE, NEXT, NOISE, NUMBER = "actions", "sample", "next_sample", "noise", "number"
TOKENS, TOKENS_MASK = "tokens", "tokens_mask"
TASK = ("task", "prompt")


def refuse_incomplete(given: Iterable[str], read: Iterable[str]) -> None:
    """Refuse an observation that lacks what a policy reads.

    Args:
        given: What the observation has, by the policy's names.
        read: What the policy reads.

    Raises:
        UserError: Naming what is missing, and what is there.
    """
    have, wanted = list(given), list(read)
    if missing := [name for name in wanted if name not in have]:
        raise UserError(
            f"the observation lacks {', '.join(missing)}; it has {', '.join(map(str, have)) or 'nothing'}",
            where="observation",
            fix=f"the policy reads {', '.join(wanted)}",
        )


def load(
    folder: str | Path, *, engine: str | None = None, threads: int | None = None, seed: int | None = None
) -> "RuntimePolicy":
    """Load an exported policy.

    Args:
        folder: What `hlrp export` wrote.
        engine: `onnxruntime` or `openvino` for format onnx; None: the first that is installed.
        threads: To compute with; None: as many as the engine thinks best.
        seed: Start of the random numbers; None: another one every time.

    Raises:
        UserError: It is no export, damaged, or nothing here can run it.
    """
    path = Path(folder)
    manifest = Manifest.read(path)
    if problem := manifest.problem(path):
        raise UserError(f"the export is damaged: {problem}", where=str(path), fix="copy it again, or export again")
    chosen = choose_engine(manifest.format, engine)
    bf16 = manifest.quantize == "bf16"
    graphs = {
        role: open_graph(path / name, chosen, threads=threads, bf16=bf16) for role, name in manifest.graphs.items()
    }
    return RuntimePolicy(manifest, graphs, np.random.default_rng(seed), engine=chosen)


class RuntimePolicy:
    """A policy as an export holds it.

    Args:
        manifest: What it is.
        graphs: Role to graph.
        random: Where noise is drawn from.
        engine: What runs the graphs.
    """

    def __init__(
        self, manifest: Manifest, graphs: Mapping[str, Graph], random: np.random.Generator, *, engine: str
    ) -> None:
        self.manifest, self.engine = manifest, engine
        self._graphs, self._random = dict(graphs), random
        self.history: deque[dict[str, NDArray[Any]]] = deque(maxlen=manifest.history)
        """The newest observations, each ``[B, ...]``."""
        self.queue: deque[NDArray[np.float32]] | None = None
        """Actions ``[B, A]`` that are left; None with temporal ensembling."""
        if manifest.ensemble is None:
            self.queue = deque(maxlen=manifest.n_action_steps)
        self._chunks: deque[NDArray[np.float32]] = deque(maxlen=manifest.chunk)

    def reset(self) -> None:
        """Forget the episode; its random numbers go on."""
        self.history.clear()
        self._chunks.clear()
        if self.queue is not None:
            self.queue.clear()

    def select_action(
        self, observation: Mapping[str, Any], *, noise: "NDArray[np.float32] | None" = None
    ) -> "NDArray[np.float32]":
        """The next action of one robot, float32 ``[A]`` in its units; a new chunk is computed when none is left.

        Args:
            observation: Pictures uint8 ``[H, W, C]`` or ``[C, H, W]``, numbers, and the instruction as `task`;
                where it knows a single one, that is meant if none is given.
            noise: ``[draws, *shape]`` of the manifest for a new chunk; drawn if None.

        Raises:
            UserError: The observation does not fit, or the instruction is not known.
        """
        arrays, task = self.read(observation)
        return self.step(arrays, [task], draw=_given(noise))[0]

    def predict_chunk(
        self, observation: Mapping[str, Any], *, noise: "NDArray[np.float32] | None" = None
    ) -> "NDArray[np.float32]":
        """All actions from an observation on, ``[n, A]``; the queue and what is remembered stay as they are."""
        arrays, task = self.read(observation)
        return self.chunk_from(arrays, [task], draw=_given(noise))[0]

    def step(
        self, arrays: "Mapping[str, NDArray[Any]]", tasks: Sequence[str], *, draw: "Draw | None" = None
    ) -> "NDArray[np.float32]":
        """The next actions ``[B, A]`` of robots or simulators that act in step.

        Args:
            arrays: Checked observations, by the policy's names, ``[B, ...]``.
            tasks: B instructions.
            draw: Gives noise of a shape; None: the policy's own.
        """
        chunk = None if self.queue else self.chunk_from(arrays, tasks, draw=draw)
        self.history.extend(self._seen(arrays))
        if self.queue is None:
            assert chunk is not None
            return self._ensembled(chunk)
        if chunk is not None:
            self.queue.extend(chunk.swapaxes(0, 1)[: self.manifest.n_action_steps])
        return self.queue.popleft()

    def chunk_from(
        self, arrays: "Mapping[str, NDArray[Any]]", tasks: Sequence[str], *, draw: "Draw | None" = None
    ) -> "NDArray[np.float32]":
        """Chunks ``[B, n, A]`` from observations on, which are not remembered; see `step`."""
        seen = self._seen(arrays)
        shown = {name: np.stack([o[name] for o in seen], 1) if len(seen) > 1 else seen[0][name] for name in arrays}
        noise = self._noise(len(tasks), draw)
        rows = []
        for i, task in enumerate(tasks):
            own = {name: array[i : i + 1] for name, array in shown.items()}
            rows.append(self._row(own, task, None if noise is None else noise[i]))
        return np.stack(rows)

    def read(self, observation: Mapping[str, Any]) -> "tuple[dict[str, NDArray[Any]], str]":
        """One robot's observation as arrays ``[1, ...]`` by the policy's names, and its instruction.

        Raises:
            UserError: Something is missing, or has another shape.
        """
        renamed = {self.manifest.rename_map.get(name, name): value for name, value in observation.items()}
        refuse_incomplete(renamed, self.manifest.inputs)
        arrays = {
            name: (_picture if wanted.picture else _numbers)(name, renamed[name], wanted)[None]
            for name, wanted in self.manifest.inputs.items()
        }
        task = next((str(observation[key]) for key in TASK if key in observation), self.manifest.only_task or "")
        self.ids(task)
        return arrays, task

    def ids(self, task: str) -> list[int]:
        """Token ids of an instruction; none for a policy that reads no language.

        Raises:
            UserError: It was not there when the policy was exported.
        """
        instructions = self.manifest.instructions
        if instructions is None:
            return []
        if not instructions.used:
            return next(iter(instructions.known.values()))
        self.manifest.check_task(task)
        return instructions.known[task]

    def _seen(self, arrays: "Mapping[str, NDArray[Any]]") -> "list[dict[str, NDArray[Any]]]":
        """The newest observations with this one, as many as the policy looks at."""
        seen = [*self.history, dict(arrays)]
        # An episode's first observation stands for those before it.
        seen += [dict(arrays)] * (self.manifest.history - len(seen))
        return seen[-self.manifest.history :]

    def _noise(self, count: int, draw: "Draw | None") -> "NDArray[np.float32] | None":
        wanted = self.manifest.noise
        if wanted is None:
            return None
        shape = (count, *wanted.shape)
        draw = draw or (lambda size: self._random.standard_normal(size, np.float32))
        # In the order in which the policy in torch draws them.
        return np.stack([draw(shape) for _ in range(wanted.draws)], 1)

    def _row(
        self, arrays: "dict[str, NDArray[Any]]", task: str, noise: "NDArray[np.float32] | None"
    ) -> "NDArray[np.float32]":
        given = arrays
        if (instructions := self.manifest.instructions) is not None:
            given = given | _tokens(self.ids(task), instructions)
        if WHOLE in self._graphs:
            whole = self._graphs[WHOLE](given if noise is None else given | {NOISE: noise[:1]})
            return whole[ACTIONS]
        assert noise is not None
        found = self._graphs[ENCODE](given) | {SAMPLE: noise[:1]}
        for number in range(self.manifest.steps):
            found[NUMBER] = np.asarray([number], np.int64)
            if number + 1 < len(noise):
                found[NOISE] = noise[number + 1 : number + 2]
            elif len(noise) > 1:
                found[NOISE] = np.zeros_like(noise[:1])
            found |= self._graphs[STEP](found)
            found[SAMPLE] = found[NEXT]
        return found[ACTIONS]

    def _ensembled(self, chunk: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """The mean of what all chunks say of now, older ones counting more (or less), as ACT's authors have it."""
        self._chunks.append(chunk)
        says = np.stack([c[:, age] for age, c in enumerate(reversed(self._chunks))][::-1])
        assert self.manifest.ensemble is not None
        weights = np.exp(-self.manifest.ensemble * np.arange(len(says)))
        mean = np.tensordot(weights / weights.sum(), says.astype(np.float64), 1)
        return mean.astype(np.float32)


def _given(noise: "NDArray[np.float32] | None") -> "Draw | None":
    if noise is None:
        return None
    draws = iter(noise)
    return lambda _: next(draws)[None]


def _tokens(ids: list[int], instructions: Instructions) -> "dict[str, NDArray[Any]]":
    padded = ids + [0] * (instructions.length - len(ids))
    return {
        TOKENS: np.asarray([padded], np.int64),
        TOKENS_MASK: (np.arange(instructions.length) < len(ids))[None],
    }


def _picture(name: str, value: object, wanted: Input) -> "NDArray[np.uint8]":
    channels, height, width = wanted.shape
    picture = np.asarray(value)
    if picture.dtype == np.uint8 and picture.shape == (height, width, channels):
        return np.ascontiguousarray(picture.transpose(2, 0, 1))
    if picture.dtype == np.uint8 and picture.shape == wanted.shape:
        return np.ascontiguousarray(picture)
    raise UserError(
        f"{name} is {picture.dtype} {list(picture.shape)}, the export takes uint8 [{height}, {width}, {channels}]",
        where="observation",
        fix="resize the picture before, or export a policy that was trained on pictures of that size",
    )


def _numbers(name: str, value: object, wanted: Input) -> "NDArray[np.float32]":
    try:
        numbers = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} holds no numbers: {error}", where="observation", fix="give an array") from error
    if numbers.shape != wanted.shape or not np.isfinite(numbers).all():
        raise UserError(
            f"{name} has the shape {list(numbers.shape)}, the policy takes {list(wanted.shape)}, all of them finite",
            where="observation",
            fix="correct what the robot sends",
        )
    return numbers
