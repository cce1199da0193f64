"""`--launcher slurm`: commands as batch jobs, and the job of one that was stopped back in the queue."""

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from hlrp.errors import UserError
from hlrp.slurm import own_job, requeue_own_job

if TYPE_CHECKING:
    from hlrp.config.slurm_section import SlurmSection

# Commands that a job can run, beside `train`, whose resources are in its configuration; and whether a process of
# several does its share.
LAUNCHED = {"precompute-latents": True, "pseudo-label": True, "collect": False, "eval": False}
LAUNCHERS = ("local", "slurm")
# Given again after they were stopped, these go on where they were.
_GO_ON = ("precompute-latents", "pseudo-label", "collect")


class _Checking:
    """Inside, commands end before their work."""

    on: ClassVar[bool] = False

    def __enter__(self) -> None:
        _Checking.on = True

    def __exit__(self, *_: object) -> None:
        _Checking.on = False


def is_only_checked() -> bool:
    """Whether a command is to end, without a word, before its work: it is about to be submitted, and a job will do it.

    What only the node of the job can tell, such as whether there is a GPU, is not asked then, and nothing is fetched.
    """
    return _Checking.on


def is_left_to_job(*folders: Path | None, allow_download: bool) -> bool:
    """Whether a command is only checked, and the job will fetch some of its folders: nothing more is known of them."""
    return is_only_checked() and allow_download and any(f is not None and not f.exists() for f in folders)


def requeue(arguments: Sequence[str], number: int, *, saved: bool) -> None:
    """After a SIGTERM, have the Slurm job that runs this command begin it again later; see `requeue_own_job`.

    Args:
        arguments: Of the command line.
        number: The signal.
        saved: Whether a training saved its state.
    """
    if number != signal.SIGTERM or own_job() is None or not arguments:
        return
    resumes = any(word.split("=")[0] == "--resume" for word in arguments)
    goes_on = arguments[0] in _GO_ON or (arguments[0] == "train" and resumes and saved)
    # A training that would begin in a new folder would not be the same one.
    if arguments[0] == "train" and not resumes:
        return
    if (job := requeue_own_job(goes_on=goes_on)) is not None:
        sys.stderr.write(f"job {job} is back in the queue, and goes on by itself\n")


def add_launcher(root: click.Command) -> click.Command:
    """Give the commands in `LAUNCHED` the options `--launcher` and `--slurm`."""
    commands: dict[str, click.Command] = getattr(root, "commands", {})
    for name, shared in LAUNCHED.items():
        command = commands[name]
        command.params.append(
            click.Option(["--launcher"], type=click.Choice(LAUNCHERS), default="local", help="Where it runs.")
        )
        command.params.append(
            click.Option(
                ["--slurm"],
                multiple=True,
                metavar="KEY=VALUE",
                help="With --launcher slurm: partition, time, nodes, ...; repeatable.",
            )
        )
        command.callback = _launched(name, command.callback, shared)
    return root


def _launched(name: str, run: Callable[..., Any] | None, shared: bool) -> Callable[..., Any]:
    def start(*, launcher: str, slurm: tuple[str, ...], **given: Any) -> Any:
        assert run is not None, "it is no group of commands"
        if launcher == "local":
            if slurm:
                what = "--slurm has no effect without --launcher slurm"
                raise UserError(what, where="--slurm", fix="add it, or leave --slurm out")
            return run(**given)
        section = read_section(slurm)
        if section.nodes > 1 and not shared:
            raise UserError(f"{name} runs on one node", where="--slurm nodes", fix="leave it out")
        if section.array is not None:
            raise UserError("only trainings run as an array", where="--slurm array", fix="submit one job for each")
        from hlrp.submission import submit, this_command

        with _Checking():
            run(**given)
        output = given.get("output")
        folder = (Path(output).absolute().parent if output else Path("outputs").absolute()) / "slurm"
        processes = (section.gpus_per_node or 1) if shared else 1
        command = this_command(without_launcher(sys.argv[1:]))
        job = submit(command, section, processes=processes, nodes=section.nodes, name=f"hlrp-{name}", folder=folder)
        click.echo(f"job  {job.job}\nlog  {job.log}")
        return None

    return start


def read_section(pairs: Sequence[str]) -> "SlurmSection":
    """The section that `--slurm KEY=VALUE ...` means.

    Raises:
        UserError: A key is unknown, or a value no value.
    """
    from pydantic import ValidationError

    from hlrp.config.slurm_section import SlurmSection
    from hlrp.errors import suggest

    values: dict[str, Any] = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found:
            raise UserError(f"{pair!r} is not KEY=VALUE", where="--slurm", fix="for example --slurm partition=gpu")
        if key not in SlurmSection.model_fields:
            known = suggest(key, SlurmSection.model_fields)
            raise UserError(f"slurm has no key {key!r}", where=f"--slurm {pair}", fix=known)
        if key == "setup":
            values.setdefault(key, []).append(value)
        else:
            values[key] = value
    try:
        return SlurmSection(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(first["msg"], where=f"--slurm {first['loc'][0]}", fix="write another value") from error


def without_launcher(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, to be run in the job itself."""
    kept, skip = [], False
    for word in arguments:
        if skip or word == "--debug":
            skip = False
        elif word in ("--launcher", "--slurm"):
            skip = True
        elif not word.startswith(("--launcher=", "--slurm=", "slurm.")):
            kept.append(word)
    return kept
