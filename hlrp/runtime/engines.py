"""The libraries that compute a graph: onnxruntime, openvino, or torch for the format of that name."""

import json
import logging
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hlrp.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENGINES = {"onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",), "torch": ("torch",)}
"""Format to the packages that run it, the usual one first."""


class Graph:
    """A graph that is ready to run: arrays by name in, arrays by name out. Copies are the same graph.

    Args:
        run: Computes the outputs in order of the inputs in order.
        inputs: Names of what it takes.
        outputs: Names of what it gives.
    """

    def __init__(
        self,
        run: "Callable[[list[NDArray[Any]]], list[NDArray[Any]]]",
        inputs: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        self._run, self._inputs, self._outputs = run, inputs, outputs

    def __call__(self, given: "Mapping[str, NDArray[Any]]") -> "dict[str, NDArray[Any]]":
        """The outputs; of what is given, it takes what it needs."""
        return dict(zip(self._outputs, self._run([given[name] for name in self._inputs]), strict=True))

    def __deepcopy__(self, _: object) -> Self:
        return self


def choose_engine(kind: str, asked: str | None) -> str:
    """The package that is to run a format.

    Raises:
        UserError: It cannot, or is not installed.
    """
    able = ENGINES[kind]
    if asked is not None and asked not in able:
        raise UserError(f"{asked!r} does not run format {kind}", where="engine", fix=f"use {' or '.join(able)}")
    for name in (asked,) if asked else able:
        if find_spec(name) is not None:
            return name
    raise UserError(
        f"an export of format {kind} needs {' or '.join(able)}", where="hlrp.runtime", fix=f"pip install {able[0]}"
    )


def open_graph(path: Path, engine: str, *, threads: int | None = None, bf16: bool = False) -> Graph:
    """Load a graph.

    Args:
        path: Its file.
        engine: From `choose_engine`.
        threads: To compute with; None: as many as the engine thinks best.
        bf16: Let openvino compute in bfloat16, where the processor can.

    Raises:
        UserError: The file cannot be loaded.
    """
    try:
        if engine == "onnxruntime":
            return _onnxruntime(path, threads)
        return _openvino(path, threads, bf16) if engine == "openvino" else _torch(path)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{engine} cannot load the graph: {' '.join(str(error).split())[:300]}", where=str(path), fix="export again"
        ) from error


def _onnxruntime(path: Path, threads: int | None) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs, outputs = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]

    def run(given: "list[NDArray[Any]]") -> "list[NDArray[Any]]":
        found: list[NDArray[Any]] = session.run(outputs, dict(zip(inputs, given, strict=True)))
        return found

    return Graph(run, inputs, outputs)


def import_openvino() -> Any:
    """The package, kept from reporting over the network that it is imported."""
    if "openvino" not in sys.modules:
        # It has a stand-in for where this one is not installed.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def openvino_core() -> Any:
    """The one core of this process, which stays.

    On processors with AMX each core (2026.4) brings the stack on which its thread runs signal handlers, and puts the
    one before back when it is released: another core's may be freed by then, and the next signal ends the process.
    """
    return import_openvino().Core()


def _openvino(path: Path, threads: int | None, bf16: bool) -> Graph:
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Left to itself it computes in bfloat16 on processors that can.
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        # Its fused attention (2026.4, on processors without AVX-512) sees too little of a prefix that is longer than
        # the one before: an instruction of eleven words after one of five gave other keys.
        "SNIPPETS_MODE": "DISABLE",
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    graph = openvino_core().read_model(path)
    if any(map(_loses_antialiasing, graph.get_ops())):
        other = "load it with engine='onnxruntime', or " if path.suffix == ".onnx" else ""
        raise UserError(
            "the graph makes pictures smaller in a way that openvino computes wrongly: without antialiasing",
            where=str(path),
            fix=f"{other}export again",
        )
    model = openvino_core().compile_model(graph, "CPU", settings)
    request = model.create_infer_request()

    def run(given: "list[NDArray[Any]]") -> "list[NDArray[Any]]":
        found = request.infer(given, share_inputs=True)
        # Its own memory is written again by the next request.
        return [np.array(found[output]) for output in model.outputs]

    return Graph(run, [*map(_end, model.inputs)], [*map(_end, model.outputs)])


def _loses_antialiasing(node: Any) -> bool:
    """Whether it resizes to fewer pixels with antialiasing, which openvino (2026.4) leaves out."""
    if node.get_type_name() != "Interpolate" or not node.get_attributes()["antialias"]:
        return False
    before, after = node.get_input_partial_shape(0), node.get_output_partial_shape(0)
    if before.is_dynamic or after.is_dynamic:
        return True
    return any(fewer < more for more, fewer in zip(before.to_shape(), after.to_shape(), strict=True))


def _end(port: Any) -> str:
    """The name of an input or output in the graph's file.

    openvino knows a tensor by the names of its copies inside, too, and what is called so in one graph may be something
    else in the next.

    Raises:
        ValueError: It has lost it.
    """
    name: str = port.node.friendly_name.removesuffix("/sink_port_0")
    if name not in port.names:
        raise ValueError(f"{name} is not among its names {sorted(port.names)}")
    return name


def _torch(path: Path) -> Graph:
    import torch

    if pickled := _pickled(path):
        raise UserError(f"the graph holds pickled data: {pickled}", where=str(path), fix="do not use this file")
    # It says of each empty tensor that it is one.
    logging.getLogger("torch.export.pt2_archive._package").setLevel(logging.ERROR)
    # The names, which torch itself does not keep.
    names: dict[str, str] = {"names.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that its buffers cannot be written, which nobody does
        program = torch.export.load(path, extra_files=names)
    named, module = json.loads(names["names.json"]), program.module()

    def run(given: "list[NDArray[Any]]") -> "list[NDArray[Any]]":
        with torch.inference_mode():
            return [output.numpy() for output in module(*map(torch.from_numpy, given))]

    return Graph(run, named["inputs"], named["outputs"])


def _pickled(path: Path) -> str | None:
    """A file of the archive that torch would unpickle; None: there is none."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.file_size and entry.filename.endswith((".pt", ".pkl")):
                return entry.filename
            if entry.filename.endswith("_config.json"):
                weights = json.loads(archive.read(entry)).get("config", {})
                if any(weight.get("use_pickle") for weight in weights.values()):
                    return entry.filename
    return None
