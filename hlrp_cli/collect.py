"""`hlrp collect`: record demonstrations of scripted experts as a LeRobotDataset."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlrp_cli.launching import is_only_checked

if TYPE_CHECKING:
    from hlrp.sim.collect import CollectProgress, Report

_PHASES = {"simulate": "recording", "encode": "writing the dataset"}


def collect(
    tasks: Annotated[str, typer.Option(help="Tasks or groups of them (easy, libero_object, ...), comma list.")],
    output: Annotated[Path, typer.Option(help="Folder of the new dataset.")],
    env: Annotated[str, typer.Option(help="Simulator: metaworld, aloha, libero or pusht.")] = "metaworld",
    episodes: Annotated[int, typer.Option(help="Successful episodes per task.")] = 20,
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the square frames in pixels [default: 96; aloha, libero: 128; pusht: 96 only]."),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Standard deviation of the noise on actions [default: metaworld 0.1 of [-1, 1], else 0]."),
    ] = None,
    camera_shake: Annotated[
        float, typer.Option(help="Metres that the camera drifts at most, as if held by hand.")
    ] = 0.0,
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
        camera_shake=camera_shake,
        seed=seed,
        workers=workers,
    )
    request.check()
    if is_only_checked():
        return
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
    from hlrp.progress import ProgressDisplay
    from hlrp_cli.console import console

    with ProgressDisplay(console(), "episodes") as display:
        phases: list[str] = []

        def report(progress: "CollectProgress") -> None:
            if progress.phase not in phases:
                phases.append(progress.phase)
                display.begin(_PHASES[progress.phase], progress.total, progress.done)
            rate = f"{progress.frames / progress.elapsed_s:.0f} frames/s" if progress.elapsed_s > 0 else "starting"
            display.update(progress.done, rate=rate)

        yield report
