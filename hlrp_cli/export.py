"""`hlrp export`: a policy as graphs that run without torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlrp.runs.published import folder_of

if TYPE_CHECKING:
    from hlrp.runtime import Manifest


def export(
    policy: Annotated[
        Path, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="Run, checkpoint, pretrained_model folder or Hub name.")
    ],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    kind: Annotated[str, typer.Option("--format", help="onnx, openvino or torch.")] = "onnx",
    quantize: Annotated[str | None, typer.Option(help="Smaller weights: int8 or bf16.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Instruction that the export is to know, beside the data's; repeatable.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Fetch what is missing here.")] = False,
) -> None:
    """Export a policy with its pre- and postprocessing, compared with torch before the folder appears.

    `hlrp eval`, `hlrp serve` and, without torch, `hlrp.runtime` act from the folder.
    """
    from hlrp.deploy.export.request import ExportRequest, check_request
    from hlrp_cli.console import console, quiet_libraries

    policy = folder_of(policy, "RUN_OR_CHECKPOINT", allow_download=allow_download)
    request = ExportRequest(policy, kind, output, quantize, tuple(task or ()))
    check_request(request)
    quiet_libraries(allow_download)
    from hlrp.evaluation.policy import without_packages_unused_by

    without_packages_unused_by(policy)
    from hlrp.deploy.export.run import export_policy
    from hlrp.progress import ProgressDisplay

    with ProgressDisplay(console(), "") as display:
        display.begin("exporting", 0)
        manifest = export_policy(request, display.phase)
    if json_output:
        typer.echo(json.dumps(manifest.to_json()))
    else:
        _show(manifest, output)


def _show(manifest: "Manifest", output: Path) -> None:
    check, latency = manifest.check, manifest.latency
    shown = f"{check['observations']} {check['source']} observations"
    typer.echo(f"exported {manifest.policy} as {manifest.format}: {', '.join(manifest.graphs)}")
    typer.echo(f"error    {check['max_error']:.2g} at most, to torch on {shown}; {check['tolerance']:g} is allowed")
    if manifest.quantize:
        typer.echo(f"{manifest.quantize:<8} {check['quantized_max_error']:.2g} at most; `hlrp eval` says what it costs")
    for name, key in (("torch", "eager"), (latency["engine"], "exported")):
        found = latency[key]
        typer.echo(f"{name:<11} p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms a chunk")
    typer.echo(f"folder   {output}")
