"""The study of few action labels: what it draws, learns from, counts, and that it goes on where it was cut off."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from action_toys import label, planted, spoil_column
from few_labels.design import (
    LATE_FRAMES,
    QUANTIZER_LATENTS,
    QUANTIZER_STEPS,
    QUANTIZER_VIDEO,
    Cell,
    NeuralSettings,
    Places,
    draw,
)
from few_labels.inputs import shuffle_table
from few_labels.labels import OtherVectors, latents_of, pseudo_labels
from few_labels.neural import train
from few_labels.ridge_policy import CHUNK, DirectPolicy, make_policy
from few_labels.trust import OtherRows, Scores, Situation, keep_scores, read_scores, scores_path
from few_labels.videos import Basis, Videos, read_videos
from make_dataset import make_dataset
from make_labels import make_quantizer, make_table
from safetensors.numpy import load_file

from hlrp.data import DatasetInfo, read_dataset, read_episodes
from hlrp.data.columns import read_column
from hlrp.latents.table import LatentTable


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """8 episodes of two tasks in turn, and their labels."""
    root = tmp_path_factory.mktemp("few")
    made = Places(root)
    make_dataset(made.data, episodes=8, length=16, size=48, tasks=("push the square", "pull it"))
    make_table(made.data, make_quantizer(made.laq), made.latents, vectors=True)
    return made


@pytest.fixture(scope="module")
def videos(places: Places) -> Videos:
    return read_videos(places.data, 2, places.root / "components.npz")


def videos_of(info: DatasetInfo, table: LatentTable) -> Videos:
    """Videos whose frames show what the latents say."""
    episodes = read_episodes(info)
    seen = table.vectors(np.arange(info.frames)).flatten(1).numpy()
    basis = Basis(np.zeros(seen.shape[1], np.float32), np.eye(seen.shape[1], dtype=np.float32))
    number = episodes.episode_of(np.arange(info.frames))
    return Videos(info, number, episodes.start, episodes.end, episodes.task, basis, seen, seen, 2)


def test_labelled_episodes_are_nested_and_of_every_task(places: Places) -> None:
    info = read_dataset(None, places.data)
    task = read_episodes(info).task
    for seed in range(5):
        drawn = [set(draw(info, k, seed)) for k in (1, 2, 4)]
        assert drawn[0] < drawn[1] < drawn[2] == set(range(8))
        assert [sorted(task[e] for e in group) for group in drawn[:2]] == [
            sorted(["push the square", "pull it"] * k) for k in (1, 2)
        ]
    assert len({tuple(draw(info, 1, seed)) for seed in range(8)}) > 1


def test_components_tell_frames_and_reach_a_policy_as_they_are_read(videos: Videos, places: Places) -> None:
    """What is projected while a policy acts is what it was fitted on."""
    from few_labels.videos import thumbnails

    from hlrp.data import FrameStore

    store = FrameStore(read_episodes(videos.info), videos.info.cameras[0])
    store.prepare()
    rows = np.array([0, 17, 90])
    np.testing.assert_allclose(videos.basis.project(thumbnails(store.read(rows))), videos.frames[rows], atol=1e-3)
    assert videos.frames[:, 0].std() == pytest.approx(1, abs=0.05)
    # The frame after the last of an episode is its last.
    assert videos.later(np.array([14, 15, 16]), 3).tolist() == [15, 15, 19]
    assert videos.later(np.array([17]), -3).tolist() == [16]


def test_shuffled_latents_are_the_same_at_other_frames(places: Places, videos: Videos) -> None:
    shuffle_table(places.latents, places.shuffled_latents, seed=1)
    plain, shuffled = LatentTable.open(places.latents), LatentTable.open(places.shuffled_latents)
    index = torch.arange(128)
    (codes, valid), (moved, still_valid) = plain.codes(index), shuffled.codes(index)
    assert torch.equal(valid, still_valid) and not valid.all()
    rows = valid.all(1)
    assert not torch.equal(codes[rows], moved[rows])
    assert sorted(map(str, codes[rows].tolist())) == sorted(map(str, moved[rows].tolist()))
    # Codes and vectors of a frame stay together.
    by_vector = {str(v.tolist()): c.tolist() for v, c in zip(plain.vectors(index), codes, strict=True)}
    assert all(by_vector[str(v.tolist())] == c.tolist() for v, c in zip(shuffled.vectors(index), moved, strict=True))
    arm = Cell("ridge", "latent_shuffled", 2, 0)
    dealt = latents_of("shuffled", videos, places, arm).vectors(index[rows]).flatten(1)
    assert sorted(map(str, dealt.tolist())) == sorted(map(str, plain.vectors(index[rows]).flatten(1).tolist()))
    assert not torch.equal(dealt, plain.vectors(index[rows]).flatten(1))


def test_an_arm_with_a_quantizer_of_its_own_reads_its_table(places: Places, videos: Videos) -> None:
    cell = Cell("ridge", "pseudo_grounded", 2, 3)
    shuffle_table(places.latents, places.own_latents(cell), seed=2)
    rows = np.array([3, 40])
    expected = LatentTable.open(places.own_latents(cell)).vectors(rows)
    assert torch.equal(latents_of("grounded", videos, places, cell).vectors(rows), expected)
    assert not torch.equal(LatentTable.open(places.latents).vectors(rows), expected)
    # Labelled episodes train a grounded quantizer, so that each draw has its own; one of features serves all.
    assert places.own_laq(cell) != places.own_laq(replace(cell, seed=4))
    features = replace(cell, arm="pseudo_features")
    assert places.own_laq(features) == places.own_laq(replace(features, seed=4)) != places.laq


def test_other_vectors_are_those_of_the_same_windows(places: Places, videos: Videos) -> None:
    table = LatentTable.open(places.latents)
    pairs = latents_of("frames", videos, places, Cell("ridge", "pseudo_frames", 2, 0))
    assert isinstance(pairs, OtherVectors)
    rows = np.array([3, 15, 40])
    valid = table.codes(rows)[1][:, 0]
    assert valid.tolist() == [True, False, True]
    expected = np.concatenate([videos.frames[rows], videos.frames[[5, 15, 42]]], axis=1)
    np.testing.assert_array_equal(pairs.vectors(rows)[:, 0, 0].numpy(), expected * valid.numpy()[:, None])


def test_twelve_draws_have_every_level_of_what_users_differ_in() -> None:
    for first in (0, 108):
        users = [Situation.of(seed) for seed in range(first, first + 12)]
        assert sorted(user.steps for user in users) == list(QUANTIZER_STEPS)
        assert sorted(user.video for user in users) == sorted(QUANTIZER_VIDEO)
        assert sorted((u.positions, u.codes, u.inputs) for u in users) == sorted(QUANTIZER_LATENTS)
        assert sorted(user.late for user in users) == list(LATE_FRAMES)
    assert [u.steps for u in users] != [Situation.of(seed).steps for seed in range(12)]
    own = next(user for user in users if user.video == "labelled").training([3, 7])
    assert own[own.index("--episodes") + 1] == "3,7"


def test_late_actions_stand_beside_later_frames_of_labelled_episodes_alone(places: Places, videos: Videos) -> None:
    user = replace(Situation.of(0), late=3)
    seen = user.seen(videos, [1, 4, 6])
    rows = np.arange(videos.info.frames)
    shifts = (seen - rows)[videos.start]
    for shift, start, end in zip(shifts, videos.start, videos.end, strict=True):
        np.testing.assert_array_equal(seen[start:end], np.minimum(rows[start:end] + shift, end - 1))
    assert not shifts[[0, 2, 3, 5, 7]].any() and 0 < shifts.max() <= 3
    table = LatentTable.open(places.latents)
    later = OtherRows(table, seen)
    assert torch.equal(later.vectors(rows), table.vectors(seen))
    assert torch.equal(later.codes(rows)[0], table.codes(seen)[0])
    assert torch.equal(later.codes(rows)[1], table.codes(seen)[1])
    np.testing.assert_array_equal(replace(user, late=0).seen(videos, [1, 4, 6]), rows)


def test_a_draw_of_bad_latents_or_late_actions_is_trusted_less(tmp_path: Path) -> None:
    info, table, _ = planted(tmp_path, tasks=("reach", "push"))
    videos = videos_of(info, table)
    good = pseudo_labels(table, videos, [0, 1, 2, 3]).decoder.manifest
    user = replace(Situation.of(0), late=12)
    late = pseudo_labels(OtherRows(table, user.seen(videos, [0, 1, 2, 3])), videos, [0, 1, 2, 3]).decoder.manifest
    first, second = Scores.of(4, 2, good), Scores.of(3, 2, late)
    assert first.r2 > 0.8 and first.below == 0 and second.r2 < 0.5 and second.below == 3
    assert first.lowest == pytest.approx(min(d.r2 or 0 for d in good.dimensions), abs=1e-3)
    assert first.lowest_entry <= min(first.lowest, first.lowest_task) and second.lowest_entry < first.lowest_entry
    path = scores_path(tmp_path / "rows.csv")
    for scores in (second, first, second):
        keep_scores(path, scores)
    assert path.name == "rows_trust.csv" and read_scores(path) == {(4, 2): first, (3, 2): second}


def test_pseudo_labels_are_recorded_where_labelled_and_decoded_elsewhere(tmp_path: Path) -> None:
    info, table, _ = planted(tmp_path, tasks=("reach", "push"))
    videos = videos_of(info, table)
    labels = pseudo_labels(table, videos, [0, 1])
    true = videos.actions(list(range(6)))
    np.testing.assert_array_equal(labels.actions[:80], true[:80])
    inside = np.arange(84, 116)
    assert ((labels.actions[inside] - true[inside]) ** 2).mean() < 0.02 * true[inside].var()
    assert labels.trust > 0.8 and labels.unlabelled_r2 > 0.8
    # On latents that say nothing neither score is good.
    noise = np.random.default_rng(1).normal(size=videos.frames.shape).astype(np.float32)
    spoiled = pseudo_labels(OtherVectors(table, noise), videos, [0, 1])
    assert spoiled.trust < 0.2 and spoiled.unlabelled_r2 < 0.2


ARMS_WITH_K = ("actions", "pseudo_laq", "pseudo_pixels", "latent")


def test_no_action_of_an_unlabelled_episode_reaches_a_policy(tmp_path: Path) -> None:
    given = []
    for name in ("whole", "hidden"):
        info, table, _ = planted(tmp_path / name, tasks=("reach", "push"))
        if name == "hidden":
            spoil_column(info, "action", [0, 1])
            info = read_dataset(None, info.root)
        place = Places(tmp_path / name)
        vectors = table.vectors(np.arange(info.frames)).flatten(1).numpy()
        table = label(info, place.latents, np.split(vectors, info.episodes))
        own = Cell("trust", "pseudo_own", 1, 0)
        label(info, place.own_latents(own), np.split(vectors, info.episodes))
        videos = videos_of(info, table)
        every = [*(Cell("ridge", arm, 1, 0) for arm in ARMS_WITH_K), own]
        made = [make_policy(cell, videos, place, [0, 1])[0] for cell in every]
        given.append([policy.chunk(videos.frames[100:101], "reach") for policy in made])
    for whole, hidden in zip(*given, strict=True):
        assert np.isfinite(hidden).all() and hidden.shape == (CHUNK, 3)
        np.testing.assert_array_equal(whole, hidden)


def test_a_direct_policy_gives_the_chunk_from_the_frame_on(tmp_path: Path) -> None:
    """The frame tells its own action alone: the first of the chunk is right, the others are the mean."""
    info, table, mapping = planted(tmp_path, episodes=12)
    videos = videos_of(info, table)
    policy = DirectPolicy.fit(videos, videos.actions(list(range(12))), list(range(12)))
    rows = np.arange(400, 430)
    chunks = np.stack([policy.chunk(videos.frames[i : i + 1], "reach") for i in rows])
    np.testing.assert_allclose(chunks[:, 0], videos.frames[rows] @ mapping, atol=0.2)
    assert np.abs(chunks[:, 1:]).mean() < 0.25 * np.abs(chunks[:, 0]).mean()


@pytest.mark.parametrize("arm", ["actions", "pseudo_laq"])
def test_a_policy_of_the_project_learns_from_what_its_arm_says(arm: str, places: Places, tmp_path: Path) -> None:
    settings = NeuralSettings(few_steps=2, many_steps=3, batch_size=4)
    scores = train(Cell("neural", arm, 1, 0), places, tmp_path, settings)
    steps = 2 if arm == "actions" else 3
    saved = tmp_path / f"run/checkpoints/{steps:06d}/pretrained_model"
    config = json.loads((saved / "config.json").read_text())
    info = read_dataset(None, places.data)
    labelled = draw(info, 1, 0)
    assert "observation.state" not in config["input_features"] or not config["use_state"]
    assert config["labelled_episodes"] == (labelled if arm == "actions" else None)
    assert scores == ("", "") if arm == "actions" else all(float(score) <= 1 for score in scores)
    # Actions are normalised by the labelled ones alone.
    mean = load_file(next(saved.glob("*normalizer_processor.safetensors")))["action.mean"]
    rows = read_episodes(info).frame_indices(labelled)
    np.testing.assert_allclose(mean, read_column(info, "action")[rows].mean(0), atol=1e-5)
