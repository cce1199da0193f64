"""What people get wrong: every mistake is one message that names the key, the place and the remedy."""

from pathlib import Path

import pytest

from hlrp.config import load_config, load_eval_config
from hlrp.errors import UserError

BASE = "trainer_type: lerobot\nmodel: {policy_type: act}\n"

# content after BASE (or a whole file, if it starts with '!'), words that the message must hold
FILES = {
    "unknown top key": ("datta: {}\n", ["unknown key 'datta'", "run.yaml:3", "'data'"]),
    "unknown trainer key": ("trainer:\n  stepz: 5\n", ["'trainer.stepz'", "run.yaml:4", "'trainer.steps'"]),
    "unknown wrapped key": (
        "trainer: {class_path: LeRobotTrainer,\n  init_args: {max_epoch: 5}}\n",
        ["'trainer.max_epoch'", "run.yaml:4", "'trainer.max_epochs'"],
    ),
    "key of another section": ("batch_size: 5\n", ["'batch_size'", "'trainer.batch_size'"]),
    "LeRobot's name of a section": ("dataset: {repo_id: a/b}\n", ["'dataset'", "'data'"]),
    "dotted key": ("trainer.steps: 5\n", ["'trainer.steps'", "{steps"]),
    "unknown source key": ("data: {sources: [{repo_id: a/b, wieght: 2}]}\n", ["sources.0.wieght", "weight"]),
    "wrong type": ("trainer: {steps: many}\n", ["'trainer.steps'", "integer", "'many'", "run.yaml:3"]),
    "truth for a number": ("trainer: {steps: true}\n", ["'trainer.steps'", "number", "True"]),
    "out of range": ("trainer: {batch_size: 0}\n", ["'trainer.batch_size'", "greater than 0", "got 0"]),
    "not a number": ("trainer: {learning_rate: .nan}\n", ["'trainer.learning_rate'", "finite"]),
    "device": ("trainer: {device: gpu}\n", ["'trainer.device'", "cuda:N", "'gpu'"]),
    "precision": ("trainer: {precision: int4}\n", ["'trainer.precision'", "bf16", "int4"]),
    "section is text": ("data: lerobot/pusht\n", ["'data'", "mapping", "lerobot/pusht"]),
    "steps twice": ("trainer: {steps: 5, max_epochs: 2}\n", ["steps", "max_epochs", "exclude"]),
    "steps and max_steps": ("trainer: {steps: 5, max_steps: 6}\n", ["trainer.steps", "trainer.max_steps", "5", "6"]),
    "held-out loss": ("trainer: {eval_steps: 5}\n", ["eval_split"]),
    "rollouts without a simulator": ("trainer: {eval_freq: 5}\n", ["'env'"]),
    "owned argument": (
        "trainer: {lerobot_args: {policy.device: cpu}}\n",
        ["policy.device", "trainer.device", "run.yaml:3"],
    ),
    "owned argument with dashes": ("trainer: {lerobot_args: {--steps: 5}}\n", ["trainer.steps"]),
    "episodes": ("data: {episodes: 5-2}\n", ["data.episodes", "backwards"]),
    "episode twice": ("data: {episodes: '0-3,2'}\n", ["data.episodes", "episode 2"]),
    "no episodes": ("data: {episodes: []}\n", ["'data.episodes'", "at least 1"]),
    "negative episode": ("data: {episodes: [-1]}\n", ["data.episodes.0", "got -1"]),
    "huge range": ("data: {episodes: 0-99999999999}\n", ["data.episodes", "longer"]),
    "one frame": ("data: {num_frames: 1}\n", ["'data.num_frames'", "2"]),
    "mixture and single": ("data: {repo_id: a/b, sources: [{repo_id: c/d}]}\n", ["'sources' excludes"]),
    "source without place": ("data: {sources: [{weight: 2}]}\n", ["data.sources.0", "'repo_id' or 'root'"]),
    "latents without laq": ("latents: {source: online}\n", ["latents", "'laq'"]),
    "latents that disagree": ("latents: {source: online, table: t}\n", ["'table'", "precomputed"]),
    "wrong trainer class": ("trainer: {class_path: os.system}\n", ["os.system", "LeRobotTrainer", "run.yaml:3"]),
    "trainers disagree": ("trainer: {class_path: LightningTrainer}\n", ["lerobot", "lightning", "class_path"]),
    "key twice": ("trainer: {seed: 1}\ntrainer: {seed: 2}\n", ["'trainer' is given twice", "run.yaml:3", "run.yaml:4"]),
    "tab": ("trainer:\n\tsteps: 5\n", ["not valid YAML", "run.yaml:4:1"]),
    "open bracket": ("data: {episodes: [1, 2}\n", ["not valid YAML", "run.yaml:3:"]),
    "python tag": ("job_name: !!python/object/apply:os.system [ls]\n", ["not valid YAML", "run.yaml:3"]),
    "control character": ("job_name: a\x07b\n", ["not valid YAML", "run.yaml"]),
    "alias to itself": ("env: &e {type: pusht, x: *e}\n", ["alias", "itself"]),
    "unset variable": (
        "job_name: ${oc.env:HLRP_NOT_SET}\n",
        ["variable 'HLRP_NOT_SET' is not set", "run.yaml:3", "give a default: ${oc.env:HLRP_NOT_SET,0}"],
    ),
    "default of a policy": (
        "job_name: c${model.chunk_size}\n",
        ["'model.chunk_size' not found", "run.yaml:3", "not known here", "write model.chunk_size in the file"],
    ),
    "resolver": ("job_name: ${python:1}\n", ["'python' is not allowed", "run.yaml:3"]),
    "computed resolver": ("job_name: ${${trainer.seed}:1}\n", ["is not allowed", "run.yaml:3"]),
    "open reference": ("job_name: a\ntrainer: {device: '${a'}\n", ["trainer.device", "run.yaml:4"]),
    "trainer_type is no text": ("!trainer_type: {a: b}\nmodel: {policy_type: act}\n", ["trainer_type", "run.yaml:1"]),
    "broken reference": ("job_name: ${trainer.nope}\n", ["job_name", "nope", "run.yaml:3"]),
    "must be given": ("job_name: ???\n", ["'job_name' must be given"]),
    "defaults not there": ("defaults: [bse]\n", ["'bse'", "run.yaml:3", "base.yaml"]),
    "defaults in a circle": ("defaults: [run.yaml]\n", ["includes itself"]),
    "defaults no list": ("defaults: {a: b}\n", ["'defaults' must be a list"]),
    "no mapping": ("!- a\n- b\n", ["mapping", "run.yaml:1"]),
    "unknown trainer": ("!trainer_type: lightening\nmodel: {policy_type: act}\n", ["'lightening'", "'lightning'"]),
    "no model": ("!trainer_type: lerobot\n", ["'model' is missing", "--policy"]),
    "misspelt policy_type": ("!model: {policy_typ: act}\n", ["policy_type", "'policy_typ'"]),
    "kind for LeRobot": ("!trainer_type: lerobot\nmodel: {kind: laq}\n", ["trainer_type: lightning"]),
    "unknown kind": ("!trainer_type: lightning\nmodel: {kind: lag}\n", ["model", "laq or foundation"]),
    "unknown quantizer": ("!model: {kind: laq, quantizer: rvq}\n", ["'model.quantizer'", "nsvq", "'rvq'"]),
    "unknown model key": (
        "!model: {kind: laq, code_book_size: 8}\n",
        ["'model.code_book_size'", "model.codebook_size"],
    ),
    "field owned elsewhere": ("!model: {policy_type: act, device: cpu}\n", ["'device'", "trainer.device"]),
    "two names of a field": (
        "!model: {policy_type: act, hidden_dim: 8, dim_model: 9}\n",
        ["hidden_dim", "dim_model", "8", "9"],
    ),
    "learning rate twice": (
        "!model: {policy_type: act, lr: 1e-3}\ntrainer: {learning_rate: 1e-4}\n",
        ["learning_rate", "optimizer_lr"],
    ),
    "evaluation": ("!eval: {episodes: 5}\n", ["evaluation", "hlrp eval -c", "run.yaml:1"]),
}


@pytest.mark.parametrize("case", FILES)
def test_a_mistake_in_a_file_is_one_message(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    content, expected = FILES[case]
    (tmp_path / "base.yaml").write_text("{}")
    (tmp_path / "run.yaml").write_text(content[1:] if content.startswith("!") else BASE + content)
    with pytest.raises(UserError) as caught:
        load_config("run.yaml")
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert [word for word in expected if word not in message] == [], message
    assert len(message.splitlines()) <= 8, message
    assert "pydantic" not in message


ARGUMENTS = {
    "no equals sign": (["trainer.steps"], ["'trainer.steps'", "key=value"]),
    "no key": (["=5"], ["key=value"]),
    "flag": (["--stepz=5"], ["'--stepz'", "without dashes"]),
    "double dot": (["trainer..steps=5"], ["trainer..steps"]),
    "a key of the other trainer": (
        ["trainer.accumulate_grad_batches=2"],
        ["unknown key", "--trainer lightning", "lerobot_args.accelerator.gradient_accumulation.steps"],
    ),
    "unknown key": (["trainer.stepz=5"], ["'trainer.stepz'", "override 'trainer.stepz=5'", "'trainer.steps'"]),
    "unknown section": (["trainr.steps=5"], ["'trainr'", "'trainer'"]),
    "section as value": (["trainer=5"], ["'trainer'", "mapping", "override 'trainer=5'"]),
    "key below a value": (["trainer.steps.x=5"], ["'trainer.steps'", "integer"]),
    "no YAML": (["data.episodes=[1,"], ["'data.episodes'", "not valid YAML"]),
    "contradiction": (["trainer.steps=5", "trainer.max_epochs=2"], ["steps", "max_epochs"]),
    "several": (
        ["trainer.steps=0", "data.num_workers=-1"],
        ["2 mistakes", "'trainer.steps'", "'data.num_workers'", "override 'trainer.steps=0'"],
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_mistake_in_an_argument_is_one_message(case):
    overrides, expected = ARGUMENTS[case]
    with pytest.raises(UserError) as caught:
        load_config("lerobot/act_aloha", overrides)
    message = str(caught.value)
    assert [word for word in expected if word not in message] == [], message


def test_a_wrong_flag_is_named():
    with pytest.raises(UserError, match=r"'trainer.steps' should be greater than 0, got -1\n  where: flag --steps"):
        load_config("lerobot/act_aloha", [], {"trainer.steps": (-1, "--steps")})


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "train.yaml").write_text("{}")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bad.json").write_text('{"model": }')
    (tmp_path / "deep.yaml").write_text("[" * 3000)
    for name, expected in {
        "trian.yaml": "train.yaml",
        "binary.yaml": "UTF-8",
        "bad.json": "bad.json:1:11",
        "deep.yaml": "deep",
        ".": "folder",
    }.items():
        with pytest.raises(UserError, match=expected):
            load_config(tmp_path / name)
    with pytest.raises(UserError, match="'lerobot/act_aloha'"):
        load_config("lerobot/act_alooha")


def test_an_evaluations_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"unknown key 'eval.episode'[\s\S]*'eval.episodes'"):
        load_eval_config("eval/pusht", ["eval.episode=5"])
    with pytest.raises(UserError, match="hlrp train -c"):
        load_eval_config(Path("lerobot/act_aloha"))
