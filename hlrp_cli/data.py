"""`hlrp data`: look at datasets, and write them with other names."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlrp.data.dataset_info import TOLERANCE_S
from hlrp.errors import UserError
from hlrp_cli.flags import episodes_of

if TYPE_CHECKING:
    from hlrp.data.dataset_info import DatasetInfo
    from hlrp.data.problems import Problem


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Look at datasets, rename their features.", no_args_is_help=True)
    # Without this, Typer would make the only command the group itself.
    group.callback()(_root)
    group.command("check")(check)
    group.command("rename")(rename)
    app.add_typer(group, name="data")


def _root() -> None:
    """Look at datasets, rename their features."""


def check(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the dataset.")],
    episodes: Annotated[
        str | None, typer.Option(help="Episodes to check, whose files alone must be here: 0-9,12.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Policy that is to be trained on it.")] = None,
    tolerance_s: Annotated[
        float, typer.Option(min=1e-6, help="Most seconds between a frame's time in the tables and in its video.")
    ] = TOLERANCE_S,
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

    # Without actions it is for models of video, which normalise nothing.
    for_policies = policy is not None or "action" in info.features
    found = [*dataset_problems(info, episodes, needs_statistics=for_policies)]
    return [*found, *policy_problems(info, policy)] if for_policies else found
