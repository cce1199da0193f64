"""The map from latents to actions: recovered where it is known, and scored on what was held out."""

import shutil

import numpy as np
import pytest
from action_toys import EPISODES, LENGTH, OFFSET, STATE, label, record, spoil_column

from hlrp.data import read_dataset, read_episodes
from hlrp.data.columns import read_column
from hlrp.errors import UserError
from hlrp.laq.ridge import STRENGTHS
from hlrp.latents.action_estimators import USUAL_STRENGTH, make_folds
from hlrp.latents.action_scores import confidence_of, stretch
from hlrp.latents.actions import fit_actions
from hlrp.latents.step_features import Transitions


def _positions(rng, *, width=3, count=4, drift=0.5):
    """States that wander, latents, and actions that are the state plus a little of the latents."""
    mapping = rng.normal(size=(4, width)) * 0.1
    latents = [rng.normal(size=(LENGTH, 4)) for _ in range(count)]
    states = [np.cumsum(drift * rng.normal(size=(LENGTH, width)), axis=0) for _ in range(count)]
    return latents, states, [s + z @ mapping for s, z in zip(states, latents, strict=True)]


def test_a_linear_map_is_recovered_on_episodes_without_labels(clean):
    info, table, _ = clean
    decoder = fit_actions(table, info, [4, 1], offsets=[0])
    found, true = decoder.episode(table, info, 3), read_column(info, "action")[3 * LENGTH : 4 * LENGTH]
    # No window begins at the last steps.
    assert found.known.tolist() == [True] * (LENGTH - OFFSET) + [False] * OFFSET
    seen = [(d.low, d.high) for d in decoder.manifest.dimensions]
    expected = true.clip(*np.transpose(seen))
    assert (expected != true).any()  # nothing is predicted beyond what was seen
    np.testing.assert_allclose(found.actions[:-OFFSET], expected[:-OFFSET], atol=0.01)
    assert not found.actions[-OFFSET:].any()
    manifest = decoder.manifest
    assert manifest.episodes == [1, 4]
    assert manifest.action_names == ["x", "y", "z"]
    assert (manifest.action_form, manifest.held_out) == ("direct", "episodes")
    assert manifest.r2 > 0.999
    assert manifest.below_floor == []
    trust = [d.r2 for d in manifest.dimensions]
    np.testing.assert_allclose(found.confidence, np.outer(found.known, trust), rtol=1e-6)


def test_a_step_is_read_from_the_windows_before_it_too(clean):
    info, table, _ = clean
    decoder = fit_actions(table, info, [0, 1, 2, 4])
    assert decoder.manifest.offsets == [-4, -2, 0, 2]
    assert decoder.manifest.inputs == "both"
    found, true = decoder.episode(table, info, 3), read_column(info, "action")[3 * LENGTH : 4 * LENGTH]
    assert found.known.all()
    assert np.abs(found.actions[:-OFFSET] - true[:-OFFSET]).mean() < 0.1
    # Only windows that say nothing of it are left of the last step: near the mean is all there is.
    assert np.abs(found.actions[-1] - [d.mean for d in decoder.manifest.dimensions]).max() < 2


def test_held_out_r2_is_that_of_a_hand_computation(noisy):
    info, table, _ = noisy
    labelled = [1, 3, 5]
    decoder = fit_actions(table, info, labelled, offsets=[0], inputs="vectors")
    rows = read_episodes(info).frame_indices(labelled)
    z = table.vectors(np.arange(info.frames)).flatten(1).numpy().astype(np.float64)
    valid = table.codes(np.arange(info.frames))[1].numpy()[:, 0]
    x = ((z - z[valid].mean(0)) / z[valid].std(0))[rows][valid[rows]]
    y = read_column(info, "action")[rows][valid[rows]].astype(np.float64)
    episode = rows[valid[rows]] // LENGTH

    predictions = np.zeros((len(STRENGTHS), *y.shape))
    for held in labelled:
        fit, test = episode != held, episode == held
        centred = x[fit] - x[fit].mean(0)
        for number, strength in enumerate(STRENGTHS):
            gram = centred.T @ centred / fit.sum() + strength * np.eye(x.shape[1])
            weight = np.linalg.solve(gram, centred.T @ (y[fit] - y[fit].mean(0)) / fit.sum())
            predictions[number, test] = (x[test] - x[fit].mean(0)) @ weight + y[fit].mean(0)
    for dimension, said in enumerate(decoder.manifest.dimensions):
        errors = (predictions[..., dimension] - y[:, dimension]) ** 2
        total = 0.0
        for held in labelled:
            best = errors[:, episode != held].sum(1).argmin()
            total += errors[best, episode == held].sum()
        expected = 1 - total / ((y[:, dimension] - y[:, dimension].mean()) ** 2).sum()
        assert said.r2 == pytest.approx(expected, abs=1e-5)
        assert 0.3 < said.r2 < 0.97
        assert said.by_task == {"push": pytest.approx(said.r2)}


def test_the_only_episode_of_a_task_is_left_out_in_blocks():
    episodes, tasks = np.repeat([0, 1, 2, 4], 40), ["reach", "push", "reach", "lift", "push", "reach"]
    folds = make_folds(episodes, [*tasks[:4], "lift"])
    assert folds.of_row[episodes == 0].tolist() == [0] * 40
    assert folds.of_row[episodes == 2].tolist() == [1] * 40
    # Twenty blocks of two steps, dealt to the two folds in turn.
    assert folds.of_row[episodes == 1].tolist() == [0, 0, 1, 1] * 10
    assert folds.whole.tolist() == [True] * 40 + [False] * 40 + [True] * 40 + [False] * 40
    alone = make_folds(episodes[:40], tasks)
    assert alone.of_row.tolist() == [b % 10 for b in range(20) for _ in range(2)]
    assert not alone.whole.any()


def test_without_a_second_episode_of_a_task_the_strength_is_the_usual_one(noisy):
    info, table, _ = noisy
    decoder = fit_actions(table, info, [0, 1], offsets=[0], inputs="vectors")
    assert decoder.manifest.held_out == "blocks"
    for dimension in decoder.manifest.dimensions:
        # Both tasks have as many steps: their errors are half of all each.
        assert np.mean([dimension.by_task["reach"], dimension.by_task["push"]]) == pytest.approx(dimension.r2)
    rows = read_episodes(info).frame_indices([0, 1])
    z = table.vectors(np.arange(info.frames)).flatten(1).numpy().astype(np.float64)
    valid = table.codes(np.arange(info.frames))[1].numpy()[:, 0]
    x = ((z - z[valid].mean(0)) / z[valid].std(0))[rows][valid[rows]]
    y = read_column(info, "action")[rows][valid[rows]].astype(np.float64)
    centred = x - x.mean(0)
    gram = centred.T @ centred / len(x) + USUAL_STRENGTH * np.eye(x.shape[1])
    expected = np.linalg.solve(gram, centred.T @ (y - y.mean(0)) / len(x))
    np.testing.assert_allclose(decoder._weights["weight"][: x.shape[1]], expected, atol=1e-5)


def test_actions_of_other_episodes_are_never_read(noisy, tmp_path):
    info, table, _ = noisy
    copy = tmp_path / "data"
    shutil.copytree(info.root, copy)
    spoiled = read_dataset(None, copy)
    spoil_column(spoiled, "action", [0, 3])
    assert np.isnan(read_column(spoiled, "action")).any(1).sum() == 4 * LENGTH
    latents = [table.vectors(np.arange(e * LENGTH, (e + 1) * LENGTH)).flatten(1).numpy() for e in range(EPISODES)]
    theirs = label(read_dataset(None, copy), tmp_path / "table", latents)
    here, there = fit_actions(table, info, [0, 3]), fit_actions(theirs, spoiled, [0, 3])
    assert here.manifest.dimensions == there.manifest.dimensions
    np.testing.assert_array_equal(
        here.episode(table, info, 2).actions, there.episode(theirs, spoiled, 2).actions, strict=True
    )


def test_steps_whose_action_is_not_finite_are_left_out(noisy, tmp_path):
    info, table, _ = noisy
    copy = tmp_path / "data"
    shutil.copytree(info.root, copy)
    spoiled = read_dataset(None, copy)
    spoil_column(spoiled, "action", [0])
    latents = [table.vectors(np.arange(e * LENGTH, (e + 1) * LENGTH)).flatten(1).numpy() for e in range(EPISODES)]
    theirs = label(read_dataset(None, copy), tmp_path / "table", latents)
    decoder = fit_actions(theirs, spoiled, [0, 1])
    assert decoder.manifest.held_out == "blocks"
    with pytest.raises(UserError, match="no steps with actions that are finite"):
        fit_actions(theirs, spoiled, [1, 2])


def test_few_values_are_told_by_classification_and_one_is_a_constant(tmp_path):
    rng = np.random.default_rng(2)
    latents = [rng.normal(size=(LENGTH, 4)) for _ in range(4)]
    actions = [np.stack([z[:, 1], np.where(z[:, 0] > 0, 1, -1), np.full(LENGTH, 0.5)], axis=1) for z in latents]
    info = read_dataset(None, record(tmp_path / "data", actions))
    decoder = fit_actions(label(info, tmp_path / "table", latents), info, [0, 1])
    number, gripper, constant = decoder.manifest.dimensions
    assert (number.kind, gripper.kind, constant.kind) == ("regression", "classification", "constant")
    assert number.name == "action_0"
    assert (gripper.values, gripper.factor) == ((-1.0, 1.0), 1.0)
    assert gripper.accuracy > 0.95
    assert (constant.r2, constant.confidence, constant.values) == (None, 1.0, (0.5,))
    found = decoder.episode(decoder_table(tmp_path), info, 3).actions
    assert set(found[:, 1].tolist()) == {-1.0, 1.0}
    assert (found[:-OFFSET, 1] == actions[3][:-OFFSET, 1]).mean() > 0.9
    assert (found[:, 2] == 0.5).all()


def decoder_table(folder):
    from hlrp.latents import LatentTable

    return LatentTable.open(folder / "table")


def test_the_rule_that_restores_the_spread(noisy):
    assert stretch(0.8, 0.9, 0.5) == pytest.approx(1 / 0.9)
    assert stretch(0.55, 0.5, 0.5) == pytest.approx(2**0.5)  # bounded
    assert stretch(0.9, 2.0, 0.5) == pytest.approx(2**-0.5)
    assert stretch(0.49, 0.7, 0.5) == 1.0  # below the floor: noise is not made louder
    assert stretch(None, None, 0.5) == 1.0
    assert [confidence_of(r2, 0.5) for r2 in (0.4, 0.5, 0.8, None)] == [0.0, 0.5, 0.8, 1.0]

    info, table, _ = noisy
    restored, plain = fit_actions(table, info, [0, 1, 3], floor=-1), fit_actions(table, info, [0, 1, 3], floor=1)
    assert plain.manifest.below_floor == plain.manifest.dimensions
    assert (plain.episode(table, info, 2).confidence == 0).all()
    for number, dimension in enumerate(restored.manifest.dimensions):
        wide = restored.episode(table, info, 2).actions[5:-5, number]
        narrow = plain.episode(table, info, 2).actions[5:-5, number]
        assert dimension.spread < 0.97
        assert dimension.factor == pytest.approx(min(1 / dimension.spread, 2**0.5))
        assert wide.std() / narrow.std() == pytest.approx(dimension.factor, rel=0.02)


def test_positions_are_predicted_as_differences_to_the_state_of_that_name(tmp_path):
    rng = np.random.default_rng(4)
    latents, states, actions = _positions(rng)
    info = read_dataset(
        None,
        record(
            tmp_path / "data",
            actions,
            states=[s[:, ::-1] for s in states],
            action_names=["a", "b", "c"],
            state_names=["c", "b", "a"],
        ),
    )
    table = label(info, tmp_path / "table", latents)
    decoder = fit_actions(table, info, [0, 1], offsets=[0])
    assert decoder.manifest.action_form == "state_difference"
    assert decoder.manifest.state_width == 3
    assert [d.state for d in decoder.manifest.dimensions] == [2, 1, 0]
    seen = [(d.low, d.high) for d in decoder.manifest.dimensions]
    expected = states[3] + (actions[3] - states[3]).clip(*np.transpose(seen))
    np.testing.assert_allclose(decoder.episode(table, info, 3).actions[:-OFFSET], expected[:-OFFSET], atol=0.005)
    # The score is of the difference: of the position itself the state alone would tell nearly all.
    assert all(d.no_motion < 0.05 for d in decoder.manifest.dimensions)
    assert fit_actions(table, info, [0, 1], action_form="direct").manifest.action_form == "direct"

    spoil_column(info, STATE, [0, 1])
    again = read_dataset(None, info.root)
    theirs = label(again, tmp_path / "table2", latents)
    unknown = fit_actions(theirs, again, [0, 1]).episode(theirs, again, 3)
    assert not unknown.known.any()
    assert not unknown.actions.any()
    assert not unknown.confidence.any()


def test_without_a_state_there_is_nothing_to_take_differences_to(clean, tmp_path):
    info, table, _ = clean
    with pytest.raises(UserError, match=f"no feature '{STATE}'") as refused:
        fit_actions(table, info, [0], action_form="state_difference")
    assert "--action-form direct" in str(refused.value)
    rng = np.random.default_rng(4)
    latents, states, actions = _positions(rng, width=2)
    with_state = read_dataset(None, record(tmp_path / "data", actions, states=states))
    decoder = fit_actions(label(with_state, tmp_path / "table", latents), with_state, [0, 1])
    bare = read_dataset(None, record(tmp_path / "bare", actions))
    with pytest.raises(UserError, match=r"width of 'observation\.state': the dataset has None, the decoder 2"):
        decoder.episode(label(bare, tmp_path / "bare_table", latents), bare, 0)


def test_a_dimension_without_a_partner_cannot_be_a_difference(tmp_path):
    rng = np.random.default_rng(4)
    latents, states, actions = _positions(rng, width=2)
    info = read_dataset(None, record(tmp_path / "data", actions, states=[s[:, :1] for s in states]))
    table = label(info, tmp_path / "table", latents)
    assert fit_actions(table, info, [0, 1]).manifest.action_form == "direct"
    with pytest.raises(UserError, match="2 actions stand against 1 states"):
        fit_actions(table, info, [0, 1], action_form="state_difference")


def test_perceptrons_tell_what_no_line_can(tmp_path):
    rng = np.random.default_rng(5)
    latents = [rng.normal(size=(60, 1)) for _ in range(6)]
    actions = [np.abs(z) + 0.05 * rng.normal(size=z.shape) for z in latents]
    info = read_dataset(None, record(tmp_path / "data", actions))
    table = label(info, tmp_path / "table", latents)
    ridge = fit_actions(table, info, [0, 1, 2, 3])
    bent = fit_actions(table, info, [0, 1, 2, 3], estimator="ensemble", offsets=[0])
    assert ridge.manifest.r2 < 0.1
    assert bent.manifest.r2 > 0.5
    found = bent.episode(table, info, 5).actions[:-OFFSET]
    assert 1 - ((found - actions[5][:-OFFSET]) ** 2).mean() / actions[5].var() > 0.5


def test_a_chunk_is_told_from_the_window_at_its_step_alone(tmp_path):
    rng = np.random.default_rng(6)
    steps = [rng.normal(size=(LENGTH + 1, 2)) for _ in range(4)]
    latents = [np.concatenate([a[:-1], a[1:]], axis=1) for a in steps]
    actions = [a[:-1] for a in steps]
    info = read_dataset(None, record(tmp_path / "data", actions))
    table = label(info, tmp_path / "table", latents)
    decoder = fit_actions(table, info, [0, 1], horizon=2, inputs="vectors")
    assert decoder.manifest.offsets == [0]
    predicted, known = decoder.decode(Transitions(latents[3][:, None].astype(np.float32), np.ones((LENGTH, 1), bool)))
    assert known.all()
    assert predicted.shape == (LENGTH, 2, 2)
    np.testing.assert_allclose(predicted[:-1, 0], actions[3][:-1], atol=0.1)
    np.testing.assert_allclose(predicted[:-1, 1], actions[3][1:], atol=0.1)
