"""The server on real sockets: each client has the policy to itself, and no message of a stranger does harm."""

import asyncio
import copy
import random
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from lerobot.processor import ProcessorStep
from make_dataset import make_dataset
from openpi import OpenpiClient, packb
from serving import acted, in_process, observations, running
from tiny_policies import DIFFUSION, save_tiny
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from hlrp.deploy.client import PolicyClient, replay_dataset
from hlrp.deploy.protocol import MessageError
from hlrp.deploy.served import Served, load_served
from hlrp.deploy.server import PolicyServer, ServerSettings
from hlrp.deploy.session import Session
from hlrp.errors import UserError

TOKEN = "a-token-of-the-tests"
DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are split over threads: only with as many everywhere are they bit for bit the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_eight_clients_at_once_each_get_what_they_would_alone(ensembled: Path) -> None:
    shown = [observations(6, seed=client) for client in range(8)]
    alone = [in_process(ensembled, one) for one in shown]
    found: dict[int, Any] = {}
    with running(load_served(ensembled, device="cpu")) as server:

        def work(number: int) -> None:
            with OpenpiClient(server.address) as client:
                first = acted(client, shown[number])
                client.infer({"reset": True})
                found[number] = (first, acted(client, shown[number]))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len({array.tobytes() for array in alone}) == 8
    for number in range(8):
        # An episode that begins anew on the same connection is the first one again.
        assert [np.array_equal(actions, alone[number]) for actions in found[number]] == [True, True]


def test_noise_and_history_are_those_of_one_process(tmp_path: Path) -> None:
    """Two clients in turn on a policy that draws noise and looks at the observation before."""
    folder = save_tiny("diffusion", tmp_path / "pretrained_model", fields=DIFFUSION)
    shown = [observations(15, seed=client) for client in range(2)]
    wanted = [in_process(folder, one, seed=7) for one in shown]
    found: list[list[np.ndarray]] = [[], []]
    lengths = []
    with (
        running(load_served(folder, device="cpu"), seed=7) as server,
        OpenpiClient(server.address) as one,
        OpenpiClient(server.address) as other,
    ):
        for _ in range(6):
            for client, actions, recorded in zip((one, other), found, shown, strict=True):
                if len(actions) < len(recorded):
                    answer = client.infer(recorded[len(actions)])["actions"]
                    actions += list(answer)
                    lengths.append(len(answer))
    # A chunk of 6 lasts until the last observation before the next one, which that looks at too.
    assert lengths == [5, 5, 1, 1] * 2 + [5, 5]
    for actions, expected in zip(found, wanted, strict=True):
        assert np.array_equal(np.stack(actions)[:15], expected)


def _broken(rng: random.Random, good: bytes) -> bytes | str:
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return good[: rng.randrange(len(good))]
    if kind == 2:
        return "a text frame" * rng.randrange(20)
    if kind == 3:
        shape = [rng.randrange(1 << rng.randrange(1, 63)) for _ in range(3)]
        array = {b"__ndarray__": True, b"data": b"1234", b"dtype": rng.choice(["<f4", "|O", "<M8[s]"]), b"shape": shape}
        return msgpack.packb({"observation.image": array})
    if kind == 4:
        return packb({**observations(1)[0], "observation.state": np.array([np.nan, rng.random()], np.float32)})
    if kind == 5:
        return packb({**observations(1)[0], "observation.image": np.zeros((rng.randrange(1, 9), 96, 3), np.uint8)})
    # Names, types and shapes lie around the picture; what is left may still be an observation.
    spoiled, ends = bytearray(good), [*range(80), *range(len(good) - 100, len(good))]
    for position in rng.sample(ends, 3):
        spoiled[position] = rng.randrange(256)
    return bytes(spoiled)


def test_hundreds_of_broken_messages_change_nothing(
    act: Path, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng, shown, before = random.Random(0), observations(20), _files(act.parent)
    good, closed, refused = packb(shown[0]), 0, 0
    with (
        running(served, token=TOKEN, max_message_bytes=1 << 20) as server,
        OpenpiClient(server.address, TOKEN) as friend,
    ):
        stranger = OpenpiClient(server.address, TOKEN).socket
        for _ in range(300):
            stranger.send(_broken(rng, good))
            answer = stranger.recv(timeout=30)
            if isinstance(answer, str):
                assert "Traceback" not in answer and ".py" not in answer, answer
                assert not any(str(folder) in answer for folder in (act, tmp_path, Path.home())), answer
                refused += 1
            try:
                # Readable but unfit: the connection stays.
                stranger.send(packb({"reset": True}))
                assert msgpack.unpackb(stranger.recv(timeout=30)) == {"__ack__": "reset"}
            except ConnectionClosed:
                closed += 1
                stranger = OpenpiClient(server.address, TOKEN).socket
        stranger.send(bytes(2 << 20))
        with pytest.raises(ConnectionClosed, match="1009"):
            stranger.recv(timeout=30)
        for wrong in (None, "another-token-of-tests", TOKEN + "\xe9"):
            with pytest.raises(InvalidStatus, match="401"):
                OpenpiClient(server.address, wrong)
        friends = acted(friend, shown)
    assert refused > 285 and 150 < closed < 270
    assert np.array_equal(friends, in_process(act, shown))
    assert list(tmp_path.iterdir()) == [] and TOKEN not in "".join(server.log)
    assert _files(act.parent) == before


def _files(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in folder.rglob("*")}


def test_health_pages_of_browsers_and_too_many_clients(served: Served) -> None:
    with running(served, max_clients=1) as server:
        page = server.address.replace("ws://", "http://")
        with urllib.request.urlopen(f"{page}/healthz", timeout=10) as answer:
            assert (answer.status, answer.read()) == (200, b"OK\n")
        with pytest.raises(InvalidStatus, match="403"):
            connect(server.address, origin="http://evil.example", proxy=None)
        with OpenpiClient(server.address), pytest.raises(InvalidStatus, match="503"):
            OpenpiClient(server.address)
        for _ in range(100):
            try:
                with OpenpiClient(server.address) as client:
                    assert acted(client, observations(2)).shape == (2, 2)
                break
            except InvalidStatus:
                time.sleep(0.05)  # the one before is just leaving
        else:
            pytest.fail("a place that was given back is not free")


def test_a_policy_that_fails_is_one_answer_and_the_others_go_on(act: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = load_served(act, device="cpu")
    predict, shown = type(served.loaded.policy).predict_action_chunk, observations(3)

    def moody(self: Any, batch: dict[str, Any]) -> Any:
        # The state that makes it fail is told from the others after normalisation.
        if batch["observation.state"].max() > 5:
            raise RuntimeError(f"a secret of {act}")
        return predict(self, batch)

    monkeypatch.setattr(type(served.loaded.policy), "predict_action_chunk", moody)
    bad = {**shown[0], "observation.state": np.array([9999, 9999], np.float32)}
    with running(served) as server, OpenpiClient(server.address) as friend:
        friend.infer(shown[0])
        with OpenpiClient(server.address) as client:
            with pytest.raises(
                RuntimeError, match=r"^the policy failed on this observation; the server's log says why$"
            ):
                client.infer(bad)
            with pytest.raises(ConnectionClosed, match="1011"):
                client.infer(shown[0])
        assert np.array_equal(acted(friend, shown), in_process(act, shown))
    assert any(f"a secret of {act}" in line for line in server.log)


def test_what_a_client_is_told_first_and_what_the_log_says(served: Served) -> None:
    with running(served, log_every=2) as server, OpenpiClient(server.address) as client:
        said = client.metadata
        numbers = {"dtype": "float32", "shape": [2], "names": None, "low": [0, 0], "high": [512, 512]}
        assert said["policy"] == "act" and said["action"] == numbers
        assert said["observation"] == {
            "observation.image": {"dtype": "uint8", "shape": [96, 96, 3], "resized": False},
            "observation.state": numbers,
        }
        assert (said["chunk_size"], said["n_action_steps"], said["prompt"]) == (10, 10, "unused")
        assert len(said["run"]["weights_sha256"]) == 64
        for number in range(4):
            answer = client.infer({**observations(1)[0], "extra": 1})
            assert answer["actions"].shape == (10, 2) and answer["server_timing"]["infer_ms"] > 0
            assert ("prev_total_ms" in answer["server_timing"]) == (number > 0)
    assert sum(line == "client 1: the policy has no use for 'extra'" for line in server.log) == 1
    assert [line.split(";")[0] for line in server.log if line.startswith("requests")] == [
        "requests 2",
        "requests 4",
        "requests 4 in all",
    ]


def test_an_only_camera_is_known_under_another_name_and_the_log_says_so(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, front = observations(3), "observation.images.front"
    renamed = [{name.replace("observation.image", front): value for name, value in one.items()} for one in shown]
    data = make_dataset(tmp_path / "data", size=96, length=12, episodes=1, action_dim=2, camera=front)
    said: list[str] = []
    with running(served) as server:
        with OpenpiClient(server.address) as client:
            expected = acted(client, shown)
            client.infer({"reset": True})
            assert np.array_equal(acted(client, renamed), expected)
        with PolicyClient(server.address) as replaying:
            assert replay_dataset(replaying, data, None, said.append).frames == 12
        (tmp_path / "token").write_text("any: this server asks for none\n")
        page = DEPLOY.read_text(encoding="utf8").partition("### A client in Python")[2]
        code = page.partition("```python\n")[2].partition("```")[0].replace("robot-server:8000", server.address)
        names: dict[str, Any] = {"picture": shown[0]["observation.image"], "state": shown[0]["observation.state"]}
        monkeypatch.chdir(tmp_path)
        exec(code, names)
        assert np.array_equal(names["answer"]["actions"][:3], expected)
    line = f"camera {front} is taken for observation.image: there is one on each side"
    assert server.log.count(f"client 1: {line}") == 1
    assert said[0] == line


def test_what_cannot_be_served_is_refused(act: Path, served: Served) -> None:
    with pytest.raises(UserError, match="no input 'b'"):
        load_served(act, device="cpu", rename={"a": "b"})
    with running(served) as server:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            asyncio.run(PolicyServer(served, ServerSettings(port=port), print).run(asyncio.Event(), print))
    stubborn = copy.copy(served.loaded)
    stubborn.preprocessor = copy.copy(stubborn.preprocessor)
    stubborn.preprocessor.steps = [*stubborn.preprocessor.steps, _Uncopied()]
    with pytest.raises(UserError, match="cannot each have a state of their own: no copies"):
        Session(stubborn)
    assert Session(stubborn, alone=True)


class _Uncopied(ProcessorStep):
    def __deepcopy__(self, memo: object) -> Any:
        raise TypeError("no copies")

    def __call__(self, transition: Any) -> Any:
        return transition

    def transform_features(self, features: Any) -> Any:
        return features


def test_an_instruction_reaches_the_policy_and_its_pictures_may_have_any_size(tmp_path: Path) -> None:
    import sys

    sys.path.append(str(Path(__file__).parents[1] / "bundle"))
    from bundle_toys import make_policy
    from lerobot.policies.factory import make_pre_post_processors

    policy, ones = make_policy("hlrp_action_expert_direct"), torch.ones
    numbers = {name: {"mean": ones(n), "std": ones(n)} for name, n in (("observation.state", 2), ("action", 3))}
    for part in (policy, *make_pre_post_processors(policy.config, dataset_stats=numbers)):
        part.save_pretrained(tmp_path / "pretrained_model")
    served = load_served(tmp_path, device="cpu")
    assert served.metadata["prompt"] == "needed"
    assert served.metadata["observation"]["observation.images.front"]["resized"] is True
    message = {"images": {"front": np.zeros((100, 120, 3), np.uint8)}, "state": [0.0, 1.0]}
    with pytest.raises(MessageError, match="reads an instruction"):
        served.reader.read(message)
    session = Session(served.loaded, seed=3)
    found = []
    for prompt in ("push", "pull the lever", "push"):
        session.begin_episode()
        found.append(session.act(served.reader.read({**message, "prompt": prompt})))
    assert found[0].shape == (4, 3)
    assert np.array_equal(found[0], found[2]) and not np.array_equal(found[0], found[1])
    shared = {id(parameter) for parameter in served.loaded.policy.parameters()}
    assert {id(parameter) for parameter in session._policy.parameters()} == shared
