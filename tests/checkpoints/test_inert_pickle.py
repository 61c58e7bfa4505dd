"""Pickles are read as data: what would be called is written down, and nothing ever is."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from offramp.checkpoints.checked_file import UnsoundError
from offramp.checkpoints.inert_pickle import Call, LongText, Name, Outside, parse_pickle


def parsed(raw: bytes, *, outside: bool = False) -> Any:
    value, end = parse_pickle(np.frombuffer(raw, np.uint8), outside=outside)
    assert end == len(raw)
    return value


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


class Asks:
    """What a pickle of it would call when it is executed."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


# What is read


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 62), 1 << 62)
    | st.floats(allow_nan=False)
    # Python's and numpy's pickles of these hold them as they are
    | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
        | st.dictionaries(TEXTS, inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES, st.integers(2, 5))
def test_plain_values_are_python_s(value: Any, protocol: int) -> None:
    found = parsed(pickle.dumps(value, protocol))
    assert found == value
    assert repr(found) == repr(value)  # True is not 1, nor a list a tuple


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("length", [0, 1, 255, 256, 70_000])
def test_bytes_stay_where_they_are(protocol: int, length: int) -> None:
    raw = np.frombuffer(pickle.dumps({"w": b"ab" * length}, protocol), np.uint8)
    found = parse_pickle(raw)[0]["w"]
    assert found.tobytes() == b"ab" * length
    assert length == 0 or np.shares_memory(found, raw)


def test_a_long_text_stays_where_it_is() -> None:
    raw = np.frombuffer(pickle.dumps(["é" * 512, "é" * 513], 2), np.uint8)
    short, long = parse_pickle(raw)[0]
    assert short == "é" * 512
    assert type(long) is LongText
    assert long.raw.tobytes().decode() == "é" * 513
    assert np.shares_memory(long.raw, raw)


def test_the_same_value_twice_is_one() -> None:
    shared = ["x"]
    for protocol in (2, 3, 4, 5):
        one, two = parsed(pickle.dumps([shared, shared], protocol))
        assert one == ["x"]
        assert one is two


def test_a_pickle_among_others() -> None:
    first, second = pickle.dumps({"a": 1}, 4), pickle.dumps([2], 2)
    content = np.frombuffer(b"??" + first + second + b"rest", np.uint8)
    value, end = parse_pickle(content, 2)
    assert value == {"a": 1}
    assert end == 2 + len(first)
    assert parse_pickle(content, end) == ([2], end + len(second))


def test_an_ordered_dictionary_is_a_dictionary() -> None:
    for protocol in (2, 4):
        found = parsed(pickle.dumps(OrderedDict(b=1, a=OrderedDict()), protocol))
        assert found == {"b": 1, "a": {}}
        assert list(found) == ["b", "a"]


# What would be called


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_call_is_written_down(protocol: int, tmp_path: Path) -> None:
    planted = str(tmp_path / "planted")
    found = parsed(pickle.dumps({"w": Asks(os.mkdir, planted)}, protocol))["w"]
    assert type(found) is Call
    assert (found.of, found.args, found.state) == ("posix.mkdir", (planted,), None)
    assert not Path(planted).exists()


def test_an_array_is_a_call_and_its_state() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = parsed(pickle.dumps(array, 4))
    assert found.of.endswith("core.multiarray._reconstruct")
    assert found.args[:2] == (Name("numpy.ndarray"), (0,))
    version, shape, dtype, by_column, content = found.state
    assert (version, shape, by_column) == (1, (2, 3), False)
    assert (dtype.of, dtype.args[0], dtype.state[1]) == ("numpy.dtype", "f4", "<")
    assert content.tobytes() == array.tobytes()


def test_a_global_is_a_name() -> None:
    assert parsed(pickle.dumps(np.ndarray, 4)) == Name("numpy.ndarray")
    assert parsed(opcodes(b"cos\nsystem\n")) == Name("os.system")


def test_what_lies_outside_is_its_key() -> None:
    raw = opcodes(text("storage"), b"K\x07\x86Q")
    found = parsed(raw, outside=True)
    assert type(found) is Outside
    assert found.key == ("storage", 7)
    with pytest.raises(UnsoundError, match="it points outside itself"):
        parsed(raw)
    with pytest.raises(UnsoundError, match="it points outside itself"):
        parsed(opcodes(b"K\x01Q"), outside=True)


# What is refused


DEEP = b")" + b"\x85" * 60_000
REFUSED: dict[str, tuple[bytes, str]] = {
    "inst": (opcodes(b"(", text("x"), b"ios\nsystem\n"), "the instruction 0x69"),
    "obj": (opcodes(b"(cos\nsystem\n", text("x"), b"o"), "the instruction 0x6f"),
    "newobj": (opcodes(b"cos\nsystem\n)\x81"), "the instruction 0x81"),
    "newobj_ex": (opcodes(b"cos\nsystem\n)}\x92"), "the instruction 0x92"),
    "persid": (opcodes(b"Pname\n"), "the instruction 0x50"),
    "binpersid": (opcodes(b"NQ"), "points outside"),
    "ext1": (opcodes(b"\x82\x01"), "the instruction 0x82"),
    "ext4": (opcodes(b"\x84\x01\0\0\0"), "the instruction 0x84"),
    "an integer as text": (opcodes(b"I" + b"9" * 5000 + b"\n"), "the instruction 0x49"),
    "a long number": (opcodes(b"\x8b", struct.pack("<i", 1 << 30)), "the instruction 0x8b"),
    "a set": (pickle.dumps({1}, 4), "the instruction 0x8f"),
    "a bytearray": (pickle.dumps(bytearray(b"a"), 5), "the instruction 0x96"),
    "a buffer outside": (b"\x80\x05\x97.", "the instruction 0x97"),
    "a deep tuple as a key": (opcodes(b"}", DEEP, b"K\x01s"), "a tuple as a key"),
    "a number as a key": (opcodes(b"}K\x01K\x01s"), "a int as a key"),
    "a list as a key": (opcodes(b"}]K\x01s"), "a list as a key"),
    "a name twice": (opcodes(b"}(", text("a"), b"N", text("a"), b"Nu"), "'a' is named twice"),
    "a name without a value": (opcodes(b"}(", text("a"), b"u"), "no dictionary"),
    "items for a list": (opcodes(b"]", text("a"), b"Ns"), "no dictionary"),
    "items for a tuple": (opcodes(b")Na"), "no list"),
    "a call of a text": (opcodes(text("os.system"), b")R"), "has no name"),
    "a call of a call": (opcodes(b"cos\nsystem\n)R)R"), "has no name"),
    "arguments that are a list": (opcodes(b"cos\nsystem\n]R"), "has no name"),
    "a second state": (opcodes(b"cos\nsystem\n)RNbK\x01bK\x02b"), "a second state"),
    "a state for a list": (opcodes(b"]}b"), "a state for what was not called"),
    "a state for a name": (opcodes(b"cos\nsystem\n}b"), "a state for what was not called"),
    "a global of numbers": (b"\x80\x04K\x01K\x01\x93.", "a global"),
    "a part of a global": (b"\x80\x04\x8c\x02os\x8c\x0bpath.exists\x93.", "a global"),
    "a global without an end": (opcodes(b"cos\nsystem"), "a name without an end"),
    "a global of no letters": (opcodes(b"c\xff\nsystem\n"), "ascii"),
    "no such memo": (opcodes(b"h\x07"), "did not keep"),
    "an empty stack": (opcodes(b"K\x01a"), "a value is lacking"),
    "no mark": (opcodes(b"K\x01t"), "a value is lacking"),
    "a mark as a value": (opcodes(b"}", text("w"), b"(s"), "a mark where a value"),
    "a mark that is kept": (opcodes(b"(q\x00"), "a mark where a value"),
    "a mark as the result": (opcodes(b"("), "a mark where a value"),
    "two values": (opcodes(b"}}"), "left over"),
    "no value": (opcodes(), "left over"),
    "half of a letter": (opcodes(b"X\x01\0\0\0\xc3"), "decode"),
    "a surrogate": (pickle.dumps("\ud800", 4), "decode"),
    "no stop": (b"\x80\x02}", "it ends too early"),
    "a text past the end": (opcodes(b"X", struct.pack("<I", 1 << 31)), "it ends too early"),
    "bytes past the end": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".", "too early"),
    "nothing": (b"", "it ends too early"),
    "text as a file": (b"not a pickle at all", "does not begin as a pickle"),
    "protocol 0": (pickle.dumps({"w": 1}, 0), "does not begin as a pickle"),
    "protocol 6": (b"\x80\x06}.", "does not begin as a pickle"),
    "two protocols": (opcodes(b"\x80\x02}"), "the instruction 0x80"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_weights_do_not_need_is_refused(name: str) -> None:
    raw, message = REFUSED[name]
    with pytest.raises(UnsoundError, match=message) as caught:
        parsed(raw)
    kind = "truncated" if "too early" in message else "pickle"
    assert caught.value.kind == kind
    assert caught.value.offset is not None
    assert 0 <= caught.value.offset <= len(raw)


def test_where_it_is_wrong() -> None:
    raw = opcodes(b"}", text("w"), b"cos\nsystem\n)\x81s")
    with pytest.raises(UnsoundError) as caught:
        parsed(raw)
    assert caught.value.offset == raw.index(b"\x81")


def test_values_inside_one_another_without_end() -> None:
    """Sixty thousand deep, or one that holds itself: neither ends the process."""
    assert type(parsed(opcodes(DEEP))) is tuple
    calls = b"\x80\x02ca\nb\nq\x00" + b"h\x00" * 60_000 + b")" + b"R\x85" * 60_000 + b"\x86."
    assert type(parsed(calls)) is tuple
    found = parsed(opcodes(b"}q\x00", text("w"), b"h\x00s"))
    assert found["w"] is found


def test_as_many_instructions_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offramp.checkpoints.inert_pickle.MOST_STEPS", 100)
    with pytest.raises(UnsoundError, match="more than 100 instructions"):
        parsed(pickle.dumps({str(i): i for i in range(100)}))


def test_as_much_text_as_there_may_be() -> None:
    raw = pickle.dumps([str(i).zfill(1000) for i in range(9000)], 4)
    with pytest.raises(UnsoundError, match="bytes of names"):
        parsed(raw)


@given(st.binary(max_size=60))
def test_noise_raises_nothing_else(noise: bytes) -> None:
    for head in (b"", b"\x80\x02", b"\x80\x04"):
        try:
            parse_pickle(np.frombuffer(head + noise, np.uint8), outside=True)
        except UnsoundError as error:
            assert error.kind in ("pickle", "truncated")
