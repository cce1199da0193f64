"""`hlrp import-video`: a folder of videos as a LeRobotDataset."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlrp.errors import UserError

if TYPE_CHECKING:
    from hlrp.data.importing.request import ImportProgress, ImportResult, Report

_PHASES = {
    "look": ("looking", "files"),
    "write": ("writing", "episodes"),
    "assemble": ("putting together", "episodes"),
}


def import_video(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder, file, pattern or list of videos.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the new dataset.")],
    captions: Annotated[
        Path | None, typer.Option(help="Task sentences and cuts, csv, jsonl or json: file, caption, start, end.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Task of files without a caption [default: the file's name].")
    ] = None,
    camera: Annotated[str, typer.Option(help="Name of the camera: observation.images.NAME.")] = "video",
    fps: Annotated[float | None, typer.Option(help="Frames per second [default: those of most files].")] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Height and width [default: the files'].")] = None,
    scene_cuts: Annotated[bool, typer.Option("--scene-cuts", help="Begin an episode at every hard cut.")] = False,
    max_seconds: Annotated[float | None, typer.Option(help="Split longer episodes.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out files that cannot be used.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes [default: one per core].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Write videos as a LeRobotDataset v3.0 without actions; streams are copied where that is right.

    SOURCE is a folder of mp4, mkv, webm, mov, avi, or of folders of numbered pictures; one file; a pattern in quotes,
    'videos/*.mp4'; or a list of paths, files.txt.

    Killed or stopped, the same command continues. The result does not depend on the number of processes.
    """
    from hlrp.data import importing

    request = importing.ImportRequest(
        source,
        output,
        captions,
        task,
        camera,
        fps,
        _size_of(size) if size is not None else None,
        scene_cuts,
        max_seconds,
        skip_bad,
        workers,
    )
    request.check()
    with _progress() as report:
        result = importing.import_video(request, report)
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps({**asdict(result), "output": str(result.output)}))
    else:
        _show(result)


def _size_of(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UserError(f"cannot read {text!r}", where="--size", fix="write height and width: --size 240x320")
    return int(height), int(width)


def _show(result: "ImportResult") -> None:
    for name, reason in result.left_out:
        typer.echo(f"left out {name}: {reason}")
    height, width = result.size
    length = f"{result.frames} frames of {height}x{width} at {result.fps:.5g} fps"
    typer.echo(f"dataset  {result.output}: {_episodes(result.episodes)}, {length}, in {result.seconds:.1f} s")
    typer.echo(f"copied   {_episodes(result.copied)}, as they are in their files")
    if result.encoded:
        typer.echo(f"encoded  {_episodes(sum(result.encoded.values()))} once more")
    for reason, count in sorted(result.encoded.items(), key=lambda item: (-item[1], item[0])):
        typer.echo(f"         {count} {reason}")
    if result.named_by_file:
        typer.echo(f"task     {_episodes(result.named_by_file)} without a caption: the sentence is the file's name")
    typer.echo(f"next     hlrp train --model laq --dataset-root {shlex.quote(str(result.output))}")


def _episodes(number: int) -> str:
    return f"{number} episode{'s' * (number != 1)}"


@contextmanager
def _progress() -> "Iterator[Report]":
    from contextlib import ExitStack

    from hlrp.progress import ProgressDisplay
    from hlrp_cli.console import console

    with ExitStack() as stack:
        display: ProgressDisplay | None = None
        phase = ""

        def report(progress: "ImportProgress") -> None:
            nonlocal display, phase
            if display is None or progress.phase != phase:
                phase = progress.phase
                what, unit = _PHASES[phase]
                stack.close()
                display = stack.enter_context(ProgressDisplay(console(), unit))
                display.begin(what, progress.total, progress.done)
            if progress.done or progress.total:
                display.update(progress.done, progress.detail)

        yield report
