"""Parts of the schema used on their own: epochs, aliases, JSON Schema, class paths, the lazy package."""

import json
import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

import hlrp.config
from hlrp.aliases import POLICY_ALIASES, policy_aliases
from hlrp.config import (
    DataSection,
    LeRobotRun,
    LeRobotTrainerSection,
    LightningRun,
    PolicyModel,
    RunConfig,
    require_dataset,
    resolve_class_path,
    resolve_policy_aliases,
    steps_for_epochs,
)
from hlrp.config.json_schema import json_schema
from hlrp.errors import UserError


def test_epochs_become_steps_of_whole_batches():
    assert steps_for_epochs(2, 101, 10) == 22
    assert steps_for_epochs(2, 101, 10, devices=4) == 6
    assert LeRobotTrainerSection(max_epochs=3, batch_size=7).total_steps(20) == 9
    assert LeRobotTrainerSection(steps=5).total_steps(20) == 5
    with pytest.raises(ValueError, match="positive"):
        steps_for_epochs(1, 0, 8)


def test_other_processes_share_out_the_samples_of_a_step():
    section = LeRobotTrainerSection(batch_size=6, devices=2)
    assert [(s.devices, s.batch_size) for s in map(section.on_devices, (1, 3, 4))] == [(1, 12), (3, 4), (4, 3)]
    with pytest.raises(ValueError, match=r"12 samples .* among 5 processes"):
        section.on_devices(5)


def test_a_dump_with_epochs_can_be_read_again():
    section = LeRobotTrainerSection(max_epochs=3)
    assert LeRobotTrainerSection.model_validate(section.model_dump()) == section
    assert LeRobotTrainerSection.model_validate_json(section.model_dump_json()) == section


def test_configurations_cannot_be_changed_in_place():
    with pytest.raises(ValidationError, match="frozen"):
        LeRobotTrainerSection().steps = 5


def test_a_run_can_be_made_in_python_in_the_seeds_shape():
    run = LeRobotRun.model_validate(
        {
            "trainer": {"class_path": "LeRobotTrainer", "init_args": {"max_epochs": 2}},
            "model": {"policy_type": "act", "hidden_dim": 8},
            "data": {"class_path": "LeRobotDataModule", "init_args": {"repo_id": "a/b"}},
        }
    )
    assert (run.trainer.max_epochs, run.data.repo_id) == (2, "a/b")


def test_the_union_of_runs_tells_them_apart_by_trainer_type():
    adapter = TypeAdapter(RunConfig)
    run = adapter.validate_python({"trainer_type": "lightning", "model": {"kind": "laq"}})
    assert isinstance(run, LightningRun)
    assert isinstance(adapter.validate_json(run.model_dump_json()), LightningRun)
    assert isinstance(adapter.validate_python({"trainer_type": "lerobot", "model": {"policy_type": "act"}}), LeRobotRun)


def test_a_dataset_is_needed_to_train_only():
    run = LeRobotRun(model=PolicyModel(policy_type="act"))
    with pytest.raises(UserError, match="--dataset-root"):
        require_dataset(run)
    require_dataset(run.model_copy(update={"data": DataSection(sources=[{"root": "/a"}])}))


def test_aliases_keep_order_and_resolve_once():
    fields = {"chunk_size": 9, "hidden_dim": 8, "learning_rate": 1e-4}
    resolved = resolve_policy_aliases("act", fields)
    assert list(resolved.items()) == [("chunk_size", 9), ("dim_model", 8), ("optimizer_lr", 1e-4)]
    assert resolve_policy_aliases("act", resolved) == resolved
    assert resolve_policy_aliases("diffusion", {"chunk_size": 9}) == {"horizon": 9}
    assert resolve_policy_aliases("act", {"hidden_dim": 8, "dim_model": 8}) == {"dim_model": 8}
    with pytest.raises(UserError, match="'hidden_dim' and 'dim_model'"):
        resolve_policy_aliases("act", {"hidden_dim": 8, "dim_model": 9})


def test_aliases_lead_to_fields_that_lerobot_has_and_hide_none():
    from hlrp.catalog import policy_catalog

    policies = policy_catalog().policies
    for name in POLICY_ALIASES:
        for alias, target in policy_aliases(name).items():
            assert target in policies[name].fields, (name, target)
            assert alias not in policies[name].fields, (name, alias)


def test_shipped_policies_fields_are_lerobots():
    from hlrp.catalog import policy_catalog
    from hlrp.config import load_config, shipped_names

    catalog = policy_catalog()
    for name in shipped_names():
        if not name.startswith("eval/"):
            model = load_config(name).config.model
            if isinstance(model, PolicyModel):
                catalog.check_fields(model.policy_type, model.policy_fields)


def test_a_close_name_may_be_an_alias():
    from hlrp.catalog import policy_catalog

    for policy, name, alias in ("act", "hiden_dim", "hidden_dim"), ("diffusion", "weigth_decay", "weight_decay"):
        with pytest.raises(UserError, match=f"no field '{name}'; did you mean '{alias}'"):
            policy_catalog().check_fields(policy, {name: 3})
    # Where nothing is close, fields are listed, not their aliases.
    with pytest.raises(UserError, match="known: chunk_size, device, dim_feedforward"):
        policy_catalog().check_fields("act", {"zzzz": 3})


def test_a_class_outside_is_refused_before_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "foreign_module.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "lerobot_evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("foreign_module.Thing", "lerobot_evil.Thing"):
        with pytest.raises(UserError, match="--allow-import"):
            resolve_class_path(path)
    with pytest.raises(SystemExit, match="imported"):
        resolve_class_path("foreign_module.Thing", ["foreign_module"])


def test_a_class_must_be_defined_where_it_is_allowed():
    assert resolve_class_path("hlrp.errors.UserError") is UserError
    assert resolve_class_path("fractions.Fraction", allow=["fractions"]).__name__ == "Fraction"
    for path, expected in {
        # `hlrp.errors` imports the name `Iterable`; that does not make it the project's.
        "hlrp.errors.Iterable": "not allowed",
        "hlrp.errors.UserEror": "UserError",
        "hlrp.errors.suggest": "no class",
        "hlrp.no_such.Thing": "no module 'hlrp.no_such'",
        "UserError": "dotted name",
        "hlrp.errors;import os.x": "dotted name",
    }.items():
        with pytest.raises(UserError, match=expected):
            resolve_class_path(path)


def test_the_json_schema_knows_every_key_and_spelling():
    schema = json_schema("lerobot")
    assert set(LeRobotRun.model_fields) | {"defaults"} == set(schema["properties"])
    trainer = schema["$defs"]["LeRobotTrainerSection"]["properties"]
    assert trainer["steps"]["exclusiveMinimum"] == 0
    assert "Optimizer steps" in trainer["steps"]["description"]
    assert "max_steps" in trainer
    assert any("class_path" in option.get("properties", {}) for option in schema["properties"]["trainer"]["anyOf"])
    assert schema["additionalProperties"] is False
    both = json_schema()
    assert {"LeRobotRun", "LightningRun"} <= set(both["$defs"])
    json.dumps(both)


def test_the_package_offers_what_it_lists_and_stays_light():
    for name in hlrp.config.__all__:
        assert getattr(hlrp.config, name) is not None
    with pytest.raises(AttributeError):
        hlrp.config.nothing  # noqa: B018
    code = (
        "import sys, hlrp.config; assert 'pydantic' not in sys.modules; hlrp.config.load_config('lerobot/act_aloha')\n"
        "heavy = {'torch', 'lerobot', 'lightning', 'omegaconf', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_trainer_has_a_name_a_kind_of_run_and_a_class() -> None:
    from hlrp.config.schema import RUN_CLASSES
    from hlrp.config.trainer_names import TRAINERS
    from trainers import registry

    assert list(TRAINERS) == list(RUN_CLASSES) == list(registry.TRAINERS)
    for trainer, name in TRAINERS.items():
        assert registry.TRAINERS[trainer].endswith(f":{name}Trainer")


def test_the_schema_lists_the_backends_that_it_is_given() -> None:
    described = json_schema("lightning", backends=["a", "b"])["$defs"]["FoundationModel"]["properties"]["backend"]
    assert described["enum"] == ["a", "b"]
