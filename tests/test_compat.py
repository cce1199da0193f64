"""What is said of a LeRobot that this release does not work with, and what of a LeRobot that does is not imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import assert_user_error, hlrp, hlrp_in_turn
from tiny_policies import save_tiny_act

from hlrp.catalog import policy_catalog
from hlrp.evaluation.policy import without_packages_unused_by

PACKAGES = ("transformers", "peft", "diffusers")


def test_an_unsupported_lerobot_is_one_message(toy_root: Path, tmp_path: Path) -> None:
    """Another release is found first, as by a mix-up of environments; it is refused before anything is imported."""
    commands = {}
    for version, trainer in (("0.6.0", "lerobot"), ("0.7.0", "lightning")):
        found = tmp_path / version / f"lerobot-{version}.dist-info"
        found.mkdir(parents=True)
        (found / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lerobot\nVersion: {version}\n")
        train = ["train", "--trainer", trainer, "--policy", "act", "--dataset-root", str(toy_root), "--dry-run"]
        commands[version] = train
        done = hlrp(*train, env={"PYTHONPATH": str(found.parent)})
        assert_user_error(done, f"LeRobot {version} is not supported", "pip install 'lerobot>=0.6.1,<0.7'")
    assert [done.code for done in hlrp_in_turn(list(commands.values()))] == [0, 0]


def test_packages_are_of_the_distributions_that_python_finds() -> None:
    """Asked in a process of its own: here Python's function is replaced already."""
    program = """
from importlib import metadata
found = metadata.packages_distributions()
import hlrp.compat
quick = hlrp.compat.distributions_of_packages()
different = {name for name in found | quick if sorted(found.get(name, [])) != sorted(quick.get(name, []))}
assert "transformers" in quick and not different, different
from transformers.utils import import_utils
assert import_utils.PACKAGE_DISTRIBUTION_MAPPING is quick
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("policies", "changes", "left_out"),
    [
        (["act"], {}, {"transformers", "peft", "diffusers"}),
        (["act", "hlrp_vla_direct"], {}, {"diffusers"}),
        (["act", "diffusion"], {}, {"transformers", "peft"}),
        (["pi0"], {}, set()),
        (["act"], {"adapter_config.json": "{}"}, set()),
        (["act"], {"policy_preprocessor.json": '{"steps": [{"registry_name": "tokenizer_processor"}]}'}, set()),
        (["act"], {"config.json": "{}"}, set()),
    ],
)
def test_packages_that_no_policy_of_the_process_uses_are_left_out(
    policies: list[str],
    changes: dict[str, str],
    left_out: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lerobot.utils import import_utils

    policy_catalog()
    for name in PACKAGES:
        monkeypatch.setattr(import_utils, f"_{name}_available", True)
    for name in policies:
        save_tiny_act(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(config | {"type": name}))
        for file, text in changes.items():
            (tmp_path / name / file).write_text(text)
    monkeypatch.delitem(sys.modules, "lerobot.policies", raising=False)
    without_packages_unused_by(*(tmp_path / name for name in policies))
    assert {name for name in PACKAGES if not getattr(import_utils, f"_{name}_available")} == left_out
