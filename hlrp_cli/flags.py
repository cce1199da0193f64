"""Checks of the flags of all commands: none is given twice, none without effect, no two that exclude each other."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlrp.errors import UserError

if TYPE_CHECKING:
    import click

ToleranceS = Annotated[
    float, typer.Option(min=1e-6, help="Most seconds between a frame's time in the tables and in its video.")
]

# Command to its flags that have no effect without another one.
NEEDS: dict[str, dict[str, str]] = {
    "latents verify": {"sample": "laq", "seed": "laq", "device": "laq", "tolerance_s": "laq"},
    "precompute-latents": {"copy": "write_column", "slurm": "launcher"},
    "fit-actions": {"camera": "laq", "tolerance_s": "laq"},
    "pseudo-label": {
        **dict.fromkeys(("device", "skip_bad", "decode_workers", "tolerance_s"), "laq"),
        "slurm": "launcher",
    },
    "collect": {"slurm": "launcher"},
    "eval": {"slurm": "launcher"},
    "serve": {"certificate": "key", "key": "certificate"},
    "rollout": {"seed": "against"},
}
# Command to pairs of flags of which only one can hold.
EXCLUDE: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (("policy", "model"), ("latents", "online_laq"), ("dry_run", "json_output")),
    "parity": (("latents", "online_laq"),),
    "fit-actions": (
        ("laq", "latents"),
        *(("suggest", name) for name in ("output", "kind", "action_form", "horizon", "floor", "seed")),
    ),
    "pseudo-label": (("latents", "laq"),),
}


def all_commands(root: "click.Command", path: tuple[str, ...] = ()) -> "Iterator[tuple[str, click.Command]]":
    """Yield every command below ``root`` that runs something, by the words that are typed for it."""
    inner: dict[str, click.Command] = getattr(root, "commands", {})
    if not inner:
        yield " ".join(path), root
    for name, command in inner.items():
        yield from all_commands(command, (*path, name))


def check_flags(root: "click.Command") -> "click.Command":
    """Have every command below ``root`` check the flags that it is given before it does anything.

    The click library takes the last of several values without a word.
    """
    for name, command in all_commands(root):
        _check_before_parsing(name, command)
    return root


def _check_before_parsing(name: str, command: "click.Command") -> None:
    make_parser = command.make_parser

    def make(ctx: "click.Context") -> Any:
        parser = make_parser(ctx)
        parse_args = parser.parse_args

        def parse(args: list[str]) -> Any:
            found = parse_args(args)
            _check(name, found[2])
            return found

        parser.parse_args = parse  # type: ignore[method-assign]
        return parser

    command.make_parser = make  # type: ignore[method-assign]


def _check(command: str, order: "list[click.Parameter]") -> None:
    given: dict[str, str] = {}
    for parameter in order:
        if parameter.param_type_name != "option" or parameter.name is None:
            continue
        flag = max(parameter.opts, key=len)
        if parameter.name in given and not parameter.multiple and not parameter.is_eager:
            raise UserError(f"{flag} is given twice", where=f"hlrp {command}", fix="keep one of them")
        given[parameter.name] = flag
    for name, needed in NEEDS.get(command, {}).items():
        if name in given and needed not in given:
            other = f"--{needed.replace('_', '-')}"
            raise UserError(
                f"{given[name]} has no effect without {other}", where=given[name], fix=f"add {other}, or leave it out"
            )
    for first, second in EXCLUDE.get(command, ()):
        if first in given and second in given:
            raise UserError(
                f"{given[first]} and {given[second]} exclude each other", where=given[second], fix="keep one of them"
            )


def episodes_of(asked: str | None) -> list[int] | None:
    """The numbers that ``--episodes 0-9,12`` means, ascending; None if it is not given.

    Raises:
        UserError: It cannot be read.
    """
    from hlrp.config import parse_episodes

    if asked is None:
        return None
    try:
        found: list[int] = parse_episodes(asked)
    except ValueError as error:
        raise UserError(str(error), where="--episodes", fix="write 0-9,12") from error
    return sorted(set(found))


def rename_pairs(items: list[str]) -> dict[str, str]:
    """The map that ``--rename-map ENV=POLICY`` means, given once or more.

    Raises:
        UserError: It cannot be read.
    """
    pairs = {}
    for item in items:
        key, found, value = item.partition("=")
        if not (found and key and value):
            raise UserError(
                f"{item!r} is not ENV_KEY=POLICY_KEY",
                where="--rename-map",
                fix="for example --rename-map observation.images.front=observation.images.top",
            )
        pairs[key] = value
    return pairs
