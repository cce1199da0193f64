"""`hlrp demo`: from nothing to a policy that acts, in the commands a person would type."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hlrp.errors import Interrupted, UserError, WorkError

TASKS = ("button-press-v3", "drawer-close-v3")


@dataclass(frozen=True)
class Size:
    """How much the demo records, trains and evaluates; None: what each configuration says."""

    recorded: int
    evaluated: int
    steps: int | None


FULL = Size(recorded=30, evaluated=20, steps=None)
QUICK = Size(recorded=2, evaluated=1, steps=4)

POLICIES = {"latent_expert": "hlrp_action_expert_latent", "act": "ACT"}
"""Configuration, and folder, of what is trained on the recorded data, and its name in the table."""


def demo(
    output: Annotated[Path, typer.Option(help="Folder of everything the demo makes.")] = Path("outputs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Smoke run: a few steps of everything; nothing is learned.")
    ] = False,
) -> None:
    """From video to policies that act: record, quantizer, labels, foundation, latent expert, next to ACT; evaluated.

    Stages that are done are skipped.
    """
    size = QUICK if quick else FULL
    from hlrp.processes import FolderLock
    from hlrp.runs.directory import check_writable

    root = output / "quick" if quick else output
    check_writable(root)
    with FolderLock(root):
        _run(root, size)


def _run(root: Path, size: Size) -> None:
    started = time.monotonic()
    data, laq, table, foundation = (root / name for name in ("data", "laq", "latents", "foundation"))
    collect = ["collect", "--env", "metaworld", "--tasks", ",".join(TASKS), "--episodes", size.recorded]
    collect += ["--image-size", 96, "--noise", 0.1, "--seed", 0, "--output", data]
    _stage("record", (data / "meta" / "info.json").is_file(), collect)
    _train("quantizer", "laq", laq, data, size)
    label = ["precompute-latents", "--laq", laq, "--dataset-root", data, "--output", table]
    _stage("labels", (table / "manifest.json").is_file(), label)
    _train("foundation", "foundation", foundation, data, size, "--latents", table)
    latents = {"latent_expert": ["--latents", table, "--init-from", foundation]}
    for name, title in POLICIES.items():
        _train(title, name, root / name, data, size, *latents.get(name, []))
    for name, title in POLICIES.items():
        results = root / f"eval_{name}"
        evaluate = ["eval", root / name, "--episodes", size.evaluated, "--seed", 1000, "--videos", 2]
        _stage(f"evaluate {title}", (results / "results.json").is_file(), [*evaluate, "--output", results])
    _report(root, time.monotonic() - started)


def _train(stage: str, config: str, run: Path, data: Path, size: Size, *more: Any) -> None:
    status = _status(run)
    train: list[Any] = ["train", "-c", f"demo/{config}", "--dataset-root", data, *more, "--output-dir", run]
    train += ["--steps", size.steps] if size.steps else []
    if status not in (None, "finished"):
        train = _continue(run, train)
    _stage(stage, status == "finished", train)


def _status(run: Path) -> str | None:
    from hlrp.runs.manifest import MANIFEST, RunManifest

    try:
        return RunManifest.read(run / MANIFEST).status
    except (FileNotFoundError, UserError):
        return None


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
    code = _run_command(args)
    if code > 128:
        raise Interrupted(f"stopped during {name!r}; `hlrp demo` goes on from there", code - 128)
    if code != 0:
        raise WorkError(f"the stage {name!r} failed with exit code {code}; its command was: {shown}")
    console().print(f"{name} took {time.monotonic() - begun:.0f} s")


def _run_command(args: Sequence[Any]) -> int:
    """Run `hlrp` to its end, which a signal to this process asks it for; it saves what it has first."""
    from hlrp.processes import child_environment, leave_closed_terminal, signal_handlers

    argv = [sys.executable, "-m", "hlrp_cli.main", *map(str, args)]
    # In a session of its own, so that what the terminal sends to all of a group reaches it once.
    with subprocess.Popen(argv, env=os.environ | child_environment(), start_new_session=True) as process:

        def pass_on(number: int, _frame: object) -> None:
            leave_closed_terminal()
            with suppress(ProcessLookupError):
                process.send_signal(number)

        with signal_handlers(pass_on):
            code = process.wait()
    return 128 - code if code < 0 else code


def _report(root: Path, seconds: float) -> None:
    from rich.table import Table

    from hlrp_cli.console import console

    found = {name: json.loads((root / f"eval_{name}" / "results.json").read_text(encoding="utf8")) for name in POLICIES}
    table = Table("task", title="success on seeds that were not recorded, 95 % interval", title_justify="left")
    for title in POLICIES.values():
        table.add_column(title)
    for task in TASKS:
        table.add_row(task, *[_success(results["tasks"][task]) for results in found.values()])
    table.add_row("all", *[_success(results["overall"]) for results in found.values()])
    console(result=True).print(table)
    console(result=True).print(f"runs, results and videos: {root}")
    console(result=True).print(f"the whole demo took {seconds:.0f} s")


def _success(row: dict[str, Any]) -> str:
    low, high = row["success_interval"]
    return f"{row['successes']}/{row['episodes']}  ({low:.0%} to {high:.0%})"
