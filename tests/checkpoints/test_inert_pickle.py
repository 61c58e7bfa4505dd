"""Pickles are read as data: what would be called is written down, and nothing ever is."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from offramp import CheckpointError
from offramp.checkpoints.inert_pickle import Call, Name, read_pickle
from offramp.checkpoints.paddle_file import read_paddle

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "c": np.array(3, dtype=np.float16),
    "d": np.zeros((0, 4), dtype=np.int64),
}


def written(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_as_paddle_writes_them(tmp_path: Path, protocol: int) -> None:
    """As (name, array), bare, or inside one another; with its own names and numbers beside them."""
    value = {
        **{name: ("generated_tensor_0", array) for name, array in ARRAYS.items()},
        "bare": ARRAYS["a.weight"],
        "inside": {"x": ARRAYS["b"]},
        "epoch": 3,
        "StructuredToParameterName@@": {"a.weight": "linear_0.w_0"},
    }
    found = read_paddle(written(tmp_path / "x", value, protocol))
    assert list(found) == [*ARRAYS, "bare", "inside.x"]
    for name, array in {**ARRAYS, "bare": ARRAYS["a.weight"], "inside.x": ARRAYS["b"]}.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_a_call_is_written_down(tmp_path: Path) -> None:
    class Asks:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "planted"),)

    found = read_pickle(written(tmp_path / "x", {"w": Asks()}))
    assert found == {"w": Call("posix.mkdir", (str(tmp_path / "planted"),))}
    assert not (tmp_path / "planted").exists()
    with pytest.raises(CheckpointError, match=r"a call of posix\.mkdir"):
        read_paddle(tmp_path / "x")


class Marker:
    """Makes a directory when a pickle of it is executed, in one of several ways."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def hostile(place: str) -> dict[str, bytes]:
    command = f"mkdir {place}"
    text = b"X" + struct.pack("<I", len(command)) + command.encode()
    array = pickle.dumps({"w": ARRAYS["a.weight"]}, 2)
    deep = b")" + b"\x85" * 100_000
    large = np.zeros(1000, dtype=np.float32)
    shared: Any = {"x": 1}
    for _ in range(4):
        shared = dict.fromkeys(map(str, range(40)), shared)
    shared["w"] = large
    endless = opcodes(b"}q\x00X\x01\x00\x00\x00wh\x00s")  # one that holds itself
    return {
        "system": pickle.dumps({"w": Marker(os.system, command)}),
        "popen": pickle.dumps({"w": Marker(subprocess.Popen, ["mkdir", place])}),
        "eval": pickle.dumps({"w": Marker(eval, f"__import__('os').mkdir({place!r})")}),
        "getattr": pickle.dumps({"w": Marker(getattr, "x", "mro")}),
        "not a dictionary": pickle.dumps(Marker(os.system, command)),
        "an array of another class": array.replace(b"cnumpy\nndarray\n", b"cos\nsystem\n", 1),
        "one array under many names": pickle.dumps(dict.fromkeys(map(str, range(99)), large), 4),
        "dictionaries in many": pickle.dumps(shared, 4),
        "dictionaries without end": endless,
        "nothing in it": pickle.dumps({}),
        "inst": opcodes(b"(", text, b"ios\nsystem\n"),
        "obj": opcodes(b"(cos\nsystem\n", text, b"o"),
        "newobj": opcodes(b"cos\nsystem\n)\x81"),
        "persid": opcodes(b"Pname\n"),
        "binpersid": opcodes(b"NQ"),
        "ext": opcodes(b"\x82\x01"),
        "a deep tuple as a key": opcodes(b"}", deep, b"K\x01s"),
        "a list as a key": opcodes(b"}]K\x01s"),
        "a state for a dictionary": opcodes(b"}}b"),
        "no such memo": opcodes(b"h\x07"),
        "an empty stack": opcodes(b"0"),
        "a mark as a value": opcodes(b"}X\x01\x00\x00\x00w(s"),
        "two values": opcodes(b"}}"),
        "a long number": opcodes(b"\x8b", struct.pack("<i", 1 << 30)),
        "a text past the end": opcodes(b"X", struct.pack("<I", 1 << 31)),
        "bytes past the end": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",
        "no stop": b"\x80\x02}",
        "nothing": b"",
        "text": b"not a pickle at all",
        "protocol 0": pickle.dumps({"w": 1}, 0),
        "another's array": pickle.dumps({"w": np.array([object()], dtype=object)}),
        "numbers of two": pickle.dumps({"w": np.array([1j])}),
        "texts": pickle.dumps({"w": np.array(["a"])}),
        "a set": pickle.dumps({"w": {1}}),
        "bytearray": pickle.dumps({"w": bytearray(b"a")}, 5),
        "big-endian": pickle.dumps({"w": np.arange(3, dtype=">f4")}),
        "parts": pickle.dumps({"UnpackBigParamInfor@@": {}, "w": 1}),
        "a list": pickle.dumps([ARRAYS["a.weight"]]),
    }


NAMES = list(hostile("x"))


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_refused_and_does_nothing(name: str, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    path = tmp_path / "x.pdparams"
    path.write_bytes(hostile(str(planted))[name])
    with pytest.raises(CheckpointError, match="x.pdparams"):
        read_paddle(path)
    assert not planted.exists()


@pytest.mark.parametrize(
    ("shape", "content"),
    [((2, 3), 20), ((2, -3), 24), ((1 << 40, 1 << 40), 24), ((2.0, 3), 24), ((1,) * 9, 4), (6, 24)],
)
def test_a_shape_that_is_not_the_contents(shape: Any, content: int, tmp_path: Path) -> None:
    array = np.zeros(content // 4, dtype=np.float32)

    class Lies:
        def __reduce__(self) -> Any:
            make, args, (version, _, dtype, order, raw) = array.__reduce__()
            return make, args, (version, shape, dtype, order, raw)

    with pytest.raises(CheckpointError, match="an array of"):
        read_paddle(written(tmp_path / "x", {"w": Lies()}))


def test_a_file_cut_off_anywhere(tmp_path: Path) -> None:
    whole = pickle.dumps(ARRAYS, 4)
    path = tmp_path / "x"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_paddle(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_a_damaged_file_raises_nothing_but_checkpoint_errors(
    tmp_path: Path, data: st.DataObject
) -> None:
    protocol = data.draw(st.sampled_from([2, 4]))
    damaged = bytearray(pickle.dumps(ARRAYS, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x"
    path.write_bytes(damaged)
    try:
        read_paddle(path)
    except CheckpointError as error:
        assert str(path) in str(error)


def test_as_many_instructions_as_there_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offramp.checkpoints.inert_pickle.MOST_STEPS", 100)
    with pytest.raises(CheckpointError, match="more than 100 instructions"):
        read_pickle(written(tmp_path / "x", {str(i): i for i in range(100)}))


def test_a_global_is_a_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pickle.Pickler(buffer, 4).dump({"w": np.ndarray})
    (tmp_path / "x").write_bytes(buffer.getvalue())
    assert read_pickle(tmp_path / "x") == {"w": Name("numpy.ndarray")}
    with pytest.raises(CheckpointError, match=r"the global numpy\.ndarray"):
        read_paddle(tmp_path / "x")
