"""The server of a policy: openpi's websocket protocol in front of one worker thread that does all inference."""

import asyncio
import contextlib
import hmac
import http
import itertools
import logging
import signal
import ssl
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request as HandshakeRequest
from websockets.http11 import Response

from hlrp.deploy.access import SCHEME, server_url
from hlrp.deploy.latencies import Latencies
from hlrp.deploy.protocol import MessageError, UnreadableError, pack, unpack
from hlrp.deploy.served import Served
from hlrp.deploy.session import Session
from hlrp.errors import Interrupted, UserError
from hlrp.processes import leave_closed_terminal, stop_signals

HEALTH = "/healthz"
_WARM_UP = 2
# Refusals of one client that are written to the log; a flood of them must not fill a disk.
_REFUSALS_LOGGED = 3
_LINES_LOGGED = 8
# How long clients are waited for to say goodbye.
_CLOSE_S = 3.0


@dataclass(frozen=True)
class ServerSettings:
    """How a policy is served.

    Args:
        host: Address to listen on.
        port: Port; 0: any free one.
        token: What clients have to show; None: nothing.
        tls: Certificate and key; None: no encryption.
        max_clients: Connections at a time.
        max_message_bytes: Largest message that is read.
        log_every: Requests between two lines of latencies.
        seed: Start of the random numbers of every episode; None: not set.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    tls: ssl.SSLContext | None = None
    max_clients: int = 16
    max_message_bytes: int = 32 << 20
    log_every: int = 1000
    seed: int | None = None


@dataclass
class _Client:
    number: int
    session: Session | None = None
    refused: int = 0
    said: set[str] = field(default_factory=set)
    previous_s: float | None = None


@dataclass(frozen=True)
class _Answer:
    payload: memoryview | str
    close: CloseCode | None = None
    inference_s: float | None = None


class PolicyServer:
    """Serves one policy to several clients, each with a state of its own.

    Args:
        served: The policy.
        settings: How.
        log: Given a line of text at a time, from any thread.
    """

    def __init__(self, served: Served, settings: ServerSettings, log: Callable[[str], None]) -> None:
        self.latencies = Latencies()
        self._served, self._settings, self._log = served, settings, log
        self._hello = pack(served.metadata)
        self._clients: dict[int, _Client] = {}
        self._numbers = itertools.count(1)
        self._stopping = False
        # All of torch in one thread: requests take turns, and what it keeps per thread is warmed up once.
        self._worker = ThreadPoolExecutor(1, "inference")

    async def run(self, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
        """Warm the policy up, listen, and answer until ``stop`` is set.

        Args:
            stop: Ends it.
            ready: Given the address once clients can connect.

        Raises:
            UserError: The address cannot be listened on, or the policy cannot be copied for each client.
        """
        loop = asyncio.get_running_loop()
        try:
            took = await loop.run_in_executor(self._worker, self._warm_up)
            self._log(f"warm     {_WARM_UP} inferences, the last in {took * 1e3:.1f} ms")
            if stop.is_set():
                return
            server = await self._listen()
            port = server.sockets[0].getsockname()[1]
            ready(server_url(self._settings.host, port, tls=self._settings.tls is not None))
            await stop.wait()
            self._stopping = True
            server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.wait_closed(), _CLOSE_S)
        finally:
            # An inference that still runs is waited for by the interpreter's exit.
            self._worker.shutdown(wait=False, cancel_futures=True)
        if self.latencies.count:
            self._log(f"requests {self.latencies.count} in all; {self.latencies.line()}")

    async def _listen(self) -> Server:
        logger = logging.getLogger("hlrp.serve.websockets")
        # Its own words for strangers' mistakes are tracebacks, and any number of them.
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        settings = self._settings
        try:
            return await serve(
                self._serve_client,
                settings.host,
                settings.port,
                ssl=settings.tls,
                # Web pages say where they come from, robots do not: no page in a browser here may drive the policy.
                origins=[None],
                compression=None,
                max_size=settings.max_message_bytes,
                # Each client waits for its answers, so that one message ahead is plenty to hold.
                max_queue=1,
                process_request=self._admit,
                logger=logger,
            )
        except OSError as error:
            raise UserError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
                where="--host, --port",
                fix="choose another --port, or end what uses it; --port 0 takes a free one",
            ) from error

    def _warm_up(self) -> float:
        alone = self._settings.max_clients == 1
        request = self._served.reader.read(unpack(pack(self._served.example())))
        session = Session(self._served.loaded, seed=self._settings.seed, alone=alone)
        took = 0.0
        for _ in range(_WARM_UP):
            session.begin_episode()
            began = time.perf_counter()
            session.act(request)
            took = time.perf_counter() - began
        return took

    def _admit(self, connection: ServerConnection, request: HandshakeRequest) -> Response | None:
        """Answer a request for a page, or refuse a stranger, before it is a websocket."""
        if request.path == HEALTH:
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._settings.token is not None and not self._shows_token(request):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, f"a token is needed: Authorization: {SCHEME} TOKEN\n"
            )
        if len(self._clients) >= self._settings.max_clients:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "all connections are taken\n")
        return None

    def _shows_token(self, request: HandshakeRequest) -> bool:
        assert self._settings.token is not None
        given = request.headers.get_all("Authorization")
        expected = f"{SCHEME} {self._settings.token}"
        return len(given) == 1 and hmac.compare_digest(given[0].encode(errors="replace"), expected.encode())

    async def _serve_client(self, connection: ServerConnection) -> None:
        client = _Client(next(self._numbers))
        if len(self._clients) >= self._settings.max_clients:
            # It was let in while another one was on its way.
            await connection.close(CloseCode.TRY_AGAIN_LATER)
            return
        self._clients[client.number] = client
        address = (connection.remote_address or ("?",))[0]
        self._log(f"client {client.number} connected from {address}")
        # The client may go at any moment.
        with contextlib.suppress(ConnectionClosed):
            try:
                await connection.send(self._hello)
                await self._converse(connection, client)
            finally:
                del self._clients[client.number]
                more = f", {client.refused} messages refused" if client.refused else ""
                self._log(f"client {client.number} disconnected{more}")

    async def _converse(self, connection: ServerConnection, client: _Client) -> None:
        loop = asyncio.get_running_loop()
        async for message in connection:
            began = time.perf_counter()
            answer = await loop.run_in_executor(self._worker, self._answer, client, message)
            await connection.send(answer.payload)
            client.previous_s = time.perf_counter() - began
            if answer.inference_s is not None:
                self._count(answer.inference_s, client.previous_s)
            if answer.close is not None:
                await connection.close(answer.close)
                return

    def _count(self, inference: float, request: float) -> None:
        self.latencies.add(inference, request)
        if self.latencies.count % self._settings.log_every == 0:
            line = self.latencies.line(self._settings.log_every)
            self._log(f"requests {self.latencies.count}; {line}; clients {len(self._clients)}")

    def _answer(self, client: _Client, message: bytes | str) -> _Answer:
        """What to send back, and whether to go on; runs in the worker."""
        if self._stopping:
            return _Answer("the server is stopping", CloseCode.GOING_AWAY)
        try:
            return self._act(client, message)
        except MessageError as error:
            client.refused += 1
            if client.refused <= _REFUSALS_LOGGED:
                self._log(f"client {client.number} refused: {error}")
            # Who does not speak the protocol will not with the next message either.
            return _Answer(str(error), CloseCode.INVALID_DATA if isinstance(error, UnreadableError) else None)
        except Exception as error:
            # The episode's state may be half of it: the client has to begin anew.
            client.session = None
            self._log(f"client {client.number}: {type(error).__name__}: {error}\n{traceback.format_exc()}".rstrip())
            return _Answer("the policy failed on this observation; the server's log says why", CloseCode.INTERNAL_ERROR)

    def _act(self, client: _Client, message: bytes | str) -> _Answer:
        if isinstance(message, str):
            raise UnreadableError("messages are binary: msgpack, not text")
        values = unpack(message)
        began = time.perf_counter()
        request = self._served.reader.read(values)
        said = [f"the policy has no use for {name}" for name in request.unknown]
        for text in said if request.renamed is None else [request.renamed, *said]:
            if text not in client.said and len(client.said) < _LINES_LOGGED:
                client.said.add(text)
                self._log(f"client {client.number}: {text}")
        settings = self._settings
        if client.session is None:
            client.session = Session(self._served.loaded, seed=settings.seed, alone=settings.max_clients == 1)
        elif request.reset:
            client.session.begin_episode()
        if not request.arrays:
            return _Answer(pack({"__ack__": request.control or "reset"}))
        actions = client.session.act(request)
        took = time.perf_counter() - began
        timing: dict[str, Any] = {"infer_ms": took * 1e3}
        if client.previous_s is not None:
            timing["prev_total_ms"] = client.previous_s * 1e3
        return _Answer(pack({"actions": actions, "server_timing": timing}), None, took)


def serve_policy(
    served: Served, settings: ServerSettings, *, log: Callable[[str], None], ready: Callable[[str], None]
) -> None:
    """Serve a policy until a signal ends it; to be called in the main thread.

    Args:
        served: The policy.
        settings: How.
        log: Given a line of text at a time.
        ready: Given the address once clients can connect.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGHUP came; open connections were closed.
        UserError: As for `PolicyServer.run`.
    """
    server = PolicyServer(served, settings, log)
    came: list[int] = []

    async def until_a_signal() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def take(number: int) -> None:
            leave_closed_terminal()
            came.append(number)
            stop.set()
            # A second one does not wait for an inference to end.
            for other in numbers:
                loop.remove_signal_handler(other)

        numbers = stop_signals()
        for number in numbers:
            loop.add_signal_handler(number, take, number)
        await server.run(stop, ready)

    asyncio.run(until_a_signal())
    raise Interrupted(f"stopped: {signal.Signals(came[0]).name}", came[0])
