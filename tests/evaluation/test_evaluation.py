"""Evaluation on real simulators: numbers, seeds, videos, checks of what fits, replay and defaults."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_policies import save_tiny_act

from hlrp.errors import UserError
from hlrp.evaluation.plan import make_plan, results_folder
from hlrp.evaluation.request import Episode, EvalRequest, Listener
from hlrp.evaluation.rollout import _batch_episodes
from hlrp.evaluation.run import batch_size, evaluate
from hlrp.runs import RunDirectory
from hlrp.sim.libero.config import LiberoLightEnv
from hlrp.sim.rendering import configure_gl

configure_gl()
TASK = "drawer-close-v3"


class Scripted(torch.nn.Module):
    """Meta-World's own expert on even reset seeds; stands still on odd ones (or everywhere moves at random)."""

    def __init__(self, vec, *, noisy: bool = False) -> None:
        super().__init__()
        self.vec, self.noisy = vec, noisy

    def reset(self) -> None:
        pass

    def select_action(self, observation) -> torch.Tensor:
        if self.noisy:
            return torch.rand(self.vec.num_envs, 4) * 2 - 1
        return torch.stack([self._action(e.unwrapped) for e in self.vec.envs])

    @staticmethod
    def _action(env) -> torch.Tensor:
        if env.np_random_seed % 2:
            return torch.zeros(4)
        return torch.from_numpy(np.clip(env.expert_policy.get_action(env.raw_observation), -1, 1).astype(np.float32))


def run_scripted(tmp_path, *, batch, episodes=4, noisy=False, videos=0, length=100, seed=10, tasks=(TASK,)):
    from lerobot.envs import close_envs
    from lerobot.utils.import_utils import register_third_party_plugins

    from hlrp.evaluation.environment import build_environments, environment_config
    from hlrp.evaluation.policy import LoadedPolicy
    from hlrp.evaluation.rollout import Film, run_task

    register_third_party_plugins()
    config = type("Config", (), {"device": "cpu", "use_amp": False})()
    results = []
    for task in tasks:
        cfg = environment_config("metaworld_light", task, {"image_size": 32, "episode_length": length})
        environments = build_environments(cfg, batch, use_async=False)
        try:
            vec = environments[0][1]
            loaded = LoadedPolicy(Scripted(vec, noisy=noisy), config, lambda x: x, lambda x: x)
            film = Film(tmp_path / task, videos, 80)
            same = (lambda x: x, lambda x: x)
            done = run_task(task, vec, loaded, same, episodes=episodes, seed=seed, film=film, listener=Listener())
            results.append(done)
        finally:
            close_envs([e for _, e in environments])
    return results


def expert_by_hand(seed: int) -> tuple[int, float]:
    """Steps and return of the expert, stepping the environment without any vector environment or rollout."""
    from hlrp.sim.metaworld_gym import LightMetaworldEnv

    env = LightMetaworldEnv(TASK, image_size=32)
    env.reset(seed=seed)
    total, steps = 0.0, 0
    while True:
        action = np.clip(env.expert_policy.get_action(env.raw_observation), -1, 1).astype(np.float32)
        _, reward, terminated, _, _ = env.step(action)
        total, steps = total + reward, steps + 1
        if terminated:
            env.close()
            return steps, total


def test_known_policy_gives_known_numbers_whatever_the_batch(tmp_path):
    one = run_scripted(tmp_path / "1", batch=1, videos=1)[0]
    three = run_scripted(tmp_path / "3", batch=3, videos=1)[0]
    assert [e.success for e in one.episodes] == [True, False, True, False]
    assert [e.seed for e in one.episodes] == [10, 11, 12, 13]
    assert [e.index for e in three.episodes] == [0, 1, 2, 3]
    assert one.episodes[1].length == 100
    steps, total = expert_by_hand(12)
    assert (one.episodes[2].length, one.episodes[2].total_reward) == (steps, pytest.approx(total))
    for a, b in zip(one.episodes, three.episodes, strict=True):
        assert dataclasses.replace(a, total_reward=0) == dataclasses.replace(b, total_reward=0)
        assert a.total_reward == pytest.approx(b.total_reward)
    for folder, result in (("1", one), ("3", three)):
        names = ["episode_000_success.mp4", "episode_001_failure.mp4"]
        assert sorted(p.name for p in (tmp_path / folder / TASK).iterdir()) == names
        import av

        with av.open(result.videos[0]) as video:
            assert sum(1 for _ in video.decode(video=0)) == result.episodes[0].length + 1
    summary = one.summary()
    assert (summary["successes"], summary["episodes"], summary["success_rate"]) == (2, 4, 0.5)
    assert summary["success_interval"] == pytest.approx([0.1500, 0.8500], abs=1e-4)


def test_what_happens_after_an_episodes_end_is_not_counted():
    """The first ends at its third step and would succeed at the fourth; the second runs out unsolved."""
    data = {
        "done": torch.tensor([[False, False, True, True], [False, False, False, True]]),
        "success": torch.tensor([[False, False, False, True], [False, False, False, False]]),
        "reward": torch.tensor([[1.0, 2.0, 4.0, 8.0], [1.0, 1.0, 1.0, 0.5]]),
    }
    assert _batch_episodes(TASK, 6, [40, 41], data) == [
        Episode(TASK, 6, 40, False, 7.0, 3),
        Episode(TASK, 7, 41, False, 3.5, 4),
    ]


def test_a_task_does_not_depend_on_the_tasks_before_it(tmp_path):
    settings = {"batch": 2, "episodes": 2, "noisy": True, "length": 6}
    alone = run_scripted(tmp_path, **settings)[0]
    after = run_scripted(tmp_path, **settings, tasks=("button-press-v3", TASK))[1]
    assert [e.total_reward for e in alone.episodes] == [e.total_reward for e in after.episodes]
    assert alone.episodes[0].total_reward != alone.episodes[1].total_reward


def test_same_numbers_as_lerobots_own_evaluation(pusht, tmp_path):
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.envs import close_envs, make_env, make_env_pre_post_processors
    from lerobot.envs.configs import PushtEnv
    from lerobot.policies import make_policy, make_pre_post_processors
    from lerobot.scripts.lerobot_eval import eval_policy

    fields = {"episode_length": 15}
    request = EvalRequest(pusht, "pusht", episodes=4, batch_size=2, env_fields=fields, output=tmp_path / "ours")
    ours = evaluate(request)
    cfg = PreTrainedConfig.from_pretrained(pusht)
    cfg.pretrained_path = pusht
    env_cfg = PushtEnv(**fields)
    envs = make_env(env_cfg, n_envs=2)
    pre, post = make_pre_post_processors(cfg, str(pusht))
    env_processors = make_env_pre_post_processors(env_cfg, cfg)
    policy = make_policy(cfg, env_cfg=env_cfg)
    with torch.no_grad():
        stock = eval_policy(envs["pusht"][0], policy, *env_processors, pre, post, n_episodes=4, start_seed=1000)
    close_envs(envs)
    assert [e.total_reward for e in ours.episodes] == pytest.approx([e["sum_reward"] for e in stock["per_episode"]])
    assert [e.success for e in ours.episodes] == [e["success"] for e in stock["per_episode"]]
    assert [e.seed for e in ours.episodes] == [e["seed"] for e in stock["per_episode"]]
    assert len({round(e.total_reward, 6) for e in ours.episodes}) > 1
    saved = json.loads((tmp_path / "ours" / "results.json").read_text())
    assert saved == json.loads(json.dumps(ours.to_json()))
    import hashlib

    assert saved["policy"]["weights_sha256"] == hashlib.sha256((pusht / "model.safetensors").read_bytes()).hexdigest()
    assert {"lerobot", "torch", "python", "lerobot_policy_felix_bundle"} <= set(saved["versions"])


def changed(pusht: Path, folder: Path, file: str, edit) -> Path:
    shutil.copytree(pusht, folder)
    content = json.loads((folder / file).read_text())
    edit(content)
    (folder / file).write_text(json.dumps(content))
    return folder


def test_renaming_asked_for_and_saved(pusht, tmp_path):
    here, there = "observation.images.corner2", "observation.images.top"
    other = save_tiny_act(tmp_path / "top", "metaworld_light", camera=there)
    request = EvalRequest(other, "metaworld_light", ["reach-v3"], 1, videos=0, env_fields={"episode_length": 3})
    with pytest.raises(UserError) as refused:
        evaluate(dataclasses.replace(request, output=tmp_path / "a"))
    for part in (f"{there} is missing", f"environment gives {here} [3, 96, 96]", f"--rename-map {here}={there}"):
        assert part in str(refused.value)
    rename = {here: there}
    asked = evaluate(dataclasses.replace(request, output=tmp_path / "b", rename_map=rename))

    def save_map(preprocessor):
        step = next(s for s in preprocessor["steps"] if s["registry_name"] == "rename_observations_processor")
        step["config"]["rename_map"] = rename

    saved = changed(other, tmp_path / "saved", "policy_preprocessor.json", save_map)
    again = evaluate(dataclasses.replace(request, policy_path=saved, output=tmp_path / "c"))
    assert [e.total_reward for e in asked.episodes] == [e.total_reward for e in again.episodes]


def test_policies_that_do_not_fit_are_refused(pusht, tmp_path):
    other = save_tiny_act(tmp_path / "mw", "metaworld_light")
    bare = save_tiny_act(tmp_path / "bare", "pusht", stats=False)
    unknown = changed(pusht, tmp_path / "unknown", "config.json", lambda c: c.update(type="akt"))
    cases = [
        (
            other,
            {},
            ["observation.state has shape [2] instead of [4]", "actions of 4 numbers, the environment takes 2"],
        ),
        (bare, {}, ["no normalisation statistics for action, observation.image, observation.state"]),
        (unknown, {}, ["policy type 'akt' is not installed", "'act'"]),
        (pusht, {"env_fields": {"episode_lenght": 3}}, ["no field 'episode_lenght'", "'episode_length'"]),
        (pusht, {"env_fields": {"episode_length": "long"}}, ["refuses its settings"]),
        (pusht, {"env_type": "pushy"}, ["unknown environment type 'pushy'", "'pusht'"]),
        (pusht, {"device": "quantum"}, ["'quantum' is no torch device"]),
    ]
    for policy, changes, mentions in cases:
        request = EvalRequest(policy, "pusht", episodes=1, output=tmp_path / "none")
        with pytest.raises(UserError) as refused:
            evaluate(dataclasses.replace(request, **changes))
        for text in mentions:
            assert text in str(refused.value)
        assert not (tmp_path / "none").exists()


def test_other_image_size_is_said_and_missing_weights_too(pusht, tmp_path):
    from safetensors.torch import load_file, save_file

    def larger(config):
        config["input_features"]["observation.image"]["shape"] = [3, 128, 128]

    policy = changed(pusht, tmp_path / "larger", "config.json", larger)
    weights = load_file(policy / "model.safetensors")
    del weights["model.action_head.bias"]
    save_file(weights, policy / "model.safetensors")
    request = EvalRequest(
        policy, "pusht", episodes=1, videos=0, env_fields={"episode_length": 2}, output=tmp_path / "o"
    )
    text = " ".join(evaluate(request).warnings)
    assert "96x96 pixels, the policy was trained on 128x128" in text
    assert "no values for 1 of the policy's tensors, e.g. model.action_head.bias" in text


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Two episodes of the expert in the form `hlrp collect` writes, without the video, which a replay does not read."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from hlrp.sim.metaworld_gym import LightMetaworldEnv

    root = tmp_path_factory.mktemp("data") / "recording"
    vector = {"dtype": "float32", "shape": (4,), "names": None}
    dataset = LeRobotDataset.create(
        repo_id="local/x", fps=80, root=root, features={"observation.state": vector, "action": vector}, use_videos=False
    )
    env, episodes = LightMetaworldEnv(TASK, image_size=32), []
    for index, seed in enumerate((20, 21)):
        observation, _ = env.reset(seed=seed)
        terminated = False
        while not terminated:
            action = np.clip(env.expert_policy.get_action(env.raw_observation), -1, 1).astype(np.float32)
            state = observation["agent_pos"].astype(np.float32)
            dataset.add_frame({"observation.state": state, "action": action, "task": "close the drawer"})
            observation, _, terminated, _, _ = env.step(action)
        dataset.save_episode()
        episodes.append({"episode_index": index, "task": TASK, "reset_seed": seed, "frames": 1})
    env.close()
    dataset.finalize()
    meta = {"schema_version": 1, "env_type": "metaworld_light", "camera_name": "corner2", "image_size": 32}
    meta |= {"tasks": [TASK], "episodes": episodes}
    (root / "meta" / "hlrp_collect.json").write_text(json.dumps(meta))
    return root


def test_replay_tells_a_sound_environment_from_a_broken_one(recording, tmp_path):
    sound = evaluate(EvalRequest(None, replay=recording, output=tmp_path / "sound"))
    assert sound.replay["reproduced"] and sound.replay["tasks"][TASK]["successes"] == 2
    assert max(e["largest_state_error"] for e in sound.replay["episodes"]) < 1e-6
    assert sound.tasks == [] and sound.overall() is None
    broken = EvalRequest(None, replay=recording, output=tmp_path / "broken", env_fields={"episode_length": 5})
    result = evaluate(broken)
    assert not result.replay["reproduced"]
    assert "does not reproduce the recording (0 of 2" in result.warnings[0]
    with pytest.raises(UserError, match="holds no episode of button-press-v3"):
        evaluate(EvalRequest(None, replay=recording, tasks=["button-press-v3"], output=tmp_path / "no"))


def make_run(folder: Path, pretrained: Path, config: str) -> Path:
    RunDirectory.create(folder, config_yaml=config)
    shutil.copytree(pretrained, folder / "checkpoints" / "000020" / "pretrained_model")
    return folder


def test_defaults_come_from_the_run_and_its_data(pusht, recording, tmp_path):
    run = make_run(tmp_path / "run", pusht, f"data: {{root: {recording}}}\n")
    # A checkpoint without training state cannot resume, but evaluating its folder is what is asked for here.
    checkpoint = run / "checkpoints" / "000020"
    plan = make_plan(EvalRequest(checkpoint))
    assert (plan.env_type, plan.tasks) == ("metaworld_light", [TASK])
    assert plan.env_fields == {"image_size": 32, "camera_name": "corner2"}
    assert plan.recorded_seeds == {TASK: {20, 21}}
    assert plan.folder.parent == run / "eval"
    assert plan.env_source.endswith("hlrp_collect.json")
    flags = make_plan(EvalRequest(checkpoint, tasks=["push-v3"], env_fields={"image_size": 64}))
    assert (flags.tasks, flags.env_fields["image_size"]) == (["push-v3"], 64)
    other = make_plan(EvalRequest(checkpoint, env_type="pusht"))
    assert (other.tasks, other.env_fields) == (["PushT-v0"], {})
    named = make_run(tmp_path / "named", pusht, "env: {type: pusht, episode_length: 7}\n")
    plan = make_plan(EvalRequest(named / "checkpoints" / "000020"))
    assert (plan.env_type, plan.env_fields) == ("pusht", {"episode_length": 7})
    shutil.copytree(pusht, tmp_path / "bare")
    (tmp_path / "bare" / "train_config.json").write_text(json.dumps({"dataset": {"root": str(recording)}, "env": None}))
    plan = make_plan(EvalRequest(tmp_path / "bare", output=tmp_path / "out"))
    assert (plan.env_type, plan.env_fields["image_size"]) == ("metaworld_light", 32)
    light = make_plan(EvalRequest(pusht, env_type="metaworld_light", output=tmp_path / "out"))
    assert (light.tasks, light.env_fields) == (["button-press-v3"], {"image_size": 96})
    with pytest.raises(UserError, match="nothing says which environment"):
        make_plan(EvalRequest(pusht))


def test_recorded_seeds_and_the_effect_of_codes_are_said(recording, tmp_path):
    policy = save_tiny_act(tmp_path / "mw", "metaworld_light")
    run = make_run(tmp_path / "run", policy, f"data: {{root: {recording}}}\n")
    effect = {"code_effect": 0.0, "code_shift": 0.01, "action_r2": 0.9, "action_r2_permuted": 0.89}
    rows = [{"step": 10, **effect, "action_r2": 1.0}, {"step": 20, **effect}, {"step": 30, **effect, "action_r2": 1.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    request = EvalRequest(run / "checkpoints" / "000020", episodes=2, seed=21, videos=0)
    result = evaluate(dataclasses.replace(request, env_fields={"episode_length": 2, "image_size": 96}))
    # What the run measured of its policy, not after this checkpoint.
    expected = {"step": 20, **effect, "source": str(run / "metrics.jsonl")}
    assert json.loads((result.folder / "results.json").read_text())["code_effect"] == expected
    assert any("hardly depend on the codes" in text and "(step 20)" in text for text in result.warnings)
    assert result.warnings[-1].startswith(f"{TASK}: 1 of 2 evaluation seeds were recorded for training (21); hlrp eval")
    assert result.provenance["policy"]["step"] == 20


def test_batches_fit_the_episodes():
    sizes = {n: batch_size(EvalRequest(None, episodes=n)) for n in (1, 8, 9, 20, 50)}
    assert sizes == {1: 1, 8: 8, 9: 5, 20: 7, 50: 8}
    assert batch_size(EvalRequest(None, episodes=3, batch_size=16)) == 3
    # Of environments that take much memory there are fewer, unless a number is asked for.
    libero = LiberoLightEnv()
    assert [batch_size(EvalRequest(None, episodes=n), libero) for n in (1, 8, 10, 20)] == [1, 4, 4, 4]
    assert batch_size(EvalRequest(None, episodes=20, batch_size=8), libero) == 8


def test_results_of_a_run_go_into_it_wherever_the_command_is_given(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path / "run", config_yaml="", trainer="lerobot")
    monkeypatch.chdir("/proc")
    folder = results_folder(EvalRequest(run.path), run)
    assert folder.parent == run.path / "eval" and not folder.parent.exists()
    folder.mkdir(parents=True)
    assert results_folder(EvalRequest(run.path), run) != folder
    with pytest.raises(UserError, match=r"cannot write there(.|\n)*/proc/outputs/eval"):
        results_folder(EvalRequest(run.path), None)
