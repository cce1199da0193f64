"""What a diagnosis is of: checkpoint, run, dataset, environment, and the folder for its results. Reads small files."""

from dataclasses import dataclass, replace
from pathlib import Path

from hlrp.data.dataset_info import DatasetInfo, read_dataset
from hlrp.errors import UserError
from hlrp.evaluation.environment_plan import recorded_environment
from hlrp.evaluation.plan import (
    EvalPlan,
    NoEnvironmentError,
    check_request,
    dataset_roots,
    find_run,
    make_plan,
    results_folder,
)
from hlrp.evaluation.request import EvalRequest
from hlrp.runs import RunDirectory, resolve_pretrained

EPISODES = 4
"""Episodes that are looked at unless a number is asked for."""


@dataclass(frozen=True)
class Subject:
    """What is diagnosed.

    Args:
        request: As asked.
        pretrained: The `pretrained_model` folder.
        run: It lies in; None: in none.
        info: The dataset.
        plan: Of the environment; None: there is none, or none is named.
        folder: Where the results go.
    """

    request: EvalRequest
    pretrained: Path
    run: RunDirectory | None
    info: DatasetInfo
    plan: EvalPlan | None
    folder: Path


def subject_of(request: EvalRequest) -> Subject:
    """Find everything that a diagnosis needs, without importing torch or LeRobot.

    Args:
        request: `replay` names the dataset, if it is not the one that the run was trained on.

    Raises:
        UserError: No checkpoint, no dataset with actions, or no place to write.
    """
    check_request(request)
    if request.policy_path is None:
        fix = "name a run or a checkpoint; `hlrp eval --replay DATASET` looks at an environment alone"
        raise UserError("there is no policy to diagnose", where="--diagnose", fix=fix)
    pretrained = resolve_pretrained(request.policy_path.absolute())
    run = find_run(pretrained)
    roots = [request.replay] if request.replay is not None else dataset_roots(pretrained, run)
    if not roots:
        raise UserError(
            "the data that this policy was trained on are not here, and it is them that a diagnosis compares with",
            where=str(request.policy_path),
            fix="give their folder: --replay DATASET",
        )
    info = read_dataset(None, roots[0], where="--replay" if request.replay is not None else str(pretrained))
    if "action" not in info.features:
        raise UserError("the dataset has no actions", where=str(roots[0]), fix="give the one that was trained on")
    alone, plan = replace(request, replay=None), None
    try:
        plan = make_plan(alone)
    except NoEnvironmentError:
        said = recorded_environment(roots[0])
        if not said:
            _check_unused(request)
        else:
            fields = {k: v for k, v in said.items() if k not in ("type", "task")} | request.env_fields
            tasks = request.tasks or said["task"].split(",")
            plan = make_plan(replace(alone, env_type=said["type"], tasks=tasks, env_fields=fields))
    folder = results_folder(request, run) if plan is None else plan.folder
    return Subject(request, pretrained, run, info, plan, folder)


def _check_unused(request: EvalRequest) -> None:
    """Refuse what is meant for an environment where there is none."""
    given = {
        "--task": request.tasks,
        "--batch-size": request.batch_size,
        "--rename-map": request.rename_map,
        "env.FIELD": request.env_fields,
    }
    for flag, value in given.items():
        if value:
            raise UserError(
                f"{flag} has no effect: neither the run nor its data name an environment",
                where=flag,
                fix="leave it out, or give --env",
            )
