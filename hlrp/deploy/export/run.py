"""`export_policy`: from a checkpoint to a folder that `hlrp.runtime` acts from."""

import copy
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
)

import hlrp
from hlrp.deploy.export.check import Eager, allowed_error, measure_errors, measure_latencies, refuse_errors
from hlrp.deploy.export.observed import Observed, find_data, made_up, recorded, tasks_of
from hlrp.deploy.export.programs import Program, Tensors, make_program
from hlrp.deploy.export.quantize import quantize_onnx
from hlrp.deploy.export.request import ExportRequest, check_request
from hlrp.deploy.export.writing import to_openvino, write_program
from hlrp.deploy.served import data_of, numbers_said, origin_said
from hlrp.errors import UserError
from hlrp.evaluation.plan import dataset_roots, described_environment, find_run, recorded_seeds
from hlrp.evaluation.policy import LoadedPolicy, effective_rename_map, load_policy, policy_config
from hlrp.files import new_folder, sha256_of, write_json
from hlrp.runtime import RuntimePolicy, load
from hlrp.runtime.manifest import MANIFEST, Input, Instructions, Manifest
from hlrp.runtime.policy import TOKENS, TOKENS_MASK


def export_policy(request: ExportRequest, announce: Callable[[str], None]) -> Manifest:
    """Export a policy; the folder appears when it is complete and does what the policy does.

    Args:
        request: What to export.
        announce: Told what is done.

    Raises:
        UserError: The policy cannot be exported, or not so.
        WorkError: The export differs from the policy.
    """
    pretrained = check_request(request)
    announce("loading the policy")
    export = _Export(request, pretrained)
    with new_folder(request.output.absolute()) as folder:
        folder.mkdir()
        manifest = export.write(folder, announce)
    return manifest


def _load(pretrained: Path) -> LoadedPolicy:
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    config = policy_config(pretrained, "cpu")
    # What is traced is not compiled as well; but a compiled diffusion policy's weights have other names.
    if getattr(config, "compile_model", False) and config.type != "diffusion":
        config.compile_model = False
    return load_policy(config, None, effective_rename_map(pretrained, {}), rename_given=False)


def _in_float32(loaded: LoadedPolicy) -> LoadedPolicy:
    """The policy, or a copy in float32 of one whose weights are in less."""
    if all(weight.dtype == torch.float32 for weight in loaded.policy.parameters()):
        return loaded
    return replace(loaded, policy=copy.deepcopy(loaded.policy).float())


@dataclass(frozen=True)
class _Seen:
    """What the policy is compared on.

    Args:
        observations: Some.
        source: `recorded` or `made up`.
        tasks: Instructions that are known of the data.
    """

    observations: list[Observed]
    source: str
    tasks: list[str]


class _Export:
    """The making of one export.

    Args:
        request: What to export.
        pretrained: The checkpoint.
    """

    def __init__(self, request: ExportRequest, pretrained: Path) -> None:
        self._request, self._pretrained = request, pretrained
        self._loaded = _load(pretrained)
        # What a checkpoint in bfloat16 does in float32 is what an export in float32 has to do.
        self._checked = _in_float32(self._loaded)
        self._config = self._loaded.config
        self._program: Program = make_program(self._checked)
        self._rename = effective_rename_map(pretrained, {})
        self._run = find_run(pretrained)
        self._history = int(getattr(self._config, "n_obs_steps", 1))
        self._inputs = {
            name: Input(tuple(feature.shape), feature.type.value == "VISUAL")
            for name, feature in self._config.input_features.items()
            # LeRobot's name for cameras that no robot has.
            if "empty_camera" not in name
        }
        self._seen = self._observations()
        self._eager = Eager(self._checked)

    def write(self, folder: Path, announce: Callable[[str], None]) -> Manifest:
        """Fill the folder.

        Raises:
            WorkError: The export differs from the policy.
        """
        kind, quantize = self._request.kind, self._request.quantize
        instructions = self._instructions()
        example = self._example(instructions)
        written = "torch" if kind == "torch" else "onnx"
        graphs, opset = write_program(self._program, example, folder, written, announce, fold=quantize is not None)
        self._write_configuration(folder)
        # What is quantized is made of graphs that are right.
        first = written if quantize else kind
        if first == "openvino":
            announce("converting to OpenVINO")
            graphs = to_openvino(folder, graphs)
        manifest = self._manifest(first, graphs, opset, instructions)
        announce("comparing with the policy in torch")
        runtime = _open(folder, manifest)
        errors = measure_errors(self._eager, runtime, self._seen.observations)
        tolerance = allowed_error(self._eager, runtime, self._seen.observations, errors)
        refuse_errors(errors, tolerance)
        check = {"observations": len(self._seen.observations), "source": self._seen.source, "tolerance": tolerance}
        check |= {"max_error": errors.largest, "max_error_in_units": errors.in_units}
        if quantize:
            announce(f"quantizing to {quantize}")
            for name in graphs.values():
                quantize_onnx(folder / name, quantize, kind)
            if kind == "openvino":
                graphs = to_openvino(folder, graphs)
            manifest = replace(manifest, format=kind, graphs=graphs, quantize=quantize)
            runtime = _open(folder, manifest)
            errors = measure_errors(self._eager, runtime, self._seen.observations)
            check |= {"quantized_max_error": errors.largest, "quantized_max_error_in_units": errors.in_units}
        announce("measuring latencies")
        latency = self._latency(runtime)
        manifest = replace(manifest, check=check, latency=latency, files=_digests(folder))
        write_json(folder / MANIFEST, manifest.to_json())
        return manifest

    def _latency(self, runtime: RuntimePolicy) -> dict[str, Any]:
        # The policy as its checkpoint has it, which may be in bfloat16.
        found = measure_latencies(Eager(self._loaded), runtime, self._seen.observations, self._request.repeats)
        machine = platform.processor() or platform.machine()
        return {
            **found,
            "chunks": self._request.repeats,
            "engine": runtime.engine,
            "threads": torch.get_num_threads(),
            "machine": machine,
        }

    def _observations(self) -> _Seen:
        data = find_data(dataset_roots(self._pretrained, self._run), self._inputs, self._rename)
        tasks = list(dict.fromkeys([*self._request.tasks, *(tasks_of(data) if data else [])]))
        if self._program.reads_language() and not tasks:
            raise UserError(
                "the policy reads instructions, and nothing here says which: the data it was trained on is not here",
                where="--task",
                fix="give each that the export is to know: --task TEXT --task TEXT",
            )
        if data is not None:
            shown = recorded(data, self._inputs, self._rename, self._history)
            return _Seen(shown, "recorded", tasks)
        return _Seen(made_up(self._loaded, self._inputs, tasks or [""], self._history), "made up", tasks)

    def _instructions(self) -> Instructions | None:
        if not self._program.language:
            return None
        used = self._program.reads_language()
        known = {task: self._program.tokens(task) for task in (self._seen.tasks if used else [""])}
        return Instructions(known, max(map(len, known.values())), used)

    def _example(self, instructions: Instructions | None) -> Tensors:
        frames = self._seen.observations[0].frames
        example = {name: torch.from_numpy(array) for name, array in frames[-1].items()}
        if len(frames) > 1:
            example = {n: torch.stack([torch.from_numpy(frame[n]) for frame in frames], 1) for n in example}
        if instructions is not None:
            longest = max(instructions.known.values(), key=len)
            example[TOKENS] = torch.tensor([longest])
            example[TOKENS_MASK] = torch.ones(1, len(longest), dtype=torch.bool)
        return example

    def _write_configuration(self, folder: Path) -> None:
        """What LeRobot's own code asks of a policy's folder: its configuration, and processors that only rename."""
        config = json.loads((self._pretrained / "config.json").read_text(encoding="utf8"))
        # The graphs need nothing that these folders of another machine hold.
        named = {k: Path(v).name if isinstance(v, str) and Path(v).is_absolute() else v for k, v in config.items()}
        write_json(folder / "config.json", named | {"device": "cpu"})
        before = [RenameObservationsProcessorStep(rename_map=self._rename), AddBatchDimensionProcessorStep()]
        pairs: list[tuple[str, list[Any]]] = [
            ("policy_preprocessor", before),
            ("policy_postprocessor", [DeviceProcessorStep(device="cpu")]),
        ]
        for name, steps in pairs:
            PolicyProcessorPipeline(steps, name=name).save_pretrained(folder)

    def _manifest(
        self, kind: str, graphs: dict[str, str], opset: int | None, instructions: Instructions | None
    ) -> Manifest:
        chunk = self._eager.chunk(self._seen.observations[0])
        data = data_of(self._config, self._run, None)
        fps, source = origin_said(self._config, self._run, data)
        seeds = recorded_seeds(self._pretrained, self._run)
        packages = ("lerobot", "torch", *(("onnx", "onnxruntime") if kind == "onnx" else ()))
        packages = (*packages, *(("openvino",) if kind == "openvino" else ()))
        return Manifest(
            format=kind,
            policy=self._config.type,
            graphs=graphs,
            steps=self._program.steps,
            inputs=self._inputs,
            rename_map=self._rename,
            history=self._history,
            chunk=chunk.shape[0],
            n_action_steps=int(self._config.n_action_steps),
            ensemble=getattr(self._config, "temporal_ensemble_coeff", None),
            action=chunk.shape[1],
            numbers=numbers_said(self._loaded, data, {policy: name for name, policy in self._rename.items()}),
            noise=self._program.noise,
            instructions=instructions,
            fps=fps,
            source=source,
            environment=described_environment(self._pretrained, self._run),
            recorded_seeds={task: sorted(known) for task, known in seeds.items()},
            opset=opset,
            versions={"hlrp": hlrp.__version__, **{name: metadata.version(name) for name in packages}},
        )


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}


def _open(folder: Path, manifest: Manifest) -> RuntimePolicy:
    """The export as it is, through its own runtime."""
    write_json(folder / MANIFEST, replace(manifest, files=_digests(folder)).to_json())
    return load(folder, threads=torch.get_num_threads())
