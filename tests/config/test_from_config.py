"""`from_config`: every source gives the same object, and wrong arguments are one message."""

import json
from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf
from pydantic import BaseModel

from hlrp.config import FromConfig
from hlrp.errors import UserError


class Arm(FromConfig):
    def __init__(self, joints: int, name: str = "arm", tool: object = None) -> None:
        self.joints, self.name, self.tool = joints, name, tool


class LongArm(Arm):
    def __init__(self, joints: int = 9, **rest: object) -> None:
        super().__init__(joints, "long")
        self.rest = rest


class ArmModel(BaseModel):
    joints: int = 6
    name: str = "six"


@dataclass
class ArmData:
    joints: int = 6
    name: str = field(default="six")


def test_every_source_builds_the_same(tmp_path):
    values = {"joints": 6, "name": "six"}
    (tmp_path / "arm.yaml").write_text("joints: 6\nname: six\n")
    (tmp_path / "arm.json").write_text(json.dumps(values))
    (tmp_path / "wrapped.yaml").write_text("class_path: Arm\ninit_args: {joints: 6, name: six}\n")
    sources = [
        tmp_path / "arm.yaml",
        str(tmp_path / "arm.json"),
        tmp_path / "wrapped.yaml",
        values,
        ArmModel(),
        ArmData(),
        OmegaConf.create({"joints": 6, "name": "six"}),
        {"class_path": "another_project.robots.Arm", "init_args": values},
    ]
    for source in sources:
        arm = Arm.from_config(source)
        assert (type(arm), arm.joints, arm.name) == (Arm, 6, "six"), source
        assert Arm.from_config(source, joints=7).joints == 7


def test_a_subclass_may_be_named_and_may_take_anything():
    arm = Arm.from_config({"class_path": "LongArm", "init_args": {"reach": 2}})
    assert isinstance(arm, LongArm)
    assert arm.rest == {"reach": 2}


def test_nested_objects_are_built_inside_what_is_allowed():
    tool = {"class_path": "hlrp.config.EnvSection", "init_args": {"type": "pusht"}}
    with pytest.raises(UserError, match="--allow-import subprocess"):
        Arm.from_config({"joints": 1, "tool": {"class_path": "subprocess.Popen", "init_args": {"args": "ls"}}})
    assert Arm.from_config({"joints": 1, "tool": [tool]}).tool[0].type == "pusht"
    fraction = {"class_path": "fractions.Fraction", "init_args": {"numerator": 3}}
    assert Arm.from_config({"joints": 1, "tool": fraction}, allow_import=["fractions"]).tool == 3


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"joint": 6}, "no argument 'joint'[\\s\\S]*'joints'"),
        ({"name": "x"}, "needs 'joints'"),
        ({"class_path": "Leg", "init_args": {}}, "not a Arm"),
        ({"class_path": "hlrp.errors.UserError", "init_args": {}}, "not a Arm"),
        ({"class_path": "os.system", "init_args": {}}, "--allow-import os"),
        ({"class_path": "Arm", "joints": 6}, "beside 'class_path'"),
        ({"class_path": "Arm", "init_args": [6]}, "mapping"),
        (6, "cannot configure from a int"),
        ("no_such_file.yaml", "no configuration file"),
    ],
)
def test_mistakes_are_one_message(source, expected):
    with pytest.raises(UserError, match=expected):
        Arm.from_config(source)
