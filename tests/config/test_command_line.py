"""What the command line says once, twice or in two ways; and names that look like something else."""

import sys

import pytest

from hlrp.config import load_config, to_yaml
from hlrp.config.render import annotated_yaml
from hlrp.errors import UserError

ACT = ["model.policy_type=act"]
# Folder names that YAML or OmegaConf would read as something else.
ODD_NAMES = [
    "null",
    "1e3",
    "true",
    "[a]",
    "~x",
    "a${x}",
    "${oc.env:HOME}",
    "${x:y}",
    "${",
    "a\\${x}",
    "a: b",
    "x #y",
    "é",
]


@pytest.mark.parametrize(
    ("overrides", "flags", "mentions"),
    [
        (["trainer.steps=5", "trainer.steps=6"], {}, ["trainer.steps is given twice: 5 and 6"]),
        (["trainer.steps=5", "trainer.steps=5"], {}, ["trainer.steps is given twice"]),
        (["trainer.max_steps=5", "trainer.steps=6"], {}, ["trainer.steps is given twice"]),
        (["trainer={steps: 5}", "trainer.steps=6"], {}, ["trainer.steps is given twice"]),
        (["trainer.steps=5"], {"trainer.steps": (6, "--steps")}, ["override 'trainer.steps=5'", "flag --steps"]),
        (["trainer.max_epochs=5"], {"trainer.steps": (6, "--steps")}, ["'steps' and 'max_epochs' exclude"]),
        (["latents.laq=a"], {"latents.table": ("b", "--latents")}, ["latents"]),
    ],
)
def test_one_thing_said_in_two_ways_is_refused(overrides, flags, mentions):
    with pytest.raises(UserError) as refused:
        load_config(None, [*ACT, *overrides], flags)
    assert [text for text in mentions if text not in str(refused.value)] == [], refused.value


def test_a_flag_and_an_argument_may_agree():
    assert load_config(None, [*ACT, "trainer.steps=5"], {"trainer.steps": (5, "--steps")}).config.trainer.steps == 5


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_keeps_its_name_through_the_runs_own_configuration(name, tmp_path):
    root = tmp_path / name
    flags = {"data.root": (root, "--dataset-root")}
    resolved = load_config(None, [*ACT, "job_name=s${trainer.seed}"], flags)
    assert (resolved.config.data.root, resolved.config.job_name) == (root, "s1000")
    for text in (to_yaml(resolved.config), annotated_yaml(resolved)):
        (tmp_path / "again.yaml").write_text(text, encoding="utf8")
        assert load_config(tmp_path / "again.yaml").config == resolved.config


def test_episodes_have_one_order():
    """The last ones are held out, as they are listed: by LeRobot too."""
    data = load_config(None, [*ACT], {"data.episodes": ("5,4,3,2,1,0", "--episodes")}).config.data
    assert data.episodes == [0, 1, 2, 3, 4, 5]


def test_an_unknown_decoder_is_refused():
    with pytest.raises(UserError, match="torchcodec"):
        load_config(None, [*ACT, "data.video_backend=ffmpeg"])


def test_what_may_be_imported_is_said_by_the_command_alone(tmp_path, monkeypatch):
    from hlrp.config import allow_import, class_path, resolve_class_path

    (tmp_path / "my_modules_xy.py").write_text("class Mine: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(class_path, "_given", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError, match="--allow-import my_modules_xy"):
        resolve_class_path("my_modules_xy.Mine")
    with pytest.raises(UserError, match="unknown key 'allow_import'"):
        load_config(None, [*ACT, "allow_import=[my_modules_xy]"])
    with pytest.raises(UserError, match="no name of a package"):
        allow_import(["my modules"])
    allow_import(["my_modules_xy"])
    assert resolve_class_path("my_modules_xy.Mine").__name__ == "Mine"
    with pytest.raises(UserError, match="--allow-import my_modules_xyz"):
        resolve_class_path("my_modules_xyz.Mine")
