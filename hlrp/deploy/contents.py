"""The files of a model as they are published: none that could run code, none that names a folder of this machine."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hlrp.errors import UserError
from hlrp.runs import resolve_pretrained, safetensors_problem
from hlrp.runs.checkpoints import TRAINING_STATE, model_folders, safetensors_header
from hlrp.runs.kinds import recognise
from hlrp.runtime.manifest import Manifest

POLICY, DATASET = "a policy", "a dataset"
EXPORT = "an exported policy"
MANIFEST = "manifest.json"

_PUBLISHED = (".json", ".safetensors", ".jinja", ".txt", ".model", ".yaml")
_CODE = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth", ".py")
# What a policy remembers of the training that it comes from; acting needs none of it.
_OF_TRAINING = (
    "confidence_dataset",
    "decoder_laq",
    "init_from",
    "latent_dataset",
    "latent_laq",
    "latent_table",
    "pretrained_path",
    "sources",
)
_LABELS_STEP, _OF_LABELS = "hlrp_latent_labels", ("confidence", "dataset", "laq", "sources", "table")
# Words of other people: what looks like a path there is none.
_VOCABULARY = ("added_tokens.json", "merges.txt", "tokenizer.json", "vocab.json", "vocab.txt")
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)[\\/]snapshots[\\/](\w{7,12})")
_INSIDE = re.compile(r"(?:(?<=^)|(?<=[\s=:,\"'(\[{]))(?:~?/|[A-Za-z]:[\\/])[^\s\"',:()\[\]{}]+")

Place = tuple[str, ...]


@dataclass(frozen=True)
class PublishedFile:
    """A file of a repository.

    Args:
        name: In the repository.
        source: The file on this machine; None: it is made for the repository.
        content: What stands in it, where that is not what is in ``source``.
    """

    name: str
    source: Path | None
    content: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        if self.content is not None:
            return len(self.content)
        assert self.source is not None, "a file has one of them"
        return self.source.stat().st_size


@dataclass(frozen=True)
class Contents:
    """What is published of a model.

    Args:
        kind: What it is, in the words of `hlrp.runs.kinds.recognise`, or `EXPORT`.
        folder: Where it lies.
        files: Its files.
        left_out: Names of others, and why they are left out.
    """

    kind: str
    folder: Path
    files: list[PublishedFile]
    left_out: list[tuple[str, str]]

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file as it is published; {} if there is none of that name."""
        file = next((f for f in self.files if f.name == name), None)
        if file is None:
            return {}
        raw = file.content if file.content is not None or file.source is None else file.source.read_bytes()
        value = json.loads(raw or b"{}")
        return value if isinstance(value, dict) else {}


def read_contents(path: Path, private: Sequence[Path] = ()) -> Contents:
    """The files to publish of the model that ``path`` means.

    Args:
        path: A run (its newest whole checkpoint), a checkpoint, or the folder of a policy, a latent action quantizer, a
            foundation model, an action decoder, a latent table or an export.
        private: More folders of this machine that no file may name.

    Raises:
        UserError: There is no such model, it is not whole, an export runs code when it is loaded, or a file that others
            need names a folder of this machine.
    """
    kind, folder = _find(path)
    parts = {MANIFEST, *_exported(folder).files} if kind == EXPORT else None
    private = [p for p in (*private, path.absolute(), folder.resolve(), Path.cwd(), Path.home()) if len(p.parts) > 2]
    files, left_out = [], []
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = file.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in file.relative_to(folder).parts) or name == "README.md":
            continue  # of a hub's own client; the card is made anew
        if reason := _why_left_out(name, parts):
            left_out.append((name, reason))
            continue
        if file.suffix == ".safetensors" and (problem := safetensors_problem(file)):
            raise UserError(f"{kind} is not whole: {problem}", where=str(folder), fix="publish another checkpoint")
        files.append(PublishedFile(name, file, _rewritten(file, name, kind)))
        _refuse_private(files[-1], private)
    state = folder.parent / TRAINING_STATE
    if state.is_dir():
        left_out.append((f"{TRAINING_STATE}/", "only resuming the run needs it; keep the run for that"))
    return Contents(kind, folder, files, left_out)


def _find(path: Path) -> tuple[str, Path]:
    if not path.is_dir():
        raise UserError(f"{path} does not exist", where="RUN", fix="give a run, a checkpoint or the folder of a model")
    kind = recognise(path)
    if kind == POLICY:
        folder = resolve_pretrained(path)
        return (kind if Manifest.find(folder) is None else EXPORT), folder
    if kind == DATASET:
        raise UserError(
            f"{path} holds a dataset, which LeRobot publishes",
            where="RUN",
            fix=f"python -c \"from lerobot.datasets.lerobot_dataset import LeRobotDataset as D; D('USER/NAME', "
            f"root='{path}').push_to_hub()\"",
        )
    for folder in model_folders(path) if kind else ():
        if (folder / MANIFEST).is_file():
            return str(kind), folder
    raise UserError(
        f"{path} holds nothing that can be published",
        where="RUN",
        fix="give a run of hlrp train, a folder of hlrp fit-actions, or a finished latent table",
    )


def _exported(folder: Path) -> Manifest:
    """The manifest of an export that can be published."""
    manifest = Manifest.read(folder)
    if manifest.format == "torch":
        raise UserError(
            "loading an export of format torch can run code, so nobody should fetch one",
            where=str(folder),
            fix="export the policy with --format onnx",
        )
    if problem := manifest.problem(folder):
        raise UserError(f"{EXPORT} is not whole: {problem}", where=str(folder), fix="export the policy again")
    return manifest


def _why_left_out(name: str, parts: set[str] | None) -> str | None:
    if parts is not None:
        return None if name in parts else "no part of the export"
    path = PurePosixPath(name)
    if path.suffix in _CODE:
        return "reading such a file can run code"
    if len(path.parts) > 1 and path.parts[0] != "backbone":
        return "no part of the model"
    return None if path.suffix in _PUBLISHED else "not a kind of file that a model is made of"


def _rewritten(file: Path, name: str, kind: str) -> bytes | None:
    """What is published in place of a JSON file with folders of this machine; None: it is published as it is."""
    # The manifest of an export knows the SHA-256 of its files, which were made without folders of this machine.
    if file.suffix != ".json" or file.name in _VOCABULARY or kind == EXPORT:
        return None
    raw = file.read_text(encoding="utf8")
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise UserError(f"{name} is not valid JSON: {error}", where=str(file), fix="restore the file") from error
    before = json.dumps(value)
    if kind == POLICY and name == "config.json":
        _forget(value, _OF_TRAINING)
        if "latent_source" in value:
            value["latent_source"] = "none"
    elif kind == POLICY and isinstance(value, dict) and isinstance(value.get("steps"), list):
        for step in value["steps"]:
            if step.get("registry_name") == _LABELS_STEP:
                _forget(step["config"], _OF_LABELS)
                step["config"]["source"] = "none"
    # What only says where something came from.
    if name == "train_config.json":
        value = map_strings(value, lambda _, text: shortened(text))
    elif name in ("config.json", MANIFEST):
        value = map_strings(value, lambda place, text: shortened(text) if place[0] == "backbone" else text)
    return None if json.dumps(value) == before else (json.dumps(value, indent=2) + "\n").encode()


def _forget(config: dict[str, Any], names: Sequence[str]) -> None:
    config.update({name: None for name in names if config.get(name) is not None})


def map_strings(value: Any, change: Callable[[Place, str], str], place: Place = ()) -> Any:
    """A JSON value with all its texts changed.

    Args:
        value: The value; not changed.
        change: Told the keys that lead to a text, list positions among them, and the text.
        place: The keys that lead to ``value``.
    """
    if isinstance(value, str):
        return change(place, value)
    if isinstance(value, dict):
        return {key: map_strings(item, change, (*place, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [map_strings(item, change, (*place, str(i))) for i, item in enumerate(value)]
    return value


def is_local(text: str) -> bool:
    """Whether a text is the name of a folder or file of this machine: absolute, or there and no USER/NAME of a Hub."""
    if "\n" in text or len(text) > 1000:
        return False
    # A single name behind a slash is a word of a template, such as /no_think.
    deep = len(PureWindowsPath(text).parts) > 2
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return text.startswith(("~/", "./", "../")) or (deep and (absolute or Path(text).exists()))


def shortened(text: str) -> str:
    """A text without the folders of this machine: of each its last name, of a Hub's cache the name there and commit."""
    name, equals, value = text.partition("=")
    if equals and is_local(value):
        return f"{name}={_last(value)}"
    return _last(text) if is_local(text) else _INSIDE.sub(lambda found: _last(found[0]), text)


def _last(path: str) -> str:
    if cached := _CACHED.search(path):
        return f"{cached[1]}/{cached[2]}@{cached[3]}"
    return PureWindowsPath(path).name or path


def _refuse_private(file: PublishedFile, private: Sequence[Path]) -> None:
    """Refuse a file that still names a folder of this machine."""
    if PurePosixPath(file.name).name in _VOCABULARY:
        return
    assert file.source is not None, "it was read from a folder"
    if file.source.suffix == ".safetensors":
        value: Any = safetensors_header(file.source).get("__metadata__") or {}
    elif file.source.suffix not in _PUBLISHED:
        return  # a graph
    else:
        raw = file.source.read_bytes() if file.content is None else file.content
        text = raw.decode("utf8", errors="replace")
        value = json.loads(text) if file.source.suffix == ".json" else text.splitlines()
    names = [str(path) for path in private]

    def look(place: Place, text: str) -> str:
        if is_local(text) or any(name in text for name in names):
            raise UserError(
                f"{file.name} names a folder of this machine, which nobody else has: {text[:200]}",
                where=f"{file.source}: {'.'.join(place)}",
                fix="train with the name on the Hub instead, or write it into the file where that is the same thing",
            )
        return text

    map_strings(value, look)
