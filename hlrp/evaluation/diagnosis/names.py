"""Whether policy, data and environment mean the same features: names, renaming, shapes."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hlrp.camera_names import cameras_among, rename_pairs
from hlrp.errors import UserError
from hlrp.evaluation.diagnosis.findings import Finding, Layer, failed, passed
from hlrp.evaluation.plan import run_config
from hlrp.evaluation.policy import check_features, effective_rename_map
from hlrp.runs import RunDirectory


def has_renaming_step(pretrained: Path) -> bool:
    """Whether the preprocessor of a checkpoint can rename features."""
    try:
        effective_rename_map(pretrained, {"": ""})
    except UserError:
        return False
    return True


def trained_rename_map(run: RunDirectory | None, root: Path) -> dict[str, str]:
    """What a run's settings rename of a dataset for its policy; {}: nothing, or nothing is known."""
    data = run_config(run).get("data") or {}
    for source in data.get("sources") or []:
        if source.get("root") and Path(source["root"]).expanduser().absolute() == root.absolute():
            return dict(source.get("rename_map") or {})
    return dict(data.get("rename_map") or {})


def data_rename_map(
    config: Any, names: Collection[str], trained: Mapping[str, str], saved: Mapping[str, str]
) -> tuple[dict[str, str], str]:
    """The data's names to the policy's, and where that is from; cameras that nobody names are paired by likeness.

    Args:
        config: LeRobot's configuration of the policy.
        names: Features of the dataset.
        trained: From `trained_rename_map`.
        saved: The checkpoint's own.
    """
    for found, where in ((dict(trained), "the run's config.yaml"), (dict(saved), "the checkpoint")):
        if not _missing(config, names, found):
            return found, where if found else ""
    missing = _missing(config, names, {})
    unused = [name for name in cameras_among(names) if name not in (config.input_features or {})]
    return dict(pair.split("=", 1) for pair in rename_pairs(unused, missing)), "the likeness of names"


def _missing(config: Any, names: Collection[str], rename: Mapping[str, str]) -> list[str]:
    have = {rename.get(name, name) for name in names}
    return [name for name in cameras_among(config.input_features or {}) if name not in have]


def check_renaming(
    config: Any,
    given: Collection[str],
    applied: Mapping[str, str],
    trained: Mapping[str, str],
    known_by: str,
    side: str,
) -> Finding | None:
    """Whether the policy gets its cameras, or a renaming that it was trained with is gone.

    Args:
        config: LeRobot's configuration of the policy.
        given: Names of what ``side`` gives.
        applied: What is renamed now.
        trained: What has to be renamed of the data.
        known_by: Where that is from.
        side: `environment` or `data`.

    Returns:
        The fault; None: nothing is missing, or renaming as for the data does not help.
    """
    missing = _missing(config, given, applied)
    if not missing or _missing(config, given, trained):
        return None
    pairs = {old: new for old, new in trained.items() if new in missing}
    text = (
        f"the policy looks at {', '.join(missing)}, which the {side} calls {', '.join(pairs)}; its preprocessor "
        f"renames {'nothing' if not applied else 'something else'}"
    )
    if known_by:
        text += f", {known_by} {'has' if known_by.startswith('the likeness') else 'says'} {_pairs(pairs)}"
    fix = "give " + " ".join(f"--rename-map {old}={new}" for old, new in pairs.items())
    return failed("processors", "names", "rename_map_lost", text, fix, rename_map=pairs, missing=missing)


def _pairs(rename: Mapping[str, str]) -> str:
    return ", ".join(f"{old}={new}" for old, new in rename.items())


def check_shapes(
    config: Any,
    shapes: Mapping[str, tuple[int, ...]],
    actions: int | None,
    rename: Mapping[str, str],
    side: str,
    settings: Mapping[str, tuple[Any, Any]],
) -> Finding:
    """Whether shapes and names are those that the policy takes and gives.

    Args:
        config: LeRobot's configuration of the policy.
        shapes: What ``side`` gives, by its own names.
        actions: Numbers of an action; None: its actions are no vector.
        rename: Its names to the policy's.
        side: `environment` or `data`.
        settings: Of the environment to what the recording had and what it has now, where these differ.
    """
    layer: Layer = "environment" if side == "environment" else "data"
    try:
        notes = check_features(config, dict(shapes), actions, dict(rename))
    except UserError as problem:
        text = f"{problem.what.rpartition('do not fit: ')[2]} ({problem.where})".replace("environment", side)
        fix = problem.fix or ""
        if settings:
            text += f"; {settings_in_words(settings)}"
            fix = " ".join(f"env.{name}={then}" for name, (then, _) in settings.items())
        return failed(layer, "features", "features_differ", text, fix)
    said = f"; {'; '.join(notes)}" if notes else ""
    return passed(layer, "features", f"the {side} {'give' if side == 'data' else 'gives'} what the policy takes{said}")


def settings_that_differ(recording: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields of the environment that were other ones at the recording, to what they were then and are now."""
    named = {name: then for name, then in recording.items() if name not in ("type", "task", "image_size")}
    return {name: (then, fields[name]) for name, then in named.items() if name in fields and fields[name] != then}


def settings_in_words(settings: Mapping[str, tuple[Any, Any]]) -> str:
    """Them in words."""
    return ", ".join(f"{name} is {now!r}, it was {then!r} at the recording" for name, (then, now) in settings.items())
