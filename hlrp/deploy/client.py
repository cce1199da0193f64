"""A client that shows recorded observations to a server, and measures its answers: how late, how far from recorded.

Speaks openpi's protocol as a robot would, and needs no torch.
"""

import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.sync.client import connect

from hlrp.camera_names import rename_pairs, with_only_camera
from hlrp.data.columns import read_column
from hlrp.data.dataset_info import DatasetInfo, check_episodes, feature_names, read_dataset
from hlrp.data.episodes import Episodes, read_episodes
from hlrp.data.readers import DirectReader
from hlrp.deploy.access import SCHEME, client_tls, parse_address
from hlrp.deploy.latencies import percentiles
from hlrp.deploy.protocol import UnreadableError, pack, unpack
from hlrp.errors import UserError, WorkError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ANSWER_S = 120.0
_LARGEST_ANSWER = 64 << 20
_EPISODES = 3


class PolicyClient:
    """A connection to a policy server; a context. `metadata` is what the server says of its policy.

    Args:
        address: `HOST:PORT`, `ws://HOST:PORT` or `wss://HOST:PORT`.
        token: What the server asks for; None: nothing.
        certificate: The one to trust with `wss`; None: those of the system.

    Raises:
        UserError: Nothing answers there, it is no policy server, or it asks for another token.
    """

    def __init__(self, address: str, *, token: str | None = None, certificate: Path | None = None) -> None:
        url, _, tls = parse_address(address)
        self._open = ExitStack()
        try:
            self._connection = self._open.enter_context(
                connect(
                    url,
                    ssl=client_tls(certificate) if tls else None,
                    additional_headers={"Authorization": f"{SCHEME} {token}"} if token else None,
                    compression=None,
                    max_size=_LARGEST_ANSWER,
                    proxy=None,
                )
            )
            self.metadata: dict[str, Any] = self._receive()
        except InvalidStatus as error:
            raise _refused(url, error.response.status_code) from error
        except (OSError, InvalidHandshake, InvalidMessage, EOFError, WorkError) as error:
            raise UserError(f"no policy server answers: {error}", where=url, fix=_way_to(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """What the server answers to an observation: `actions`, float32 `[n, A]`, and `server_timing`.

        Raises:
            WorkError: It refuses the observation, or the connection breaks.
        """
        try:
            self._connection.send(pack(observation))
            return self._receive()
        except ConnectionClosed as error:
            raise WorkError(f"the server closed the connection: {error}") from error

    def _receive(self) -> dict[str, Any]:
        try:
            message = self._connection.recv(_ANSWER_S)
            answer = None if isinstance(message, str) else unpack(message)
        except TimeoutError as error:
            raise WorkError(f"the server has not answered for {_ANSWER_S:g} s") from error
        except (UnreadableError, ConnectionClosed) as error:
            raise WorkError(f"the server's answer cannot be read: {error}") from error
        if isinstance(message, str):
            raise WorkError(f"the server refuses: {message}")
        if not isinstance(answer, dict):
            raise WorkError("the server's answer is no map")
        return answer


def _way_to(failure: Exception) -> str:
    if isinstance(failure, ssl.SSLCertVerificationError):
        return "a server is there: name the certificate that it serves with by --certificate FILE"
    if isinstance(failure, InvalidMessage):
        return "if it serves with TLS, write wss:// before ADDRESS; else correct ADDRESS"
    return "start one with `hlrp serve RUN`, or correct ADDRESS"


def _refused(url: str, status: int) -> UserError:
    if status == 401:
        return UserError("the server refuses the token, or asks for one", where=url, fix="give its --token-file")
    if status == 503:
        return UserError("all connections of the server are taken", where=url, fix="serve with a larger --max-clients")
    return UserError(f"the server refuses with status {status}", where=url, fix="give the address of `hlrp serve`")


@dataclass
class Replay:
    """What a replay has measured.

    Args:
        metadata: The server's.
        episodes: Which were replayed.
        frames: Recorded steps that an action was given for.
        requests: Observations that were sent.
        round_trip: Seconds of every request, as the client waits.
        inference: Seconds of the policy alone, as the server says.
        names: Of the action's numbers.
        predicted: Actions of the server, `[frames, A]`.
        recorded: Actions of the dataset, the same.
    """

    metadata: dict[str, Any]
    episodes: list[int]
    names: list[str]
    frames: int = 0
    requests: int = 0
    round_trip: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    predicted: "list[NDArray[Any]]" = field(default_factory=list)
    recorded: "list[NDArray[Any]]" = field(default_factory=list)

    def errors(self) -> list[dict[str, Any]]:
        """Per number of the action: mean absolute and root mean square error, and the recorded standard deviation."""
        recorded = np.concatenate(self.recorded).astype(np.float64)
        off = np.concatenate(self.predicted).astype(np.float64) - recorded
        columns = zip(self.names, np.abs(off).mean(0), np.sqrt((off**2).mean(0)), recorded.std(0), strict=True)
        return [
            {"name": name, "mae": float(mae), "rmse": float(rmse), "recorded_std": float(std)}
            for name, mae, rmse, std in columns
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it but the actions themselves."""
        return {
            "metadata": self.metadata,
            "episodes": self.episodes,
            "frames": self.frames,
            "requests": self.requests,
            "round_trip": percentiles(self.round_trip),
            "inference": percentiles(self.inference),
            "action_error": self.errors(),
        }


def replay_dataset(
    client: PolicyClient, root: Path, episodes: list[int] | None, announce: Callable[[str], None]
) -> Replay:
    """Show the recorded observations of episodes to a server, and compare its actions with the recorded ones.

    Open loop: what the policy would have done changes nothing of what it sees next. After an answer of n actions the
    observation n steps later is shown, as a robot would that executes them all.

    Args:
        client: The connection; a new episode of the policy begins with each recorded one.
        root: A LeRobotDataset.
        episodes: Which; None: the first three.
        announce: Given a line for each.

    Raises:
        UserError: The dataset lacks what the policy reads, or has other actions.
        WorkError: The server refuses an observation.
    """
    info = read_dataset(None, root, where="--dataset-root")
    check_episodes(info, episodes)
    table = read_episodes(info)
    chosen = table.present[:_EPISODES] if episodes is None else episodes
    recording = _Recording(info, table, chosen, client.metadata, announce)
    replay = Replay(client.metadata, chosen, recording.names)
    for episode in chosen:
        before = replay.requests
        _replay_episode(client, recording, episode, replay)
        announce(f"episode {episode}: {int(table.lengths[episode])} frames, {replay.requests - before} requests")
    if not replay.recorded:
        raise UserError("no frame of these episodes has an action", where=str(root), fix="give other --episodes")
    return replay


def _replay_episode(client: PolicyClient, recording: "_Recording", episode: int, replay: Replay) -> None:
    start, end = int(recording.table.start[episode]), int(recording.table.end[episode])
    index = start
    while index < end:
        observation = recording.observation(index, episode) | {"reset": index == start}
        began = time.perf_counter()
        answer = client.infer(observation)
        replay.round_trip.append(time.perf_counter() - began)
        actions = answer.get("actions")
        if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.shape[1] != len(recording.names):
            raise WorkError("the server answers with no actions of the size that it announced")
        replay.inference.append(float(answer.get("server_timing", {}).get("infer_ms", np.nan)) / 1e3)
        recorded = recording.actions[index : min(index + len(actions), end)]
        labelled = np.isfinite(recorded).all(1)
        if labelled.any():
            replay.recorded.append(recorded[labelled])
            replay.predicted.append(actions[: len(recorded)][labelled])
        replay.requests += 1
        replay.frames += len(recorded)
        index += len(actions)


class _Recording:
    """What a policy reads of a dataset, frame by frame."""

    def __init__(
        self,
        info: DatasetInfo,
        table: Episodes,
        episodes: list[int],
        metadata: dict[str, Any],
        announce: Callable[[str], None],
    ) -> None:
        wanted, action = metadata.get("observation"), metadata.get("action")
        if not isinstance(wanted, dict) or not isinstance(action, dict):
            raise UserError(
                "the server does not say what its policy reads", where="ADDRESS", fix="replay against `hlrp serve`"
            )
        own = {name: name for name in (*wanted, "action")}
        own |= {name: mine for mine, name in with_only_camera(info.cameras, wanted, {}, announce).items()}
        missing = [name for name, mine in own.items() if mine not in info.features]
        sees = any(own[name] in info.cameras for name in wanted)
        blind = [name for name in missing if sees and name in wanted and wanted[name].get("optional")]
        for name in blind:
            announce(f"the dataset has no {name}: the policy, which was trained on a mixture, sees without it")
        wanted = {name: said for name, said in wanted.items() if name not in blind}
        missing = [name for name in missing if name not in blind]
        if missing:
            unused = [name for name in info.features if name not in own]
            pairs = [f"--rename-map {pair}" for pair in rename_pairs(unused, missing)]
            raise UserError(
                f"the policy reads {', '.join(wanted)}; the dataset has no {', '.join(missing)}",
                where=str(info.root),
                fix="replay data of the same robot"
                + (f", or name it where it is served: hlrp serve ... {' '.join(pairs)}" if pairs else ""),
            )
        self.table = table
        self._readers = {n: DirectReader(table, own[n]) for n in wanted if own[n] in info.cameras}
        self._columns = {n: read_column(info, n, episodes) for n in wanted if n not in self._readers}
        self.actions = read_column(info, "action", episodes)
        size = self.actions.shape[1]
        if action.get("shape") != [size]:
            raise UserError(
                f"the policy gives actions of shape {action.get('shape')}, the dataset has {[size]}",
                where=str(info.root),
                fix="replay data of the same robot",
            )
        self.names = feature_names(info.features["action"], size) or [str(number) for number in range(size)]

    def observation(self, index: int, episode: int) -> dict[str, Any]:
        """The message for a frame: pictures uint8 `[H, W, C]`, numbers float32, the episode's instruction."""
        found: dict[str, Any] = {"prompt": self.table.task[episode]}
        for name, reader in self._readers.items():
            found[name] = reader.read(np.asarray([index]))[0].transpose(1, 2, 0)
        return found | {name: values[index] for name, values in self._columns.items()}
