"""What a run page says, read from the small files of a run, an evaluation, a latent table or an action decoder."""

import datetime as dt
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hlrp.errors import UserError
from hlrp.evaluation.plan import find_run, read_json
from hlrp.report.card import read_card
from hlrp.report.curves import Chart, numeric_keys, series_of
from hlrp.report.diagnosis import Diagnosed, read_diagnoses
from hlrp.report.evaluations import Evaluation, VideoRoom
from hlrp.report.origins import Chain, Origin, folded, weights_of
from hlrp.report.side import Comparison, Side, beside, curves, detailed, held_out, read_side
from hlrp.runs import RunDirectory
from hlrp.runs.code_effect import FIGURES, code_effect_warning, describe_code_effect, last_code_effect
from hlrp.runs.directory import CONFIG, LOG
from hlrp.runs.kinds import recognise

Fact = tuple[str, str]

_LOG_LINES = 20
_LOG_BYTES = 20_000
_RISING = ("accuracy", "gain", "gap", "psnr", "r2", "success")


@dataclass(frozen=True)
class Score:
    """A metric of held-out data.

    Args:
        name: The metric.
        last: Its last value, with its step.
        best: Its best one, with its step; None: more of it is neither better nor worse.
    """

    name: str
    last: tuple[float, int]
    best: tuple[float, int] | None


@dataclass
class Page:
    """What a run page says.

    Args:
        title: Name of the run.
        kind: What it is.
        path: Its folder.
        status: `finished`, `failed`, `interrupted`, `running`; empty: nothing says.
        headline: One sentence on how it went.
        remarks: What a reader of the numbers has to know.
        facts: What it was.
        origins: What it came from.
        charts: Headings with their curves.
        scores: On held-out data.
        dimensions: R2 of each action dimension, of a decoder.
        code_effect: How far a policy acts on its codes.
        evaluations: Newest first.
        diagnoses: Newest first.
        comparison: Beside other runs.
        loss: The last one.
        card: Quality card of a quantizer, as HTML.
        configuration: As YAML.
        command: That trained it.
        log: Its last lines, of a run that failed.
        versions: Of packages.
    """

    title: str
    kind: str
    path: Path
    status: str = ""
    headline: str = ""
    remarks: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    origins: tuple[Origin, ...] = ()
    charts: list[tuple[str, list[Chart]]] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    dimensions: list[tuple[str, float]] = field(default_factory=list)
    code_effect: str | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    diagnoses: list[Diagnosed] = field(default_factory=list)
    comparison: Comparison | None = None
    loss: float | None = None
    card: str | None = None
    configuration: str = ""
    command: str = ""
    log: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def read_page(path: Path, others: Sequence[Path], folder: Path) -> Page:
    """Everything that the page of a run, an evaluation, a latent table or an action decoder says.

    Args:
        path: What it is of.
        others: Runs or evaluations to put beside it.
        folder: Where the page goes: links are relative to it.

    Raises:
        UserError: ``path`` or one of ``others`` is none of these.
    """
    kind = recognise(path)
    chain = Chain(folder)
    if kind in ("a latent table", "an action decoder") and not (path / "run.json").exists():
        if others:
            raise UserError(
                f"{path} holds {kind}, which has no curves and no evaluations to compare",
                where="--against",
                fix="leave it out, or give a run",
            )
        return _artefact(path.absolute(), kind, chain)
    room = VideoRoom()
    side = read_side(path, room, "RUN")
    page = _run_page(side, side.run, chain) if side.run is not None else _evaluation_page(side, chain)
    page.evaluations = side.evaluations
    page.remarks += side.problems
    if side.run is not None:
        page.diagnoses, unread = read_diagnoses(side.run.diagnoses()[::-1], folder)
        page.remarks += unread
    if others:
        # Their films stay on their own pages.
        page.comparison = beside(side, [read_side(other, VideoRoom(0), "--against") for other in others])
    return page


def _run_page(side: Side, run: RunDirectory, chain: Chain) -> Page:
    manifest = run.manifest
    kind = (recognise(run.path) or "a run").partition(" ")[2]
    effect = last_code_effect(side.rows)
    page = Page(side.name, kind[0].upper() + kind[1:], run.path, status=manifest.status or "")
    page.headline = _headline(run, side.rows)
    page.remarks = list(manifest.warnings)
    if effect is not None:
        page.code_effect = describe_code_effect(effect)
        page.remarks += [text] if (text := code_effect_warning(effect)) is not None else []
    page.remarks += [text for once in manifest.resumed for text in once.skipped]
    page.remarks += [f"checkpoint {c.path.name} is broken: {c.problem}" for c in run.checkpoints() if not c.complete]
    page.facts = _run_facts(run)
    page.origins = folded(chain.of_run(run))
    page.charts, page.scores = curves(side.rows), _scores(side.rows)
    losses = series_of(side.rows, "loss")
    page.loss = None if losses is None else losses.last.value
    page.card = read_card(run.path)
    page.configuration, page.command = _text(run.path / CONFIG), shlex.join(manifest.command)
    page.log = _last_lines(run.path / LOG) if manifest.status == "failed" else ""
    page.versions = dict(manifest.versions)
    return page


def _headline(run: RunDirectory, rows: Sequence[Mapping[str, Any]]) -> str:
    manifest = run.manifest
    done = max((row.get("step", 0) for row in rows), default=None)
    steps = "" if done is None else f" {'after' if manifest.ended else 'at'} step {done:,}"
    steps += f" of {manifest.steps:,}" if done is not None and manifest.steps is not None else ""
    said = {
        "finished": f"Finished{steps}.",
        "failed": f"Failed{steps}: {manifest.reason or 'no reason is known'}",
        "interrupted": f"Interrupted{steps}{f': {manifest.reason}' if manifest.reason else '.'}",
        "running": f"Running{steps}, or killed: it has not said that it ended.",
    }
    return said.get(manifest.status or "", f"How it ended is not known{steps and ';'}{steps}.")


def _run_facts(run: RunDirectory) -> list[Fact]:
    manifest = run.manifest
    checkpoints = [f"{c.path.name}{'' if c.complete else ' (broken)'}" for c in run.checkpoints()]
    facts: dict[str, object] = {
        "trained": manifest.policy,
        "trainer": manifest.trainer,
        "steps": None if manifest.steps is None else f"{manifest.steps:,}",
        "seed": manifest.seed,
        "processes": manifest.processes,
        "started": manifest.started,
        "ended": manifest.ended,
        "took": _duration(manifest.started, manifest.ended),
        "resumed": ", ".join(f"from step {once.step:,}" for once in manifest.resumed),
        "frames left by the filter": manifest.dataset.filter,
        "checkpoints": ", ".join(checkpoints),
        "commit of hlrp": manifest.git_commit,
    }
    told = [(name, str(value)) for name, value in facts.items() if value not in (None, "")]
    return [*told, *weights_of(run.path), ("folder", str(run.path))]


def _duration(started: str, ended: str | None) -> str | None:
    try:
        seconds = (dt.datetime.fromisoformat(ended or "") - dt.datetime.fromisoformat(started)).total_seconds()
    except (ValueError, TypeError):
        return None
    return str(dt.timedelta(seconds=round(seconds))) if seconds >= 0 else None


def _scores(rows: Sequence[Mapping[str, Any]]) -> list[Score]:
    scores = []
    for key in numeric_keys(rows):
        if not held_out(key) or detailed(key) or key in FIGURES:
            continue
        points = [(float(r[key]), int(r.get("step", 0))) for r in rows if series_of([r], key) is not None]
        if not points:
            continue
        best = None
        if "loss" in key or "error" in key:
            best = min(points)
        elif any(word in key for word in _RISING):
            best = max(points, key=lambda point: (point[0], -point[1]))
        scores.append(Score(key, points[-1], best))
    return scores


def _evaluation_page(side: Side, chain: Chain) -> Page:
    (evaluation,) = side.evaluations
    result = evaluation.result
    said = result.provenance
    page = Page(side.name, "Evaluation", result.folder.absolute())
    overall = result.overall() if evaluation.tasks else None
    if overall is not None:
        low, high = overall["success_interval"]
        page.headline = (
            f"{overall['successes']} of {overall['episodes']} episodes succeeded: {overall['success_rate']:.0%}, "
            f"95 % interval {low:.0%} to {high:.0%}."
        )
    policy, env = said.get("policy"), said.get("env")
    policy = policy if isinstance(policy, dict) else {}
    place = _evaluated(policy, page.path)
    if place is not None:
        page.origins = folded([chain.of_place(place, "a policy")])
        now = [value for _, value in weights_of(place)]
        if now and policy.get("weights_sha256") not in (None, *now):
            page.remarks.append(f"the weights that were evaluated are not those that are now in {place}")
    shown = {"created": said.get("created"), "policy": policy.get("type"), "step": policy.get("step")}
    shown |= {"SHA-256 of the weights": policy.get("weights_sha256"), "device": policy.get("device")}
    shown |= {"simulator": env.get("type") if isinstance(env, dict) else None, "first seed": said.get("seed")}
    shown |= {"episodes a task": said.get("episodes_per_task"), "took, s": said.get("seconds")}
    page.facts = [(name, str(value)) for name, value in shown.items() if value is not None]
    page.facts.append(("folder", str(page.path)))
    versions = said.get("versions")
    page.versions = {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {}
    config = env.get("config") if isinstance(env, dict) else None
    page.configuration = json.dumps(config, indent=2) if config else ""
    return page


def _evaluated(policy: Mapping[str, Any], folder: Path) -> Path | None:
    """Where the evaluated policy lies; if its run was moved with the evaluation in it, there."""
    place = Path(policy["path"]) if isinstance(policy.get("path"), str) else None
    if place is None or place.exists():
        return place
    run = find_run(folder)
    return place if run is None else run.path / "checkpoints" / place.parent.name / place.name


def _artefact(path: Path, kind: str, chain: Chain) -> Page:
    """The page of a latent table or an action decoder, which are not made by a training run."""
    name = kind.partition(" ")[2]
    manifest = read_json(path / "manifest.json")
    page = Page(path.name, name[0].upper() + name[1:], path, origins=folded(chain.of_manifest(path, manifest)))
    spec = manifest.get("identity") or manifest.get("spec") or {}
    simple = {k: v for k, v in {**manifest, **spec}.items() if isinstance(v, str | int | float)}
    page.facts = [(k.replace("_", " "), str(v)) for k, v in simple.items() if k not in ("kind", "schema_version")]
    for key in ("episodes", "bad_episodes"):
        if isinstance(manifest.get(key), list):
            page.facts.append((key.replace("_", " "), ", ".join(map(str, manifest[key])) or "none"))
    page.facts.append(("folder", str(path)))
    found = [d for d in manifest.get("dimensions") or () if isinstance(d, dict)]
    page.dimensions = [(str(d["name"]), float(d["r2"])) for d in found if isinstance(d.get("r2"), int | float)]
    return page


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8", errors="replace").strip()
    except OSError:
        return ""


def _last_lines(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            lines = file.read().decode("utf8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_LOG_LINES:])
