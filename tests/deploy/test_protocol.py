"""The coding of messages: openpi's own form both ways, and no message that is more than data."""

import pickle

import msgpack
import numpy as np
import pytest
from openpi import packb, unpackb

from hlrp.deploy.protocol import DTYPES, MOST_ITEMS, UnreadableError, pack, unpack


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_arrays_and_scalars_are_read_and_written_in_openpis_form(dtype: str) -> None:
    array = np.arange(12).reshape(2, 2, 3).astype(dtype)
    message = {"a": array, "b": [array[0, 0, 1], "text", None, 1.5], "c": {"empty": array[:0], "turned": array.T}}
    assert pack(message) == packb(message)
    for found in (unpack(packb(message)), unpackb(pack(message))):
        assert found["a"].dtype == array.dtype and np.array_equal(found["a"], array)
        assert found["b"] == [array[0, 0, 1], "text", None, 1.5]
        # NumPy's float64 is one of Python's own floats, and travels as such.
        assert isinstance(found["b"][0], float if dtype == "<f8" else array.dtype.type)
        assert found["c"]["empty"].shape == (0, 2, 3) and np.array_equal(found["c"]["turned"], array.T)


def _array(**changed: object) -> bytes:
    said = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2], **changed}
    return msgpack.packb({"a": {key.encode(): value for key, value in said.items() if value is not ...}})


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (_array(dtype="|O"), "type '|O'"),
        (_array(dtype="O", data=pickle.dumps(print)), "type 'O'"),
        (_array(dtype="|V8"), "type '|V8'"),
        (_array(dtype="<c8"), "type '<c8'"),
        (_array(dtype=">f4"), "type '>f4'"),
        (_array(dtype=[["a", "<f4"]]), "an array has the type"),
        (_array(dtype=...), "type None"),
        (_array(shape=[1 << 40]), "holds 8 bytes"),
        (_array(shape=[1 << 62, 1 << 62]), "holds 8 bytes"),
        (_array(shape=[1 << 62, 4, 0], data=b""), "cannot be read"),
        (_array(shape=[-2]), "shape [-2]"),
        (_array(shape=[True, 2]), "shape [True, 2]"),
        (_array(shape=[1] * 8 + [2]), "shape [1, 1"),
        (_array(shape="2"), "shape '2'"),
        (_array(shape=...), "shape None"),
        (_array(data="12345678"), "holds no bytes"),
        (_array(data=...), "holds no bytes"),
        (msgpack.packb({b"__npgeneric__": True, b"data": "1", b"dtype": "<f4"}), "scalar holds '1'"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 1 << 60, b"dtype": "|u1"}), "cannot be read"),
        (msgpack.packb(msgpack.ExtType(5, b"code")), "cannot be read"),
        (msgpack.packb({"a": 1})[:-1], "cannot be read"),
        (msgpack.packb({"a": 1}) + b"\x00", "cannot be read"),
        (b"", "cannot be read"),
        (b"\xdd\xff\xff\xff\xff", "cannot be read"),
        (b"\xc6\xff\xff\xff\xff", "cannot be read"),
        (b"\x91" * 10_000, "cannot be read"),
        (b"\xa2\xff\xff", "cannot be read"),
        (msgpack.packb({1: 2}), "cannot be read"),
        (msgpack.packb([[0] * 4096] * 17), f"more than {MOST_ITEMS} items"),
    ],
)
def test_what_is_no_message_is_refused_in_words(message: bytes, said: str) -> None:
    with pytest.raises(UnreadableError) as refused:
        unpack(message)
    assert said in str(refused.value) and len(str(refused.value)) < 200


@pytest.mark.parametrize("value", [np.array([print]), np.zeros(2, complex), np.zeros(2, ">f4"), print, {1, 2}])
def test_only_data_is_sent(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        pack({"a": value})
