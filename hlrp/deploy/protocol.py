"""Messages of openpi's websocket protocol: msgpack with NumPy arrays in it, read without trusting the sender.

An array travels as a map of the keys `__ndarray__`, `data`, `dtype` and `shape`, a NumPy scalar as one of
`__npgeneric__`, `data` and `dtype`; these keys are bytes. Nothing that is read is ever executed, and an array takes no
memory beyond that of its message.
"""

import math
from typing import Any

import msgpack
import numpy as np

DTYPES = frozenset({"|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"})
"""Types of arrays that are read and written: numbers, little-endian."""
MOST_ITEMS = 1 << 16
"""Items of all maps and lists of a message together; pictures are arrays, which are none."""
MOST_DIMENSIONS = 8
_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_DATA, _DTYPE, _SHAPE = b"data", b"dtype", b"shape"


class MessageError(Exception):
    """What is wrong with a message, in words for its sender: they tell nothing of this machine."""


class UnreadableError(MessageError):
    """The message is none of this protocol; what follows it is not worth waiting for."""


def shown(value: object) -> str:
    """Something a stranger sent, short and in ASCII, for an error or a log."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def pack(value: Any) -> memoryview:
    """A message of maps, lists, text, numbers and arrays.

    Raises:
        TypeError: Something that is none of these, such as an array of objects.
    """
    # Pictures are copied once, into the message, which is the packer's own buffer: another copy costs as much as this.
    packer = msgpack.Packer(default=_encode, autoreset=False)
    packer.pack(value)
    message: memoryview = packer.getbuffer()
    return message


def unpack(message: bytes | memoryview) -> Any:
    """What a message says; its arrays are read-only views of it.

    Raises:
        UnreadableError: It is no msgpack, goes on after its end, is cut off, holds an array of another type than
            `DTYPES` or of another size than its shape says, or more than `MOST_ITEMS` items.
    """
    reader = _Reader()
    try:
        return msgpack.unpackb(message, object_hook=reader.of_map, list_hook=reader.of_list, max_ext_len=0)
    except MessageError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise UnreadableError(f"the message cannot be read as msgpack: {type(error).__name__}") from error


def _encode(value: object) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.str in DTYPES:
        if isinstance(value, np.generic):
            return {_SCALAR: True, _DATA: value.item(), _DTYPE: value.dtype.str}
        return {_ARRAY: True, _DATA: np.ascontiguousarray(value).data, _DTYPE: value.dtype.str, _SHAPE: value.shape}
    raise TypeError(f"cannot be sent: {type(value).__name__} {getattr(value, 'dtype', '')}")


class _Reader:
    """Turns maps into arrays, and counts what a message makes Python allocate beyond its own bytes."""

    def __init__(self) -> None:
        self._items = 0

    def _count(self, number: int) -> None:
        self._items += number
        if self._items > MOST_ITEMS:
            raise UnreadableError(f"the message holds more than {MOST_ITEMS} items; numbers belong into arrays")

    def of_list(self, found: list[Any]) -> list[Any]:
        self._count(len(found))
        return found

    def of_map(self, found: dict[Any, Any]) -> Any:
        self._count(len(found))
        if _ARRAY in found:
            return _array(found)
        return _scalar(found) if _SCALAR in found else found


def _array(found: dict[Any, Any]) -> "np.ndarray[Any, np.dtype[Any]]":
    data, shape = found.get(_DATA), found.get(_SHAPE)
    dtype = _dtype(found.get(_DTYPE))
    sizes = shape if isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape) else None
    if sizes is None or len(sizes) > MOST_DIMENSIONS:
        raise UnreadableError(f"an array has the shape {shown(shape)}")
    # Python's numbers do not overflow: no shape, however large, gets past this by wrapping round.
    if not isinstance(data, bytes) or math.prod(sizes) * dtype.itemsize != len(data):
        held = f"{len(data)} bytes" if isinstance(data, bytes) else "no bytes"
        raise UnreadableError(f"an array of shape {shown(sizes)} and type {dtype.str} holds {held}")
    return np.ndarray(sizes, dtype, data)


def _scalar(found: dict[Any, Any]) -> Any:
    data, dtype = found.get(_DATA), _dtype(found.get(_DTYPE))
    if not isinstance(data, bool | int | float):
        raise UnreadableError(f"a NumPy scalar holds {shown(data)}")
    return dtype.type(data)


def _dtype(name: object) -> "np.dtype[Any]":
    if not isinstance(name, str) or name not in DTYPES:
        raise UnreadableError(f"an array has the type {shown(name)}; known: {', '.join(sorted(DTYPES))}")
    return np.dtype(name)
