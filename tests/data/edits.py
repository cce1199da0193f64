"""Changing a copy of a small dataset: one column, one file, one key."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def copy_of(root, target):
    shutil.copytree(root, target)
    return target


def edit_info(root, change):
    path = root / "meta" / "info.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=4))


def edit_stats(root, change):
    path = root / "meta" / "stats.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def tables(root):
    return sorted((root / "data").glob("*/*.parquet"))


def edit_column(path, name, change):
    """Rewrite one column of a table: ``change`` gets a writable array ``[rows, ...]``."""
    table = pq.ParquetFile(path).read()
    field = table.schema.field(name)
    values = np.array(table.column(name).to_pylist())
    changed = change(values)
    values = values if changed is None else changed
    column = pa.array(values.tolist(), field.type)
    pq.write_table(table.set_column(table.schema.get_field_index(name), field, column), path)


def edit_table(path, change):
    pq.write_table(change(pq.ParquetFile(path).read()), path)


def episode_table(root):
    return next((root / "meta" / "episodes").glob("*/*.parquet"))


def split_tables(root, groups):
    """Divide the one table and the one video of each camera into a file per group of episodes, as large ones are kept.

    The videos are copied whole: positions in them stay as they are.
    """
    (path,) = tables(root)
    table = pq.ParquetFile(path).read()
    episode = table.column("episode_index").to_numpy()
    for number, group in enumerate(groups):
        rows = table.filter(pa.array(np.isin(episode, group)))
        pq.write_table(rows, path.with_name(f"file-{number:03d}.parquet"))
    for video in sorted((root / "videos").glob("*/chunk-000/file-000.mp4")):
        for number in range(1, len(groups)):
            shutil.copy(video, video.with_name(f"file-{number:03d}.mp4"))
    file_of = {e: number for number, group in enumerate(groups) for e in group}

    def renumber(values):
        return np.array([file_of[e] for e in range(len(values))])

    meta = episode_table(root)
    for name in pq.read_schema(meta).names:
        if name == "data/file_index" or (name.startswith("videos/") and name.endswith("/file_index")):
            edit_column(meta, name, renumber)
