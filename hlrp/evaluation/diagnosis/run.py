"""Diagnosing a policy: `diagnose(EvalRequest(...)) -> Diagnosis`."""

import platform
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hlrp.data.dataset_info import named_episodes
from hlrp.errors import UserError
from hlrp.evaluation import policy as policies
from hlrp.evaluation.diagnosis import acting, names, normalisation, open_loop, physics, pictures
from hlrp.evaluation.diagnosis.findings import Diagnosis, failed, undecided
from hlrp.evaluation.diagnosis.recorded import ACTION, STATE, Recorded, Row
from hlrp.evaluation.diagnosis.simulator import Simulator, simulators
from hlrp.evaluation.diagnosis.subject import Subject, subject_of
from hlrp.evaluation.environment_plan import recorded_environment
from hlrp.evaluation.plan import EvalPlan, run_config
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.evaluation.request import DIAGNOSIS, EvalRequest, Listener
from hlrp.evaluation.run import environment_configs, prepare_rendering
from hlrp.files import write_json
from hlrp.locks import FolderLock
from hlrp.runs import checkpoint_step, claim_folder
from hlrp.runs.directory import now, package_versions

_MOST_TASKS = 2


def diagnose(request: EvalRequest, *, subject: Subject | None = None, listener: Listener | None = None) -> Diagnosis:
    """Find out which of data, environment, processors and weights fails, and write `diagnosis.json`.

    Args:
        request: As for an evaluation; `episodes` are looked at in all, `replay` names the dataset, `videos` has no use.
        subject: What it is of, when the caller has found it already.
        listener: Told about progress.

    Raises:
        UserError: What is asked cannot be done here.
    """
    subject = subject or subject_of(request)
    with claim_folder(subject.folder) if request.output is None else FolderLock(subject.folder) as lock:
        if subject.plan is not None:
            prepare_rendering(subject.plan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = _diagnose(replace(subject, folder=lock.folder), listener or Listener())
        found.folder.mkdir(parents=True, exist_ok=True)
        write_json(found.folder / DIAGNOSIS, found.to_json())
    return found


def _diagnose(subject: Subject, listener: Listener) -> Diagnosis:
    from lerobot.utils.import_utils import register_third_party_plugins

    from hlrp.devices import choose_device

    register_third_party_plugins()
    request, pretrained = subject.request, subject.pretrained
    device = choose_device(request.device, saved=policies.saved_device(pretrained))
    config = policies.policy_config(pretrained, device)
    policies.choose_action_space(config, request.action_space)
    info, root = subject.info, subject.info.root
    saved = policies.effective_rename_map(pretrained, {}, info.features)
    trained = names.trained_rename_map(subject.run, root)
    rename, known_by = names.data_rename_map(config, info.features, trained, saved)
    data = run_config(subject.run).get("data") or {}
    recorded = Recorded.open(
        info,
        rename,
        episodes=request.episodes,
        tasks=subject.plan.tasks[:_MOST_TASKS] if subject.plan else [],
        trained=None if data.get("sources") else named_episodes(data.get("episodes"), info),
    )
    if not recorded.by_episode(ACTION):
        raise UserError(
            "none of its actions was recorded, and it is them that a diagnosis compares with",
            where=str(root),
            fix="give the dataset that the predicted ones were fitted on: --replay DATASET",
        )
    found = Diagnosis(subject.folder, _provenance(subject, config, recorded))
    width = int(info.features[ACTION]["shape"][0])
    found.add(names.check_shapes(config, recorded.shapes, width, {}, "data", {}))
    fields = {} if subject.plan is None else subject.plan.env_fields
    settings = names.settings_that_differ(recorded_environment(root), fields)
    with ExitStack() as stack:
        worlds = _open_worlds(subject, config, recorded, stack, listener)
        fits = _check_names(found, subject, config, recorded, worlds, known_by, settings)
        loaded = _load(found, subject, config, fits)
        if loaded is not None:
            used = list(normalisation.statistics_in(loaded))
            found.add(normalisation.check_dataset(recorded, used))
            mixture = bool(data.get("sources")) or bool(getattr(config, "action_spaces", None))
            found.add(normalisation.check_normaliser(recorded, used, mixture=mixture))
        if worlds:
            listener.note("comparing the environment with the recorded episodes")
            _check_environment(found, subject, recorded, worlds, settings)
    if loaded is not None:
        _check_weights(found, subject, loaded, recorded, fits, listener)
    return found


@dataclass
class _World:
    """An environment, and the recorded episodes that it is compared on."""

    simulator: Simulator
    rows: list[Row]


@dataclass(frozen=True)
class _Fits:
    """What is renamed for the policy, whether its preprocessor can, and whether it can act in the environment."""

    rename: dict[str, str]
    can_rename: bool
    acts: bool


def _open_worlds(
    subject: Subject, config: Any, recorded: Recorded, stack: ExitStack, listener: Listener
) -> list[_World]:
    if subject.plan is None:
        return []
    listener.note("starting the environment")
    worlds = []
    for env_cfg in environment_configs(replace(subject.plan, tasks=_tasks(subject.plan, recorded))):
        opened = stack.enter_context(simulators(env_cfg, config, {}, subject.plan.env_fields))
        for simulator in opened:
            rows = [row for row in recorded.rows if not recorded.seeded or row.task == simulator.task]
            worlds.append(_World(simulator, rows))
    return worlds


def _tasks(plan: EvalPlan, recorded: Recorded) -> list[str]:
    """The tasks that are looked at: those of the chosen episodes, or of data without reset seeds the first ones."""
    return list(dict.fromkeys(row.task for row in recorded.rows)) if recorded.seeded else plan.tasks[:_MOST_TASKS]


def _check_names(
    found: Diagnosis,
    subject: Subject,
    config: Any,
    recorded: Recorded,
    worlds: list[_World],
    known_by: str,
    settings: Mapping[str, tuple[Any, Any]],
) -> _Fits:
    """Names and shapes, first of the environment, or of the data where there is none."""
    request, able = subject.request, names.has_renaming_step(subject.pretrained)
    given = worlds[0].simulator.shapes() if worlds else dict.fromkeys(recorded.info.features, ())
    side = "environment" if worlds else "data"
    applied = policies.effective_rename_map(subject.pretrained, request.rename_map, given)
    lost = None if request.rename_map else names.check_renaming(config, given, applied, recorded.rename, known_by, side)
    if lost is not None:
        found.add(lost)
        applied = {**applied, **recorded.rename}
    fits = _Fits(applied, able, acts=bool(worlds) and (able or not applied))
    if worlds:
        simulator = worlds[0].simulator
        finding = names.check_shapes(config, given, simulator.actions, applied, "environment", settings)
        found.add(finding)
        fits = replace(fits, acts=fits.acts and finding.fault is None)
        for world in worlds:
            world.simulator = replace(world.simulator, rename=applied)
    return fits


def _load(found: Diagnosis, subject: Subject, config: Any, fits: _Fits) -> LoadedPolicy | None:
    """The policy; None: its processors are incomplete, which is a finding."""
    try:
        return policies.load_policy(config, None, fits.rename, bool(fits.rename) and fits.can_rename)
    except UserError as problem:
        if "normalisation statistics" not in problem.what:
            raise
        fix = problem.fix or ""
        found.add(failed("processors", "normaliser", "statistics_missing", problem.what, fix))
        return None


def _check_environment(
    found: Diagnosis,
    subject: Subject,
    recorded: Recorded,
    worlds: Sequence[_World],
    settings: Mapping[str, tuple[Any, Any]],
) -> None:
    asked = [(world.simulator, row, number) for world in worlds for number, row in enumerate(world.rows)]
    # In the order of the rows, so that both sides are pairs.
    asked.sort(key=lambda one: one[1].episode)
    first_seed = subject.request.seed
    seen = [simulator.first(first_seed + n if row.seed is None else row.seed) for simulator, row, n in asked]
    states = None
    if all(STATE in one for one in seen) and recorded.shapes.get(STATE) == seen[0][STATE].shape:
        states = physics.check_first_states(np.stack([one[STATE] for one in seen]), recorded)
        found.add(states.finding)
    cameras = [name for name in recorded.readers if all(name in one for one in seen)]
    shown = {name: np.stack([one[name] for one in seen]) for name in cameras}
    findings, found.pictures = pictures.check_pictures(shown, recorded, settings)
    found.add(*findings)
    rate, replayed = worlds[0].simulator.rate, None
    plays = [(simulator, row) for simulator, row, _ in asked]
    if recorded.seeded and worlds[0].simulator.actions == len(recorded.joints(ACTION)):
        same = physics.check_rate(rate, recorded, None).fault is None
        comparable = states is not None and states.finding.fault in (None, "other_unit", "joint_order")
        replayed = physics.check_replay(plays, recorded, states if comparable else None, same_rate=same)
    else:
        why = "their actions are of another width" if recorded.seeded else "they do not say from which seeds they began"
        text = f"the recorded actions cannot be played here: {why}"
        found.add(undecided("environment", "replay", text))
    found.add(physics.check_rate(rate, recorded, replayed))
    if replayed is not None:
        found.add(replayed)


def _check_weights(
    found: Diagnosis, subject: Subject, loaded: LoadedPolicy, recorded: Recorded, fits: _Fits, listener: Listener
) -> None:
    request = subject.request
    if any(f.layer == "data" and f.fault == "features_differ" for f in found.findings):
        text = "not judged: the data do not hold what the policy takes"
        found.add(undecided("weights", "open loop", text))
        return
    listener.note(f"acting on {len(recorded.rows)} recorded episodes")
    renamed = fits.rename if fits.can_rename else {}
    loop = open_loop.act_on_recorded(loaded, recorded, renamed, request.seed)
    stale = next((f for f in found.findings if f.fault == "stale_normaliser"), None)
    if stale is not None:
        before = open_loop.explained(loop, recorded)
        loaded = normalisation.with_dataset_statistics(loaded, recorded)
        loop = open_loop.act_on_recorded(loaded, recorded, renamed, request.seed)
        after = open_loop.explained(loop, recorded)
        shares = [round(open_loop.typical(share), 4) for share in (before, after)]
        own, true = (f"{max(share, 0):.0%}" for share in shares)
        line = f"{stale.line}; with the dataset's its actions explain {true} in place of {own}"
        evidence = {**stale.evidence, "explained": shares}
        found.findings[found.findings.index(stale)] = replace(stale, line=line, evidence=evidence)
    found.add(open_loop.check_open_loop(loaded, loop, recorded, repaired=stale is not None))
    found.traces = open_loop.traces_of(loop, recorded)
    whose = {"recorded": recorded.by_episode(ACTION), "on recorded pictures": loop.predicted}
    if subject.plan is not None and fits.acts and stale is None:
        plan = replace(subject.plan, tasks=_tasks(subject.plan, recorded))
        found.success, whose["acting"] = acting.act(loaded, environment_configs(plan), request, listener)
        found.add(acting.check_actions(whose["acting"], recorded, succeeds=2 * found.success[0] >= found.success[1]))
    found.histograms = acting.histograms_of(whose, recorded)


def _provenance(subject: Subject, config: Any, recorded: Recorded) -> dict[str, Any]:
    plan = subject.plan
    env = None
    if plan is not None:
        env = {"type": plan.env_type, "tasks": plan.tasks, "fields": plan.env_fields, "source": plan.env_source}
    step = checkpoint_step(subject.pretrained.parent)
    return {
        "created": now(),
        "policy": {
            "path": str(subject.pretrained),
            "step": step,
            "type": config.type,
            "device": str(config.device),
            **policies.identity_of(subject.pretrained),
        },
        "env": env,
        "dataset": {"root": str(subject.info.root), "episodes": [row.episode for row in recorded.rows]},
        "seed": subject.request.seed,
        "versions": {"python": platform.python_version(), **package_versions()},
    }
