"""The latents that a command reads: a table that is given, or one made with a quantizer and kept in the cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hlrp.data import DatasetInfo
    from hlrp.latents import LatentTable
    from hlrp.latents.labelling import LabelProgress


def vectors_of(laq: Path, info: "DatasetInfo", camera: str | None, device: str) -> "LatentTable":
    """The codes and continuous latents of a dataset, labelled now unless they are in the cache; resumable.

    Raises:
        UserError: No quantizer there, or no such camera.
        BadVideoError: An episode cannot be decoded.
    """
    from hlrp.catalog import cache_folder
    from hlrp.laq.checkpoint import read_manifest
    from hlrp.latents import LatentTable
    from hlrp.latents.labelling import LabelRequest, choose_camera, label, load_encoder
    from hlrp.processes import FolderLock

    manifest = read_manifest(laq)
    chosen = choose_camera(info, manifest, camera)
    name = info.repo_id.replace("/", "--")
    mark = f"{info.fingerprint()[:12]}-{manifest.weights_sha256[:12]}"
    output = cache_folder() / "latents" / f"{name}-{chosen}-{mark}"
    request = LabelRequest(
        info=info,
        camera=chosen,
        output=output,
        config=manifest.config,
        laq_sha256=manifest.weights_sha256,
        vectors=True,
        batch_size=32 if device == "cpu" else 256,
    )
    encoder, _ = load_encoder(laq, device, vectors=True)
    with FolderLock(output), labelling_progress(info) as report:
        label(request, encoder, device=device, progress=report)
    return LatentTable.open(output)


@contextmanager
def labelling_progress(info: "DatasetInfo", of: str = "") -> "Iterator[Callable[[LabelProgress], None]]":
    """A display of how far a dataset is labelled; ``of`` says whose share it is."""
    from hlrp.progress import ProgressDisplay
    from hlrp_cli.console import console

    with ProgressDisplay(console(), "frames") as display:
        display.begin(f"labelling {info.repo_id}{of}", info.frames)
        yield lambda progress: display.update(progress.done, total=progress.total)
