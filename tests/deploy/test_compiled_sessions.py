"""A compiled policy is served compiled, by one compilation for all clients, each of which has an episode of its own."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from torch import nn
from torch._dynamo.utils import counters

from hlrp.deploy.served import Served, load_served
from hlrp.deploy.server import PolicyServer, ServerSettings
from hlrp.deploy.session import Session


@pytest.fixture(autouse=True)
def _cheaply_compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the C++ that PyTorch would write; what is compiled is counted all the same."""

    def cheap(module: Any, **options: Any) -> None:
        module._compiled_call_impl = torch.compile(module._call_impl, dynamic=False, backend="eager", fullgraph=True)

    monkeypatch.setattr(nn.Module, "compile", cheap)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def serve(folder: Path, **fields: Any) -> Served:
    sys.path.append(str(Path(__file__).parents[1] / "bundle"))
    from bundle_toys import make_policy

    policy = make_policy("hlrp_action_expert_direct", **fields)
    numbers = {n: {"mean": torch.ones(k), "std": torch.ones(k)} for n, k in (("observation.state", 2), ("action", 3))}
    for part in (policy, *make_pre_post_processors(policy.config, dataset_stats=numbers)):
        part.save_pretrained(folder)
    return load_served(folder, device="cpu")


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def test_clients_share_what_is_compiled_and_no_episode(tmp_path: Path) -> None:
    plain, served = serve(tmp_path / "plain"), serve(tmp_path / "compiled", compile_model=True)
    served.loaded.policy.load_state_dict(plain.loaded.policy.state_dict())
    frames = [np.full((100, 120, 3), level, np.uint8) for level in (0, 90, 180)]
    # Instructions of another length are compiled for themselves.
    message = {"state": [0.0, 1.0], "prompt": served.reader.example_prompt}
    shown = [served.reader.read({**message, "images": {"front": frame}}) for frame in frames]
    PolicyServer(served, ServerSettings(), print)._warm_up()
    # A layer of the picture encoder, the language model, the denoising step.
    assert graphs() == 3
    alone = [Session(plain.loaded, seed=seed) for seed in (3, 4)]
    expected = [[session.act(request) for request in shown] for session in alone]
    one, other = (Session(served.loaded, seed=seed) for seed in (3, 4))
    found: list[list[Any]] = [[], []]
    for request in shown:
        for session, actions in zip((one, other), found, strict=True):
            actions.append(session.act(request))
    assert graphs() == 3, "of the warm-up, and none for a client"
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(np.subtract(*found)).min() > 0, "the noise of each is its own"
    one._policy._action_queue.append(torch.zeros(1, 3))
    other.begin_episode()
    assert len(one._policy._action_queue) == 1 and not served.loaded.policy._action_queue
