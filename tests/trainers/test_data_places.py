"""Where the datasets of a run lie: what a run that goes on takes anew, and where it is written down."""

from pathlib import Path

import pytest

from hlrp.config import LightningRun, load_config, to_yaml
from hlrp.errors import UserError
from hlrp.runs import DatasetRecord, RunDirectory
from hlrp_cli.train import _saved
from trainers.data_places import keep_places, recorded_at, with_places

SOURCES = "data.sources=[{root: /a, weight: 2}, {root: /b}]"


def _run(path: Path, data: str, record: DatasetRecord) -> RunDirectory:
    run = load_config(None, ["trainer_type=lightning", "model.kind=laq", data]).config
    return RunDirectory.create(path, config_yaml=to_yaml(run), trainer="lightning", policy="laq", dataset=record)


def test_a_source_of_a_mixture_may_have_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = DatasetRecord(sources=[DatasetRecord(root="/a", frames=3), DatasetRecord(root="/b")], fingerprint="x+y")
    directory = _run(tmp_path / "run", SOURCES, record)
    run = _saved(directory.path, {}, ["data.sources.1.root=there"], None)
    assert isinstance(run, LightningRun)
    assert [source.root for source in run.data.sources] == [Path("/a"), tmp_path / "there"]
    found = recorded_at(record, run.data)
    assert [source.root for source in found.sources] == ["/a", str(tmp_path / "there")]
    assert (found.sources[0].frames, found.fingerprint) == (3, "x+y")
    keep_places(directory, run.data)
    assert load_config(directory.path / "config.yaml").config.data == run.data
    root: dict[str, tuple[object, str]] = {"data.root": (tmp_path, "--dataset-root")}
    for flags, overrides, named in (
        (root, [], "--dataset-root"),
        ({}, ["data.sources.1.weight=3"], "data.sources.1.weight=3"),
        ({}, ["data.sources.2.root=c"], "data.sources.2.root=c"),
    ):
        with pytest.raises(UserError, match=f"keeps its settings; {named} cannot be changed"):
            _saved(directory.path, flags, overrides, None)


def test_where_nothing_changed_nothing_is_written(tmp_path: Path) -> None:
    record = DatasetRecord(root="/a", repo_id="me/it", fingerprint="x")
    directory = _run(tmp_path / "run", "data.root=/a", record)
    file = directory.path / "config.yaml"
    file.write_text(f"# mine\n{file.read_text()}")
    data = load_config(file).config.data
    assert recorded_at(record, data) == record
    keep_places(directory, data)
    assert file.read_text().startswith("# mine\n")
    moved = recorded_at(record, with_places(data, {"data.root": Path("/b")}))
    assert (moved.root, moved.repo_id, moved.fingerprint) == ("/b", "me/it", "x")
    # Data made in Python, or found by their name, have no folder in the configuration.
    assert recorded_at(record, with_places(data, {"data.root": None})) == record


def test_a_run_that_does_not_know_its_data_takes_no_other_folder(tmp_path: Path) -> None:
    directory = _run(tmp_path / "run", "data.root=/a", DatasetRecord(root="/a"))
    with pytest.raises(UserError, match="does not say which data it began with") as refused:
        _saved(directory.path, {"data.root": (Path("/b"), "--dataset-root")}, [], None)
    assert str(directory.path / "config.yaml") in str(refused.value)
