"""Names of environments and tasks, without the simulators."""

import subprocess
import sys

import pytest

from hlrp.errors import UserError
from hlrp.sim.catalog import envs_catalog, expand_tasks, task_description


def test_lists_and_groups_expand_in_order_without_repetition() -> None:
    assert expand_tasks("metaworld", " push-v3,metaworld-reach-v3 ,push-v3") == ["push-v3", "reach-v3"]
    hard = expand_tasks("metaworld_light", ["push-v3", "hard"])
    assert hard[0] == "push-v3" and len(hard) == 6
    assert expand_tasks("pusht", "PushT-v0") == ["PushT-v0"]


@pytest.mark.parametrize(
    ("env", "tasks", "expected"),
    [
        ("metawrld", "push-v3", "metaworld"),
        ("metaworld", "buton-press-v3", "button-press-v3"),
        ("metaworld", " , ", "name at least one"),
    ],
)
def test_unknown_names_suggest_close_ones(env: str, tasks: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        expand_tasks(env, tasks)
    assert expected in str(error.value)


def test_the_catalog_is_lerobots() -> None:
    from lerobot.envs.metaworld import TASK_DESCRIPTIONS

    assert set(envs_catalog()["metaworld_light"].tasks) == set(TASK_DESCRIPTIONS)
    assert all(task_description(task) == sentence for task, sentence in TASK_DESCRIPTIONS.items())


def test_the_catalog_and_the_requests_check_import_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from hlrp.sim.collect import CollectRequest\n"
        "CollectRequest(output=Path('no-such-output'), tasks=('push-v3',)).check()\n"
        "print([m for m in ('torch', 'lerobot', 'mujoco', 'metaworld', 'gymnasium', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", done.stderr
