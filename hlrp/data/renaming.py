"""A dataset with other names of its features: tables and metadata are written anew, videos are links."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.identity import visible_files
from hlrp.data.linked_copy import LINKED, alone, place, redescribed, refuse_inside, rewrite_json, rewrite_table
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
            if relative == INFO:
                rewrite_json(source, target, lambda said: said | {"features": _renamed(said["features"], names)})
            elif relative == STATS:
                rewrite_json(source, target, lambda said: _renamed(said, names))
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
    refuse_inside(info.root, output, "--output")
    if (info.root / _LABELS).is_file():
        raise UserError(
            "the dataset carries latent labels, which name their camera",
            where=str(info.root / _LABELS),
            fix="rename the dataset that it was made from, and label it then",
        )


def _renamed(features: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {_column(name, names): value for name, value in features.items()}


def _rewrite_table(source: Path, target: Path, names: Mapping[str, str]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        old = file.schema_arrow.names
    new = [_column(name, names) for name in old]
    if new == old:
        shutil.copy2(source, target)
        return

    def change(rows: Any) -> Any:
        described = redescribed(rows.schema.metadata, lambda features: _renamed(features, names))
        described.pop(b"pandas", None)
        return rows.rename_columns(new).replace_schema_metadata(described)

    rewrite_table(source, target, change)


def _column(name: str, names: Mapping[str, str]) -> str:
    """`action` in the tables of rows; `videos/action/...` and `stats/action/...` in that of episodes."""
    kind, slash, rest = name.partition("/")
    if slash and kind in ("videos", "stats"):
        feature, slash, last = rest.rpartition("/")
        return f"{kind}/{names.get(feature, feature)}{slash}{last}"
    return names.get(name, name)
