"""Both trainers look at their data before they start, and go on with the same data only, from whatever folder."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from edits import split_tables

from hlrp.config import LeRobotRun, LightningRun, load_config, to_yaml
from hlrp.data.dataset_info import read_dataset
from hlrp.data.identity import first_fingerprint
from hlrp.errors import UserError
from hlrp.evaluation.plan import dataset_roots
from hlrp.runs import RunDirectory
from trainers import get_trainer
from trainers.fetching import fetched
from trainers.parity import parity_runs
from trainers.run_data import (
    check_data,
    check_same_data,
    describe_data,
    resumed_paths,
    with_absolute_paths,
)

BOTH = ("lerobot", "lightning")


def _config(trainer: str, root: Path | str, *more: str) -> LeRobotRun | LightningRun:
    keys = ["model.policy_type=act", f"trainer_type={trainer}", f"data.root={root}", "trainer.steps=40", *more]
    run = load_config(None, keys).config
    assert isinstance(run, LeRobotRun | LightningRun)
    return run


def _laq(root: Path | str, *more: str) -> LightningRun:
    run = load_config(None, ["trainer_type=lightning", "model.kind=laq", f"data.root={root}", *more]).config
    assert isinstance(run, LightningRun)
    return run


def _dry_run(run: LeRobotRun | LightningRun, **resume: Any) -> str:
    trainer: Any = get_trainer(run.trainer_type)
    return str(trainer.dry_run(run, **resume))


@pytest.fixture
def root(toy_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_root, tmp_path / "toy"))


def _spoil_action(root: Path) -> None:
    _spoil(root, "action", 2)


def _spoil(root: Path, name: str, dimension: int) -> None:
    (path,) = sorted((root / "data").glob("*/*.parquet"))
    table = pq.ParquetFile(path).read()
    rows = table.column(name).to_pylist()
    rows[28][dimension] = float("nan")
    field = table.schema.field(name)
    at = table.schema.get_field_index(name)
    pq.write_table(table.set_column(at, field, pa.array(rows, field.type)), path)


def _edit_json(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _without_state(info: dict[str, Any]) -> None:
    del info["features"]["observation.state"]


def _without_names(info: dict[str, Any]) -> None:
    info["features"]["observation.image"]["names"] = None


def _other_name(info: dict[str, Any]) -> None:
    info["features"]["image"] = info["features"].pop("observation.image")


FAULTS: dict[str, tuple[Any, list[str]]] = {
    "a NaN action": (_spoil_action, ["'action' is nan in dimension 2 at frame 4 of episode 1", "hlrp data check"]),
    "no stats.json": (
        lambda root: (root / "meta" / "stats.json").unlink(),
        ["no meta/stats.json", "stats.json", "recompute_stats"],
    ),
    "cut stats.json": (
        lambda root: (root / "meta" / "stats.json").write_text('{"action": '),
        ["meta/stats.json cannot be read"],
    ),
    "names: null": (
        lambda root: _edit_json(root / "meta" / "info.json", _without_names),
        ["'names': None", "feature observation.image", '"names": ["height", "width", "channels"]'],
    ),
    "no state": (
        lambda root: _edit_json(root / "meta" / "info.json", _without_state),
        ["policy 'act' reads 'observation.state'"],
    ),
    "a camera named image": (
        lambda root: _edit_json(root / "meta" / "info.json", _other_name),
        ["'observation.images.'", "image=observation.images.image"],
    ),
    "no video": (
        lambda root: next((root / "videos").rglob("*.mp4")).unlink(),
        ["missing file: it holds episodes 0, 1", "file-000.mp4"],
    ),
    "no tasks": (lambda root: (root / "meta" / "tasks.parquet").unlink(), ["missing file", "tasks.parquet"]),
    "fps 0": (
        lambda root: _edit_json(root / "meta" / "info.json", lambda info: info.update(fps=0)),
        ["'fps' is 0"],
    ),
}


@pytest.mark.parametrize("trainer", BOTH)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_data_is_named_before_the_start(fault: str, trainer: str, root: Path) -> None:
    spoil, mentions = FAULTS[fault]
    spoil(root)
    with pytest.raises(UserError) as caught:
        _dry_run(_config(trainer, root))
    for text in mentions:
        assert text in str(caught.value)


def test_what_is_not_used_may_be_wrong(root: Path) -> None:
    (root / "meta" / "stats.json").unlink()
    _spoil_action(root)
    assert "laq with Lightning" in _dry_run(_laq(root))
    warnings = check_data(_laq(root), [read_dataset(None, root)])
    assert any("'action' is nan" in warning for warning in warnings)


@pytest.mark.parametrize("trainer", BOTH)
def test_pictures_without_statistics_are_no_reason_not_to_start(trainer: str, root: Path) -> None:
    _edit_json(root / "meta" / "stats.json", lambda stats: stats.pop("observation.image"))
    assert _dry_run(_config(trainer, root))


def _stored(run: LeRobotRun | LightningRun, path: Path, root: Path) -> RunDirectory:
    """A run with one whole checkpoint, as far as a resume looks at it before training."""
    dataset = describe_data([read_dataset(None, root)])
    directory = RunDirectory.create(
        path, config_yaml=to_yaml(run), trainer=run.trainer_type, policy="act", dataset=dataset, steps=40
    )
    state = path / "checkpoints" / "000020" / "training_state"
    state.mkdir(parents=True)
    (state / "lightning.json").write_text("{}")
    (state / "lightning.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    weights = state.with_name("pretrained_model")
    weights.mkdir()
    (weights / "config.json").write_text('{"type": "act"}')
    (weights / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    for part in ("preprocessor", "postprocessor"):
        (weights / f"policy_{part}.json").write_text("{}")
    return directory


@pytest.mark.parametrize("trainer", BOTH)
def test_a_run_goes_on_with_the_same_data_only(trainer: str, root: Path, tmp_path: Path) -> None:
    run = _config(trainer, root)
    directory = _stored(run, tmp_path / "run", root)
    assert _dry_run(run, resume=directory)
    stats = root / "meta" / "stats.json"
    stats.write_text(stats.read_text().replace(" ", "", 1) + " ")
    with pytest.raises(
        UserError, match=r"the data have changed since the run began: fingerprint 2-\w+ then, 2-\w+ now$"
    ):
        try:
            _dry_run(run, resume=directory)
        except UserError as error:
            raise UserError(error.what) from error


def test_a_resumed_lerobot_run_warns_of_its_data_as_a_fresh_one(root: Path, tmp_path: Path) -> None:
    from trainers.lerobot.trainer import plan, plan_resume

    _edit_json(root / "meta" / "stats.json", lambda stats: stats["observation.image"].update(mean=float("nan")))
    run: Any = _config("lerobot", root)
    fresh = plan(run, tmp_path / "fresh").warnings
    assert "statistics of 'observation.image' are not finite" in "".join(fresh)
    directory = _stored(run, tmp_path / "run", root)
    command, _, warnings, *_ = plan_resume(directory, run, None)
    assert warnings == fresh
    assert command.environment["HLRP_SHUFFLING"] == "drawn", "as the runs of old, which do not say"
    directory.update(shuffling="computed")
    assert "HLRP_SHUFFLING" not in plan_resume(directory, run, None)[0].environment


def test_a_run_of_an_older_hlrp_goes_on_with_data_of_the_same_names_and_sizes_and_says_so(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = _stored(_config("lerobot", root), tmp_path / "run", root)
    directory.update(dataset={"fingerprint": first_fingerprint(root)})
    check_same_data(directory, [read_dataset(None, root)])
    assert "looked at sizes of files only" in caplog.text
    directory.update(dataset={"fingerprint": "0123456789abcdef"})
    with pytest.raises(UserError, match="the data have changed since the run began: fingerprint 0123456789abcdef then"):
        check_same_data(directory, [read_dataset(None, root)])


@pytest.mark.parametrize("trainer", BOTH)
def test_paths_are_stored_whole(trainer: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    (root.parent / "weights").mkdir()
    run = with_absolute_paths(_config(trainer, "toy", "output_dir=out", "model.init_from=weights"))
    directory = _stored(run, tmp_path / "run", root)
    monkeypatch.chdir("/")
    again = load_config(directory.path / "config.yaml").config
    assert isinstance(again, LeRobotRun | LightningRun)
    assert (again.data.root, again.output_dir) == (root, root.parent / "out")
    assert getattr(again.model, "init_from", None) == str(root.parent / "weights")
    assert resumed_paths(directory, again) == again
    if trainer == "lightning":
        again = again.model_copy(update={"model": again.model.model_copy(update={"init_from": None})})
    assert _dry_run(again, resume=directory)


def test_names_that_are_no_folders_stay_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "act").mkdir()
    keys = ["trainer_type=lightning", "model.kind=foundation", "model.backbone=tiny", "model.init_from=org/name"]
    run = load_config(None, [*keys, "data.sources=[{root: a}, {root: /b, table: t}]"]).config
    assert isinstance(run, LightningRun)
    whole = with_absolute_paths(run)
    assert (whole.model.backbone, whole.model.init_from) == ("tiny", "org/name")  # type: ignore[union-attr]
    assert [(s.root, s.table) for s in whole.data.sources] == [(tmp_path / "a", None), (Path("/b"), tmp_path / "t")]
    assert with_absolute_paths(_config("lerobot", "x")).model.policy_type == "act"


def test_an_older_run_with_relative_paths_finds_its_data_or_says_where_to_go(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = _stored(_config("lerobot", "toy"), tmp_path / "run", root)
    other = tmp_path / "other"
    shutil.copytree(root, other / "toy")
    monkeypatch.chdir(other)
    old = load_config(directory.path / "config.yaml").config
    assert isinstance(old, LeRobotRun)
    assert resumed_paths(directory, old).data.root == root
    assert dataset_roots(None, directory) == [root]
    lost = old.model_copy(update={"latents": old.latents.model_copy(update={"table": Path("codes")})})
    with pytest.raises(
        UserError, match=r"latents.table = codes is relative to the folder in which the run was started"
    ):
        resumed_paths(directory, lost)


def test_numbers_that_a_policy_will_not_see_need_not_be_numbers(root: Path) -> None:
    """The action that is NaN lies in the second episode."""
    _spoil_action(root)
    _edit_json(root / "meta" / "stats.json", lambda stats: stats["action"].update(mean=[float("nan")] * 3))
    info = read_dataset(None, root)

    def check(trainer: str, *more: str) -> list[str]:
        keys = [f"trainer_type={trainer}", "model.policy_type=hlrp_action_expert_direct", f"data.root={root}"]
        run = load_config(None, [*keys, "trainer.steps=1", *more]).config
        assert isinstance(run, LeRobotRun | LightningRun)
        return check_data(run, [info])

    for trainer in BOTH:
        for more in (["model.labelled_episodes=[0,1]"], ["model.labelled_episodes=[1]"], []):
            with pytest.raises(UserError, match="'action' is nan"):
                check(trainer, *more)
        warnings = check(trainer, "model.labelled_episodes=[0]")
        assert len(warnings) == 1 and "statistics of 'action' are not finite" in warnings[0]


def test_a_state_that_is_shown_all_the_same_is_checked_everywhere(root: Path) -> None:
    """Of the second episode the action is NaN and not seen; the state is, and has to be a number."""
    _spoil_action(root)
    keys = ["trainer_type=lightning", "model.policy_type=hlrp_action_expert_direct", f"data.root={root}"]
    shown = [*keys, "trainer.steps=1", "model.labelled_episodes=0", "model.state_of_unlabelled=true"]
    run = load_config(None, shown).config
    assert isinstance(run, LightningRun)
    assert check_data(run, [read_dataset(None, root)]) == []
    _spoil(root, "observation.state", 0)
    with pytest.raises(UserError, match=r"'observation\.state' is nan"):
        check_data(run, [read_dataset(None, root)])


@pytest.mark.parametrize("trainer", BOTH)
def test_a_run_of_a_name_reads_the_part_that_was_fetched(
    trainer: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files that it reads are in the cache, and no network is needed; without the flag nothing is looked for."""
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "home"))
    snapshot = tmp_path / "home/hub/datasets--me--toy/snapshots/0123456789"
    shutil.copytree(root, snapshot)
    keys = ["model.policy_type=act", f"trainer_type={trainer}", "data.repo_id=me/toy", "allow_download=true"]
    one = ["data.episodes=[1]", "model.pretrained_backbone_weights=null"]
    run: Any = load_config(None, [*keys, *one]).config
    assert fetched(run).data.root == snapshot, "whole, as tables of labels know it"
    split_tables(snapshot, [[0], [1]])
    mark, video = read_dataset("me/toy", snapshot).fingerprint(), snapshot / "videos/observation.image/chunk-000"
    (video / "file-000.mp4").unlink()
    assert f"{snapshot} (2 episodes" in _dry_run(run) or trainer == "lerobot", "no part is made by a dry run"
    part = fetched(run).data.root
    assert part.parent == snapshot.parents[1] / "hlrp-parts"
    info = read_dataset("me/toy", part)
    assert check_data(fetched(run), [info]) == check_data(run, [read_dataset("me/toy", snapshot)])
    assert str(part) in _dry_run(run)
    shutil.copy(video / "file-001.mp4", video / "file-000.mp4")  # which split_tables made
    assert not info.known_as(mark), "which nobody can be asked for here"
    (part / ".hlrp-part.json").unlink()
    assert fetched(run).data.root == part and info.known_as(mark), "runs stay with their part when the rest has come"
    assert fetched(load_config(None, keys).config).data.root == snapshot
    assert fetched(load_config(None, keys[:3]).config).data.root is None
    if trainer == "lightning":
        with pytest.raises(UserError, match="a dry run fetches nothing"):
            _dry_run(load_config(None, [*keys[:2], "data.repo_id=me/none", keys[3]]).config)


def test_runs_that_see_other_pictures_are_not_compared(root: Path, tmp_path: Path) -> None:
    """LeRobot's data workers draw image transforms from numbers of their own."""
    flags = {"model.policy_type": ("act", "--policy"), "data.root": (root, "--dataset-root")}
    with pytest.raises(UserError, match=r"other pictures(.|\n)*data\.image_transforms"):
        parity_runs(flags, ["data.image_transforms=true"], None, steps=2, output=tmp_path)
