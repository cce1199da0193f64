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
FEW_TASKS = ("button-press-topdown-v3", "window-close-v3")
"""Tasks that two episodes with actions do not suffice for, and video helps with; docs/few_labels.md has others."""


@dataclass(frozen=True)
class Size:
    """How much the demo records, trains and evaluates; None: what each configuration says.

    Args:
        recorded: Episodes of each task.
        labelled: Of each of `FEW_TASKS`, the episodes whose actions are used: the first ones.
        evaluated: Episodes of each task.
        steps: Updates of each training.
    """

    recorded: int
    labelled: int
    evaluated: int
    steps: int | None


USUAL = Size(recorded=30, labelled=2, evaluated=20, steps=None)
QUICK = Size(recorded=2, labelled=1, evaluated=1, steps=4)

OURS = {"latent_expert": "hlrp_action_expert_latent"}
"""Configuration, and folder, of what is trained on the recorded data, and its name in the table."""
BESIDE = {"act": "ACT"}
"""The same of what it is compared with."""
FEW_POLICIES = {"few_actions": "few actions", "few_video": "and video"}
"""Folder of what learns from few actions, alone or with the video of all episodes, and its name in the table."""


def demo(
    output: Annotated[Path, typer.Option(help="Folder of everything the demo makes.")] = Path("outputs/demo"),
    full: Annotated[
        bool, typer.Option("--full", help="Then ACT beside it, and two tasks of which two episodes each have actions.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Smoke run: a few steps of everything; nothing is learned.")
    ] = False,
) -> None:
    """From video to a policy that acts: record, quantizer, labels, foundation, latent expert; evaluated, with a page.

    With --full also what it is worth: ACT on the same data, and what the video of many episodes adds to the actions of
    a few. Stages that are done are skipped.
    """
    size = QUICK if quick else USUAL
    from hlrp.locks import FolderLock
    from hlrp.runs.directory import check_writable

    root = output / "quick" if quick else output
    check_writable(root)
    with FolderLock(root):
        _run(root, size, full)


def _run(root: Path, size: Size, full: bool) -> None:
    started = time.monotonic()
    data, laq, table, foundation = (root / name for name in ("data", "laq", "latents", "foundation"))
    _record("record", TASKS, data, size)
    _train("quantizer", "laq", laq, data, size)
    label = ["precompute-latents", "--laq", laq, "--dataset-root", data, "--output", table]
    _stage("labels", (table / "manifest.json").is_file(), label)
    _train("foundation", "foundation", foundation, data, size, "--latents", table)
    sources = ["--latents", table, "--init-from", foundation]
    _train(OURS["latent_expert"], "latent_expert", root / "latent_expert", data, size, *sources)
    _evaluate(OURS["latent_expert"], root, "latent_expert", size)
    if full:
        _train(BESIDE["act"], "act", root / "act", data, size)
        _evaluate(BESIDE["act"], root, "act", size)
        _few_labels(root, size)
    _report(root, size, full, time.monotonic() - started)


def _few_labels(root: Path, size: Size) -> None:
    """Two tasks that the quantizer has not seen: the actions of few episodes, without and with video of the others."""
    data, table, decoder, labelled = (root / f"few_{name}" for name in ("data", "latents", "decoder", "pseudo_labels"))
    # The tasks lie in turn in what `hlrp collect` records.
    episodes = f"0-{len(FEW_TASKS) * size.labelled - 1}"
    _record("record two tasks more", FEW_TASKS, data, size)
    where = ["--dataset-root", data]
    label = ["precompute-latents", "--laq", root / "laq", *where, "--vectors", "--output", table]
    _stage("their latents", (table / "manifest.json").is_file(), label)
    fit = ["fit-actions", "--latents", table, *where, "--episodes", episodes, "--output", decoder]
    _stage("from latents to actions", (decoder / "manifest.json").is_file(), fit)
    write = ["pseudo-label", "--decoder", decoder, *where, "--latents", table, "--mask-below-floor"]
    _stage("pseudo-labels", (labelled / "meta/info.json").is_file(), [*write, "--output", labelled])
    # The statistics of actions, too, are of the few episodes; those of pseudo-labels are so anyway.
    alone = ["--episodes", episodes, f"model.labelled_episodes={episodes}"]
    for name, source, more in (("few_actions", data, alone), ("few_video", labelled, [])):
        _train(FEW_POLICIES[name], "few_labels", root / name, source, size, *more)
    for name, title in FEW_POLICIES.items():
        _evaluate(title, root, name, size, "env.episode_length=160")


def _record(stage: str, tasks: Sequence[str], data: Path, size: Size) -> None:
    collect = ["collect", "--env", "metaworld", "--tasks", ",".join(tasks), "--episodes", size.recorded]
    collect += ["--image-size", 96, "--noise", 0.1, "--seed", 0, "--output", data]
    _stage(stage, (data / "meta" / "info.json").is_file(), collect)


def _evaluate(title: str, root: Path, name: str, size: Size, *more: str) -> None:
    results = _results(root, name)
    evaluate = ["eval", root / name, "--episodes", size.evaluated, "--seed", 1000, "--videos", 2, "--output", results]
    _stage(f"evaluate {title}", results.joinpath("results.json").is_file(), [*evaluate, *more])


def _results(root: Path, name: str) -> Path:
    """Where a policy is evaluated: in its run, whose page shows it."""
    return root / name / "eval" / "demo"


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


def _report(root: Path, size: Size, full: bool, seconds: float) -> None:
    from hlrp_cli.console import console

    evaluated = [*OURS, *(BESIDE | FEW_POLICIES if full else {})]
    made = [(_results(root, name) / "results.json").stat().st_mtime for name in evaluated]
    index = root / "index.html"
    _stage("pages", index.is_file() and index.stat().st_mtime >= max(made), ["report", root])
    out = console(result=True)
    _show(root, "success on seeds that were not recorded, 95 % interval", TASKS, OURS | (BESIDE if full else {}))
    if full:
        given = f"actions of {size.labelled} of {size.recorded} episodes a task"
        few = _show(root, f"success with {given}", FEW_TASKS, FEW_POLICIES)
        alone, video = (f"{row['success_rate']:.0%}" for row in few)
        out.print(f"{given}: {alone} -> with the video of all: {video}")
    out.print(f"runs, results and videos: {root}")
    out.print(f"all of it as pages: {index}")
    out.print(f"the whole demo took {seconds:.0f} s")


def _show(root: Path, title: str, tasks: Sequence[str], policies: dict[str, str]) -> list[dict[str, Any]]:
    """Print the results of some policies; gives their rows over all tasks."""
    from rich.table import Table

    from hlrp_cli.console import console

    found = [json.loads((_results(root, name) / "results.json").read_text(encoding="utf8")) for name in policies]
    table = Table("task", *policies.values(), title=title, title_justify="left")
    for task in tasks:
        table.add_row(task, *[_success(results["tasks"][task]) for results in found])
    table.add_row("all", *[_success(results["overall"]) for results in found])
    console(result=True).print(table)
    return [results["overall"] for results in found]


def _success(row: dict[str, Any]) -> str:
    low, high = row["success_interval"]
    return f"{row['successes']}/{row['episodes']}  ({low:.0%} to {high:.0%})"
