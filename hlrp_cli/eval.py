"""`hlrp eval`: evaluate a policy in a simulator, compare two, or replay recorded actions."""

import json
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlrp.errors import Interrupted, UserError
from hlrp.runs.published import folder_of
from hlrp_cli.console import quiet_libraries
from hlrp_cli.flags import rename_pairs
from hlrp_cli.launching import is_left_to_job, is_only_checked

if TYPE_CHECKING:
    from hlrp.evaluation.request import EvalRequest, EvalResult

FLAGS = {
    "env": "eval.env.type",
    "task": "eval.tasks",
    "episodes": "eval.episodes",
    "seed": "eval.seed",
    "batch_size": "eval.batch_size",
    "device": "eval.device",
    "videos": "eval.videos",
    "output": "eval.output",
    "policy": "eval.checkpoint",
}
# Settings that an `EvalRequest` has under the same name.
_SAME = ("episodes", "seed", "batch_size", "device", "videos", "output")
_HOPELESS = 0.1
"""A success rate below which a diagnosis is suggested."""


def eval(  # noqa: A001 - the name of the command
    policy: Annotated[
        str | None,
        typer.Argument(metavar="[RUN_OR_CHECKPOINT]", help="Run, checkpoint, Hub name; or a results.json."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Any key: env.episode_length=200")
    ] = None,
    config: Annotated[str | None, typer.Option("-c", "--config", help="YAML file, or a shipped name.")] = None,
    env: Annotated[str | None, typer.Option(help="Environment type; that of the training data if not given.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Task; repeat it or give a comma list.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Episodes per task [default: 20].")] = None,
    seed: Annotated[int | None, typer.Option(help="Episode i is reset with SEED + i [default: 1000].")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Environments stepped together.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps.")] = None,
    videos: Annotated[
        int | None, typer.Option(help="First failures, and first successes, to film [default: 4].")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Result folder; RUN/eval/<time> if not given.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Run, checkpoint or results.json to compare with.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Dataset whose recorded actions are played first.")] = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Find out what fails: data, environment, processors or weights.")
    ] = False,
    rename_map: Annotated[list[str] | None, typer.Option(help="Observation key ENV=POLICY; repeatable.")] = None,
    action_space: Annotated[
        str | None, typer.Option(help="Action space to act in, of a policy that was trained on several.")
    ] = None,
    async_envs: Annotated[bool, typer.Option("--async-envs", help="A process per environment of a batch.")] = False,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Fetch what is missing here.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Evaluate a policy in a simulator: success with its 95 % interval, returns, lengths, videos.

    Exit code 1 when --compare shows a regression, a --replay without a policy is not reproduced, or --diagnose finds
    a fault.
    """
    given = dict(locals())
    # `hlrp eval key=value --replay DATASET`: without a policy the first argument is an override.
    if policy and "=" in policy and not Path(policy).exists():
        given["policy"], overrides = None, [policy, *(overrides or [])]
    if policy is not None and _holds_results(Path(policy)):
        _show_saved(given, overrides or [])
        return
    given["task"] = [name.strip() for item in task or [] for name in item.split(",") if name.strip()] or None
    request = _request(given, overrides or [])
    if is_only_checked():
        _check(request, compare, diagnose=diagnose, allow_download=allow_download)
        return
    named = str(given["policy"] or request.policy_path)
    if request.policy_path is not None:
        request.policy_path = folder_of(request.policy_path, "RUN_OR_CHECKPOINT", allow_download=allow_download)
    compare = compare and folder_of(compare, "--compare", allow_download=allow_download)
    quiet_libraries(allow_download)
    if diagnose:
        _diagnose(request, json_output)
        return
    from hlrp.evaluation.compare import evaluate_against
    from hlrp.evaluation.plan import make_plan
    from hlrp.evaluation.policy import without_packages_unused_by
    from hlrp.evaluation.run import evaluate
    from hlrp_cli.eval_view import EvalView, show

    try:
        with EvalView() as view:
            if compare is not None:
                result = evaluate_against(request, compare, listener=view)
            else:
                plan = make_plan(request)
                without_packages_unused_by(*([plan.pretrained] if plan.pretrained else []))
                result = evaluate(request, plan=plan, listener=view)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted: no results were written", signal.SIGINT) from error
    if json_output:
        typer.echo(json.dumps({**result.to_json(), "folder": str(result.folder)}))
    else:
        show(result, _hint(result, named, request))
    if _failed(result):
        raise typer.Exit(1)


def _check(request: "EvalRequest", compare: Path | None, *, diagnose: bool, allow_download: bool) -> None:
    """What can be told of an evaluation before a job makes it, which fetches what is not here."""
    from hlrp.evaluation.diagnosis.subject import subject_of
    from hlrp.evaluation.plan import check_request, make_plan
    from hlrp.runs import resolve_pretrained

    if is_left_to_job(request.policy_path, compare, allow_download=allow_download):
        check_request(request)
        return
    if request.policy_path is not None:
        request.policy_path = folder_of(request.policy_path, "RUN_OR_CHECKPOINT", allow_download=False)
    if diagnose:
        subject_of(request)
        return
    make_plan(request)
    compare = compare and folder_of(compare, "--compare", allow_download=False)
    if compare is not None and not _holds_results(compare):
        resolve_pretrained(compare)


def _diagnose(request: "EvalRequest", json_output: bool) -> None:
    from hlrp.evaluation.diagnosis.subject import subject_of
    from hlrp.evaluation.policy import without_packages_unused_by
    from hlrp_cli.eval_view import EvalView, show_diagnosis

    subject = subject_of(request)
    without_packages_unused_by(subject.pretrained)
    from hlrp.evaluation.diagnosis.run import diagnose
    from hlrp.report.diagnosis import write_page

    try:
        with EvalView() as view:
            found = diagnose(request, subject=subject, listener=view)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted: no diagnosis was written", signal.SIGINT) from error
    page = write_page(found)
    if json_output:
        typer.echo(json.dumps({**found.to_json(), "folder": str(found.folder)}))
    else:
        show_diagnosis(found, page)
    if not found.healthy:
        raise typer.Exit(1)


def _hint(result: "EvalResult", named: str, request: "EvalRequest") -> str | None:
    """The command that looks for the reason of a success rate near zero; None: it is not near zero.

    It says itself what a file may have said: a diagnosis refuses a file that asks for videos.
    """
    import yaml

    overall = result.overall()
    if overall is None or overall["success_rate"] >= _HOPELESS:
        return None
    flags: list[tuple[str, Any]] = [("--env", request.env_type), *(("--task", task) for task in request.tasks)]
    flags += [("--rename-map", f"{mine}={its}") for mine, its in request.rename_map.items()]
    flags += [("--action-space", request.action_space), ("--device", request.device), ("--replay", request.replay)]
    command = ["hlrp", "eval", named, "--diagnose", *(str(part) for pair in flags if pair[1] for part in pair)]
    for name, value in request.env_fields.items():
        # As it is typed where that is read as this text; JSON is YAML.
        plain = isinstance(value, str) and yaml.safe_load(value) == value
        command.append(f"env.{name}={value if plain else json.dumps(value)}")
    return shlex.join(command)


def _holds_results(path: Path) -> bool:
    return (path.is_file() and path.suffix == ".json") or (path / "results.json").is_file()


def _show_saved(given: dict[str, Any], overrides: list[str]) -> None:
    """Show earlier results, such as those of `hlrp rollout`, and compare them with others."""
    if is_only_checked():
        what = "results that are there already are only shown, which takes no job"
        raise UserError(what, where="--launcher", fix="leave it out")
    from hlrp.evaluation.compare import saved_results
    from hlrp_cli.eval_view import show

    used = ("policy", "compare", "json_output")
    idle = [name for name, value in given.items() if name not in used and value not in (None, False, [])]
    if idle:
        flag = overrides[0] if idle == ["overrides"] else f"--{idle[0].replace('_', '-')}"
        raise UserError(
            f"{flag} has no effect on results that are there already",
            where=str(given["policy"]),
            fix="leave it out, or give the policy in place of its results",
        )
    result = saved_results(Path(given["policy"]), given["compare"])
    if given["json_output"]:
        typer.echo(json.dumps({**result.to_json(), "folder": str(result.folder)}))
    else:
        show(result)
    if _failed(result):
        raise typer.Exit(1)


def _failed(result: "EvalResult") -> bool:
    if result.comparison is not None:
        return result.comparison["verdict"] == "worse"
    return not result.tasks and result.replay is not None and not result.replay["reproduced"]


def _request(given: dict[str, Any], overrides: list[str]) -> "EvalRequest":
    from hlrp.evaluation.diagnosis.subject import EPISODES
    from hlrp.evaluation.request import EvalRequest

    fields, rest = _environment_fields(overrides)
    flags = {
        key: (value, "RUN_OR_CHECKPOINT" if name == "policy" else f"--{name.replace('_', '-')}")
        for name, key in FLAGS.items()
        if (value := given[name]) is not None
    }
    from hlrp.config import load_eval_config

    config = load_eval_config(given["config"], rest, flags).config
    settings = {name: getattr(config, name) for name in _SAME}
    if config.env is not None:
        settings["env_type"] = config.env.type
        fields = {**config.env.env_fields, **fields}
    if given["diagnose"]:
        _refuse(_NOT_DIAGNOSED, "when a policy is diagnosed", "leave it out", given, config.model_fields_set)
        if "episodes" not in config.model_fields_set:
            settings["episodes"] = EPISODES
    elif config.checkpoint is None and given["replay"] is not None:
        why, fix = (
            "when recorded actions are replayed without a policy",
            "leave it out, or name a run or checkpoint too",
        )
        _refuse(_OF_POLICIES, why, fix, given, config.model_fields_set)
    tasks = config.tasks or ([config.env.task] if config.env is not None and config.env.task else [])
    return EvalRequest(
        policy_path=config.checkpoint,
        tasks=tasks,
        env_fields=fields,
        replay=given["replay"],
        rename_map=rename_pairs(given["rename_map"] or []),
        action_space=given["action_space"],
        async_envs=given["async_envs"],
        **settings,
    )


# What a replay of recorded actions has no use for: it has its own seeds, one environment, and no policy.
_OF_POLICIES = ("seed", "videos", "batch_size", "device", "rename_map", "action_space", "async_envs", "compare")


# What a diagnosis has no use for: it films nothing, and what it looks at closely is in its own process.
_NOT_DIAGNOSED = ("videos", "compare", "async_envs")


def _refuse(names: tuple[str, ...], why: str, fix: str, given: dict[str, Any], configured: set[str]) -> None:
    for name in names:
        if given.get(name) or name in configured:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} has no effect {why}", where=flag, fix=fix)


def _environment_fields(overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Split off `env.FIELD=VALUE`: the environment's type may come from the training data, which is read later."""
    import yaml

    fields: dict[str, Any] = {}
    rest = []
    for item in overrides:
        key, found, value = item.partition("=")
        key = key.removeprefix("eval.")
        name = key.removeprefix("env.")
        if not found:
            raise UserError(f"{item!r} is not KEY=VALUE", where=item, fix="write it like env.episode_length=200")
        if key.startswith("env.") and name in fields:
            raise UserError(f"{key} is given twice", where=item, fix="keep one of them")
        if key.startswith("env.") and name not in ("type", "task"):
            try:
                fields[name] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise UserError(f"the value of {key} cannot be read", where=item, fix="give a YAML value") from error
        else:
            rest.append(f"eval.{key}={value}")
    return fields, rest
