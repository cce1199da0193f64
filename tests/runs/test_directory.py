"""Run folders that were made twice, damaged by hand, or lie in odd places."""

import json
import os
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from hlrp.errors import UserError
from hlrp.files import replace_link
from hlrp.runs import RunDirectory, checkpoint_step, claim_run_path, list_checkpoints, list_runs, new_run_path
from hlrp.runs.directory import check_writable


def _run(path: Path, **fields: object) -> RunDirectory:
    return RunDirectory.create(path, config_yaml="", trainer="lightning", **fields)


DAMAGED = ["[1]", "null", "", "{", '"text"', "[" * 100_000, '{"schema_version": "x"}', '{"schema_version": 99}']
WRONG_KINDS = [
    '{"started": 5}',
    '{"final_metrics": [1]}',
    '{"status": ["x"]}',
    '{"dataset": "pusht"}',
    '{"warnings": 3}',
]


@pytest.mark.parametrize("content", [*DAMAGED, *WRONG_KINDS, b"\xff\xfe\x00", None])
def test_a_damaged_manifest_hurts_no_other_run(tmp_path: Path, content: str | bytes | None) -> None:
    """None: a folder in the file's place."""
    _run(tmp_path / "a" / "whole")
    broken = tmp_path / "b" / "broken"
    broken.mkdir(parents=True)
    if content is None:
        (broken / "run.json").mkdir()
    else:
        (broken / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    problems: list[str] = []
    found = list_runs(tmp_path, lambda error: problems.append(str(error)))
    assert [run.path.name for run in found] == ["whole"]
    assert len(problems) == 1 and str(broken) in problems[0]
    with pytest.raises(UserError, match=r"cannot be read|newer hlrp"):
        RunDirectory.open(broken)


def test_a_field_that_is_null_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"started": null, "final_metrics": null, "status": "running"}')
    assert [run.manifest.to_json() for run in list_runs(tmp_path)] == [{"status": "running"}]


def test_a_field_that_this_release_does_not_know_stays_in_the_file(tmp_path: Path) -> None:
    said = {"schema_version": 1, "dataset": {"root": "/data", "camera": "top"}, "cluster": {"node": None}}
    (tmp_path / "run.json").write_text(json.dumps(said))
    run = RunDirectory.open(tmp_path)
    assert (run.manifest.dataset.root, run.manifest.steps, run.manifest.final_metrics) == ("/data", None, {})
    run.update(steps=3)
    assert json.loads((tmp_path / "run.json").read_text()) == {**said, "steps": 3}
    with pytest.raises(ValidationError, match="stepps"):
        run.update(stepps=3)
    with pytest.raises(ValidationError, match="steps"):
        run.update(steps="many")


def test_a_broken_line_of_the_metrics_is_dropped_and_named(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    lines = [b'{"step": 1, "loss": 1.0}', b'{"st', b"[1]", b"null", b'{"step": "x"}', b"\xff", b"[" * 100_000]
    (run.path / "metrics.jsonl").write_bytes(b"\n".join([*lines, b'{"step": 2, "loss": NaN}', b'{"step": 3']))
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert run.rewind_metrics(2) == ["metrics.jsonl: 6 damaged lines are dropped (lines 2, 3, 4, 5, 6, ...)"]
    assert (run.path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": null}\n'
    assert run.rewind_metrics(1) == []


def test_a_last_line_cut_by_a_kill_is_no_damage(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"ste')
    assert run.rewind_metrics(1) == []


def test_numbers_that_json_cannot_say_are_null(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", final_metrics={"loss": float("nan"), "norms": [1.0, float("inf")]})
    text = (run.path / "run.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["final_metrics"] == {"loss": None, "norms": [1.0, None]}


def test_odd_names_among_the_checkpoints_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("²", "٣", "last", "-1", "1e3", ".000010.partial", "000020"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "000030").touch()
    assert [c.path.name for c in list_checkpoints(tmp_path / "checkpoints")] == ["000020"]
    assert checkpoint_step(Path("000020")) == 20


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths: list[Path] = []
    start = threading.Barrier(8)

    def claim() -> None:
        start.wait()
        with claim_run_path(None, "act") as lock:
            paths.append(lock.folder)
            _run(lock.folder)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 8
    assert all((path / "run.json").is_file() for path in paths)


def test_of_two_runs_with_the_same_folder_one_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with claim_run_path(folder, "act"):
        with pytest.raises(UserError, match="another process is writing this folder"), claim_run_path(folder, "act"):
            pass
        _run(folder)
        with pytest.raises(UserError, match="exists already"):
            _run(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "run.json"]
    with pytest.raises(UserError, match="exists already"), claim_run_path(folder, "act"):
        pass


def test_a_claim_that_comes_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="other mistake"), claim_run_path(tmp_path / "deep" / "run", "act"):
        raise UserError("other mistake")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", ["check", "claim", "make", "below"])
def test_an_output_that_is_a_link_to_nothing_is_refused(tmp_path: Path, use: str) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="link to something that is not there"):
        if use == "check":
            new_run_path(link, "act")
        elif use == "claim":
            with claim_run_path(link, "act"):
                pass
        elif use == "make":
            _run(link)
        else:
            new_run_path(link / "run", "act")
    assert [p.name for p in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_the_system_does_not_take_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot write there|NUL"):
        check_writable(tmp_path / name)


def test_the_newest_checkpoints_link_is_replaced_in_one_step_and_a_copied_folder_is_kept(tmp_path: Path) -> None:
    """A copy of a run whose links were followed has a folder where the link was."""
    last = tmp_path / "last"
    last.mkdir()
    (last / "weights").write_text("copied")
    replace_link(last, "000020")
    assert last.readlink() == Path("000020")
    assert (tmp_path / "last.copied" / "weights").read_text() == "copied"
    replace_link(last, "000040")
    assert last.readlink() == Path("000040")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "last.copied"]


def test_the_newest_evaluation_is_the_one_that_was_made_last(tmp_path: Path) -> None:
    """Whatever the folders are called; what a training made on its way comes before all that somebody asked for."""
    run = RunDirectory.create(tmp_path / "run", config_yaml="", trainer="lightning")
    made = {
        "eval/step_000200": "2026-03-01T00:00:00+00:00",
        "eval/demo": "2026-01-01T12:00:00+01:00",
        "eval/2026-02-01_00-00-00": "2026-02-01T00:00:00+00:00",
        "rollout/a": "2026-01-01T11:30:00+00:00",
        "eval/torn": None,
    }
    for name, created in made.items():
        (run.path / name).mkdir(parents=True)
        (run.path / name / "results.json").write_text("{" if created is None else json.dumps({"created": created}))
    os.utime(run.path / "eval/torn/results.json", (0, 0))
    order = [str(path.parent.relative_to(run.path)) for path in run.evaluations()]
    assert order == ["eval/step_000200", "eval/torn", "eval/demo", "rollout/a", "eval/2026-02-01_00-00-00"]
