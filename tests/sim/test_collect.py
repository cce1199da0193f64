"""Recording: what is kept, what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hlrp.data import read_dataset, read_episodes
from hlrp.data.robot_motion import numbers_of, rate_dimensions
from hlrp.errors import UserError, WorkError
from hlrp.sim import collect as recording
from hlrp.sim.attempts import Attempts
from hlrp.sim.catalog import envs_catalog
from hlrp.sim.collect import CollectProgress, CollectRequest, CollectResult, collect
from hlrp.sim.dataset import read_metadata
from hlrp.sim.experts import attempt
from hlrp.sim.metaworld_gym import LightMetaworldEnv
from hlrp.sim.pusht import TASK
from hlrp.sim.pusht.gym_env import ExpertPushTEnv
from hlrp.sim.staging import Staging, partial_path

TASKS = ("button-press-v3", "drawer-close-v3")
SIZE = 32


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[CollectResult, list[CollectProgress]]:
    output = tmp_path_factory.mktemp("collect") / "mw"
    seen: list[CollectProgress] = []
    request = CollectRequest(output, (",".join(TASKS),), episodes=2, image_size=SIZE, noise=0.2, seed=50, workers=2)
    return collect(request, seen.append), seen


def test_the_dataset_holds_what_the_expert_did(recorded: tuple[CollectResult, list[CollectProgress]]) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    result, _ = recorded
    dataset = LeRobotDataset("local/mw", root=result.output)
    metadata = read_metadata(result.output)
    assert metadata is not None and dataset.fps == 80
    assert [(e["task"], e["reset_seed"]) for e in metadata["episodes"]] == [(t, s) for s in (50, 51) for t in TASKS]
    assert len(dataset) == result.frames == sum(e["frames"] for e in metadata["episodes"])
    assert dataset.meta.stats.keys() >= {"observation.images.corner2", "observation.state", "action"}
    env = LightMetaworldEnv(TASKS[1], image_size=SIZE, episode_length=500)
    again = attempt(env, reset_seed=50, noise=0.2)
    env.close()
    assert again is not None
    start = metadata["episodes"][0]["frames"]
    actions = np.stack(dataset.hf_dataset["action"][start : start + len(again.action)])
    np.testing.assert_array_equal(actions, again.action)
    assert np.abs(actions).max() <= 1.0
    first = dataset[start]
    assert first["task"] == "Push and close a drawer" and first["observation.images.corner2"].shape == (3, SIZE, SIZE)
    np.testing.assert_array_equal(first["observation.state"].numpy(), again.state[0])
    image = first["observation.images.corner2"].numpy().transpose(1, 2, 0) * 255
    assert np.abs(image - again.images["corner2"][0]).mean() < 8
    assert np.abs(image - again.images["corner2"][0][::-1]).mean() > 16


def test_hand_deltas_are_speeds_and_the_gripper_is_not(recorded: tuple[CollectResult, list[CollectProgress]]) -> None:
    info = read_dataset(None, recorded[0].output)
    values = numbers_of(info, None)
    rates = rate_dimensions(values["action"], values["observation.state"], read_episodes(info))
    assert rates.tolist() == [True, True, True, False]


def test_recorded_actions_replay_to_success(recorded: tuple[CollectResult, list[CollectProgress]]) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    result, _ = recorded
    dataset = LeRobotDataset("local/mw", root=result.output)
    metadata = read_metadata(result.output)
    assert metadata is not None
    frames = metadata["episodes"][0]["frames"]
    env = LightMetaworldEnv(TASKS[0], image_size=SIZE)
    env.reset(seed=metadata["episodes"][0]["reset_seed"])
    successes = [env.step(np.asarray(action))[4]["is_success"] for action in dataset.hf_dataset["action"][:frames]]
    env.close()
    assert successes == [False] * (frames - 1) + [True]


def test_progress_counts_up_and_the_staging_folder_is_gone(
    recorded: tuple[CollectResult, list[CollectProgress]],
) -> None:
    result, seen = recorded
    assert {progress.phase for progress in seen} == {"simulate", "encode"}
    assert [p.done for p in seen if p.phase == "encode"] == [1, 2, 3, 4]
    assert not partial_path(result.output).exists()
    assert result.episodes == dict.fromkeys(TASKS, 2)


def test_noise_is_drawn_per_task_and_seed() -> None:
    env = LightMetaworldEnv(TASKS[0], image_size=SIZE)
    still, noisy, again = (attempt(env, 3, noise) for noise in (0.0, 0.3, 0.3))
    env.close()
    np.testing.assert_array_equal(noisy.action, again.action)
    assert np.abs(still.action[0] - noisy.action[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "metawold"}, "did you mean 'metaworld'"),
        ({"env": "pusht", "tasks": ("PushT-v0",), "image_size": 128}, "have 96 pixels, not 128"),
        ({"env": "pusht", "tasks": ("PushT-v0",), "camera_shake": 0.1}, "stands still"),
        ({"tasks": ("drawer-clos-v3",)}, "did you mean 'drawer-close-v3'"),
        ({"episodes": 0}, "--episodes"),
        ({"noise": -0.1}, "--noise"),
        ({"noise": float("nan")}, "--noise"),
        ({"camera_shake": 1.0}, "--camera-shake"),
        ({"image_size": 8}, "--image-size"),
        ({"image_size": 97}, "odd"),
        ({"seed": -1}, "--seed"),
        ({"workers": 0}, "--workers"),
        ({"output": Path(__file__) / "out"}, "this is no folder"),
    ],
)
def test_requests_that_cannot_be_met(change: dict, message: str, tmp_path: Path) -> None:
    request = dataclasses.replace(CollectRequest(tmp_path / "out", TASKS), **change)
    with pytest.raises(UserError) as error:
        request.check()
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists"):
        CollectRequest(tmp_path / "out", TASKS).check()


def test_resuming_with_other_settings_names_both(tmp_path: Path) -> None:
    first = CollectRequest(tmp_path / "out", ("push-v3",), noise=0.1)
    with Staging.open(first.output, recording._settings(first, ["push-v3"])):
        pass
    with pytest.raises(UserError) as error:
        collect(dataclasses.replace(first, noise=0.4, workers=1))
    assert "noise: begun with 0.1, asked now 0.4" in str(error.value)
    # The number of processes is not a setting of the data.
    again = dataclasses.replace(first, workers=7)
    with (
        Staging.open(again.output, recording._settings(again, ["push-v3"])),
        pytest.raises(UserError, match="another process"),
        Staging.open(again.output, {}),
    ):
        pass


def test_attempts_are_those_of_one_process() -> None:
    """Whatever finishes first, attempts are 0..m and the first successes in their order are kept."""
    attempts = CollectRequest(Path("unused"), ("t",), episodes=3, seed=10).attempts
    known: dict[str, dict[int, bool]] = {"t": {}}
    under_way: dict[str, set[int]] = {"t": set()}
    started = []
    while job := attempts.next_job(known, under_way):
        started.append(job)
        under_way["t"].add(job.number)
    assert [(job.number, job.reset_seed) for job in started] == [(0, 10), (1, 11), (2, 12)]
    for number, success in ((2, True), (0, False)):
        under_way["t"].discard(number)
        known["t"][number] = success
    assert attempts.next_job(known, under_way).number == 3
    known["t"] |= {1: True, 3: True}
    under_way["t"].clear()
    assert attempts.next_job(known, under_way) is None
    assert attempts.kept(known["t"]) == [1, 2, 3]
    # Where four attempts are all that differ, one more would be the first again.
    for different, number in ((None, 4), (4, None), (5, 4)):
        job = Attempts(4, 10, different).next_job(known, under_way)
        assert (job and job.number) == number


def test_outcomes_that_more_episodes_asked_for_do_not_count_for_fewer() -> None:
    """Stopped while attempt 1 was under way: with fewer episodes too, one process would have made it before 3 and 4."""
    outcomes = {0: False, 2: True, 3: True, 4: False, 5: True}
    assert Attempts(4, 0).that_count(outcomes) == outcomes
    assert Attempts(3, 0).that_count(outcomes) == {0: False, 2: True, 3: True}
    assert Attempts(2, 0).that_count(outcomes) == {0: False, 2: True}
    assert Attempts(4, 0, different=4).that_count(outcomes) == {0: False, 2: True, 3: True}


def test_first_states_are_recorded_once_and_then_it_is_said_how_many_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulator with three first states, of which the expert does not solve the first: two episodes are all."""
    monkeypatch.setitem(envs_catalog(), "pusht", dataclasses.replace(envs_catalog()["pusht"], first_states=3))
    request = CollectRequest(tmp_path / "new" / "out", (TASK,), episodes=3, env="pusht", seed=13, workers=1)
    env = ExpertPushTEnv(TASK)
    solved = attempt(env, 14, noise=0.0)
    env.close()
    with Staging.open(request.output, recording._settings(request, [TASK])) as staging:
        staging.save(TASK, 0, None)
        staging.save(TASK, 1, solved)
        staging.save(TASK, 3, solved)  # as an older version did: a state once more
    for _ in range(2):
        with pytest.raises(WorkError, match=f"2 episodes of {TASK} are recorded.* its 3 first states") as ended:
            collect(request)
        assert "go on with --episodes 2, or give --noise and another --output" in str(ended.value)
    with pytest.raises(UserError, match=r"noise: begun with 0\.0, asked now 0\.5"):
        collect(dataclasses.replace(request, noise=0.5))
    assert dataclasses.replace(request, noise=0.5).attempts.different is None
    result = collect(dataclasses.replace(request, episodes=2))
    assert result.failed_attempts == {TASK: 1}
    metadata = read_metadata(result.output)
    assert metadata is not None and [e["reset_seed"] for e in metadata["episodes"]] == [14, 15]


def test_an_expert_that_keeps_failing_is_named(tmp_path: Path) -> None:
    request = CollectRequest(tmp_path / "out", ("push-v3",))
    with Staging.open(request.output, recording._settings(request, ["push-v3"])) as staging:
        for number in range(20):
            staging.save("push-v3", number, None)
    with pytest.raises(WorkError, match="push-v3 failed 20 times in a row"):
        collect(request)


def test_metadata_that_is_damaged_or_absent(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) is None
    (tmp_path / "meta").mkdir()
    file = tmp_path / "meta" / "hlrp_collect.json"
    file.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_metadata(tmp_path)
    file.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(UserError, match="99"):
        read_metadata(tmp_path)
