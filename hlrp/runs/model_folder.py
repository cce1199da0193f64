"""Folders of models: `model.safetensors` beside a `manifest.json`, written whole, read strictly or not at all."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hlrp import __version__
from hlrp.errors import UserError
from hlrp.files import write_bytes, write_text
from hlrp.runs.checkpoints import model_folders, safetensors_problem
from hlrp.runs.kinds import refuse_other

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
SCHEMA_VERSION = 1


class Record(BaseModel):
    """Part of a manifest. Immutable; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelManifest(Record):
    """What the manifest of every model begins with."""

    schema_version: int
    kind: str
    hlrp_version: str


@dataclass(frozen=True)
class ModelKind[M: ModelManifest]:
    """Models of one kind, such as latent action quantizers.

    Args:
        kind: As manifests say it.
        name: In messages, without article.
        manifest: Class of their manifests, with a `weights_sha256`.
        train: The command that makes one.
        flag: The flag and key that name one; None: messages give the path.
    """

    kind: str
    name: str
    manifest: type[M]
    train: str
    flag: str | None = None

    def write(self, folder: Path, weights: "Mapping[str, Tensor]", **described: Any) -> M:
        """Write a model into ``folder``, which is made if missing; each file appears whole or not at all.

        Args:
            folder: Where to.
            weights: Name to tensor.
            **described: The fields of the manifest but those that are known here.
        """
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        content = save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
        write_bytes(folder / WEIGHTS, content)
        described |= {"schema_version": SCHEMA_VERSION, "kind": self.kind, "hlrp_version": __version__}
        manifest = self.manifest(**described | {"weights_sha256": hashlib.sha256(content).hexdigest()})
        # Last: a manifest is never beside files that it does not describe without a hash telling.
        write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        return manifest

    def find(self, path: Path) -> Path:
        """The folder of the model that ``path`` means: itself, a checkpoint's, or a run's newest whole checkpoint's.

        Raises:
            UserError: There is no such model.
        """
        refuse_other(path, f"a {self.name}", str(path))
        broken = []
        for folder in model_folders(path):
            if (folder / MANIFEST).is_file():
                problem = safetensors_problem(folder / WEIGHTS)
                if problem is None:
                    return folder
                broken.append(f"{folder}: {problem}")
        raise UserError(
            f"{path} holds no {self.name}" + (f" that is whole ({'; '.join(broken)})" if broken else ""),
            where=self.flag or str(path),
            fix=f"give a run of `{self.train}`, or a folder with {WEIGHTS} and {MANIFEST}",
        )

    def read_manifest(self, path: Path) -> M:
        """The manifest of the model that ``path`` means, as for `find`.

        Raises:
            UserError: There is none, it cannot be read, or it is of another kind or schema.
        """
        file = self.find(path) / MANIFEST
        try:
            raw = json.loads(file.read_text(encoding="utf8"))
            version, kind = raw["schema_version"], raw["kind"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the manifest of the {self.name} cannot be read: {error!r}",
                where=str(file),
                fix="use another checkpoint",
            ) from error
        if kind != self.kind or version != SCHEMA_VERSION:
            raise UserError(
                f"the manifest says kind {kind!r}, schema {version!r}; "
                f"this version reads {self.kind!r}, schema {SCHEMA_VERSION}",
                where=str(file),
                fix="load it with the version that wrote it, or train again",
            )
        try:
            return self.manifest.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(
                f"the manifest is not valid at {'.'.join(map(str, first['loc']))}: {first['msg']}",
                where=str(file),
                fix="use another checkpoint",
            ) from error


def parse_manifest[M: BaseModel](path: Path, record: type[M], kind: str, version: int, *, name: str, fix: str) -> M:
    """Read a manifest of which every fault has one remedy.

    Args:
        path: The file.
        record: Its class.
        kind: As it must say of itself.
        version: Of its schema.
        name: Of what it describes, in messages.
        fix: The remedy.

    Raises:
        UserError: It cannot be read, or is of another kind or schema.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf8"))
        if raw["kind"] != kind or raw["schema_version"] != version:
            raise ValueError(
                f"kind {raw['kind']!r}, schema {raw['schema_version']!r}; this version reads {kind!r}, schema {version}"
            )
        return record.model_validate(raw)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"the manifest of {name} cannot be read: {error}", where=str(path), fix=fix) from error


def read_weights(folder: Path, sha256: str) -> "dict[str, Tensor]":
    """The weights in a model's folder, checked against the SHA-256 that its manifest says.

    Raises:
        UserError: They are not those that the manifest describes.
    """
    from safetensors.torch import load

    content = (folder / WEIGHTS).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise UserError(
            f"{WEIGHTS} has SHA-256 {digest[:16]}..., the manifest says {sha256[:16]}...",
            where=str(folder),
            fix="the two files are not of one checkpoint; use another one",
        )
    return load(content)


def check_state(stored: "Mapping[str, Tensor]", expected: "Mapping[str, Tensor]", where: str) -> None:
    """Check that weights fit a model name by name and shape by shape.

    Raises:
        UserError: Naming what differs on both sides.
    """
    missing, surplus = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    shapes = [
        f"{name}: file {tuple(stored[name].shape)}, model {tuple(expected[name].shape)}"
        for name in sorted(stored.keys() & expected.keys())
        if stored[name].shape != expected[name].shape
    ]
    if not (missing or surplus or shapes):
        return
    parts = [f"only in the model: {', '.join(missing[:4])}"] if missing else []
    parts += [f"only in the file: {', '.join(surplus[:4])}"] if surplus else []
    parts += [f"other shapes: {'; '.join(shapes[:4])}"] if shapes else []
    raise UserError(
        "the weights do not fit the model (" + "; ".join(parts) + ")",
        where=where,
        fix="use weights of the same preset, sizes and quantizer",
    )
