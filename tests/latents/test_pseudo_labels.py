"""Datasets with pseudo-labels: recorded actions bit for bit, a planted map elsewhere, the same bytes after any kill."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from action_toys import OFFSET, label, record, spoil_column
from interruptions import killed_before_write

from hlrp.data import read_dataset, read_episodes
from hlrp.data.columns import ACTION_CONFIDENCE, ACTION_SOURCE, read_columns
from hlrp.errors import UserError
from hlrp.latents.actions import ActionDecoder, fit_actions
from hlrp.latents.pseudo_label_identity import PROVENANCE, unfinished
from hlrp.latents.pseudo_labels import PseudoLabelRequest, pseudo_label
from hlrp.ranks import Ranks

LENGTHS, LABELLED = [40, 30, 40, 20, 40, 36], [0, 2, 4]
NAMES = ["x", "y", "z"]
VIDEO = Path("videos/observation.image/chunk-000/file-000.mp4")


def split_tables(root: Path, per_file: int) -> None:
    """Divide the table of rows into files of so many episodes, as LeRobot does with large ones."""
    (source,) = (root / "data").glob("*/*.parquet")
    rows, episodes = pq.ParquetFile(source), next((root / "meta/episodes").glob("*/*.parquet"))
    table = pq.read_table(episodes)
    files = np.arange(rows.num_row_groups) // per_file
    for number in range(files.max() + 1):
        with pq.ParquetWriter(source.with_name(f"file-{number:03d}.tmp"), rows.schema_arrow) as writer:
            for group in np.flatnonzero(files == number).tolist():
                writer.write_table(rows.read_row_group(group))
    for path in source.parent.glob("*.tmp"):
        path.rename(path.with_suffix(".parquet"))
    column = table.schema.get_field_index("data/file_index")
    pq.write_table(table.set_column(column, "data/file_index", pa.array(files)), episodes)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A dataset of three tables and something like a video, its latents, and a decoder of three labelled episodes."""
    folder, rng = tmp_path_factory.mktemp("toys"), np.random.default_rng(0)
    mapping = rng.normal(size=(4, 3))
    latents = [rng.normal(size=(n, 4)) for n in LENGTHS]
    root = record(folder / "data", [z @ mapping for z in latents], action_names=NAMES)
    split_tables(root, 2)
    (root / VIDEO).parent.mkdir(parents=True)
    (root / VIDEO).write_bytes(b"video")
    (root / "meta/stats.json").chmod(0o444)
    info = read_dataset(None, root)
    table = label(info, folder / "table", latents)
    return info, table, fit_actions(table, info, LABELLED, offsets=[0]), [z @ mapping for z in latents]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(toys, tmp_path_factory):
    """The dataset with pseudo-labels, made at one go."""
    info, table, decoder, _ = toys
    output = tmp_path_factory.mktemp("made") / "all"
    result = pseudo_label(PseudoLabelRequest(info, decoder, table, output))
    assert result.complete and result.frames == (120, 86 - 3 * OFFSET, 3 * OFFSET)
    return output


def columns_of(output: Path):
    info = read_dataset(None, output)
    return read_columns(info, ["action", ACTION_SOURCE, ACTION_CONFIDENCE])


def test_recorded_actions_stay_and_others_are_the_maps(toys, made):
    info, _, decoder, true = toys
    before, after = read_columns(info, ["action"])["action"], columns_of(made)
    table = read_episodes(info)
    sure = np.float32([d.confidence for d in decoder.manifest.dimensions])
    assert (sure > 0.9).all()
    for episode, length in enumerate(LENGTHS):
        rows = slice(int(table.start[episode]), int(table.end[episode]))
        action, source, confidence = (after[n][rows] for n in ("action", ACTION_SOURCE, ACTION_CONFIDENCE))
        if episode in LABELLED:
            assert action.tobytes() == before[rows].tobytes() and (source == 0).all() and (confidence == 1).all()
            continue
        # A window that begins later reaches past the end; the last known action is held there.
        known = np.arange(length) < length - OFFSET
        assert source.tolist() == np.where(known, 1, 2).tolist()
        # Not beyond what was seen: a decoder does not extrapolate.
        bounds = [[getattr(d, name) for d in decoder.manifest.dimensions] for name in ("low", "high")]
        np.testing.assert_allclose(action[known], true[episode][known].clip(*bounds), atol=1e-3)
        assert (action[~known] == action[known][-1]).all()
        assert (confidence[known] == sure).all() and (confidence[~known] == 0).all()


def test_unknown_frames_take_the_nearest_known_one(toys, tmp_path, monkeypatch):
    info, table, decoder, _ = toys

    def episode(self, latents, info, episode):
        length = LENGTHS[episode]
        known = np.isin(np.arange(length), [3, 8])
        actions = np.where(known[:, None], np.arange(length)[:, None], 0).repeat(3, 1).astype(np.float32)
        made = original(self, latents, info, episode)
        return made._replace(actions=actions, known=known)

    original = ActionDecoder.episode
    monkeypatch.setattr(ActionDecoder, "episode", episode)
    pseudo_label(PseudoLabelRequest(info, decoder, table, tmp_path / "out"))
    first = int(read_episodes(info).start[1])
    held = columns_of(tmp_path / "out")["action"][first : first + LENGTHS[1], 0]
    assert held.tolist() == [3] * 6 + [8] * (LENGTHS[1] - 6)


def test_the_rest_of_the_dataset_is_as_it_was(toys, made):
    info, _, decoder, _ = toys
    old, new = contents(info.root), contents(made)
    changed = {n for n in old if old[n] != new[n]}
    tables = {n for n in old if n.startswith(("data/", "meta/episodes/"))}
    assert changed == {*tables, "meta/info.json", "meta/stats.json"} and set(new) - set(old) == {str(PROVENANCE)}
    assert (made / VIDEO).samefile(info.root / VIDEO)
    assert (made / "meta/stats.json").stat().st_mode & 0o200, "LeRobot rewrites it in place"
    said = json.loads(new[str(PROVENANCE)])
    assert said["identity"]["recorded"] == LABELLED and said["identity"]["masked"] == []
    assert said["decoder"] == decoder.manifest.model_dump(mode="json")
    features = json.loads(new["meta/info.json"])["features"]
    assert features[ACTION_SOURCE] == {"dtype": "int64", "shape": [1], "names": None}
    assert features[ACTION_CONFIDENCE] == {"dtype": "float32", "shape": [3], "names": None}
    assert {p.name for p in made.parent.iterdir()} == {made.name, f".{made.name}.lock"}
    for name in (n for n in tables if n.startswith("data/")):
        before, after = pq.ParquetFile(info.root / name), pq.ParquetFile(made / name)
        assert after.num_row_groups == before.num_row_groups == 2
        kept = [c for c in before.schema_arrow.names if c != "action"]
        assert after.read(columns=kept).equals(before.read(columns=kept))


def test_lerobot_reads_it_and_makes_no_input_of_the_columns(toys, made):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.utils.feature_utils import dataset_to_policy_features

    dataset = LeRobotDataset("local/all", root=made)
    expected = columns_of(made)
    for index in (0, 39, 40, 69, 205):
        item = dataset[index]
        assert item["action"].numpy().tobytes() == expected["action"][index].tobytes()
        assert int(item[ACTION_SOURCE]) == expected[ACTION_SOURCE][index]
        assert item[ACTION_CONFIDENCE].tolist() == expected[ACTION_CONFIDENCE][index].tolist()
    assert set(dataset_to_policy_features(dataset.meta.features)) == {"action"}


def test_statistics_are_of_recorded_actions_alone(toys, made):
    from lerobot.datasets.compute_stats import aggregate_stats
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

    info, table = toys[0], read_episodes(toys[0])
    recorded = read_columns(info, ["action"])["action"][table.frame_indices(LABELLED)].astype(np.float64)
    stats = LeRobotDatasetMetadata("local/all", root=made).stats["action"]
    assert stats["count"].tolist() == [120]
    for name, value in (("mean", recorded.mean(0)), ("std", recorded.std(0))):
        np.testing.assert_allclose(stats[name], value, rtol=1e-5, atol=1e-6)
    for name, value in (("min", recorded.min(0)), ("max", recorded.max(0))):
        np.testing.assert_allclose(stats[name], value, rtol=1e-6)
    # What LeRobot adds up over episodes, all of them or some, is the same again.
    each, old = (pq.read_table(next((r / "meta/episodes").glob("*/*.parquet"))).to_pylist() for r in (made, info.root))
    for e in LABELLED:
        np.testing.assert_allclose(each[e]["stats/action/mean"], old[e]["stats/action/mean"], rtol=1e-5, atol=1e-7)
    for some in (range(6), [0, 1, 2, 4], [1, 3]):
        parts = []
        for e in some:
            row = {k.rpartition("/")[2]: np.array(v) for k, v in each[e].items() if k.startswith("stats/action/")}
            parts.append({"action": row})
        together = aggregate_stats(parts)["action"]
        for name in ("mean", "std", "min", "max") if len(parts) != 4 else ("mean", "std"):
            np.testing.assert_allclose(together[name], stats[name], rtol=1e-6, atol=1e-9, err_msg=f"{some} {name}")
    kept = json.loads((made / "meta/stats.json").read_text())["timestamp"]
    assert kept == json.loads((info.root / "meta/stats.json").read_text())["timestamp"]


def test_killed_at_one_moment_or_another_it_goes_on_to_the_same_bytes(toys, made, tmp_path):
    info, table, decoder, _ = toys
    whole, killed = contents(made), 0
    while True:
        output = tmp_path / str(killed) / "all"
        output.parent.mkdir()
        request = PseudoLabelRequest(info, decoder, table, output)
        stopped = killed_before_write(3 * killed + 1, lambda request=request: pseudo_label(request))
        assert not stopped or not output.exists() or contents(output) == whole
        assert pseudo_label(request).frames == (120, 80, 6)
        assert contents(output) == whole, killed
        assert {p.name for p in output.parent.iterdir()} == {"all", ".all.lock"}
        if not stopped:
            break
        killed += 1
    assert killed >= 10


def test_tables_that_are_there_are_not_made_again(toys, tmp_path):
    info, table, decoder, _ = toys
    request = PseudoLabelRequest(info, decoder, table, tmp_path / "all", ranks=Ranks(1, 3))
    assert not pseudo_label(request).complete
    (written,) = unfinished(request.output).rglob("*.parquet")
    stamp = written.stat().st_mtime_ns
    seen = []
    pseudo_label(replace(request, ranks=Ranks()), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(70, 206), (130, 206), (206, 206)]
    assert (request.output / written.relative_to(unfinished(request.output))).stat().st_mtime_ns == stamp


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_two_processes_make_what_one_does(toys, made, tmp_path, order):
    info, table, decoder, _ = toys
    done = [pseudo_label(PseudoLabelRequest(info, decoder, table, tmp_path / "all", ranks=Ranks(r, 2))) for r in order]
    assert [d.complete for d in done] == [False, True]
    assert done[0].missing_files == 3 - len(Ranks(order[0], 2).share(3))
    assert contents(tmp_path / "all") == contents(made)
    # And once more: it is there.
    assert pseudo_label(PseudoLabelRequest(info, decoder, table, tmp_path / "all")).frames == (120, 80, 6)


def test_actions_of_other_episodes_are_not_read(toys, made, tmp_path):
    info, table, *_ = toys
    root = tmp_path / "data"
    shutil.copytree(info.root, root)
    spoiled = read_dataset(None, root)
    spoil_column(spoiled, "action", LABELLED)
    # The same codes for the same frames: the files of the table differ in what they say of the dataset alone.
    latents = [np.asarray(table.vectors(rows))[:, 0, 0] for rows in _rows(info)]
    again = label(spoiled, tmp_path / "table", latents)
    fitted = fit_actions(again, spoiled, LABELLED, offsets=[0])
    pseudo_label(PseudoLabelRequest(spoiled, fitted, again, tmp_path / "out"))
    for name, values in columns_of(tmp_path / "out").items():
        assert values.tobytes() == columns_of(made)[name].tobytes(), name
    # `spoil_column` writes a row group for all episodes of a file: recorded and predicted ones share it.
    assert all(pq.ParquetFile(p).num_row_groups == 1 for p in read_dataset(None, tmp_path / "out").tables)


def _rows(info):
    table = read_episodes(info)
    return [range(int(first), int(end)) for first, end in zip(table.start, table.end, strict=True)]


def without_actions(root: Path) -> None:
    """Take the feature out of a dataset, as one of videos alone has none."""
    said = json.loads((root / "meta/info.json").read_text())
    del said["features"]["action"]
    (root / "meta/info.json").write_text(json.dumps(said))
    stats = json.loads((root / "meta/stats.json").read_text())
    (root / "meta/stats.json").chmod(0o644)
    del stats["action"]
    (root / "meta/stats.json").write_text(json.dumps(stats))
    for path in (root / "data").glob("*/*.parquet"):
        table = pq.read_table(path)
        described = json.loads(table.schema.metadata[b"huggingface"])
        del described["info"]["features"]["action"]
        metadata = {b"huggingface": json.dumps(described).encode()}
        pq.write_table(table.drop_columns(["action"]).replace_schema_metadata(metadata), path)
    for path in (root / "meta/episodes").glob("*/*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns([n for n in table.column_names if n.startswith("stats/action/")]), path)


def test_a_dataset_without_actions_gets_the_decoders(toys, made, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    info, table, decoder, _ = toys
    root = tmp_path / "videos_only"
    shutil.copytree(info.root, root)
    without_actions(root)
    bare = read_dataset(None, root)
    latents = [np.asarray(table.vectors(rows))[:, 0, 0] for rows in _rows(info)]
    result = pseudo_label(PseudoLabelRequest(bare, decoder, label(bare, tmp_path / "table", latents), tmp_path / "out"))
    assert result.frames == (0, 206 - 6 * OFFSET, 6 * OFFSET)
    found, before = columns_of(tmp_path / "out"), columns_of(made)
    unlabelled = before[ACTION_SOURCE] > 0
    assert found["action"][unlabelled].tobytes() == before["action"][unlabelled].tobytes()
    features = read_dataset(None, tmp_path / "out").features
    assert features["action"] == {"dtype": "float32", "shape": [3], "names": NAMES}
    dataset = LeRobotDataset("local/out", root=tmp_path / "out")
    assert dataset[3]["action"].tolist() == found["action"][3].tolist()
    # Nothing was recorded: the statistics are those of what is predicted.
    predicted = found["action"][found[ACTION_SOURCE] == 1].astype(np.float64)
    np.testing.assert_allclose(dataset.meta.stats["action"]["mean"], predicted.mean(0), rtol=1e-5, atol=1e-6)


def changed(decoder: ActionDecoder, **fields) -> ActionDecoder:
    return ActionDecoder(decoder.manifest.model_copy(update=fields), decoder._weights)


def test_what_does_not_fit_is_refused_with_both_sides_named(toys, made, tmp_path):
    info, table, decoder, _ = toys
    manifest = decoder.manifest
    other = manifest.spec.model_copy(update={"laq_sha256": "b" * 64})
    low = [d.model_copy(update={"r2": 0.25, "confidence": 0.0}) if d.name == "y" else d for d in manifest.dimensions]
    output = tmp_path / "out"
    cases = [
        (changed(decoder, episodes=[]), output, "no labelled episode"),
        (changed(decoder, fps=30.0), output, "the decoder has 30.0, the dataset 10"),
        (changed(decoder, dimensions=manifest.dimensions[:2]), output, r"the decoder has \[2\], the dataset \[3\]"),
        (changed(decoder, episodes=[0, 6]), output, "episode 6 of this dataset, which has 6 episodes"),
        (changed(decoder, spec=other), output, f"the dataset has {'a' * 64}, the decoder {'b' * 64}"),
        (changed(decoder, dimensions=low), output, r"1 of 3 .* R2 0.5 on held-out episodes: y \(R2 0.25\)"),
        (decoder, info.root / "out", "lies inside"),
        (decoder, tmp_path, "exists and is not this dataset"),
        (changed(decoder, seed=1), made, "decoder sha256: the folder has"),
    ]
    for fitted, folder, said in cases:
        with pytest.raises(UserError, match=said):
            pseudo_label(PseudoLabelRequest(info, fitted, table, folder))
    with pytest.raises(UserError, match=f"column '{ACTION_SOURCE}' already"):
        pseudo_label(PseudoLabelRequest(read_dataset(None, made), decoder, table, output))
    assert not output.exists() and not unfinished(output).exists()
    # What another decoder has left half made is not gone on with.
    pseudo_label(PseudoLabelRequest(info, decoder, table, output, ranks=Ranks(0, 2)))
    with pytest.raises(UserError, match="decoder sha256"):
        pseudo_label(PseudoLabelRequest(info, changed(decoder, seed=1), table, output))


def test_dimensions_below_the_floor_are_masked_if_asked(toys, tmp_path):
    info, table, decoder, _ = toys
    low = [d.model_copy(update={"r2": 0.25}) if d.name == "y" else d for d in decoder.manifest.dimensions]
    fitted = changed(decoder, dimensions=low)
    pseudo_label(PseudoLabelRequest(info, fitted, table, tmp_path / "out", mask_below_floor=True))
    found = columns_of(tmp_path / "out")
    predicted, confidence = found[ACTION_SOURCE] == 1, found[ACTION_CONFIDENCE]
    assert (confidence[predicted][:, 1] == 0).all() and (confidence[predicted][:, [0, 2]] > 0.9).all()
    assert (confidence[found[ACTION_SOURCE] == 0] == 1).all()
    assert json.loads((tmp_path / "out" / PROVENANCE).read_text())["identity"]["masked"] == ["y"]
