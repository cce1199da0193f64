"""Loading: the order of sources, where values came from, spellings, interpolation and the way back to YAML."""

from pathlib import Path

import pytest

from hlrp.config import (
    LaqModel,
    LeRobotRun,
    LightningRun,
    PolicyModel,
    load_config,
    load_eval_config,
    shipped_config,
    shipped_names,
    to_yaml,
)
from hlrp.config.render import annotated_yaml
from hlrp.errors import UserError


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_later_sources_win_and_each_value_knows_its_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "trainer: {steps: 1, seed: 1, batch_size: 1}\ndata: {num_workers: 7}\n", "base.yaml")
    path = write(tmp_path, "defaults: [base]\nmodel: {policy_type: act}\ntrainer:\n  steps: 2\n  seed: 2\n")
    resolved = load_config(path, [], {"trainer.steps": (4, "--steps"), "trainer.device": (None, "--device")})
    trainer = resolved.config.trainer
    assert (trainer.steps, trainer.seed, trainer.batch_size, resolved.config.data.num_workers) == (4, 2, 1, 7)
    assert trainer.device is None
    origin = resolved.origin
    assert origin["trainer.steps"] == "flag --steps"
    assert origin["trainer.seed"] == "run.yaml:5"
    assert origin["trainer.batch_size"] == "base.yaml:1"
    assert origin["trainer.devices"] == "default"
    assert load_config(path, ["trainer.steps=3"]).origin["trainer.steps"] == "override 'trainer.steps=3'"
    assert [p.name for p in resolved.files] == ["base.yaml", "run.yaml"]


def test_the_seeds_shape_is_accepted():
    run = load_config("lerobot/act_aloha").config
    assert isinstance(run, LeRobotRun)
    assert (run.trainer.max_epochs, run.trainer.learning_rate) == (100, 1e-4)
    assert run.model.policy_fields == {"dim_model": 512}
    assert run.data.repo_id == "lerobot/aloha_sim_transfer_cube_human"


@pytest.mark.parametrize("path", ["LeRobotTrainer", "trainers.LeRobotTrainer", "elsewhere.trainers.LeRobotTrainer"])
def test_every_known_class_path_tells_the_trainer(tmp_path, path):
    text = f"trainer: {{class_path: {path}, init_args: {{max_steps: 5}}}}\nmodel: {{type: act}}\n"
    run = load_config(write(tmp_path, text)).config
    assert (run.trainer_type, run.trainer.steps, run.model.policy_type) == ("lerobot", 5, "act")


def test_arguments_reach_what_a_file_wrapped_in_init_args():
    run = load_config("lerobot/act_aloha", ["trainer.learning_rate=3e-4", "trainer.init_args.seed=5"]).config
    assert (run.trainer.learning_rate, run.trainer.seed) == (3e-4, 5)


@pytest.mark.parametrize(
    ("override", "gone", "there"),
    [
        ("trainer.steps=7", ("trainer", "max_epochs"), ("trainer", "steps")),
        ("model.dim_model=64", ("model", "hidden_dim"), ("model", "dim_model")),
        ("model.optimizer_lr=0.5", ("trainer", "learning_rate"), ("model", "optimizer_lr")),
        ("data.sources=[{repo_id: a/b}]", ("data", "repo_id"), ("data", "sources")),
    ],
)
def test_another_spelling_on_a_higher_layer_replaces_the_lower_one(override, gone, there):
    dumped = load_config("lerobot/act_aloha", [override]).config.model_dump(mode="json")
    assert not dumped[gone[0]].get(gone[1])
    assert dumped[there[0]][there[1]]


def test_naming_another_dataset_forgets_the_folder_of_the_first(tmp_path):
    path = write(tmp_path, "model: {policy_type: act}\ndata: {repo_id: a/first, root: /data/first}\n")
    assert load_config(path, ["data.repo_id=a/second"]).config.data.root is None
    both = load_config(path, ["data.repo_id=a/second", "data.root=/data/second"]).config.data
    assert (both.repo_id, both.root) == ("a/second", Path("/data/second"))
    assert load_config(path, ["data.root=/elsewhere"]).config.data.repo_id == "a/first"


def test_a_key_that_is_set_to_none_replaces_nothing(tmp_path):
    path = write(tmp_path, "model: {policy_type: act}\ntrainer: {steps: 5000}\ndata: {root: /d}\n")
    config = load_config(path, ["trainer.max_epochs=null", "data.repo_id=null"]).config
    assert (config.trainer.steps, config.trainer.max_epochs, str(config.data.root)) == (5000, None, "/d")
    labelled = write(tmp_path, "model: {policy_type: hlrp_vla_direct}\nlatents: {table: /t}\n", "labelled.yaml")
    latents = load_config(labelled, ["latents.laq=null"]).config.latents
    assert (latents.source, str(latents.table), latents.laq) == ("precomputed", "/t", None)


def test_a_latent_table_on_the_command_line_replaces_the_online_source(tmp_path):
    path = write(tmp_path, "model: {policy_type: act}\nlatents: {source: online, laq: runs/laq}\n")
    latents = load_config(path, [], {"latents.table": ("tables/a", "--latents")}).config.latents
    assert (latents.source, latents.table, latents.laq) == ("precomputed", Path("tables/a"), None)


def test_values_are_read_as_people_write_them(tmp_path):
    text = (
        "model: {policy_type: act, optimizer_lr_backbone: 1e-5, use_vae: no}\n"
        "trainer: {precision: 32}\ndata: {cache: off, episodes: '0-3,7'}\njob_name: 2026-02-12\n"
    )
    run = load_config(write(tmp_path, text), ["model.dropout=.5e-1", "model.temporal_ensemble_coeff=null"]).config
    assert run.model.policy_fields == {
        "optimizer_lr_backbone": 1e-5,
        "use_vae": False,
        "dropout": 0.05,
        "temporal_ensemble_coeff": None,
    }
    assert (run.trainer.precision, run.data.cache, run.data.episodes) == ("32", "off", [0, 1, 2, 3, 7])
    assert run.job_name == "2026-02-12"


def test_interpolation_sees_values_defaults_and_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HLRP_TEST_NAME", "bob")
    text = (
        "model: {policy_type: act, chunk_size: 20, n_action_steps: '${model.chunk_size}'}\n"
        "job_name: ${model.policy_type}-${trainer.seed}-${oc.env:HLRP_TEST_NAME}\n"
    )
    resolved = load_config(write(tmp_path, text), ["model.chunk_size=30"])
    assert resolved.config.job_name == "act-1000-bob"
    assert resolved.config.model.policy_fields["n_action_steps"] == 30
    assert resolved.origin["job_name"].endswith("run.yaml:2")


def test_free_arguments_of_lerobot_may_be_nested_or_dotted(tmp_path):
    text = "model: {policy_type: act}\ntrainer: {lerobot_args: {wandb.enable: true, eval: {n_episodes: 3}}}\n"
    run = load_config(write(tmp_path, text), ["trainer.lerobot_args.wandb.project=p"]).config
    assert run.trainer.lerobot_args == {"wandb.enable": True, "eval.n_episodes": 3, "wandb.project": "p"}
    renamed = load_config(None, ["model.policy_type=act", "data.rename_map.observation.images.top=observation.image"])
    assert renamed.config.data.rename_map == {"observation.images.top": "observation.image"}


def test_single_elements_of_a_list_can_be_changed(tmp_path):
    path = write(tmp_path, "model: {policy_type: act}\ndata: {sources: [{repo_id: a/b}, {root: /c}]}\n")
    sources = load_config(
        path, ["data.sources.1.weight=3", "data.sources[0].labelled_episodes=0-1"]
    ).config.data.sources
    assert (sources[1].weight, sources[1].root, sources[0].labelled_episodes) == (3.0, Path("/c"), [0, 1])
    with pytest.raises(UserError, match="no element 2"):
        load_config(path, ["data.sources.2.weight=3"])


def test_merge_keys_and_json_are_read(tmp_path):
    text = "base: &b {steps: 3, seed: 4}\nmodel: {policy_type: act}\ntrainer: {<<: *b, seed: 5}\n"
    with pytest.raises(UserError, match="unknown key 'base'"):
        load_config(write(tmp_path, text))
    path = write(tmp_path, '{\n\t"model": {"policy_type": "act"},\n\t"trainer": {"steps": 3}\n}', "run.json")
    resolved = load_config(path)
    assert resolved.config.trainer.steps == 3
    assert resolved.origin["trainer.steps"].endswith("run.json")


def test_the_kind_of_model_chooses_lightning():
    run = load_config(None, ["model.kind=laq", "model.quantizer=fsq", "trainer.logger=wandb"]).config
    assert isinstance(run, LightningRun)
    assert isinstance(run.model, LaqModel)
    assert (run.model.quantizer, run.trainer.logger) == ("fsq", ["wandb"])
    policy = load_config("lerobot/act_aloha", [], {"trainer_type": ("lightning", "--trainer")}).config
    assert isinstance(policy, LightningRun)
    assert isinstance(policy.model, PolicyModel)


RUNS = [
    (None, ["model.policy_type=act", "model.x=.inf", "trainer.lerobot_args.a.b=[1e-5, null]"]),
    ("lerobot/act_aloha", []),
    ("lerobot/act_aloha", ["trainer.steps=5", "job_name='1e-4'", "data.episodes=0-2", "data.cache=ram"]),
    ("lerobot/diffusion_pusht", ["trainer.eval_freq=100", "data.root=~/data", "model.init_from=outputs/x"]),
    (None, ["model.kind=foundation", "trainer.callbacks=[{class_path: lightning.X, init_args: {a: [1]}}]"]),
    (None, ["trainer_type=lightning", "model.class_path=hlrp.policies.ACT", "model.init_args={hidden_dim: 8}"]),
    (None, ["model.policy_type=act", "data.sources=[{repo_id: a/b, weight: 2}]", "latents.table=t"]),
]


@pytest.mark.parametrize(("name", "overrides"), RUNS)
def test_a_written_configuration_loads_to_an_equal_one(tmp_path, name, overrides):
    first = load_config(name, overrides)
    for text in (to_yaml(first.config), annotated_yaml(first)):
        assert load_config(write(tmp_path, text)).config == first.config


def test_the_way_back_holds_for_evaluations(tmp_path):
    first = load_eval_config("eval/pusht", ["eval.videos=1"], {"eval.tasks": (["a", "b"], "--task")})
    assert first.config.tasks == ["a", "b"]
    assert first.origin["eval.tasks"] == "flag --task"
    for text in (to_yaml(first.config), annotated_yaml(first)):
        assert load_eval_config(write(tmp_path, text)).config == first.config


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_configuration_loads(name):
    evaluation = name.startswith("eval/")
    config = (load_eval_config if evaluation else load_config)(name).config
    if name.startswith("lerobot/"):
        assert config.data.repo_id or config.data.root or config.data.sources


def test_shipped_names_cover_every_file_in_configs():
    root = Path(__file__).resolve().parents[2] / "configs"
    files = [path for path in root.rglob("*") if path.is_file()]
    assert sorted(shipped_config(name) for name in shipped_names()) == sorted(files)


def test_annotations_stand_beside_their_values():
    long = "a/" + "long" * 20
    lines = annotated_yaml(load_config("lerobot/act_aloha", ["trainer.seed=3", f"data.repo_id={long}"])).splitlines()
    assert any(line.startswith("  seed: 3 ") and line.endswith("# override 'trainer.seed=3'") for line in lines)
    assert any(line.startswith("  hidden_dim: 512 ") and line.endswith("act_aloha.yaml:9") for line in lines)
    # One column for all, but for a value that is longer than 60 characters: its comment stands right behind it.
    texts = [line.partition("  # ")[0] for line in lines if "  # " in line]
    column = max(len(text.rstrip()) for text in texts if len(text) <= 60)
    assert {len(text) for text in texts} == {column, len(f"  repo_id: {long}")}
    assert f"  repo_id: {long}  # override 'data.repo_id={long}'" in lines
