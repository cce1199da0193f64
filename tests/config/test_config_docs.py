"""The page on configuration names every key and alias, shows files that load, and code that does what it says."""

import re
from pathlib import Path

import pytest
import yaml

from hlrp.aliases import COMMON_ALIASES, POLICY_ALIASES
from hlrp.config import EvalFile, LeRobotRun, LightningRun, load_config, to_yaml
from hlrp.config.messages import all_keys

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text(encoding="utf8")


def test_every_key_is_named():
    keys = {key for run in (LeRobotRun, LightningRun) for key in all_keys(run)}
    missing = [key for key in keys if not re.search(rf"`[^`\n]*\b{key.rpartition('.')[2]}\b[^`\n]*`", PAGE)]
    assert missing == []
    own = [key for key in all_keys(EvalFile) if key.count(".") == 1]
    assert [key for key in own if f"`{key}`" not in PAGE] == []


def test_every_alias_is_in_the_table():
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| ")]
    documented = {
        (policy, alias, targets[position] if len(targets) > 1 else targets[0])
        for row in rows
        if len(row) == 3
        for policy in row[0].split(", ")
        for targets in [re.findall(r"`(\w+)`", row[2])]
        for position, alias in enumerate(re.findall(r"`(\w+)`", row[1]))
        if targets and policy in {"every", *POLICY_ALIASES}
    }
    expected = {("every", alias, target) for alias, target in COMMON_ALIASES.items()}
    expected |= {(policy, a, t) for policy, table in POLICY_ALIASES.items() for a, t in table.items()}
    assert documented == expected


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_files_on_the_page_load(tmp_path, block):
    path = tmp_path / "page.yaml"
    path.write_text(block)
    overrides = [] if "model" in yaml.safe_load(block) else ["model.policy_type=act"]
    assert load_config(path, overrides).config.trainer.learning_rate == 1e-4


def test_code_on_the_page_does_what_its_comments_say():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    statements = [line for line in block.splitlines() if line and "  # " not in line]
    exec("\n".join(statements), names)
    checked = 0
    for expression, expected in re.findall(r"^(resolved\S*) +# (.+)$", block, re.MULTILINE):
        assert eval(expression, names) == eval(expected), expression
        checked += 1
    assert checked == 2
    assert to_yaml(names["resolved"].config)
