"""A dataset with other names of its features: tables and metadata are written anew, videos are links."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.identity import visible_files
from hlrp.data.linked_copy import LINKED, alone, place
from hlrp.data.statistics_checks import STATS
from hlrp.errors import UserError, suggest
from hlrp.files import new_folder

_LABELS = Path("meta/hlrp_latents.json")


def rename_features(info: DatasetInfo, names: Mapping[str, str], output: Path) -> None:
    """Write the dataset with features called otherwise. Nothing is decoded, and the source is not changed.

    Args:
        info: The dataset.
        names: Feature to its new name.
        output: Folder of the new dataset; it appears when it is complete.

    Raises:
        UserError: No such feature, a name that is taken or cannot be one, or a folder that is there already.
    """
    _check(info, names, output)
    with alone(output), new_folder(output) as temporary:
        for name, source in visible_files(info.root):
            relative = Path(name)
            first = relative.parts[0]
            if first in LINKED:
                relative = Path(*(names.get(part, part) for part in relative.parts))
            target = temporary / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            if relative in (INFO, STATS):
                _rewrite_json(source, target, names, within="features" if relative == INFO else None)
            elif source.suffix == ".parquet" and (first == "data" or relative.parts[:2] == ("meta", "episodes")):
                _rewrite_table(source, target, names)
            else:
                place(source, target, link=first in LINKED)


def _check(info: DatasetInfo, names: Mapping[str, str], output: Path) -> None:
    for old, new in names.items():
        if old not in info.features:
            raise UserError(
                f"the dataset has no feature {old!r}", where=str(info.root), fix=suggest(old, info.features)
            )
        if not new or "/" in new or (new in info.features and new not in names):
            taken = "is the name of another feature" if new in info.features else "cannot be a name"
            raise UserError(f"{new!r} {taken}", where=f"{old}={new}", fix=f"try {old}=observation.images.{old}")
    if len(set(names.values())) < len(names):
        raise UserError("two features would have the same name", where=str(info.root), fix="give each its own")
    if output.exists():
        raise UserError(f"{output} exists already", where="--output", fix="choose a new folder")
    if output.resolve().is_relative_to(info.root.resolve()):
        raise UserError(f"{output} lies inside the dataset", where="--output", fix="choose a folder beside it")
    if (info.root / _LABELS).is_file():
        raise UserError(
            "the dataset carries latent labels, which name their camera",
            where=str(info.root / _LABELS),
            fix="rename the dataset that it was made from, and label it then",
        )


def _rewrite_json(source: Path, target: Path, names: Mapping[str, str], *, within: str | None) -> None:
    content = json.loads(source.read_text(encoding="utf8"))
    features = content if within is None else content[within]
    renamed = {names.get(name, name): value for name, value in features.items()}
    whole = renamed if within is None else content | {within: renamed}
    target.write_text(json.dumps(whole, indent=4, ensure_ascii=False), encoding="utf8")


def _rewrite_table(source: Path, target: Path, names: Mapping[str, str]) -> None:
    """Copy a table with its columns renamed, one row group at a time: LeRobot reads an episode per row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        schema = file.schema_arrow
        columns = [_column(name, names) for name in schema.names]
        metadata = _described(schema.metadata, names)
        if columns == schema.names:
            shutil.copy2(source, target)
            return
        for i, name in enumerate(columns):
            schema = schema.set(i, schema.field(i).with_name(name))
        with pq.ParquetWriter(target, schema.with_metadata(metadata)) as writer:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group).rename_columns(columns)
                writer.write_table(rows.replace_schema_metadata(metadata))


def _column(name: str, names: Mapping[str, str]) -> str:
    """`action` in the tables of rows; `videos/action/...` and `stats/action/...` in that of episodes."""
    kind, slash, rest = name.partition("/")
    if slash and kind in ("videos", "stats"):
        feature, slash, last = rest.rpartition("/")
        return f"{kind}/{names.get(feature, feature)}{slash}{last}"
    return names.get(name, name)


def _described(metadata: Mapping[bytes, bytes] | None, names: Mapping[str, str]) -> dict[bytes, bytes]:
    """The tables' own description of their columns, which `datasets` trusts when it is given no other."""
    found: dict[bytes, Any] = dict(metadata or {})
    if b"huggingface" in found:
        said = json.loads(found[b"huggingface"])
        features = said.get("info", {}).get("features") or {}
        said.setdefault("info", {})["features"] = {_column(n, names): value for n, value in features.items()}
        found[b"huggingface"] = json.dumps(said).encode()
    found.pop(b"pandas", None)
    return found
