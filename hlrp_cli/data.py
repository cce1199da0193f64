"""`hlrp data`: look at datasets, and write them with other names."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlrp.data.dataset_info import TOLERANCE_S
from hlrp.errors import UserError
from hlrp_cli.flags import ToleranceS, episodes_of

if TYPE_CHECKING:
    from hlrp.data.dataset_info import DatasetInfo
    from hlrp.data.problems import Problem
    from hlrp.data.report.page import Table


group = typer.Typer(help="Look at datasets, rename their features.", no_args_is_help=True)


@group.command()
def check(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the dataset.")],
    episodes: Annotated[
        str | None, typer.Option(help="Episodes to check, whose files alone must be here: 0-9,12.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Policy that is to be trained on it.")] = None,
    tolerance_s: ToleranceS = TOLERANCE_S,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say all that is wrong with a dataset: files, tables, numbers, statistics, names, videos.

    Exit code 2 if it must not be trained on. `hlrp train` makes the same checks before it starts.
    """
    from hlrp.data.dataset_info import read_dataset

    info = read_dataset(None, root, where="DIR", tolerance_s=tolerance_s)
    chosen = episodes_of(episodes)
    problems = _problems(info, chosen, policy)
    fatal = sum(p.fatal for p in problems)
    if json_output:
        typer.echo(
            json.dumps(
                {
                    "ok": fatal == 0,
                    "root": str(info.root.absolute()),
                    "fingerprint": info.fingerprint(),
                    "problems": [p._asdict() for p in problems],
                }
            )
        )
    else:
        for problem in problems:
            typer.echo(f"{'wrong  ' if problem.fatal else 'warning'}  {problem.message}")
            typer.echo(f"           where: {problem.where}\n           fix:   {problem.fix}")
        warnings = f"{len(problems) - fatal} warnings"
        verdict = f"wrong    {fatal} faults, {warnings}" if fatal else f"good     {warnings}"
        count = info.episodes if chosen is None else len(chosen)
        typer.echo(f"{verdict}; {info.root}: {count} of {info.episodes} episodes, {info.fps:g} fps")
    if fatal:
        raise typer.Exit(2)


@group.command()
def report(
    roots: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of datasets.")],
    output: Annotated[Path | None, typer.Option(help="HTML page to write, with pictures of the episodes.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Episodes to show on the page, doubtful ones first.")] = 24,
    tolerance_s: ToleranceS = TOLERANCE_S,
    json_output: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Say what datasets hold: idle frames, lengths, cameras, tasks, statistics, doubtful episodes.

    All frames are decoded, once: a second report, and the filter of a policy's training, remember what they show.
    """
    from hlrp.data.dataset_info import read_dataset
    from hlrp.data.report.measure import measure
    from hlrp.data.report.page import check_page, tables, write_page
    from hlrp.files import json_text
    from hlrp.progress import counted_lines
    from hlrp_cli.console import console

    infos = [read_dataset(None, root, where="DIR", tolerance_s=tolerance_s) for root in roots]
    if output is not None:
        check_page(output)
    progress = counted_lines(console(), "reading frames", "frames")

    def announce(text: str) -> None:
        console().print(text, markup=False)

    shown = pictures if output is not None else 0
    reports = [measure(info, pictures=shown, announce=announce, progress=progress) for info in infos]
    if output is not None:
        write_page(reports, output, time.strftime("%Y-%m-%d %H:%M"))
    if json_output:
        typer.echo(json_text({"sources": [report.to_json() for report in reports]}))
        return
    for source in reports:
        for table in tables(source):
            _show(table)
    if output is not None:
        typer.echo(f"page      {output}")


def _show(table: "Table") -> None:
    """A table on a terminal; lines of columns anywhere else, with nothing cut off."""
    from hlrp_cli.console import console

    target = console(result=True)
    if target.is_terminal:
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(title=table.title, title_justify="left", show_edge=False)
        for name in table.head:
            drawn.add_column(name, overflow="fold")
        for row in table.rows:
            drawn.add_row(*map(Text, row))
        target.print(drawn)
        target.print()
        return
    rows = [table.head, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.head) - 1)]
    typer.echo(table.title)
    for row in rows:
        typer.echo("  " + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]))


@group.command()
def rename(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the dataset.")],
    names: Annotated[list[str], typer.Argument(metavar="OLD=NEW...", help="image=observation.images.image")],
    output: Annotated[Path, typer.Option(help="Folder of the new dataset.")],
) -> None:
    """Write a dataset whose features have other names; videos are links to those of the old one."""
    from hlrp.data.dataset_info import read_dataset
    from hlrp.data.renaming import rename_features

    pairs = dict(name.partition("=")[::2] for name in names)
    if len(pairs) < len(names) or not all("=" in name for name in names):
        raise UserError(f"cannot read {' '.join(names)}", where="OLD=NEW", fix="write each once, with an =")
    rename_features(read_dataset(None, root, where="DIR"), pairs, output)
    typer.echo(f"dataset  {output}")


def _problems(info: "DatasetInfo", episodes: list[int] | None, policy: str | None) -> "list[Problem]":
    from hlrp.data.checks import dataset_problems
    from hlrp.data.policy_checks import policy_problems
    from hlrp.latents.column import column_problems

    # Without actions it is for models of video, which normalise nothing.
    for_policies = policy is not None or "action" in info.features
    problems = [*dataset_problems(info, episodes, needs_statistics=for_policies)]
    problems += [] if any(p.fatal for p in problems) else column_problems(info)
    return [*problems, *policy_problems(info, policy)] if for_policies else problems
