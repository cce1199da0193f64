"""`hlrp demo`: from nothing to a policy that acts, in the commands a person would type."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hlrp.errors import Interrupted, WorkError

TASKS = ("button-press-v3", "drawer-close-v3")


@dataclass(frozen=True)
class Size:
    """How much the demo records, trains and evaluates."""

    recorded: int
    steps: int | None
    evaluated: int


FULL = Size(recorded=20, steps=None, evaluated=20)
QUICK = Size(recorded=2, steps=4, evaluated=1)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    output: Annotated[Path, typer.Option(help="Folder of everything the demo makes.")] = Path("outputs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Smoke run: minutes become a minute, success does not.")
    ] = False,
) -> None:
    """Record two Meta-World tasks, train ACT through LeRobot, evaluate on unseen seeds; stages done are skipped."""
    size = QUICK if quick else FULL
    root = output / "quick" if quick else output
    data, run, results = root / "data", root / "act", root / "eval"
    root.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    collect = ["collect", "--env", "metaworld", "--tasks", ",".join(TASKS), "--episodes", size.recorded]
    collect += ["--image-size", 96, "--noise", 0.1, "--seed", 0, "--output", data]
    _stage("record", (data / "meta" / "info.json").is_file(), collect)
    train: list[Any] = ["train", "-c", "demo/act", "--dataset-root", data, "--output-dir", run]
    train += ["--steps", size.steps] if size.steps else []
    if (run / "run.json").is_file() and _status(run) != "finished":
        train = _continue(run, train)
    _stage("train", _status(run) == "finished", train)
    evaluate = ["eval", run, "--episodes", size.evaluated, "--seed", 1000, "--videos", 2, "--output", results]
    _stage("evaluate", (results / "results.json").is_file(), evaluate)
    _report(results, time.monotonic() - started)


def _status(run: Path) -> str | None:
    try:
        status = json.loads((run / "run.json").read_text(encoding="utf8")).get("status")
    except (OSError, ValueError):
        return None
    return status if isinstance(status, str) else None


def _continue(run: Path, train: list[Any]) -> list[Any]:
    """Go on with an interrupted run, or begin again where it left no checkpoint."""
    from hlrp.runs import RunDirectory

    if RunDirectory.open(run).latest() is not None:
        return ["train", "--resume", run]
    import shutil

    shutil.rmtree(run)
    return train


def _stage(name: str, done: bool, args: Sequence[Any]) -> None:
    from hlrp_cli.console import console

    shown = " ".join(["hlrp", *map(str, args)])
    if done:
        console().print(f"[bold]{name}[/bold]: already done  ({shown})")
        return
    console().print(f"[bold]{name}[/bold]: {shown}")
    begun = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "hlrp_cli.main", *map(str, args)], check=False).returncode
    if code in (130, 143):
        raise Interrupted(f"stopped during {name!r}; `hlrp demo` goes on from there", code - 128)
    if code != 0:
        raise WorkError(f"the stage {name!r} failed with exit code {code}; its command was: {shown}")
    console().print(f"{name} took {time.monotonic() - begun:.0f} s")


def _report(results: Path, seconds: float) -> None:
    from rich.table import Table

    from hlrp_cli.console import console

    found = json.loads((results / "results.json").read_text(encoding="utf8"))
    table = Table("task", "success", "95 % interval", title="ACT on seeds that were not recorded", title_justify="left")
    rows = [*found["tasks"].items(), ("all", found["overall"])]
    for task, row in rows:
        low, high = row["success_interval"]
        table.add_row(task, f"{row['successes']}/{row['episodes']}", f"{low:.0%} to {high:.0%}")
    console(result=True).print(table)
    console(result=True).print(f"videos: {results}")
    console(result=True).print(f"the whole demo took {seconds:.0f} s")
