"""The dataset that memory is measured on: the episodes of another one, over and over."""

import shutil
from pathlib import Path

import bench_precompute

from hlrp.data import read_dataset, read_episodes


def test_episodes_are_repeated_whatever_other_systems_left_beside_the_tables(toy_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(toy_root, tmp_path / "toy"))
    (table,) = (root / "data").glob("*/*.parquet")
    table.with_name(f"._{table.name}").write_bytes(b"Mac OS X")
    once = read_dataset(None, root)
    many = read_dataset(None, bench_precompute.repeated(root, 3 * once.frames, tmp_path / "many"))
    assert (many.frames, many.episodes) == (3 * once.frames, 3 * once.episodes)
    assert read_episodes(many).lengths.tolist() == read_episodes(once).lengths.tolist() * 3
