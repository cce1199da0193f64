"""Makes tests/compatibility/files-VERSION.tar.xz: what this version of hlrp writes, for later versions to read.

Run in a checkout of the version that is to be kept, with its environment:

    python scripts/make_old_files.py OUTPUT.tar.xz [--recording]

With --recording: an episode of `hlrp collect` and a policy of it, as recording-unnamed-camera.tar.xz beside those files
holds. Without: every kind of file once, from commands that train for two or four steps: a dataset, a quantizer's run, a
latent table and column, a foundation run, a policy by each trainer. Large weights are zeroed and only the quantizer's
run keeps the state to resume from, so that the archive stays small; hashes of weights follow. Paths become `@ROOT@`.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
_LARGE = 200_000
_TEXT = (".json", ".yaml", ".jsonl", ".txt")
_TINY_LAQ = ("model.preset=tiny", "model.image_size=24", "model.codebook_size=8", "model.code_seq_len=2")
_TINY_ACT = ("model.chunk_size=4", "model.n_action_steps=4", "model.hidden_dim=32", "model.n_heads=2")


def hlrp(*args: str | Path) -> None:
    command = str(Path(sys.executable).with_name("hlrp"))
    subprocess.run([command, *map(str, args)], check=True)


def make(root: Path) -> None:
    from make_dataset import make_dataset

    data = make_dataset(root / "data", episodes=3, length=12, size=48, tasks=("push the square", "pull the square"))
    base = ("train", "--dataset-root", data, "--device", "cpu", "--batch-size", "4")
    laq, table, foundation = root / "laq", root / "table", root / "foundation"
    hlrp(*base, "--model", "laq", "--steps", "4", "--output-dir", laq, "data.offset_seconds=0.2", *_TINY_LAQ)
    hlrp("precompute-latents", "--laq", laq, "--dataset-root", data, "--output", table, "--vectors")
    hlrp("precompute-latents", "--laq", laq, "--dataset-root", data, "--write-column", root / "labelled")
    labels = ("--latents", table)
    hlrp(*base, "--model", "foundation", "--steps", "2", "--output-dir", foundation, *labels)
    latent = ("--policy", "hlrp_action_expert_latent", "--trainer", "lightning", "model.chunk_size=4")
    latent = (*latent, "model.n_action_steps=4", "--init-from", foundation)
    hlrp(*base, *latent, "--steps", "2", "--output-dir", root / "latent_expert", *labels)
    act = ("--policy", "act", "--trainer", "lerobot", "model.pretrained_backbone_weights=null", "data.num_workers=0")
    hlrp(*base, *act, *_TINY_ACT, "--steps", "2", "--output-dir", root / "act")


def make_recording(root: Path) -> None:
    data, act = root / "data", root / "act"
    hlrp("collect", "--env", "metaworld", "--tasks", "drawer-close-v3", "--image-size", "32", "--output", data,
         "--episodes", "1")  # fmt: skip
    base = ("train", "--dataset-root", data, "--device", "cpu", "--batch-size", "4", "--steps", "2")
    keys = ("model.pretrained_backbone_weights=null", *_TINY_ACT)
    hlrp(*base, "--trainer", "lightning", "--policy", "act", "--output-dir", act, *keys)


def expected(root: Path) -> dict[str, object]:
    """What the files mean to the version that wrote them."""
    from importlib import metadata

    import numpy as np

    from hlrp.data import LatentTable, read_dataset

    table = LatentTable.open(root / "table")
    codes, valid = table.codes(np.arange(len(table)))
    info = read_dataset(None, root / "data")
    return {
        "version": metadata.version("lerobot_policy_felix_bundle"),
        "frames": info.frames,
        "codes": codes.tolist(),
        "valid": valid.tolist(),
        "identity": table.identity.model_dump(),
    }


def shrink(root: Path) -> None:
    """Zero large weights, keep their names and shapes; drop the moments of all but the quantizer, and the logs."""
    for path in root.glob("*/checkpoints/*/training_state/*.safetensors"):
        if path.name != "rng_state.safetensors" and not path.is_relative_to(root / "laq"):
            path.unlink()
    for path in root.rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        if len(content) < _LARGE:
            continue
        start = 8 + int.from_bytes(content[:8], "little")
        for entry in json.loads(content[8:start]).values():
            if entry.get("dtype") == "F32":  # random states are bytes
                first, end = entry["data_offsets"]
                content[start + first : start + end] = bytes(end - first)
        path.write_bytes(content)
        manifest = path.with_name("manifest.json")
        if manifest.is_file() and path.name == "model.safetensors":
            said = json.loads(manifest.read_text())
            said["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            manifest.write_text(json.dumps(said, indent=2))
    for path in root.glob("*/log.txt"):
        path.write_text("")  # of this machine
    for path in root.rglob("*"):
        if path.is_file() and path.suffix in _TEXT:
            text = path.read_text(encoding="utf8").replace(str(root), "@ROOT@")
            path.write_text(text.replace(str(Path(sys.executable).parent), "@BIN@"), encoding="utf8")


def main() -> None:
    output, recording = Path(sys.argv[1]).absolute(), "--recording" in sys.argv[2:]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary).resolve() / "files"
        root.mkdir()
        if recording:
            make_recording(root)
        else:
            make(root)
            (root / "expected.json").write_text(json.dumps(expected(root)), encoding="utf8")
        shrink(root)
        with tarfile.open(output, "w:xz", preset=9) as archive:
            archive.add(root, arcname=".")
    print(f"{output}: {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
