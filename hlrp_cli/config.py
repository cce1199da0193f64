"""`hlrp config`: show a resolved configuration, check files, print the schema."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlrp.config.trainer_names import TRAINERS
from hlrp.errors import HlrpError, UserError, suggest
from hlrp.foundation.backends.registry import BACKENDS, check_backend

if TYPE_CHECKING:
    from hlrp.config import PolicyModel, Resolved

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any key of the schema: trainer.steps=100")
]
AllowImport = Annotated[
    list[str] | None, typer.Option(metavar="PREFIX", help="Package whose classes may be named; repeatable.")
]


group = typer.Typer(help="Show, check or describe configurations.", no_args_is_help=True)


@group.command()
def show(
    overrides: Overrides = None,
    config: Annotated[str | None, typer.Option("-c", "--config", help="YAML file, or a shipped name.")] = None,
    allow_import: AllowImport = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON: config, origin, files.")] = False,
) -> None:
    """Print the configuration that a command would use, and where each value came from."""
    resolved = _load(config, overrides or [])
    _check_classes(resolved.config, allow_import)
    if json_output:
        typer.echo(
            json.dumps(
                {
                    "config": resolved.config.model_dump(mode="json"),
                    "origin": resolved.origin,
                    "files": [str(path) for path in resolved.files],
                },
                indent=2,
            )
        )
        return
    from hlrp.config.render import annotated_yaml

    typer.echo(annotated_yaml(resolved), nl=False)


@group.command()
def validate(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="FILE... [KEY=VALUE]...", help="Files or shipped names; keys for all of them."),
    ],
    allow_import: AllowImport = None,
) -> None:
    """Check files against the schema, and policies' fields against LeRobot's own classes."""
    overrides = [a for a in arguments if "=" in a and not Path(a).is_file()]
    files = [a for a in arguments if a not in overrides]
    if not files:
        raise UserError("no file to check", where="hlrp config validate", fix="name at least one FILE")
    problems: list[tuple[str, HlrpError]] = []
    for file in files:
        try:
            typer.echo(f"{file}: ok, {_check(file, overrides, allow_import)}")
        except HlrpError as error:
            problems.append((file, error))
    if len(problems) == 1:
        raise problems[0][1]
    if problems:
        blocks = [f"{file}:\n" + "\n".join(f"  {line}" for line in str(e).splitlines()) for file, e in problems]
        raise UserError(f"{len(problems)} of {len(files)} files are wrong\n" + "\n".join(blocks))


@group.command()
def schema(
    trainer: Annotated[str | None, typer.Option(help=f"Only runs of this trainer: {' or '.join(TRAINERS)}.")] = None,
) -> None:
    """Print the JSON Schema of a run, for editors that complete and check YAML."""
    if trainer is not None and trainer not in TRAINERS:
        raise UserError(f"unknown trainer {trainer!r}", where="--trainer", fix=suggest(trainer, TRAINERS))
    from hlrp.config.json_schema import json_schema

    typer.echo(json.dumps(json_schema(trainer, backends=BACKENDS), indent=2))


def _load(config: str | None, overrides: list[str]) -> "Resolved[Any]":
    from hlrp.config import is_eval_file, load_config, load_eval_config

    evaluation = is_eval_file(config) if config is not None else any(o.startswith("eval.") for o in overrides)
    return (load_eval_config if evaluation else load_config)(config, overrides)


def _check_classes(config: Any, allow: list[str] | None) -> None:
    """Check that the classes that a run names may be imported and are what they are named for, and its backend."""
    from hlrp.config import FoundationModel, LightningRun, allow_import

    allow_import(allow or [])
    if isinstance(config, LightningRun):
        if isinstance(config.model, FoundationModel):
            check_backend(config.model.backend)
        from trainers.lightning.models import check_classes

        check_classes(config)


def _check(file: str, overrides: list[str], allow: list[str] | None) -> str:
    """Check one file; return what it is in a few words."""
    from hlrp.config import EvalConfig, PolicyModel
    from trainers.registry import check_keys

    config = _load(file, overrides).config
    if isinstance(config, EvalConfig):
        return "an evaluation" + (f" in {config.env.type}" if config.env else "")
    check_keys(config)
    _check_classes(config, allow)
    if not isinstance(config.model, PolicyModel):
        return f"a {config.trainer_type} run"
    _check_policy(config.model)
    return f"a {config.trainer_type} run of policy {config.model.policy_type}"


def _check_policy(model: "PolicyModel") -> None:
    """Check a policy's fields, and have LeRobot's own class judge their values."""
    from hlrp.catalog import policy_catalog

    policy_catalog().check_fields(model.policy_type, model.policy_fields)
    # Fields on top of a checkpoint are judged together with its own values, when it is loaded.
    if not model.init_from:
        # Imported late: it imports LeRobot, which takes many seconds.
        from hlrp.compat import check_policy_values

        check_policy_values(model.policy_type, model.policy_fields)
