"""`hlrp collect`: record demonstrations of scripted experts as a LeRobotDataset."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hlrp.sim.collect import CollectProgress, Report

_PHASES = {"simulate": "recording", "encode": "writing the dataset"}
_LINE_EVERY_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("collect")(collect)


def collect(
    tasks: Annotated[str, typer.Option(help="Tasks or difficulty groups (easy, medium, ...), comma list.")],
    output: Annotated[Path, typer.Option(help="Folder of the new dataset.")],
    env: Annotated[str, typer.Option(help="Simulator: metaworld.")] = "metaworld",
    episodes: Annotated[int, typer.Option(help="Successful episodes per task.")] = 20,
    image_size: Annotated[int, typer.Option(help="Side of the square frames in pixels.")] = 96,
    noise: Annotated[float, typer.Option(help="Standard deviation of the noise on actions in [-1, 1].")] = 0.1,
    seed: Annotated[int, typer.Option(help="Reset seed of the first attempt; attempt k uses seed + k.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes [default: one per core].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Record successful episodes of scripted experts as a LeRobotDataset v3.0.

    Killed or stopped, the same command continues. The result does not depend on the number of processes.
    """
    from hlrp.sim import collect as recording
    from hlrp_cli.console import console

    request = recording.CollectRequest(
        output=output,
        tasks=(tasks,),
        episodes=episodes,
        env=env,
        image_size=image_size,
        noise=noise,
        seed=seed,
        workers=workers,
    )
    request.check()
    with _progress() as report:
        result = recording.collect(request, report)
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps({**asdict(result), "output": str(result.output)}))
        return
    failed = sum(result.failed_attempts.values())
    console(result=True).print(
        f"{sum(result.episodes.values())} episodes, {result.frames} frames in {result.output} (simulated in "
        f"{result.simulate_s:.1f} s, written in {result.encode_s:.1f} s; {failed} failed attempts left out)",
        markup=False,
    )


@contextmanager
def _progress() -> "Iterator[Report]":
    from hlrp_cli.console import console

    if not console().is_terminal:
        yield _plain_lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console()) as bars:
        shown: dict[str, object] = {}

        def report(progress: "CollectProgress") -> None:
            if progress.phase not in shown:
                shown[progress.phase] = bars.add_task(_PHASES[progress.phase], total=progress.total, rate="")
            bars.update(shown[progress.phase], completed=progress.done, rate=_rate(progress))  # type: ignore[arg-type]

        yield report


def _rate(progress: "CollectProgress") -> str:
    return f"{progress.frames / progress.elapsed_s:.0f} frames/s" if progress.elapsed_s > 0 else "starting"


def _plain_lines() -> "Report":
    """Lines for logs: the first, the last and one every few seconds of each phase."""
    from hlrp_cli.console import console

    last: dict[str, float] = {}
    first_done: dict[str, int] = {}

    def report(progress: "CollectProgress") -> None:
        began = progress.phase not in last
        first_done.setdefault(progress.phase, progress.done)
        due = began or progress.elapsed_s - last[progress.phase] >= _LINE_EVERY_S or progress.done == progress.total
        if not due:
            return
        last[progress.phase] = progress.elapsed_s
        here = progress.done - first_done[progress.phase]
        eta = f", {progress.elapsed_s / here * (progress.total - progress.done):.0f} s left" if here else ""
        line = f"{_PHASES[progress.phase]}: {progress.done}/{progress.total} episodes, {_rate(progress)}{eta}"
        console().print(line, markup=False)

    return report
