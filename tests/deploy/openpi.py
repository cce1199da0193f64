"""A client in openpi's protocol, as its public source describes it, independent of the code under test."""

import functools
import ssl
from typing import Any

import msgpack
import numpy as np
from websockets.sync.client import connect


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return value


def _decode(found: dict[Any, Any]) -> Any:
    if b"__ndarray__" in found:
        return np.ndarray(buffer=found[b"data"], dtype=np.dtype(found[b"dtype"]), shape=found[b"shape"])
    if b"__npgeneric__" in found:
        return np.dtype(found[b"dtype"]).type(found[b"data"])
    return found


packb = functools.partial(msgpack.packb, default=_encode)
unpackb = functools.partial(msgpack.unpackb, object_hook=_decode)


class OpenpiClient:
    """Connects, takes the metadata, and sends one observation at a time."""

    def __init__(self, address: str, api_key: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        opened = connect(address, compression=None, max_size=None, additional_headers=headers, proxy=None, ssl=tls)
        # Newer releases of the package want it entered, older ones do not mind.
        self.socket = opened.__enter__()
        self.metadata = unpackb(self.socket.recv())

    def __enter__(self) -> "OpenpiClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.socket.send(packb(observation))
        answer = self.socket.recv(timeout=60)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return unpackb(answer)
