"""`hlrp eval` as a person types it: results, comparison, and one message for each mistake."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from command import assert_user_error, hlrp, hlrp_in_turn
from make_dataset import make_dataset
from tiny_policies import save_tiny_act


@pytest.fixture(scope="module")
def pusht(tmp_path_factory) -> Path:
    return save_tiny_act(tmp_path_factory.mktemp("pusht") / "pretrained_model", "pusht")


def test_json_alone_on_standard_output_and_regression_is_exit_code_1(pusht, tmp_path):
    episodes = [{"task": "PushT-v0", "index": i, "seed": 7 + i, "success": True} for i in range(6)]
    earlier = {"schema_version": 1, "env": {"type": "pusht"}, "policy": None, "episodes": episodes}
    (tmp_path / "results.json").write_text(json.dumps(earlier))
    flags = ["--env", "pusht", "--episodes", "6", "--seed", "7", "--videos", "0", "--output", tmp_path / "out"]
    done = hlrp("eval", pusht, *flags, "env.episode_length=3", "--compare", tmp_path / "results.json", "--json")
    assert done.code == 1, done.err
    found = json.loads(done.out)
    assert found["overall"]["successes"] == 0 and found["comparison"]["verdict"] == "worse"
    assert found["comparison"]["interval"][1] < 0
    assert [e["seed"] for e in found["episodes"]] == list(range(7, 13))
    assert json.loads((tmp_path / "out" / "results.json").read_text())["episodes"] == found["episodes"]
    assert "PushT-v0: 6/6 episodes, 0/6 succeeded" in done.err
    assert "Warning" not in done.err and "Running rollout" not in done.err


def test_table_videos_and_a_quiet_exit_in_metaworld(tmp_path):
    policy = save_tiny_act(tmp_path / "policy", "metaworld_light")
    env = {"type": "metaworld_light", "episode_length": 500, "camera_name": "corner2"}
    said = {"checkpoint": str(policy), "env": env, "videos": 1, "seed": 3}
    (tmp_path / "ev.yaml").write_text(json.dumps({"eval": said}))
    tasks = ["--task", "button-press-v3,drawer-close-v3", "--batch-size", "2", "--episodes", "2"]
    done = hlrp("eval", "-c", tmp_path / "ev.yaml", *tasks, "env.episode_length=3", cwd=tmp_path)
    assert done.code == 0, done.err
    assert [line.split()[:2] for line in done.out.splitlines()[1:4]] == [
        ["button-press-v3", "0/2"],
        ["drawer-close-v3", "0/2"],
        ["all", "0/4"],
    ]
    assert "0 to 66 %" in done.out
    folder = next((tmp_path / "outputs" / "eval").iterdir())
    command = shlex.join(map(str, ["hlrp", "eval", policy, "--diagnose", "--env", "metaworld_light"]))
    tasks = "--task button-press-v3 --task drawer-close-v3"
    # The file is not named: it asks for videos, which a diagnosis refuses.
    assert f"why      {command} {tasks} env.episode_length=3 env.camera_name=corner2\n" in done.out
    assert f"results  {folder / 'results.json'}" in done.out and f"videos   {folder / 'videos'}" in done.out
    assert done.out.splitlines()[-1] == f"page     hlrp report {folder}"
    videos = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.mp4"))
    assert videos == [f"videos/{t}/episode_000_failure.mp4" for t in ("button-press-v3", "drawer-close-v3")]
    for text in ("Traceback", "TypeError", "Exception ignored", "Warning"):
        assert text not in done.err, done.err


def test_mistakes_are_refused_at_once(pusht, toy_root, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    cut = tmp_path / "cut"
    shutil.copytree(pusht, cut)
    with (cut / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    (tmp_path / "file").write_text("")
    done_before = tmp_path / "done"
    done_before.mkdir()
    (done_before / "results.json").write_text("{}")
    light = ["--env", "metaworld_light"]
    cases = [
        ([tmp_path / "nowhere"], ["does not exist", "nowhere"]),
        ([empty, *light], ["no checkpoint", "empty"]),
        ([cut, *light], ["truncated", "model.safetensors"]),
        ([pusht], ["nothing says which environment", "--env"]),
        ([pusht, *light, "--task", "buton-press-v3"], ["buton-press-v3", "button-press-v3", "--task"]),
        ([pusht, *light, "--episodes", "0"], ["episodes"]),
        ([pusht, *light, "--output", tmp_path / "file" / "out"], ["is a file"]),
        ([pusht, *light, "--output", done_before], ["results.json", "--output"]),
        ([pusht, *light, "episode_length"], ["'episode_length' is not KEY=VALUE"]),
        ([pusht, *light, "sede=3"], ["sede", "seed"]),
        ([pusht, *light, "--rename-map", "a"], ["--rename-map"]),
        ([pusht, *light, "--compare", tmp_path / "nothing"], ["nothing to compare"]),
        ([pusht, *light, "--diagnose"], ["data that this policy was trained on are not here", "--replay DATASET"]),
        ([pusht, "--diagnose", "--replay", toy_root, "--task", "x"], ["--task has no effect", "--env"]),
        ([pusht, "--diagnose", "--replay", empty], ["is not a LeRobotDataset", "--replay"]),
        ([pusht, "--diagnose", "--videos", "1"], ["--videos has no effect when a policy is diagnosed"]),
        ([pusht, "--diagnose", "--compare", pusht], ["--compare has no effect when a policy is diagnosed"]),
        ([pusht, "--diagnose", "--async-envs"], ["--async-envs has no effect when a policy is diagnosed"]),
        ([done_before, "--diagnose"], ["--diagnose has no effect on results"]),
        (["--diagnose", "--replay", toy_root], ["no policy to diagnose"]),
        (["--replay", empty], ["no dataset", "--replay"]),
        ([], ["nothing to evaluate"]),
    ]
    done = hlrp_in_turn([["eval", *arguments] for arguments, _ in cases], cwd=tmp_path)
    for (arguments, mentions), found in zip(cases, done, strict=True):
        assert_user_error(found, *mentions)
        # At once: neither torch nor LeRobot, which take ten seconds, have been imported.
        assert found.heavy <= {"pydantic", "omegaconf"}, (arguments, found.heavy)
    assert not (tmp_path / "outputs").exists()


def test_diagnosis_of_a_policy_and_its_data_alone(pusht, tmp_path):
    """The policy's statistics are made up: named on the screen and in JSON, by exit code 1, with a page."""
    data = make_dataset(tmp_path / "data", size=96, action_dim=2)
    done = hlrp("eval", pusht, "--diagnose", "--replay", data, "--output", tmp_path / "out", "--json")
    assert done.code == 1, done.err
    found = json.loads(done.out)
    assert (found["layer"], found["fault"], found["env"], found["success"]) == (
        "processors",
        "stale_normaliser",
        None,
        None,
    )
    assert found["dataset"] == {"root": str(data), "episodes": [0, 1]} and found["policy"]["type"] == "act"
    saved = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert {**saved, "folder": found["folder"]} == found
    assert "statistics that are not of this dataset: observation.state" in saved["verdict"]
    assert saved["verdict"].replace("'", "&#39;") in (tmp_path / "out" / "diagnosis.html").read_text()
    again = hlrp("eval", pusht, "--diagnose", "--replay", data, "--output", tmp_path / "out")
    assert_user_error(again, "there is a diagnosis.json in the output folder already", "--output")


def test_recording_without_seeds_cannot_be_replayed(toy_root, tmp_path):
    assert_user_error(hlrp("eval", "--replay", toy_root, cwd=tmp_path), "reset seeds", "hlrp collect")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(pusht, tmp_path):
    done = hlrp("eval", pusht, "--env", "pusht", "--device", "cuda", cwd=tmp_path)
    assert_user_error(done, "device 'cuda' does not exist on this machine", "--device cpu")
    assert not (tmp_path / "outputs").exists()
