"""What an export is asked to be, and the mistakes in it that show before torch is imported."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hlrp.errors import UserError, suggest
from hlrp.outputs import check_new_output
from hlrp.runs import resolve_pretrained
from hlrp.runtime.manifest import FORMATS, Manifest

QUANTIZED = ("int8", "bf16")
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_PACKAGES = {"onnx": _ONNX, "openvino": (*_ONNX, "openvino")}


@dataclass(frozen=True)
class ExportRequest:
    """One export.

    Args:
        policy_path: Run, checkpoint or `pretrained_model` folder.
        kind: One of `FORMATS`.
        output: Folder to make.
        quantize: One of `QUANTIZED`; None: float32.
        tasks: Instructions beside those of the data.
        repeats: Chunks whose times are measured.
    """

    policy_path: Path
    kind: str
    output: Path
    quantize: str | None = None
    tasks: tuple[str, ...] = ()
    repeats: int = 50


def check_request(request: ExportRequest) -> Path:
    """Refuse what cannot be done.

    Returns:
        The `pretrained_model` folder.

    Raises:
        UserError: Naming the flag, the folder or the package.
    """
    if request.kind not in FORMATS:
        raise UserError(f"unknown format {request.kind!r}", where="--format", fix=suggest(request.kind, FORMATS))
    if request.quantize not in (None, *QUANTIZED):
        known = suggest(str(request.quantize), QUANTIZED)
        raise UserError(f"weights cannot be made {request.quantize!r}", where="--quantize", fix=known)
    if request.quantize and request.kind == "torch":
        raise UserError(
            "format torch has float32 weights alone",
            where=f"--quantize {request.quantize}",
            fix="use --format onnx or openvino, or leave --quantize out",
        )
    check_new_output(request.output)
    pretrained = resolve_pretrained(request.policy_path.absolute())
    if Manifest.find(pretrained) is not None:
        raise UserError(
            "this is an export already", where=str(request.policy_path), fix="give the checkpoint it was made from"
        )
    missing = [name for name in _PACKAGES.get(request.kind, ()) if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} must be installed for this",
            where=f"--format {request.kind}",
            fix="pip install 'lerobot_policy_felix_bundle[export]'",
        )
    return pretrained
