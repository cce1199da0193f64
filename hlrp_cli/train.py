"""`hlrp train`: train a policy with LeRobot or Lightning from one configuration."""

import json
import os
import re
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hlrp.config.trainer_names import TRAINERS
from hlrp.errors import UserError
from hlrp.files import json_text
from hlrp.foundation.backends.registry import BACKENDS
from hlrp.ranks import Launch, is_first_process
from hlrp.runs.published import folder_of
from hlrp_cli.launching_training import refuse_slurm_section, submit_training

if TYPE_CHECKING:
    from hlrp.runs import RunDirectory
    from trainers.base import RunResult

_OF_A_RESUMED_RUN = frozenset({"trainer.steps", "trainer.devices"})
"""What may change when a run goes on: its length, and how many processes share the samples of a step."""
_PLACE = re.compile(r"data\.(sources\.\d+\.)?root")
"""And, where a run has such a key, in which folder its data lie now."""
_AUTO = "auto"
"""In place of a run's folder; a folder of that name is `./auto`."""

# Flag to schema key; the flags' names are the schema's in kebab-case where nothing shorter is settled.
FLAGS = {
    "trainer": "trainer_type",
    "policy": "model.policy_type",
    "model": "model.kind",
    "backend": "model.backend",
    "backbone": "model.backbone",
    "dataset": "data.repo_id",
    "dataset_root": "data.root",
    "episodes": "data.episodes",
    "augment": "data.image_transforms.enable",
    "steps": "trainer.steps",
    "batch_size": "trainer.batch_size",
    "lr": "trainer.learning_rate",
    "device": "trainer.device",
    "devices": "trainer.devices",
    "nodes": "trainer.num_nodes",
    "precision": "trainer.precision",
    "seed": "trainer.seed",
    "keep_last": "trainer.keep_last",
    "output_dir": "output_dir",
    "init_from": "model.init_from",
    "latents": "latents.table",
    "online_laq": "latents.laq",
    "allow_download": "allow_download",
    "push_to_hub": "push_to_hub",
}


def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Any key of the schema: model.chunk_size=20")
    ] = None,
    trainer: Annotated[str | None, typer.Option(help=f"{' or '.join(TRAINERS)}.")] = None,
    policy: Annotated[str | None, typer.Option(help="Policy to train; `hlrp policies` lists them.")] = None,
    model: Annotated[str | None, typer.Option(help="laq or foundation, in place of --policy.")] = None,
    backend: Annotated[str | None, typer.Option(help=f"{' or '.join(BACKENDS)}.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Vision-language model: Hub name, folder or tiny.")] = None,
    config: Annotated[str | None, typer.Option("-c", "--config", help="YAML file, or a shipped name.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Hub name of the dataset.")] = None,
    dataset_root: Annotated[Path | None, typer.Option(help="Folder of the dataset.")] = None,
    episodes: Annotated[str | None, typer.Option(help="Episodes to train on: 0-9,12.")] = None,
    augment: Annotated[bool, typer.Option("--augment", help="Vary colour and place of what is trained on.")] = False,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per step and device.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; the policy's own if not given.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps.")] = None,
    devices: Annotated[int | None, typer.Option(help="Processes on each node, one per GPU.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes; as many as torchrun or srun started.")] = None,
    precision: Annotated[str | None, typer.Option(help="32, bf16 or fp16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and sample order.")] = None,
    keep_last: Annotated[int | None, typer.Option(help="Checkpoints to keep; all if not given.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Run folder; outputs/<job>/<time> if not given.")] = None,
    init_from: Annotated[str | None, typer.Option(help="Weights to start from: run, checkpoint, Hub name.")] = None,
    latents: Annotated[Path | None, typer.Option(help="Latent table with the labels.")] = None,
    online_laq: Annotated[Path | None, typer.Option(help="Run of a quantizer that labels while training.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN|auto", help="Run to continue; auto: begin, or continue, --output-dir.")
    ] = None,
    launcher: Annotated[
        Literal["local", "slurm"], typer.Option(help="slurm: submit it as a batch job; see the section slurm.")
    ] = "local",
    allow_import: Annotated[
        list[str] | None, typer.Option(metavar="PREFIX", help="Package whose classes may be named; repeatable.")
    ] = None,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Fetch what is missing here.")] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="REPO", help="Publish the finished run as USER/NAME on the Hub.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command and stop.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a policy; ends in a run folder that `hlrp eval` and LeRobot read."""
    given = dict(locals())
    flags = {
        key: (value, f"--{name.replace('_', '-')}")
        for name, key in FLAGS.items()
        if (value := given[name]) is not None and value is not False
    }
    if allow_import:
        from hlrp.config import allow_import as allow

        allow(allow_import)
    if launcher == "slurm":
        going_on = None if resume in (None, _AUTO) else Path(resume)
        if going_on is not None:
            asked = _saved(going_on, flags, overrides or [], config)
        else:
            asked = _configured(config, overrides or [], flags, dry_run=True)
        submit_training(asked, sys.argv[1:], going_on, dry_run=dry_run, as_json=json_output)
        return
    launch = None if dry_run else Launch.of(os.environ)
    with _together(launch):
        if resume not in (None, _AUTO):
            result = _resume(Path(resume), flags, overrides or [], config, dry_run=dry_run)
        else:
            run = _configured(config, overrides or [], flags, dry_run=dry_run)
            refuse_slurm_section(run)
            result = (_execute if resume is None else _begin_or_go_on)(run, dry_run=dry_run)
    if result is None or not is_first_process():
        return  # of several processes one speaks
    if json_output:
        typer.echo(json_text(result.to_json()))
        return
    typer.echo(f"run         {result.path}")
    typer.echo(f"checkpoint  {result.checkpoint}")
    if result.published is not None:
        typer.echo(f"published   {result.published}")
    typer.echo(f"next        {_next_command(result.path)}")


def _together(launch: Launch | None) -> AbstractContextManager[Any]:
    """With the other processes that a launcher started, if there are any."""
    if launch is None:
        return nullcontext()
    from trainers.crew import Crew

    return Crew(launch)


def _next_command(path: Path) -> str:
    from hlrp.runs import RunDirectory

    manifest = RunDirectory.open(path).manifest
    root = manifest.dataset.root or "DIR"
    if manifest.policy == "laq":
        command = ["laq-report", str(path), "--dataset-root", root]
    elif manifest.policy == "foundation":
        start = ["--policy", "hlrp_action_expert_latent", "--init-from", str(path)]
        command = ["train", *start, "--dataset-root", root]
    else:
        command = [_way_to_act(path), str(path)]
    return shlex.join(["hlrp", *command])


def _way_to_act(path: Path) -> str:
    """The command that lets a policy act: one of a real robot has no simulator that `hlrp eval` could use."""
    from hlrp.evaluation.plan import NoEnvironmentError, make_plan
    from hlrp.evaluation.request import EvalRequest

    try:
        make_plan(EvalRequest(policy_path=path))
    except NoEnvironmentError:
        return "serve"
    except UserError:
        pass  # which `hlrp eval` says
    return "eval"


def _configured(config: str | None, overrides: list[str], flags: dict[str, tuple[Any, str]], *, dry_run: bool) -> Any:
    """What is asked for, with the defaults of everything else."""
    from hlrp.config import load_config

    if init_from := flags.get("model.init_from"):
        fetch = "allow_download" in flags and not dry_run
        start = folder_of(Path(str(init_from[0])), "--init-from", allow_download=fetch)
        _name_policy_of(start, flags, config, overrides)
    named = {"model.policy_type", "model.kind"} & flags.keys() or any(o.startswith("model.") for o in overrides)
    if config is None and not named:
        raise UserError(
            "nothing says what to train", where="--policy", fix="give --policy NAME, --model laq or --config FILE"
        )
    return load_config(config, overrides, flags).config


def _execute(
    run: Any, directory: "RunDirectory | None" = None, steps: int | None = None, *, dry_run: bool
) -> "RunResult | None":
    """Train a run anew, or go on with the one in ``directory``; None: it was only looked at."""
    from hlrp.config import OtherRun
    from trainers import get_trainer

    trainer = get_trainer(run.trainer_type)
    if isinstance(run, OtherRun):
        from trainers.other_runs import ready_to_begin, ready_to_go_on

        if directory is None:
            run = ready_to_begin(run)
        else:
            run, steps = ready_to_go_on(directory, run, steps)
    _prepare_process(run, directory)
    if dry_run:
        typer.echo(trainer.dry_run(run, resume=directory, steps=steps))
        return None
    return trainer().fit(run=run) if directory is None else trainer().resume(directory, run, steps=steps)


def _begin_or_go_on(run: Any, *, dry_run: bool) -> "RunResult | None":
    from trainers.auto_resume import find_start, set_aside

    start = find_start(run, dry_run=dry_run)
    if start.done is not None and not dry_run:
        return _published(start.done, run.push_to_hub)
    if start.directory is None and start.path.exists():
        if dry_run:
            raise UserError(
                "the run there has no checkpoint: it would be put aside, and a new one begin",
                where=str(start.path),
                fix="look at the new one with another --output-dir",
            )
        set_aside(start.path)
    return _execute(start.run, start.directory, start.steps, dry_run=dry_run)


def _published(done: "RunResult", repo_id: str | None) -> "RunResult":
    """Publish a run that was complete already: the first time it may have failed, or was not asked for."""
    if repo_id is None or not is_first_process():
        return done
    from trainers.pushing import push_finished

    return replace(done, published=push_finished(done.path, repo_id))


def _prepare_process(run: Any, directory: "RunDirectory | None") -> None:
    """Spare a run the imports that it does not need: this process is there for nothing else."""
    from hlrp.config import LeRobotRun, LightningRun

    if isinstance(run, LeRobotRun | LightningRun):
        from trainers.moved_data import from_its_checkpoint
        from trainers.policy_checks import prepare_process

        latest = directory.latest() if directory is not None else None
        seen: Any = run
        prepare_process(seen if latest is None else from_its_checkpoint(seen, latest.path))


def _name_policy_of(
    init_from: Path, flags: dict[str, tuple[Any, str]], config: str | None, overrides: list[str]
) -> None:
    """A local checkpoint knows its policy: it need not be named again."""
    if {"model.policy_type", "model.kind"} & flags.keys() or not init_from.exists():
        return
    if any(text.startswith(("model.policy_type=", "model.type=", "model.kind=")) for text in overrides):
        return
    from hlrp.runs import resolve_pretrained
    from hlrp.runs.kinds import recognise

    if config is not None and recognise(init_from) != "a policy":
        return  # the file says what is trained from it

    saved = json.loads((resolve_pretrained(init_from) / "config.json").read_text(encoding="utf8"))
    if policy := saved.get("type"):
        flags["model.policy_type"] = (policy, "--init-from")


def _given(flags: dict[str, tuple[Any, str]], overrides: list[str]) -> dict[str, str]:
    """Keys that the command gives, with what it calls them."""
    return {key: name for key, (_, name) in flags.items()} | {o.partition("=")[0]: o for o in overrides}


def _saved(path: Path, flags: dict[str, tuple[Any, str]], overrides: list[str], config: str | None) -> Any:
    """The configuration of a run that is continued, with its new length, and its data where they lie now."""
    from hlrp.config import load_config
    from hlrp.runs.directory import CONFIG
    from trainers.base import from_weights
    from trainers.moved_data import at_given_places, movable
    from trainers.recovery import open_to_resume

    given = _given(flags, overrides)

    # A resumed run repeats its own settings: with others it would not be the same run.
    def refuse(others: list[str]) -> None:
        if others:
            raise UserError(
                f"a resumed run keeps its settings; {', '.join(others)} cannot be changed",
                where="--resume",
                fix=f"start a new run from its weights: {from_weights(path)}",
            )

    places = {key for key in given if _PLACE.fullmatch(key)}
    free = _OF_A_RESUMED_RUN | places
    refuse([name for key, name in given.items() if key not in free] + (["--config"] if config else []))
    directory = open_to_resume(path)
    own = movable(load_config(directory.path / CONFIG).config) if places else ()
    refuse([given[key] for key in given if key in places and key not in own])
    run: Any = load_config(directory.path / CONFIG, overrides, flags).config
    return at_given_places(directory, run, places)


def _resume(
    path: Path, flags: dict[str, tuple[Any, str]], overrides: list[str], config: str | None, *, dry_run: bool
) -> "RunResult | None":
    from hlrp.config import LeRobotRun, LightningRun, load_config
    from hlrp.runs.directory import CONFIG
    from trainers.recovery import open_to_resume
    from trainers.run_data import resumed_paths

    run, directory = _saved(path, flags, overrides, config), open_to_resume(path)
    if isinstance(run, LeRobotRun):  # noqa: SIM114 - one type at a time, for the type checker
        run = resumed_paths(directory, run)
    elif isinstance(run, LightningRun):
        run = resumed_paths(directory, run)
    given = _given(flags, overrides)
    if "trainer.devices" in given and isinstance(run, LeRobotRun | LightningRun):
        began = run.trainer.model_copy(update={"devices": load_config(directory.path / CONFIG).config.trainer.devices})
        try:
            run = run.model_copy(update={"trainer": began.on_devices(run.trainer.devices, began.num_nodes)})
        except ValueError as error:
            raise UserError(str(error), where="--devices", fix="give a number that divides them") from error
    longer = run.trainer.steps if "trainer.steps" in given else None
    return _execute(run, directory, longer, dry_run=dry_run)
