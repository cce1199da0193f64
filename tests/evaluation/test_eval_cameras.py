"""Cameras of a policy and a simulator that go by two names."""

from tiny_policies import save_tiny_act

from hlrp.evaluation.request import EvalRequest, Listener
from hlrp.evaluation.run import evaluate


def test_an_only_camera_needs_no_renaming(pusht, tmp_path):
    """PushT's camera has no name in LeRobot; what is seen under either name is the same."""
    notes: list[str] = []

    class Told(Listener):
        def note(self, text):
            notes.append(text)

    named = save_tiny_act(tmp_path / "named", "pusht", camera="observation.images.front")
    returns = []
    for policy in (pusht, named):
        fields = {"episode_length": 3}
        request = EvalRequest(policy, "pusht", episodes=1, videos=0, env_fields=fields, output=tmp_path / policy.name)
        returns.append([e.total_reward for e in evaluate(request, listener=Told()).episodes])
    assert returns[0] == returns[1]
    line = "camera observation.image is taken for observation.images.front: there is one on each side"
    assert [note for note in notes if "camera" in note] == [line]
