"""`hlrp make-tiny-backbone`: a small random vision-language model as a normal model folder, for machines offline."""

from pathlib import Path
from typing import Annotated

import typer

from hlrp.foundation.backends.registry import BACKENDS, DEFAULT_BACKEND


def make_tiny_backbone(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder of the model.")],
    backend: Annotated[str, typer.Option(help=f"Backend that will use it: {' or '.join(BACKENDS)}.")] = DEFAULT_BACKEND,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.", min=0)] = 0,
) -> None:
    """Write a small vision-language model with random weights and a local tokenizer. Nothing is downloaded.

    It has the classes, files and loading code of the pretrained ones; `--backbone DIR` uses it. `--backbone tiny` makes
    and keeps one by itself.
    """
    from hlrp.runs.directory import check_writable

    check_writable(folder)
    from hlrp.foundation import backbones

    backbones.make_tiny_backbone(folder, backend, seed=seed)
    mebibytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
    typer.echo(f"{folder}: {mebibytes:.1f} MiB; use it with --backend {backend} --backbone {folder}")
