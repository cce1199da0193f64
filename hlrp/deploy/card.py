"""The model card of what is published: made from the files themselves and from the run that they come from."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from hlrp.deploy.card_texts import USE, loading
from hlrp.deploy.contents import EXPORT, MANIFEST, POLICY, Contents, map_strings, shortened
from hlrp.evaluation.plan import find_run
from hlrp.files import sha256_of
from hlrp.hub_names import HUB_NAME
from hlrp.runs import RunDirectory, checkpoint_step
from hlrp.runs.checkpoints import safetensors_header
from hlrp.runs.directory import CONFIG

_PROJECT = "https://pypi.org/project/lerobot_policy_felix_bundle"
_COLUMNS = ("loss", "eval_loss", "val_loss", "val_psnr_gain", "val_gain", "eval_success", "code_effect")
_ROWS = 10

_TRAINED = (POLICY, "a latent action quantizer", "a foundation model")

Facts = list[tuple[str, str]]


def make_card(contents: Contents, repo_id: str, licence: str | None) -> str:
    """The content of `README.md`, for one state of the files and of the run always the same.

    Args:
        contents: What is published.
        repo_id: Where to.
        licence: Its identifier on the Hub, such as `apache-2.0`; None: none is named.

    Raises:
        UserError: The run that the files lie in cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    kind = contents.kind
    # A table may lie in the run of its quantizer, which is not trained on it.
    run = find_run(contents.folder) if kind in _TRAINED else None
    described = contents.json("config.json") if kind == POLICY else contents.json(MANIFEST)
    name = described["type"] if kind == POLICY else described["policy"] if kind == EXPORT else None
    features = (described.get("input_features") or {}) | (described.get("output_features") or {})
    if kind == EXPORT:
        features = _export_features(described)
    datasets = _datasets(described, run)
    values = {
        "title": repo_id.rpartition("/")[2],
        "summary": f"{kind[0].upper()}{kind[1:]}{f' `{name}`' if name else ''}.",
        "project": _PROJECT,
        "acts": kind in (POLICY, EXPORT),
        "facts": [*_sizes(contents), *_FACTS.get(kind, _policy_facts)(described)],
        "features": features,
        "parts": [(d["name"], _number(d["r2"])) for d in described.get("dimensions", ())],
        "about_data": {"an action decoder": "Fitted on", "a latent table": "The dataset"}.get(kind, "Trained on"),
        "datasets": datasets,
        "training": _training(contents.folder, run),
        "command": "" if run is None else " ".join(map(_quoted, _command(run))),
        "configuration": _configuration(run),
        "curve": _curve(run),
        "warnings": [] if run is None else [shortened(text) for text in run.manifest.warnings],
        "evaluations": [] if run is None else list(_evaluations(contents.folder, run)),
        "checks": _checks(run),
        "use": USE[kind],
        "licence": licence,
        "loading": loading(kind, repo_id, described),
    }
    front = _front_matter(contents, described, datasets, licence)
    pages = Environment(
        loader=PackageLoader("hlrp.deploy"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - Markdown, which the Hub cleans
    )
    text = pages.get_template("card.md").render(front_matter=front, **values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _front_matter(
    contents: Contents, described: Mapping[str, Any], datasets: list[dict[str, Any]], licence: str | None
) -> str:
    """What the Hub files the repository by, as YAML."""
    from huggingface_hub import ModelCardData

    policy = contents.kind == POLICY
    tags = ["robotics", "lerobot", "hlrp"]
    tags += [str(described["type"])] if policy else [contents.kind.partition(" ")[2].replace(" ", "-")]
    tags += [described["policy"], described["format"]] if contents.kind == EXPORT else []
    base = described.get("backbone")
    base = base.get("name") if isinstance(base, dict) else base
    data = ModelCardData(
        license=licence,
        library_name="lerobot" if policy else "hlrp",
        pipeline_tag="robotics",
        tags=[*dict.fromkeys([*tags, *(described.get("tags") or [])])],
        datasets=[d["name"] for d in datasets if re.fullmatch(HUB_NAME, d["name"])] or None,
        base_model=base if isinstance(base, str) and re.fullmatch(HUB_NAME, base) else None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _sizes(contents: Contents) -> Facts:
    weights = [f.source for f in contents.files if f.name in ("model.safetensors", "adapter_model.safetensors")]
    headers = [safetensors_header(path) for path in weights if path is not None]
    shapes = [tensor["shape"] for header in headers for name, tensor in header.items() if name != "__metadata__"]
    count = sum(map(math.prod, shapes))
    return [("parameters", f"{count:,}")] if count else []


def _policy_facts(config: Mapping[str, Any]) -> Facts:
    names = ("chunk_size", "horizon", "n_action_steps", "n_obs_steps", "backbone", "codebook_size", "code_seq_len")
    return [(name, str(config[name])) for name in names if config.get(name) is not None]


def _spec_facts(spec: Mapping[str, Any]) -> Facts:
    codes = f"{spec['codebook_size']} codes at {spec['code_seq_len']} positions of a transition"
    window = f"{spec['num_frames']} frames, {spec['offset_seconds']:g} s apart"
    made = spec.get("laq_sha256")
    return [("codes", codes), ("window", window), *([("quantizer's weights", f"`{made[:16]}`")] if made else [])]


def _laq_facts(manifest: Mapping[str, Any]) -> Facts:
    height, width = manifest["image_size"]
    cameras = ", ".join(f"`{camera}`" for camera in manifest["cameras"]) or "-"
    return [*_spec_facts(manifest), ("pictures", f"{height}x{width}"), ("cameras", cameras)]


def _foundation_facts(manifest: Mapping[str, Any]) -> Facts:
    config, backbone = manifest["config"], manifest["backbone"]
    cameras = ", ".join(f"`{camera}`" for camera in config["cameras"])
    facts = [("backend", config["backend"]), ("backbone", backbone["name"]), ("predicts", config["mode"])]
    return [*facts, ("cameras", cameras), *_spec_facts(config["spec"]), ("instructions", len(manifest["instructions"]))]


def _decoder_facts(manifest: Mapping[str, Any]) -> Facts:
    facts = [("estimator", manifest["estimator"]), ("reads", manifest["inputs"]), ("camera", f"`{manifest['camera']}`")]
    labelled = f"{len(manifest['episodes'])} ({', '.join(map(str, manifest['episodes'][:20]))})"
    return [*facts, ("labelled episodes", labelled), *_spec_facts(manifest["spec"])]


def _table_facts(manifest: Mapping[str, Any]) -> Facts:
    identity = manifest["identity"]
    facts = [("camera", f"`{identity['camera']}`"), ("frames", str(identity["rows"]))]
    return [*_spec_facts(identity), *facts, ("transitions with codes", str(manifest["valid_pairs"]))]


def _export_facts(manifest: Mapping[str, Any]) -> Facts:
    check, instructions = manifest["check"], manifest["instructions"] or {}
    known = [f"`{text}`" for text in instructions.get("known", ()) if instructions["used"]]
    facts = [("format", manifest["format"]), ("weights", manifest["quantize"] or "float32")]
    facts += [("actions of a chunk", str(manifest["chunk"])), ("n_action_steps", str(manifest["n_action_steps"]))]
    facts += [("instructions", ", ".join(known))] if known else []
    error = check.get("quantized_max_error", check.get("max_error"))
    return [*facts, ("largest error to the policy in torch, in normalised units", _number(error))]


def _export_features(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs and action as a policy's `config.json` would say them."""
    inputs = manifest["inputs"].items()
    found = {n: {"type": "VISUAL" if i["picture"] else "STATE", "shape": i["shape"]} for n, i in inputs}
    return found | {"action": {"type": "ACTION", "shape": [manifest["action"]]}}


_FACTS = {
    EXPORT: _export_facts,
    "a latent action quantizer": _laq_facts,
    "a foundation model": _foundation_facts,
    "an action decoder": _decoder_facts,
    "a latent table": _table_facts,
}


def _datasets(described: Mapping[str, Any], run: RunDirectory | None) -> list[dict[str, Any]]:
    """What the run was trained on; without a run what the manifest says."""
    found: list[dict[str, Any]] = []
    if run is not None:
        recorded = run.manifest.dataset
        found = [d.model_dump() for d in (recorded.sources or [recorded])]
        found = [d | {"repo_id": d["repo_id"] or Path(d["root"] or "").name} for d in found]
    elif "sources" in described:
        found = [d for d in described["sources"] or () if isinstance(d, dict)]
    elif "dataset" in described:
        found = [
            {"repo_id": described["dataset"], "fingerprint": described["dataset_fingerprint"]}
            | {"fps": described["fps"]}
        ]
    elif "source" in described:
        found = [{"fingerprint": described["source"].get("dataset_fingerprint"), "fps": described["fps"]}]
    elif "identity" in described:
        identity = described["identity"]
        found = [{"fingerprint": identity["dataset_fingerprint"], "frames": identity["rows"]}]
        found[0]["episodes"] = identity["episodes"]
    return [
        {
            "name": shortened(str(d.get("repo_id") or "-")),
            "fps": f"{d['fps']:g}" if d.get("fps") else "-",
            **{name: d.get(name) or "-" for name in ("episodes", "frames", "fingerprint")},
        }
        for d in found
        if d.get("repo_id") or d.get("fingerprint")
    ]


def _training(folder: Path, run: RunDirectory | None) -> Facts:
    if run is None:
        return []
    manifest, step = run.manifest, checkpoint_step(folder.parent)
    facts = {
        "trainer": manifest.trainer,
        "step": f"{step} of {manifest.steps}" if step is not None else None,
        "seed": manifest.seed,
        "started": manifest.started,
        "commit of hlrp": manifest.git_commit,
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _command(run: RunDirectory) -> Iterator[str]:
    """The process that trained, without folders of this machine, nor what was set for this machine alone."""
    return (shortened(word) for word in run.manifest.command)


def _quoted(word: str) -> str:
    return f"'{word}'" if re.search(r"[\s\"$&|;<>(){}\[\]*?]", word) else word


def _configuration(run: RunDirectory | None) -> str:
    if run is None or not (run.path / CONFIG).is_file():
        return ""
    value = yaml.safe_load((run.path / CONFIG).read_text(encoding="utf8")) or {}
    for own in ("output_dir", "slurm"):  # of the machine it ran on; `slurm.setup` may even set a key
        value.pop(own, None)
    said = map_strings(_said(value), lambda _, text: shortened(text))
    return yaml.safe_dump(said, sort_keys=False).strip()


def _said(value: Any) -> Any:
    """A configuration without keys that say nothing."""
    if not isinstance(value, dict):
        return value
    kept = {key: _said(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item not in (None, [], {})}


def _curve(run: RunDirectory | None) -> dict[str, Any] | None:
    """Some rows of the metrics, evenly spread, those with losses on held-out data first."""
    by_step: dict[int, dict[str, Any]] = {}
    for row in run.metrics() if run is not None else ():
        by_step.setdefault(int(row.get("step", 0)), {}).update(row)
    columns = [name for name in _COLUMNS if any(isinstance(row.get(name), float | int) for row in by_step.values())]
    held_out = [name for name in columns if name != "loss"]
    steps = [step for step, row in by_step.items() if any(name in row for name in held_out)] or list(by_step)
    if not columns or not steps:
        return None
    chosen = sorted({steps[round(i * (len(steps) - 1) / (_ROWS - 1))] for i in range(_ROWS)})
    rows = [[str(step), *(_number(by_step[step].get(name)) for name in columns)] for step in chosen]
    return {"columns": ["step", *columns], "rows": rows}


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | int) else "-"


def _evaluations(folder: Path, run: RunDirectory) -> Iterator[dict[str, Any]]:
    """Rows of the evaluations in the run that were made with these weights."""
    weights = sha256_of(folder / "model.safetensors") if (folder / "model.safetensors").is_file() else None
    for path in sorted(run.path.glob("eval/*/results.json")):
        try:
            found = json.loads(path.read_text(encoding="utf8"))
            if found["policy"]["weights_sha256"] != weights or "export" in found["policy"]:
                continue
            for task, summary in found["tasks"].items():
                low, high = summary["success_interval"]
                yield {
                    "env": found["env"]["type"],
                    "task": task,
                    "successes": summary["successes"],
                    "episodes": summary["episodes"],
                    "rate": f"{summary['success_rate']:.0%}",
                    "interval": f"{low:.0%} to {high:.0%}",
                    "seed": found["seed"],
                }
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of a rollout that was killed, or of somebody else


def _checks(run: RunDirectory | None) -> list[dict[str, Any]]:
    """The verdict of a quantizer's quality card, if it was made."""
    path = None if run is None else run.path / "laq-report" / "report.json"
    if path is None or not path.is_file():
        return []
    said = {True: "yes", False: "no", None: "not decided"}
    verdict = json.loads(path.read_text(encoding="utf8")).get("verdict", [])
    return [{"source": c["source"], "passed": said[c["passed"]], "text": shortened(c["text"])} for c in verdict]
