"""`hlrp serve` and `hlrp client` as a person runs them: a process of its own, real sockets, recorded episodes."""

import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import assert_user_error, hlrp_argv, hlrp_in_turn
from make_dataset import make_dataset
from tiny_policies import save_tiny_act
from websockets.exceptions import ConnectionClosed

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))
from openpi import OpenpiClient
from serving import acted, in_process, observations

TOKEN = "a-token-of-the-tests"
PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"


def of_the_page(command: str, names: dict[str, str | Path]) -> list[str | Path]:
    """A command of the page on serving, without what is in brackets, and with what its capitals stand for."""
    section = PAGE.read_text(encoding="utf8").partition("## Serving a policy\n")[2].partition("\n## ")[0]
    lines = [re.sub(r" \[.*?\]", "", line) for line in re.findall(r"^    hlrp (.+)$", section, re.MULTILINE)]
    assert command in lines, lines
    return [names.get(word, word) for word in command.split()]


@pytest.fixture(scope="module")
def act(tmp_path_factory) -> Path:
    return save_tiny_act(tmp_path_factory.mktemp("act") / "pretrained_model")


@pytest.fixture(scope="module")
def token(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@contextmanager
def serving(*args: str | Path, cwd: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address of a server, and its process."""
    argv = hlrp_argv("serve", *args, "--port", "0", "--device", "cpu")
    with subprocess.Popen(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            ready = process.stdout.readline()
            assert ready.startswith("ready    "), ready + process.stderr.read()
            yield ready.split()[1], process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    pair = ["-keyout", "key.pem", "-out", "certificate.pem"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *pair, *names]
    try:
        subprocess.run(made, cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    return folder / "certificate.pem"


def test_a_server_with_tls_and_a_token_from_its_start_to_ctrl_c(act, token, certificate, tmp_path):
    """openpi's client gets the actions of one process bit for bit, `hlrp client` the errors of those actions."""
    root = make_dataset(tmp_path / "data", size=96, action_dim=2, length=12, episodes=2)
    shown, before = observations(200), torch.get_num_threads()
    torch.set_num_threads(1)
    alone, off = in_process(act, shown), _open_loop(act, root)
    torch.set_num_threads(before)
    (tmp_path / "empty").mkdir()
    tls = ["--certificate", certificate, "--key", certificate.with_name("key.pem")]
    flags = ["--token-file", token, *tls, "--log-every", "10"]
    with serving(*of_the_page("serve RUN", {"RUN": act})[1:], *flags, cwd=tmp_path / "empty") as (address, process):
        assert address.startswith("wss://127.0.0.1:")
        client = OpenpiClient(address, TOKEN, ssl.create_default_context(cafile=certificate))
        served = acted(client, shown)
        of_the_page("client 127.0.0.1:8000 --dataset-root DIR", {})
        usual = [*of_the_page("client ADDRESS --dataset-root DIR", {"ADDRESS": address, "DIR": root}), "--json"]
        plain = ["ws" + word[3:] if word == address else word for word in usual]
        found, refused, distrusted, unencrypted = hlrp_in_turn(
            [
                [*usual, "--token-file", token, "--certificate", certificate],
                [*usual, "--certificate", certificate],
                [*usual, "--token-file", token],
                plain,
            ]
        )
        process.send_signal(signal.SIGINT)
        with client, pytest.raises(ConnectionClosed, match="1001"):
            client.socket.recv(timeout=60)
        out, err = process.communicate(timeout=60)
    assert served.dtype == alone.dtype and np.array_equal(served, alone)
    assert found.code == 0, found.err
    assert not found.heavy & {"torch", "lerobot"}, "the client works where neither is installed"
    said = found.json()
    assert (said["episodes"], said["frames"], said["requests"]) == ([0, 1], 24, 4)
    assert 0 < said["inference"]["p50_ms"] < said["round_trip"]["p50_ms"]
    assert [row["name"] for row in said["action_error"]] == ["0", "1"]
    assert [row["mae"] for row in said["action_error"]] == pytest.approx(np.abs(off).mean(0).tolist(), rel=1e-5)
    assert [row["rmse"] for row in said["action_error"]] == pytest.approx(np.sqrt((off**2).mean(0)).tolist(), rel=1e-5)
    assert_user_error(refused, "refuses the token", "--token-file")
    assert_user_error(distrusted, "no policy server answers", "by --certificate FILE")
    assert_user_error(unencrypted, "no policy server answers", "write wss:// before ADDRESS")
    assert process.returncode == 130 and out == ""
    assert re.search(r"^requests 10; inference p50 [\d.]+ ms, p99 [\d.]+ ms; request p50", err, re.MULTILINE)
    assert re.search(r"^requests 24 in all; inference p50", err, re.MULTILINE)
    assert err.endswith("stopped: SIGINT\n") and "Traceback" not in err and TOKEN not in err
    assert list((tmp_path / "empty").iterdir()) == []


def _open_loop(folder: Path, root: Path) -> np.ndarray:
    """Errors of the policy's actions on LeRobot's own items, in process."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset, off = LeRobotDataset(root.name, root=root), []
    for episode in range(2):
        items: list[dict[str, Any]] = [dataset[episode * 12 + step] for step in range(12)]
        shown = [
            {
                "observation.image": (item["observation.image"] * 255).round().byte().permute(1, 2, 0).numpy(),
                "observation.state": item["observation.state"].numpy(),
            }
            for item in items
        ]
        off.append(in_process(folder, shown) - np.stack([item["action"].numpy() for item in items]))
    return np.concatenate(off)


def test_mistakes_are_one_message(act, token, tmp_path):
    short = tmp_path / "short"
    short.write_text("1234")
    (tmp_path / "key.pem").write_text("no key")
    root = make_dataset(tmp_path / "data", size=64, length=3, episodes=1)
    pem = tmp_path / "key.pem"
    cases = [
        (["serve", tmp_path / "nowhere"], ["does not exist"]),
        (["serve", act, "--host", "0.0.0.0"], ["needs a token", "--host 0.0.0.0", "--token-file FILE"]),
        (["serve", act, "--host", "robot.example"], ["needs a token"]),
        (["serve", act, "--token-file", tmp_path / "none"], ["cannot be read", "--token-file"]),
        (["serve", act, "--token-file", short], ["at least 16 characters, this one has 4"]),
        (["serve", act, "--certificate", pem], ["--certificate has no effect without --key"]),
        (["serve", act, "--certificate", pem, "--key", pem], ["the certificate and its key cannot be used"]),
        (["serve", act, "--rename-map", "a"], ["'a' is not ENV_KEY=POLICY_KEY"]),
        (["client", "nonsense", "--dataset-root", root], ["no address of a policy server", "127.0.0.1:8000"]),
        (["client", "ftp://a:1", "--dataset-root", root], ["no address of a policy server"]),
        (["client", "127.0.0.1:1", "--dataset-root", root], ["no policy server answers", "hlrp serve"]),
        (["client", "127.0.0.1:1", "--dataset-root", root, "--certificate", pem], ["no effect without TLS"]),
    ]
    for (_, mentions), done in zip(cases, hlrp_in_turn([args for args, _ in cases]), strict=True):
        assert_user_error(done, *mentions)
        assert not done.heavy & {"torch", "lerobot"}, "said before anything heavy is imported"


def test_without_the_packages_the_extra_is_named(act):
    code = "import sys; sys.modules['msgpack'] = None; from hlrp_cli.main import run; run()"
    argv = [sys.executable, "-c", code, "serve", str(act)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2, done.stderr
    assert "msgpack must be installed" in done.stderr and "lerobot_policy_felix_bundle[serve]" in done.stderr
