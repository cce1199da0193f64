"""`hlrp data check` as a user types it, and what the two trainers do with the same dataset."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from command import assert_user_error, hlrp


def _spoil(root: Path) -> None:
    (path,) = sorted((root / "data").glob("*/*.parquet"))
    table = pq.ParquetFile(path).read()
    rows = table.column("action").to_pylist()
    rows[28][2] = float("nan")
    at, field = table.schema.get_field_index("action"), table.schema.field("action")
    pq.write_table(table.set_column(at, field, pa.array(rows, field.type)), path)


def test_all_faults_are_shown_and_training_refuses_the_first(toy_root: Path, tmp_path: Path) -> None:
    sound = hlrp("data", "check", toy_root)
    assert sound.code == 0, sound
    assert sound.out.startswith("good     0 warnings;")
    assert "2 of 2 episodes" in sound.out
    root = Path(shutil.copytree(toy_root, tmp_path / "toy"))
    _spoil(root)
    (root / "meta" / "stats.json").unlink()
    found = hlrp("data", "check", "toy", "--json", cwd=tmp_path)
    assert (found.code, found.err) == (2, "")
    said = found.json()
    assert not said["ok"]
    assert [p["where"].rpartition(str(root.name) + "/")[2] for p in said["problems"]] == [
        "data/chunk-000/file-000.parquet, column action, episode 1, frame 4",
        "meta/stats.json",
    ]
    assert all(p["fatal"] and p["fix"] for p in said["problems"])
    read = hlrp("data", "check", root)
    assert read.code == 2
    assert "wrong    'action' is nan in dimension 2 at frame 4 of episode 1" in read.out
    assert read.out.strip().splitlines()[-1].startswith("wrong    2 faults, 0 warnings;")
    out = tmp_path / "run"
    for trainer in ("lerobot", "lightning"):
        done = hlrp(
            *("train", "--policy", "act", "--trainer", trainer, "--dataset-root", root, "--output-dir", out),
            *("--steps", "2", "--device", "cpu"),
        )
        assert_user_error(done, "'action' is nan in dimension 2", f"hlrp data check {root}", "shows 1 more")
    assert not out.exists()


def test_mistakes_of_the_command(tmp_path: Path, toy_root: Path) -> None:
    assert_user_error(hlrp("data", "check", "nowhere", cwd=tmp_path), "no dataset folder nowhere", str(tmp_path))
    assert_user_error(hlrp("data", "check", toy_root, "--episodes", "7"), "[7]", "the dataset has 2")
    assert_user_error(hlrp("data", "check", toy_root, "--episodes", "x"), "--episodes")
