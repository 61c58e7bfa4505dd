"""Paddle's .pdparams without Paddle: numpy's own arrays, and nothing executed."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from stored_cases import assert_same, bits, numbers, plain, tensors

from offramp.checkpoints.content import Array
from offramp.checkpoints.paddle_file import read_paddle, write_paddle
from offramp.checkpoints.stored import TYPES, Stored, in_memory
from offramp.errors import CheckpointError

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "samples"
ARRAYS: dict[str, Array] = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "c": np.array(3, dtype=np.float16),
    "d": np.zeros((0, 4), dtype=np.int64),
    **{
        kind: numbers(kind, (2, 3), seed).array
        for seed, kind in enumerate(TYPES)
        if kind not in ("BF16", "F32", "F64")
    },
    "letters": np.arange(256, dtype=np.uint8),  # each letter of latin1, of one byte or of two
}


class Asks:
    """What a pickle of it would call when it is executed."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


def written(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


# What is read


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_as_paddle_writes_them(tmp_path: Path, protocol: int) -> None:
    """As (name, array), bare, or inside one another; with its own names and numbers beside them."""
    bare = ARRAYS["a.weight"]
    value = {
        # Paddle reduces a tensor to a call of tuple with these two.
        **{name: Asks(tuple, ("generated_tensor_0", array)) for name, array in ARRAYS.items()},
        "a pair": ("linear_0.w_0", bare),
        "a list of two": ["linear_0.w_0", bare + 1],
        "bare": bare + 2,
        "inside": {"x": ARRAYS["b"], "y": {"z": bare + 3}},
        "epoch": 3,
        "rate": 0.5,
        "version": "2.6.2",
        "best": None,
        "done": True,
        "StructuredToParameterName@@": {"a.weight": "linear_0.w_0"},
    }
    found = read_paddle(written(tmp_path / "x", value, protocol))
    expected = {
        **ARRAYS,
        "a pair": bare,
        "a list of two": bare + 1,
        "bare": bare + 2,
        "inside.x": ARRAYS["b"],
        "inside.y.z": bare + 3,
    }
    assert list(found) == list(expected)
    assert_same(found, plain(expected))


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("size", [1, 1 << 9, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_arrays_of_every_length(tmp_path: Path, protocol: int, order: Any, size: int) -> None:
    """Texts of a mebibyte are taken apart: at no place may a letter of two bytes be torn."""
    for first in (0, 1):
        array = np.full(size + first, 0xE9, np.uint8)
        array[:first] = 65
        array = np.asarray(array.reshape(-1, 1), order=order)
        found = read_paddle(written(tmp_path / "x", {"w": array}, protocol))
        assert_same(found, plain({"w": array}))


def test_what_the_file_holds_as_it_is_stays_there(tmp_path: Path) -> None:
    path = written(tmp_path / "x", {"w": np.full(1 << 16, 5, np.uint8)})
    found, copied = read_paddle(path), in_memory(read_paddle(path))
    where = path.read_bytes().index(b"\x05" * (1 << 16))
    with path.open("r+b") as file:
        file.seek(where)
        file.write(b"\x07")
    assert found["w"].array[0] == 7
    assert copied["w"].array[0] == 5
    found["w"].array[1] = 8
    assert path.read_bytes()[where : where + 2] == b"\x07\x05"


def test_bfloat16_is_uint16(tmp_path: Path) -> None:
    """Which it is the file does not say; `open_save` can be told."""
    array = numbers("BF16", (2, 3)).array
    found = read_paddle(written(tmp_path / "x", {"w": array}))
    assert_same(found, {"w": Stored("U16", array)})


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/samples is absent")
@pytest.mark.parametrize("name", ["paddle_protocol2", "paddle_bf16_tiny", "paddle_mixed_dict"])
def test_what_paddle_wrote_is_what_numpy_reads(name: str) -> None:
    """The samples are ours to execute."""
    path = SAMPLES / f"{name}.pdparams"

    def arrays(value: Any, prefix: str = "") -> dict[str, Array]:
        if isinstance(value, dict):
            inside = (arrays(item, f"{prefix}.{key}") for key, item in value.items())
            return {name: array for found in inside for name, array in found.items()}
        array = value[1] if isinstance(value, tuple) else value
        return {prefix[1:]: array} if isinstance(array, np.ndarray) else {}

    with path.open("rb") as file:
        value = pickle.load(file, encoding="latin1")
    value.pop("StructuredToParameterName@@", None)
    expected = arrays(value)
    assert expected
    assert_same(read_paddle(path), plain(expected))


# Arrays in parts


def parts(pieces: list[Array], shape: Any, **changes: Any) -> dict[str, Any]:
    """As Paddle cuts up, under protocols 2 and 3, an array of more than a gibibyte."""
    names = [f"w@@.{number}" for number in range(len(pieces))]
    about = {"OriginShape": shape, "slices": names} | changes
    return {
        "first": np.ones(2, np.float32),
        **dict(zip(names, pieces, strict=True)),
        "UnpackBigParamInfor@@": {"w": about},
    }


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("kind", ["F32", "F16", "U16"])
def test_parts_are_joined(tmp_path: Path, protocol: int, kind: str) -> None:
    whole = numbers(kind, (4, 5)).array
    flat = whole.reshape(-1)
    path = written(tmp_path / "x", parts([flat[:7], flat[7:14], flat[14:]], (4, 5)), protocol)
    found = read_paddle(path)
    assert_same(found, {"first": Stored("F32", np.ones(2, np.float32)), "w": Stored(kind, whole)})
    assert list(found) == ["first", "w"]


FLAT = np.arange(6, dtype=np.float32)
PARTS: dict[str, tuple[Any, str]] = {
    "too few numbers": (parts([FLAT], (2, 4)), "w has 8 numbers, and its pieces 6"),
    "too many numbers": (parts([FLAT, FLAT], (2, 3)), "w has 6 numbers, and its pieces 12"),
    "two kinds": (parts([FLAT, FLAT.astype("f8")], (12,)), "not of one kind"),
    "a piece of two dimensions": (parts([FLAT.reshape(2, 3)], (2, 3)), "not of one kind"),
    "a piece that is not there": (parts([FLAT], (6,), slices=["w@@.1"]), "are lacking"),
    "a piece twice": (parts([FLAT], (12,), slices=["w@@.0"] * 2), "are lacking"),
    "another's array": (parts([FLAT], (2,), slices=["first", "first"]), "are lacking"),
    "no pieces": (parts([FLAT], (6,), slices=[]), "are lacking"),
    "a name that is there": (parts([FLAT], (6,)) | {"w": FLAT}, "are lacking"),
    "pieces that are a text": (parts([FLAT], (6,), slices="w@@.0"), "does not list the pieces"),
    "pieces that are numbers": (parts([FLAT], (6,), slices=[0]), "does not list the pieces"),
    "a shape that is a number": (parts([FLAT], 6), "no list of at most eight"),
    "no shape": (parts([FLAT], None), "no list of at most eight"),
    "a size below zero": (parts([FLAT], (-2, -3)), "no whole number"),
    "a shape without end": (parts([FLAT], (1 << 61, 1 << 61)), "shape|its pieces 6"),
    "no rows of 2^61": (parts([FLAT[:0]], (1 << 61, 0)), "shape|w has"),
    "a list of parts": ({"w": FLAT, "UnpackBigParamInfor@@": ["w"]}, "is a list"),
    "an array as parts": ({"w": FLAT, "UnpackBigParamInfor@@": FLAT}, "is a call"),
    "a text for a part": ({"w": FLAT, "UnpackBigParamInfor@@": {"w": "w"}}, "does not list"),
    "nothing else": ({"UnpackBigParamInfor@@": {}}, "dictionaries that are empty"),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_that_do_not_add_up_are_refused(tmp_path: Path, name: str) -> None:
    value, message = PARTS[name]
    with pytest.raises(CheckpointError, match=message) as caught:
        read_paddle(written(tmp_path / "x", value, 2))
    assert caught.value.kind == "pickle"


# What is written


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every kind of number in every layout, bit for bit; of bfloat16 the bits."""
    path, expected = tmp_path / "x", tensors()
    write_paddle(path, expected)
    bare = {
        name: Stored("U16" if stored.dtype == "BF16" else stored.dtype, stored.array)
        for name, stored in expected.items()
    }
    found = read_paddle(path)
    assert_same(found, bare)
    assert list(found) == list(expected)
    assert_same(in_memory(read_paddle(path)), bare)


@pytest.mark.filterwarnings("ignore:numpy.core is deprecated")
def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    path, expected = tmp_path / "x", tensors()
    write_paddle(path, expected)
    raw = path.read_bytes()
    assert raw[:2] == b"\x80\x04"
    assert b"numpy._core" not in raw  # which numpy 1, and so Paddle 2, does not know
    found = pickle.loads(raw)
    assert list(found) == list(expected)
    for name, stored in expected.items():
        assert type(found[name]) is np.ndarray
        assert found[name].dtype == stored.array.dtype
        assert found[name].dtype.isnative
        assert found[name].shape == stored.shape
        assert found[name].tobytes() == stored.array.tobytes()


# What is refused


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def hostile(place: str) -> dict[str, bytes]:
    command = f"mkdir {place}"
    text = b"X" + struct.pack("<I", len(command)) + command.encode()
    array = pickle.dumps({"w": ARRAYS["a.weight"]}, 2)
    call = b"cos\nsystem\n" + text + b"\x85R"  # also where nothing looks at it
    large = np.zeros(1000, dtype=np.float32)
    shared: Any = {"x": 1}
    for _ in range(4):
        shared = dict.fromkeys(map(str, range(40)), shared)
    shared["w"] = large
    endless = opcodes(b"}q\x00X\x01\x00\x00\x00wh\x00s")  # one that holds itself
    return {
        "system": pickle.dumps({"w": Asks(os.system, command)}),
        "popen": pickle.dumps({"w": Asks(subprocess.Popen, ["mkdir", place])}),
        "getattr": pickle.dumps({"w": Asks(getattr, "x", "mro")}),
        "not a dictionary": pickle.dumps(Asks(os.system, command)),
        "in a tuple": pickle.dumps({"w": ("name", Asks(os.system, command))}),
        "inside": pickle.dumps({"a": {"w": Asks(os.system, command)}}),
        "under a name that is dropped": pickle.dumps(
            {"w": large, "StructuredToParameterName@@": Asks(os.system, command)}
        ),
        "as a kind of number": array.replace(b"cnumpy\ndtype\n", b"cos\nsystem\n", 1),
        "as an array's contents": array.replace(b"c_codecs\nencode\n", b"cos\nsystem\n", 1),
        "as what makes arrays": array.replace(
            b"cnumpy._core.multiarray\n_reconstruct\n", b"cos\nsystem\n", 1
        ),
        "an array of another class": array.replace(b"cnumpy\nndarray\n", b"cos\nsystem\n", 1),
        "as an array's version": array.replace(b"(K\x01K\x02K\x03", b"(" + call + b"K\x02K\x03", 1),
        "beside a kind of number": array.replace(b"\x89\x88\x87", b"\x89" + call + b"\x87", 1),
        "another way to write bytes": array.replace(b"latin1", b"rot_13", 1),
        "one array under many names": pickle.dumps(dict.fromkeys(map(str, range(99)), large), 4),
        "dictionaries in many": pickle.dumps(shared, 4),
        "dictionaries without end": endless,
        "a name twice": pickle.dumps({"a": {"b": ARRAYS["c"]}, "a.b": ARRAYS["c"]}),
        "nothing in it": pickle.dumps({}),
        "nothing in one inside": pickle.dumps({"a": {}, "w": large}),
        "obj": opcodes(b"(cos\nsystem\n", text, b"o"),
        "inst": opcodes(b"(", text, b"ios\nsystem\n"),
        "nothing": b"",
        "text": b"version https://git-lfs.github.com/spec/v1",
        "protocol 0": pickle.dumps({"w": 1}, 0),
        "objects": pickle.dumps({"w": np.array([object()], dtype=object)}),
        "numbers of two": pickle.dumps({"w": np.array([1j])}),
        "texts": pickle.dumps({"w": np.array(["a"])}),
        "records": pickle.dumps({"w": np.zeros(2, dtype=[("a", "f4")])}),
        "dates": pickle.dumps({"w": np.zeros(2, dtype="M8[s]")}),
        "big-endian": pickle.dumps({"w": np.arange(3, dtype=">f4")}),
        "a number of numpy's": pickle.dumps({"w": np.float32(1)}),
        "a set": pickle.dumps({"w": {1}}),
        "bytes": pickle.dumps({"w": b"abc"}),
        "a list": pickle.dumps([ARRAYS["a.weight"]]),
        "a tuple of three": pickle.dumps({"w": ("a", "b", ARRAYS["c"])}),
        "a global": pickle.dumps({"w": np.ndarray}),
        "a name that is a path": pickle.dumps({"../w": large}),
        "more after it": pickle.dumps({"w": large}) + b"\0",
        "another after it": pickle.dumps({"w": large}) + pickle.dumps(Asks(os.system, command)),
    }


NAMES = list(hostile("x"))


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_refused_and_does_nothing(name: str, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    path = tmp_path / "x.pdparams"
    path.write_bytes(hostile(str(planted))[name])
    with pytest.raises(CheckpointError, match="x.pdparams is refused") as caught:
        read_paddle(path)
    assert caught.value.kind in ("pickle", "truncated")
    assert caught.value.file == str(path)
    assert not planted.exists()


def test_what_would_be_called_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"posix\.mkdir"):
        read_paddle(written(tmp_path / "x", {"w": Asks(os.mkdir, "planted")}))
    with pytest.raises(CheckpointError, match=r"w is the global numpy\.ndarray"):
        read_paddle(written(tmp_path / "x", {"w": np.ndarray}))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_lod_tensor_is_unsupported(tmp_path: Path, protocol: int) -> None:
    """Paddle reduces one to `eval("data", {"data": array})`."""
    value = {"w": Asks(eval, "data", {"data": ARRAYS["a.weight"]})}
    with pytest.raises(CheckpointError, match="it holds a LoDTensor") as caught:
        read_paddle(written(tmp_path / "x", value, protocol))
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize("head", [bytes(4), bytes(4) + bytes(8), b"\x0a\x00\x12"])
def test_a_program_is_unsupported(tmp_path: Path, head: bytes) -> None:
    """A static graph's parameters begin with a version, 0, and its program is a protocol buffer."""
    (tmp_path / "x").write_bytes(head + bytes(20))
    with pytest.raises(CheckpointError, match="a program's") as caught:
        read_paddle(tmp_path / "x")
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("shape", "content"),
    [
        ((2, 3), 20),
        ((2, 3), 28),
        ((2, -3), 24),
        ((1 << 40, 1 << 40), 24),
        ((1 << 61, 8), 0),
        ((1 << 61, 0), 0),
        ((1 << 62, 0), 0),
        ((2.0, 3), 24),
        ((True, 6), 24),
        ((1,) * 9, 4),
        (6, 24),
        ([6], 24),
        (None, 24),
    ],
)
def test_a_shape_that_is_not_the_contents(
    shape: Any, content: int, protocol: int, tmp_path: Path
) -> None:
    array = np.zeros(content // 4, dtype=np.float32)

    class Lies:
        def __reduce__(self) -> Any:
            state: Any
            make, args, state = tuple(array.__reduce__())
            return make, args, (state[0], shape, *state[2:])

    with pytest.raises(CheckpointError, match="w takes|w of shape|a tensor's shape"):
        read_paddle(written(tmp_path / "x", {"w": Lies()}, protocol))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_file_cut_off_anywhere(tmp_path: Path, protocol: int) -> None:
    whole = pickle.dumps(ARRAYS, protocol)
    path = tmp_path / "x"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_paddle(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(st.data())
def test_a_damaged_file_raises_nothing_but_checkpoint_errors(
    tmp_path: Path, data: st.DataObject
) -> None:
    protocol = data.draw(st.sampled_from([2, 3, 4]))
    value = data.draw(st.sampled_from([ARRAYS, parts([FLAT], (2, 3)), {"a": {"b": ("n", FLAT)}}]))
    damaged = bytearray(pickle.dumps(value, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x"
    path.write_bytes(damaged)
    try:
        for stored in read_paddle(path).values():
            bits(stored)
    except CheckpointError as error:
        assert str(path) in str(error)
