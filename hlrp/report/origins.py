"""What a run came from: datasets, tables, quantizers and the runs before it, with their hashes, as far as files say."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from hlrp.errors import UserError
from hlrp.evaluation.plan import find_run, read_json
from hlrp.files import sha256_of
from hlrp.runs import DatasetRecord, RunDirectory
from hlrp.runs.checkpoints import model_folders
from hlrp.runs.directory import CONFIG, MANIFEST
from hlrp.runs.kinds import recognise

PAGE = "report.html"
"""Name of the page in a run's folder."""

_DEEPEST = 6
_MODEL = "manifest.json"
_LABELS = Path("meta/hlrp_pseudo_labels.json")
# Keys of a run's configuration that name what it was made from, and what that is where its folder is gone.
_SOURCES = (
    ("model", "init_from", "started from"),
    ("model", "decoder_laq", "decoder of the codes"),
    ("latents", "table", "a latent table"),
    ("latents", "laq", "a latent action quantizer"),
)


@dataclass(frozen=True)
class Origin:
    """One link of the chain.

    Args:
        role: What it is.
        name: For people.
        where: Its folder.
        identity: Kind of hash or fingerprint to its value.
        note: What else is to be said.
        page: Its run page, relative to the page that is made; None: there is none.
        before: What it was made from.
    """

    role: str
    name: str
    where: str = ""
    identity: tuple[tuple[str, str], ...] = ()
    note: str = ""
    page: str | None = None
    before: tuple["Origin", ...] = ()


def run_name(path: Path) -> str:
    """A run's name for people: with its job's where the folder is called after a time."""
    path = path.absolute()
    return f"{path.parent.name}/{path.name}" if path.name[:4].isdigit() and path.parent.name else path.name


def read_config(run: Path) -> dict[str, Any]:
    """A run's configuration as it stands in the file; {} if there is none that can be read."""
    try:
        value = yaml.safe_load((run / CONFIG).read_text(encoding="utf8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class Chain:
    """Follows what files say of their origin, once for each folder.

    Args:
        page: Folder of the page that is made, to which links are relative.
    """

    def __init__(self, page: Path) -> None:
        self._page = page
        self._known: dict[Path, dict[str, Path]] = {}

    def of_run(self, run: RunDirectory, depth: int = 0) -> tuple[Origin, ...]:
        """What a run was made from: its datasets first."""
        recorded = run.manifest.dataset
        found = [self.of_dataset(d, depth + 1) for d in (recorded.sources or [recorded]) if d.root or d.repo_id]
        config = read_config(run.path)
        for section, key, role in _SOURCES:
            named = config.get(section)
            if isinstance(named, dict) and isinstance(named.get(key), str):
                found.append(self.of_place(Path(named[key]), role, depth + 1))
        data = config.get("data")
        for source in (data.get("sources") if isinstance(data, dict) else None) or ():
            if isinstance(source, dict) and isinstance(source.get("table"), str):
                found.append(self.of_place(Path(source["table"]), "a latent table", depth + 1))
        if (quantizer := _quantizer_of(run.path)) and quantizer not in _hashes(found):
            found.append(self._by_hash(quantizer, run.path, depth + 1))
        return tuple(found)

    def of_place(self, path: Path, role: str, depth: int = 0) -> Origin:
        """What a folder holds that a run names: a run, a checkpoint, a table, a model."""
        if not path.exists():
            return Origin(role, path.name, str(path), note="not there any more, or on the Hub")
        role = recognise(path) or role
        folder = path if (path / MANIFEST).is_file() else None
        manifest = _read(path / _MODEL)
        if folder is None and "identity" not in manifest and manifest.get("kind") != "action_decoder":
            run = _try_run(path)
            folder = None if run is None else run.path
        if folder is not None:
            origin = Origin(role, run_name(folder), str(path), _weights(path), page=self._page_in(folder))
            try:
                run = RunDirectory.open(folder)
            except UserError as problem:
                return replace(origin, note=problem.what)
            before = self.of_run(run, depth) if depth < _DEEPEST else ()
            return replace(origin, before=before)
        origin = Origin(role, path.name, str(path), _weights(path), page=self._page_in(path))
        return replace(origin, before=self.of_manifest(path, manifest, depth))

    def of_manifest(self, path: Path, manifest: Mapping[str, Any], depth: int = 0) -> tuple[Origin, ...]:
        """What a latent table or an action decoder was made from."""
        spec = manifest.get("identity") or manifest.get("spec")
        if not isinstance(spec, dict) or depth >= _DEEPEST:
            return ()
        found = []
        fingerprint = manifest.get("dataset_fingerprint") or spec.get("dataset_fingerprint")
        if fingerprint:
            name = str(manifest.get("dataset") or "the dataset that it labels")
            found.append(Origin("a dataset", name, identity=(("fingerprint", str(fingerprint)),)))
        if spec.get("laq_sha256"):
            found.append(self._by_hash(str(spec["laq_sha256"]), path, depth + 1))
        return tuple(found)

    def of_dataset(self, record: DatasetRecord, depth: int = 0) -> Origin:
        """A dataset as a run recorded it, with what its pseudo-labels come from."""
        sizes = ((record.episodes, "episodes"), (record.frames, "frames"), (record.fps, "fps"))
        note = ", ".join(f"{value:,g} {name}" for value, name in sizes if value is not None)
        identity = (("fingerprint", record.fingerprint),) if record.fingerprint else ()
        root = Path(record.root) if record.root else None
        name = record.repo_id or (root.name if root else "")
        origin = Origin("a dataset", name, record.root or "", identity, note)
        labels = _read(root / _LABELS) if root is not None and depth < _DEEPEST else {}
        identities = labels.get("identity", labels)
        if not labels or not isinstance(identities, dict):
            return origin
        named = (
            ("a dataset", "the videos that were labelled", "fingerprint", "dataset_fingerprint"),
            ("an action decoder", "the decoder of its pseudo-labels", "SHA-256 of the manifest", "decoder_sha256"),
            ("a latent table", "the latents of its pseudo-labels", "SHA-256 of the manifest", "latents_sha256"),
        )
        before = [
            Origin(role, said, identity=((label, str(identities[key])),))
            for role, said, label, key in named
            if identities.get(key)
        ]
        return replace(origin, before=tuple(before))

    def _by_hash(self, sha256: str, near: Path, depth: int) -> Origin:
        """A quantizer of which only the hash is known: its run, if that lies beside."""
        near = near.absolute()
        for base in (near.parent, near.parent.parent):
            folder = self._quantizers(base).get(sha256)
            if folder is not None:
                return replace(
                    self.of_place(folder, "a latent action quantizer", depth), identity=(("SHA-256", sha256),)
                )
        note = "its run does not lie beside this one"
        return Origin("a latent action quantizer", "known by its hash", identity=(("SHA-256", sha256),), note=note)

    def _quantizers(self, base: Path) -> dict[str, Path]:
        """SHA-256 of the weights of each checkpoint in the runs below a folder, to the run."""
        if base not in self._known:
            found = {}
            for run in (p.parent for level in ("*", "*/*") for p in base.glob(f"{level}/{MANIFEST}")):
                for folder in model_folders(run):
                    manifest = _read(folder / _MODEL)
                    if manifest.get("kind") == "laq" and isinstance(manifest.get("weights_sha256"), str):
                        found[manifest["weights_sha256"]] = run
            self._known[base] = found
        return self._known[base]

    def _page_in(self, folder: Path) -> str | None:
        page = folder.resolve() / PAGE
        return os.path.relpath(page, self._page.resolve()) if page.is_file() else None


def folded(origins: Iterable[Origin], seen: dict[tuple[str, ...], str] | None = None) -> tuple[Origin, ...]:
    """The same links, in which what was told once, read from the top, is only named when it comes again."""
    seen = {} if seen is None else seen
    kept = []
    for origin in origins:
        key = (origin.role, *(value for _, value in origin.identity)) if origin.identity else (origin.where,)
        if any(key) and key in seen:
            kept.append(Origin(origin.role, seen[key], note="as above"))
        else:
            seen[key] = origin.name
            kept.append(replace(origin, before=folded(origin.before, seen)))
    return tuple(kept)


def weights_of(path: Path) -> tuple[tuple[str, str], ...]:
    """SHA-256 of the weights in the newest checkpoint that ``path`` means, if it has any."""
    for folder in model_folders(path):
        said = _read(folder / _MODEL).get("weights_sha256")
        if isinstance(said, str):
            return (("SHA-256 of the weights", said),)
        for name in ("model.safetensors", "adapter_model.safetensors"):
            if (folder / name).is_file():
                return (("SHA-256 of the weights", sha256_of(folder / name)),)
    return ()


def _weights(path: Path) -> tuple[tuple[str, str], ...]:
    manifest = _read(path / _MODEL)
    if "identity" in manifest:
        return (("SHA-256 of the manifest", sha256_of(path / _MODEL)),)
    return weights_of(path)


def _quantizer_of(run: Path) -> str | None:
    """SHA-256 of the quantizer whose codes a run's foundation model says."""
    for folder in model_folders(run):
        manifest = _read(folder / _MODEL)
        if manifest.get("kind") == "foundation":
            config = manifest.get("config")
            spec = config.get("spec") if isinstance(config, dict) else None
            return spec.get("laq_sha256") if isinstance(spec, dict) else None
    return None


def _hashes(origins: list[Origin]) -> Iterator[str]:
    for origin in origins:
        yield from (value for _, value in origin.identity)
        yield from _hashes(list(origin.before))


def _try_run(path: Path) -> RunDirectory | None:
    try:
        return find_run(path.absolute())
    except UserError:
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except UserError:
        return {}
