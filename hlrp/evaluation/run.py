"""Evaluating a policy in a simulator on LeRobot's rollout: `evaluate(EvalRequest(...)) -> EvalResult`."""

import platform
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hlrp.evaluation.environment_plan import warnings_of_seeds
from hlrp.evaluation.plan import EvalPlan, find_run, make_plan
from hlrp.evaluation.request import RESULTS, Episode, EvalRequest, EvalResult, Listener, TaskResult
from hlrp.files import write_json
from hlrp.locks import FolderLock
from hlrp.runs import checkpoint_step, claim_folder
from hlrp.runs.code_effect import code_effect_warning, last_code_effect
from hlrp.runs.directory import METRICS, now, package_versions
from hlrp.sim.catalog import envs_catalog

__all__ = ["Episode", "EvalPlan", "EvalRequest", "EvalResult", "Listener", "TaskResult", "evaluate", "make_plan"]

UNFINISHED = "results.unfinished.json"
"""What `results.json` will hold of the tasks that are through: all that is left where a later one breaks off."""

_LARGEST_BATCH = 8


def evaluate(request: EvalRequest, *, plan: EvalPlan | None = None, listener: Listener | None = None) -> EvalResult:
    """Evaluate a policy, replay recordings, or both, and write `results.json` and the videos.

    Args:
        request: What to evaluate.
        plan: The request filled in, when the caller has made it already.
        listener: Told about progress.

    Raises:
        UserError: What is asked cannot be done here, or another process writes there; before any episode is run
            where it can be known.
    """
    plan = plan or make_plan(request)
    # A name that was chosen for the user is another one if an evaluation of the same second has it.
    with claim_folder(plan.folder) if request.output is None else FolderLock(plan.folder) as lock:
        return _evaluate(request, replace(plan, folder=lock.folder), listener or Listener())


def _evaluate(request: EvalRequest, plan: EvalPlan, listener: Listener) -> EvalResult:
    prepare_rendering(plan)
    result = EvalResult(plan.folder, _provenance(request, plan))
    started = time.monotonic()
    with warnings.catch_warnings():
        # Said once per rollout by packages that the user does not control (pygame, LeRobot's attribute check).
        warnings.simplefilter("ignore", UserWarning)
        try:
            _run(request, plan, result, listener)
        except BaseException:
            if result.tasks:
                names = ", ".join(task.task for task in result.tasks)
                listener.note(f"warning: what was finished ({names}) is in {result.folder / UNFINISHED}")
            raise
    result.provenance["seconds"] = round(time.monotonic() - started, 3)
    save(result)
    return result


def prepare_rendering(plan: EvalPlan) -> None:
    """Choose the way of rendering, before the environment is imported, and see that it works.

    Raises:
        UserError: Nothing renders here.
    """
    entry = envs_catalog().get(plan.env_type)
    if entry is None or entry.needs_gl:
        from hlrp.sim.rendering import configure_gl, probe_rendering

        configure_gl()
        if entry is not None:
            probe_rendering()


def environment_fields(plan: EvalPlan) -> dict[str, Any]:
    """Every field of the environment that a plan's episodes run in, defaults included; imports LeRobot.

    Raises:
        UserError: The environment's class refuses a field.
    """
    prepare_rendering(plan)
    return _plain(environment_configs(plan)[0])


def save(result: EvalResult) -> None:
    """Write `results.json` in one step."""
    _write(result, RESULTS)
    (result.folder / UNFINISHED).unlink(missing_ok=True)


def _write(result: EvalResult, name: str) -> None:
    result.folder.mkdir(parents=True, exist_ok=True)
    write_json(result.folder / name, result.to_json())


def _run(request: EvalRequest, plan: EvalPlan, result: EvalResult, listener: Listener) -> None:
    from hlrp.devices import choose_device
    from hlrp.evaluation import policy as policies
    from hlrp.evaluation.replay import replay_recording

    if request.device is not None:
        choose_device(request.device)
    env_cfgs = environment_configs(plan)
    result.provenance["env"]["config"] = _plain(env_cfgs[0])
    result.provenance["batch_size"] = batch_size(request, env_cfgs[0])
    loaded = None
    if plan.pretrained is not None:
        device = choose_device(request.device, saved=policies.saved_device(plan.pretrained))
        config = policies.policy_config(plan.pretrained, device)
        policies.choose_action_space(config, request.action_space)
        result.provenance["policy"] |= {"type": config.type, "device": str(config.device)}
        if getattr(config, "action_space", None):
            result.provenance["policy"]["action_space"] = config.action_space
        loaded = _load(request, plan, config, env_cfgs[0], result, listener)
        _take_code_effect(plan.pretrained, result)
    for text in result.warnings:
        listener.note(f"warning: {text}")
    if request.replay is not None:
        result.replay = replay_recording(request.replay, env_cfgs, request.episodes, listener)
        for line in result.replay.pop("problems"):
            _warn(result, listener, line)
    if loaded is not None:
        for line in warnings_of_seeds(plan, request.seed, request.episodes):
            _warn(result, listener, line)
        for env_cfg in env_cfgs:
            _run_tasks(request, env_cfg, loaded, result, listener)


def environment_configs(plan: EvalPlan) -> list[Any]:
    """LeRobot's configuration of the environment for each task of a plan.

    Raises:
        UserError: As for `environment_config`.
    """
    from lerobot.utils.import_utils import register_third_party_plugins

    from hlrp.evaluation.environment import environment_config

    register_third_party_plugins()
    return [environment_config(plan.env_type, task, plan.env_fields) for task in plan.tasks or (None,)]


def batch_size(request: EvalRequest, env_cfg: Any = None) -> int:
    """Environments stepped together: as asked, else the most that fit evenly, up to 8, or their `usual_batch`."""
    if request.batch_size is not None:
        return min(request.batch_size, request.episodes)
    batches = -(-request.episodes // getattr(env_cfg, "usual_batch", _LARGEST_BATCH))
    return -(-request.episodes // batches)


def _load(
    request: EvalRequest, plan: EvalPlan, config: Any, env_cfg: Any, result: EvalResult, listener: Listener
) -> Any:
    """Check that policy and environment fit, on one environment, before the weights are read."""
    from lerobot.envs import close_envs, make_env_pre_post_processors

    from hlrp.evaluation import environment
    from hlrp.evaluation import policy as policies

    assert plan.pretrained is not None
    environments = environment.build_environments(env_cfg, 1, use_async=False)
    try:
        vec = environments[0][1]
        observed = environment.observed_shapes(vec, make_env_pre_post_processors(env_cfg, config)[0])
        rename = policies.effective_rename_map(plan.pretrained, request.rename_map, observed, listener.note)
        shape = getattr(vec.single_action_space, "shape", None)
        result.warnings += policies.check_features(config, observed, shape[0] if shape else None, rename)
    finally:
        close_envs([e for _, e in environments])
    loaded = policies.load_policy(config, env_cfg, rename, bool(rename))
    result.warnings += loaded.warnings
    result.provenance["policy"] |= policies.identity_of(plan.pretrained)
    return loaded


def _run_tasks(request: EvalRequest, env_cfg: Any, loaded: Any, result: EvalResult, listener: Listener) -> None:
    from lerobot.envs import close_envs, make_env_pre_post_processors

    from hlrp.evaluation.environment import build_environments
    from hlrp.evaluation.rollout import Film, run_task

    environments = build_environments(env_cfg, batch_size(request, env_cfg), request.async_envs)
    processors = make_env_pre_post_processors(env_cfg, loaded.config)
    try:
        for task, vec in environments:
            fps = int((vec.metadata or {}).get("render_fps") or env_cfg.fps)
            film = Film(result.folder / "videos" / task.replace("/", "_"), request.videos, fps)
            done = run_task(
                task,
                vec,
                loaded,
                processors,
                episodes=request.episodes,
                seed=request.seed,
                film=film,
                listener=listener,
            )
            done.videos = [str(Path(v).relative_to(result.folder)) for v in done.videos]
            result.tasks.append(done)
            _write(result, UNFINISHED)
    finally:
        # Left to the interpreter's exit, an OpenGL context prints a traceback of its own.
        close_envs([e for _, e in environments])


def _warn(result: EvalResult, listener: Listener, text: str) -> None:
    result.warnings.append(text)
    listener.note(f"warning: {text}")


def _take_code_effect(pretrained: Path, result: EvalResult) -> None:
    """What the run measured of the policy up to this checkpoint, and where that is written."""
    run = find_run(pretrained)
    found = None if run is None else last_code_effect(run.metrics(), checkpoint_step(pretrained.parent))
    if run is None or found is None:
        return
    result.code_effect = {**found, "source": str(run.path / METRICS)}
    if problem := code_effect_warning(found):
        result.warnings.append(problem)


def _provenance(request: EvalRequest, plan: EvalPlan) -> dict[str, Any]:
    policy: dict[str, Any] | None = None
    if plan.pretrained is not None:
        # `checkpoints/last` is another one later.
        policy = {"path": str(plan.pretrained), "step": checkpoint_step(plan.pretrained.parent.resolve())}
    return {
        "created": now(),
        "policy": policy,
        "env": {"type": plan.env_type, "tasks": plan.tasks, "fields": plan.env_fields, "source": plan.env_source},
        "seed": request.seed,
        "episodes_per_task": request.episodes,
        "versions": {"python": platform.python_version(), **package_versions()},
    }


def _plain(env_cfg: Any) -> dict[str, Any]:
    """Fields of an environment's configuration as JSON values."""
    return {k: v for k, v in asdict(env_cfg).items() if isinstance(v, str | int | float | bool | list | type(None))}
