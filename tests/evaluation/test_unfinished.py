"""What is left of an evaluation that breaks off."""

import dataclasses
import json
from typing import ClassVar

import pytest
from tiny_policies import save_tiny_act

from hlrp.evaluation.request import EvalRequest, Listener
from hlrp.evaluation.run import UNFINISHED, evaluate

TASK = "drawer-close-v3"


def test_what_was_finished_is_kept_when_a_later_task_breaks_off(tmp_path):
    policy, tasks = save_tiny_act(tmp_path / "policy", "metaworld_light"), ["reach-v3", TASK]
    request = EvalRequest(policy, "metaworld_light", tasks, 1, videos=0, env_fields={"episode_length": 3})

    class Breaks(Listener):
        notes: ClassVar[list[str]] = []

        def started(self, task, episodes):
            if task == TASK:
                raise KeyboardInterrupt

        def note(self, text):
            self.notes.append(text)

    with pytest.raises(KeyboardInterrupt):
        evaluate(dataclasses.replace(request, output=tmp_path / "out"), listener=Breaks())
    left = tmp_path / "out" / UNFINISHED
    assert f"what was finished (reach-v3) is in {left}" in Breaks.notes[-1]
    assert not (tmp_path / "out" / "results.json").exists()
    kept = json.loads(left.read_text())["episodes"]
    whole = evaluate(dataclasses.replace(request, output=tmp_path / "out"))
    assert kept == [whole.episodes[0].to_json()] and not left.exists()
