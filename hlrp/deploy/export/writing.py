"""Tracing a program's functions and writing them as ONNX, OpenVINO IR or `torch.export` archives."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hlrp.deploy.export.programs import Named, Program, Tensors
from hlrp.runtime.engines import import_openvino, openvino_core

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
_IN_ONE_FILE = 1 << 30
"""Bytes of weights beyond which ONNX, whose files end at 2 GiB, keeps them in a file of their own."""


def write_program(
    program: Program,
    example: Tensors,
    folder: Path,
    kind: str,
    announce: Callable[[str], None],
    *,
    fold: bool = False,
) -> tuple[dict[str, str], int | None]:
    """Write the graphs of a policy.

    Args:
        program: The policy.
        example: An observation.
        folder: Where to.
        kind: `onnx`, or `torch`; OpenVINO's files are made from ONNX by `to_openvino`.
        announce: Told what is done.
        fold: Fold constants in ONNX, so that weights stand where products use them; engines do so when they load.

    Returns:
        Role to file, and the opset of ONNX.
    """
    files, opset = {}, None
    for role, function in program.roles(example):
        announce(f"tracing {role}")
        traced = _trace(function)
        path = folder / f"{role}{SUFFIXES[kind]}"
        files[role] = path.name
        announce(f"writing {path.name}")
        if kind == "torch":
            names = json.dumps({"inputs": function.inputs, "outputs": function.outputs})
            torch.export.save(traced, path, extra_files={"names.json": names})
        else:
            opset = _write_onnx(traced, function, path, fold)
    return files, opset


def _trace(function: Named) -> torch.export.ExportedProgram:
    with torch.no_grad(), _quiet():
        traced = torch.export.export(function.eval(), tuple(function.example.values()), strict=False)
    for module in traced.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                # Paths of this machine.
                node.meta.pop("stack_trace", None)
    # They would be pickled beside a `torch.export` archive.
    traced.example_inputs = None
    return traced


def _write_onnx(traced: torch.export.ExportedProgram, function: Named, path: Path, fold: bool) -> int:
    with torch.no_grad(), _quiet():
        made = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=list(function.inputs),
            output_names=list(function.outputs),
            optimize=fold,
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            # Where in the sources of this machine it is from.
            node.doc_string = ""
            del node.metadata_props[:]
    del model.metadata_props[:]
    save_onnx(model, path)
    return next(int(used.version) for used in model.opset_import if used.domain == "")


def save_onnx(model: Any, path: Path) -> None:
    """Write an ONNX model in place of what is there."""
    import onnx

    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    apart = sum(weights.ByteSize() for weights in model.graph.initializer) > _IN_ONE_FILE
    onnx.save(model, path, save_as_external_data=apart, location=f"{path.name}.data")


def to_openvino(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """Turn the ONNX files of a folder into OpenVINO's, which take their place."""
    openvino, core, made = import_openvino(), openvino_core(), {}
    for role, name in files.items():
        path = folder / name
        made[role] = path.with_suffix(SUFFIXES["openvino"]).name
        openvino.save_model(core.read_model(path), folder / made[role], compress_to_fp16=False)
        for old in folder.glob(f"{name}*"):
            old.unlink()
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the exporter about its own code."""
    names = ("onnxscript", "torch.onnx", "torch.export", "onnx_ir")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
