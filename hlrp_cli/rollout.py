"""`hlrp rollout`: trials of a policy on a robot, through LeRobot's rollout engine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from hlrp.errors import UserError, suggest
from hlrp.runs.published import folder_of
from hlrp_cli.console import quiet_libraries
from hlrp_cli.flags import rename_pairs

if TYPE_CHECKING:
    import click

    from hlrp.deploy.rollout.request import Source

_LEROBOT = "lerobot"


class Command(TyperCommand):
    """A command that leaves `--robot.*` and `--inference.*` to LeRobot."""

    def parse_args(self, ctx: "click.Context", args: list[str]) -> list[str]:
        """Parse what is left."""
        from hlrp.deploy.rollout.flags import split_flags

        own, ctx.meta[_LEROBOT] = split_flags(args)
        return super().parse_args(ctx, own)


def rollout(
    ctx: typer.Context,
    policy: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_ADDRESS", help="Run, checkpoint, export, Hub name, or ws://HOST:PORT of `hlrp serve`."
        ),
    ],
    episodes: Annotated[int, typer.Option(min=1, help="Trials of each policy.")] = 10,
    seconds: Annotated[float, typer.Option(min=0.1, help="Longest time of a trial.")] = 60.0,
    against: Annotated[
        str | None, typer.Option(help="A second policy: both act in a blind order, and are compared.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of that order; one nobody knows if not given.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Result folder; one that holds an unfinished series goes on.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Instruction; the only one of the data if not given.")] = None,
    fps: Annotated[float | None, typer.Option(min=0.1, help="Steps per second; the data's if not given.")] = None,
    return_seconds: Annotated[
        float, typer.Option(min=0, help="Time for the way back after each trial; 0: the robot stays where it is.")
    ] = 3.0,
    rename_map: Annotated[list[str] | None, typer.Option(help="Observation key ROBOT=POLICY; repeatable.")] = None,
    action_space: Annotated[
        str | None, typer.Option(help="Action space to act in, of a policy that was trained on several.")
    ] = None,
    dataset_root: Annotated[
        Path | None, typer.Option(help="The data the policy was trained on, where they have moved.")
    ] = None,
    allow_mismatch: Annotated[
        list[str] | None, typer.Option(help="joints, units, cameras or fps may differ; repeatable.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token that a server asks for.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Certificate to trust with wss, a PEM file.")] = None,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Fetch what is missing here.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run a policy on a robot, trial by trial: hlrp rollout RUN --robot.type=so101_follower --robot.port=...

    --robot.* are LeRobot's flags, and so are --inference.* (--inference.type=rtc: real-time chunking). Robot and policy
    are compared before the robot moves. You say how each trial went; run it again to go on where a series was left.
    """
    from hlrp.deploy import access
    from hlrp.deploy.rollout.flags import MISMATCHES

    for kind in allow_mismatch or []:
        if kind not in MISMATCHES:
            raise UserError(f"there is no mismatch {kind!r}", where="--allow-mismatch", fix=suggest(kind, MISMATCHES))
    pairs = rename_pairs(rename_map or [])
    named = ((policy, "RUN_OR_ADDRESS"), (against, "--against"))
    sources = [_source(text, flag, allow_download=allow_download) for text, flag in named if text]
    remote = sum(source.path is None for source in sources)
    if remote == len(sources):
        of_servers = {"--rename-map": rename_map, "--action-space": action_space, "--device": device}
        _refuse_idle(of_servers, "is up to the server: give it to `hlrp serve`")
    if not remote:
        _refuse_idle({"--token-file": token_file, "--certificate": certificate}, "has no effect without an address")
    token = None if token_file is None else access.read_token(token_file)
    quiet_libraries(allow_download)
    from hlrp.evaluation.policy import without_packages_unused_by

    without_packages_unused_by(*(source.path for source in sources if source.path))
    from hlrp.deploy.rollout.flags import parse_flags
    from hlrp.deploy.rollout.operator import Operator, Stop
    from hlrp.deploy.rollout.request import RolloutRequest
    from hlrp.deploy.rollout.run import rollout as run_trials
    from hlrp_cli.eval_view import show

    robot, inference = parse_flags(ctx.meta[_LEROBOT])
    request = RolloutRequest(
        policy=sources[0],
        robot=robot,
        inference=inference,
        against=sources[1] if against else None,
        episodes=episodes,
        seconds=seconds,
        return_seconds=return_seconds,
        fps=fps,
        task=task,
        device=device,
        rename_map=pairs,
        action_space=action_space,
        dataset_root=dataset_root,
        allowed=tuple(allow_mismatch or ()),
        seed=seed,
        output=output,
        token=token,
        certificate=certificate,
    )
    stop = Stop()
    result = run_trials(request, Operator(stop, _log), stop, _log)
    if not (result.folder / "results.json").is_file():
        _log("no trial was run, and nothing is written")
    elif result.provenance["series"]["compared"] and result.comparison is None:
        _log(f"nothing is shown before the comparison is complete; run it again to go on: {result.folder}")
    elif json_output:
        typer.echo(json.dumps({**result.to_json(), "folder": str(result.folder)}))
    else:
        show(result)


def _source(text: str, where: str, *, allow_download: bool) -> "Source":
    """The policy that a user names.

    Raises:
        UserError: It is neither a policy's folder nor an address.
    """
    from hlrp.deploy import access
    from hlrp.deploy.rollout.request import Source
    from hlrp.runs import resolve_pretrained

    path = Path(text)
    host, _, port = text.rpartition(":")
    if "://" in text or (host and port.isdigit() and not path.exists()):
        access.require_packages("rollout")
        access.parse_address(text, where=where)
        return Source(address=text)
    path = folder_of(path, where, allow_download=allow_download)
    resolve_pretrained(path.absolute())
    return Source(path=path)


def _refuse_idle(given: dict[str, Any], why: str) -> None:
    for flag, value in given.items():
        if value:
            raise UserError(f"{flag} {why}", where=flag, fix="leave it out")


def _log(text: str) -> None:
    typer.echo(text, err=True)
