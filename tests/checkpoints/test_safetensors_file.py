"""The reader and writer against the safetensors library and bytes laid out by hand."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file
from stored_cases import NAMES, assert_same, bits, numbers, plain, small, tensors

from offramp.checkpoints.safetensors_file import (
    LONGEST_HEADER,
    read_metadata,
    read_safetensors,
    write_safetensors,
)
from offramp.checkpoints.stored import TYPES, Stored, in_memory
from offramp.errors import CheckpointError
from offramp.models.tensors import TORCH_TYPES, as_stored, as_tensor

PAIR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def by_hand(path: Path, header: Any, data: bytes = b"") -> Path:
    """https://huggingface.co/docs/safetensors/index#format: length, header, data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


# What is read and written


def test_a_file_by_hand(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt", "by": "hand"},
        "b": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]},
        "a": PAIR,
    }
    path = by_hand(tmp_path / "x.safetensors", header, struct.pack("<ffq", 1.5, -2.0, 7))
    found = read_safetensors(path)
    assert {name: (stored.dtype, stored.shape) for name, stored in found.items()} == {
        "b": ("I64", ()),
        "a": ("F32", (2,)),
    }
    assert found["a"].array.tolist() == [1.5, -2.0]
    assert found["b"].array == 7
    assert found["b"].nbytes == 8
    assert read_metadata(path) == {"format": "pt", "by": "hand"}


@pytest.mark.parametrize("about", [None, {}, {"format": "np"}])
def test_any_metadata_or_none(tmp_path: Path, about: dict[str, str] | None) -> None:
    """PaddleNLP writes `np`, which transformers refuses; and the text may be padded."""
    header = {"a": PAIR} | ({} if about is None else {"__metadata__": about})
    padded = json.dumps(header).encode() + b" " * 13
    path = by_hand(tmp_path / "x.safetensors", padded, bytes(8))
    assert read_metadata(path) == (about or {})
    assert read_safetensors(path)["a"].array.tolist() == [0, 0]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every kind of number in every layout, bit for bit."""
    written = tensors()
    write_safetensors(tmp_path / "x.safetensors", written)
    assert_same(read_safetensors(tmp_path / "x.safetensors"), written)


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    """By its own names of the types, and as numpy's where numpy has them."""
    path, written = tmp_path / "x.safetensors", tensors()
    write_safetensors(path, written)
    known = {name: stored for name, stored in written.items() if stored.dtype != "BF16"}
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}  # transformers before 5 refuses one without it
        assert {name: file.get_slice(name).get_dtype() for name in written} == {
            name: stored.dtype for name, stored in written.items()
        }
        assert_same(plain({name: file.get_tensor(name) for name in known}), known)
    of_torch = {name: stored for name, stored in written.items() if stored.dtype in TORCH_TYPES}
    found = load_file(path)
    assert_same({name: as_stored(found[name]) for name in of_torch}, of_torch)


def test_the_file_is_the_library_s_byte_for_byte(tmp_path: Path) -> None:
    written = {
        name: stored
        for name, stored in tensors(TORCH_TYPES).items()
        if stored.array.flags.c_contiguous and stored.array.flags.writeable
    }
    write_safetensors(tmp_path / "ours", written)
    theirs = {name: as_tensor(stored).clone() for name, stored in written.items()}
    save_file(theirs, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    theirs = {str(dtype): torch.ones(2, 3).to(dtype) for dtype in TORCH_TYPES.values()}
    theirs |= {name: torch.arange(3.0) for name in NAMES}
    save_file(theirs, tmp_path / "x.safetensors")
    found = read_safetensors(tmp_path / "x.safetensors")
    assert_same(found, {name: as_stored(tensor) for name, tensor in theirs.items()})
    assert read_metadata(tmp_path / "x.safetensors") == {}


def test_no_tensors(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", {})
    assert read_safetensors(tmp_path / "x.safetensors") == {}
    assert load_numpy(tmp_path / "x.safetensors") == {}


def test_only_the_header_is_looked_at(tmp_path: Path) -> None:
    """What is behind it is there when it is touched: as the file then has it."""
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": Stored("U8", np.zeros(1 << 16, np.uint8))})
    found, copied = read_safetensors(path), in_memory(read_safetensors(path))
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x07")
    assert found["w"].array[-1] == 7
    assert copied["w"].array[-1] == 0


def test_a_write_is_the_process_s_own(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, small("w"))
    before = path.read_bytes()
    array = read_safetensors(path)["w"].array
    array[:] = 1
    assert array.tolist() == [1.0] * 4
    assert path.read_bytes() == before


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_safetensors(tmp_path / "x.safetensors", small("w"))
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_safetensors(tmp_path / "nowhere" / "x.safetensors", small("w"))


# What is refused


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for read in (read_safetensors, read_metadata):
        with pytest.raises(CheckpointError, match=r"x\.safetensors cannot be read") as caught:
            read(tmp_path / "x.safetensors")
        assert caught.value.kind == "missing"
        assert caught.value.file == str(tmp_path / "x.safetensors")


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": PAIR | changes}


def names_of(name: str) -> dict[str, Any]:
    return {name: PAIR}


HEADERS: dict[str, tuple[Any, str]] = {
    "a list": ([PAIR], "no header of JSON"),
    "a text": ("a", "no header of JSON"),
    "no JSON": (b'{"a": ', "no JSON"),
    "no UTF-8": (b'{"\xff": 1}', "no JSON"),
    "spaces before": (b"  {}", "no header of JSON"),
    "a name twice": (b'{"a": 1, "a": 2}', "'a' is named twice"),
    "deep": (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "no JSON"),
    "NaN": (b'{"a": NaN}', "no JSON"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "a": PAIR}, "__metadata__"),
    "metadata that is a text": ({"__metadata__": "pt", "a": PAIR}, "__metadata__"),
    "a number": ({"a": 1}, "dtype, shape and data_offsets"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, "dtype, shape and"),
    "a fourth": (entry(strides=[1]), "these alone"),
    "another kind": (entry(dtype="F128"), "a has .*F128"),
    "a kind in small letters": (entry(dtype="f32"), "a has .*f32"),
    "a kind that is a list": (entry(dtype=["F32"]), "a has .*F32"),
    "a shape that is a number": (entry(shape=2), "no list of at most eight"),
    "nine dimensions": (entry(shape=[1] * 8 + [2]), "at most eight"),
    "a size below zero": (entry(shape=[-1, -2]), "no whole number"),
    "a size that is half": (entry(shape=[2.0]), "no whole number"),
    "a size that is true": (entry(shape=[True, 2]), "no whole number"),
    "a size past 2^62": (entry(shape=[1 << 62, 0], data_offsets=[0, 0]), "shape"),
    "a shape without end": (entry(shape=[1 << 32, 1 << 32, 1 << 32]), "shape"),
    "a shape that overflows to 2": (entry(shape=[(1 << 61) + 1, 2]), "shape"),
    "a shape too large": (entry(shape=[3]), "takes 12 bytes, and has 8"),
    "a shape too small": (entry(shape=[1]), "takes 4 bytes, and has 8"),
    "offsets of one": (entry(data_offsets=[0]), "no two data_offsets"),
    "offsets of three": (entry(data_offsets=[0, 8, 8]), "no two data_offsets"),
    "offsets that are texts": (entry(data_offsets=["0", "8"]), "no two data_offsets"),
    "offsets turned about": (entry(data_offsets=[8, 0]), "no two data_offsets in order"),
    "offsets below zero": (entry(data_offsets=[-8, 0]), "no two data_offsets in order"),
    "offsets past the file": (entry(data_offsets=[8, 16]), "nobody's"),
    "offsets past 2^64": (entry(data_offsets=[1 << 64, (1 << 64) + 8]), "nobody's"),
    "bytes that are nobody's": ({}, "its tensors end at byte"),
    "an overlap": ({"a": PAIR, "b": PAIR}, "overlaps another"),
    "one inside another": (
        {"a": PAIR, "b": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}},
        "overlaps another",
    ),
    "a name with a NUL": (names_of("a\0b"), "a tensor is called"),
    "a name of two lines": (names_of("a\nb"), "a tensor is called"),
    "a name that is a path": (names_of("../a"), "a tensor is called"),
    "a name from the root": (names_of("/a"), "a tensor is called"),
    "no name": (names_of(""), "a tensor is called"),
    "a name without end": (names_of("a" * 1001), "a tensor is called"),
    "half a letter as a name": (names_of("\ud800"), "a tensor is called"),
    "no rows of 2^61": (entry(dtype="F64", shape=[1 << 61, 0], data_offsets=[0, 0]), "shape"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    header, message = HEADERS[name]
    empty = name == "no rows of 2^61"
    path = by_hand(tmp_path / "x.safetensors", header, b"" if empty else bytes(8))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_safetensors(path)
    assert f"{path} is refused" in str(caught.value)
    assert caught.value.kind in ("header", "truncated")
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    ("length", "kind"),
    [
        (0, "header"),
        (1 << 20, "truncated"),
        (LONGEST_HEADER + 1, "header"),
        (1 << 63, "header"),
        ((1 << 64) - 1, "header"),
    ],
)
def test_a_length_that_lies_is_refused(tmp_path: Path, length: int, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    for read in (read_safetensors, read_metadata):
        with pytest.raises(CheckpointError, match=r"refused \(byte") as caught:
            read(path)
        assert caught.value.kind == kind


def test_where_it_is_wrong(tmp_path: Path) -> None:
    header = {"a": PAIR, "b": PAIR | {"data_offsets": [12, 20]}}
    path = by_hand(tmp_path / "x.safetensors", header, bytes(20))
    with pytest.raises(CheckpointError, match="b follows bytes that are nobody's") as caught:
        read_safetensors(path)
    assert caught.value.offset == 8 + len(json.dumps(header)) + 12
    assert f"(byte {caught.value.offset})" in str(caught.value)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "x.safetensors"
    save_file({"a": torch.ones(2, 2), "b": torch.zeros(3)}, path)
    return path.read_bytes()


def test_a_file_cut_off_anywhere(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "x.safetensors"
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        with pytest.raises(CheckpointError) as caught:
            read_safetensors(path)
        assert caught.value.kind == "truncated"
    path.write_bytes(sound + b"\0")
    with pytest.raises(CheckpointError, match="its tensors end at byte"):
        read_safetensors(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_a_damaged_file_raises_nothing_but_checkpoint_errors(
    tmp_path: Path, sound: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        for stored in read_safetensors(path).values():
            bits(stored)
    except CheckpointError as error:
        assert str(path) in str(error)


@given(st.binary(max_size=80).filter(lambda noise: noise[8:9] != b"{"))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_no_safetensors_file(tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(noise)
    with pytest.raises(CheckpointError, match="Expected a safetensors file"):
        read_safetensors(path)


def test_every_kind_has_the_library_s_size() -> None:
    for kind, dtype in TYPES.items():
        assert numbers(kind, (3,)).nbytes == 3 * dtype.itemsize
        if kind in TORCH_TYPES:
            assert TORCH_TYPES[kind].itemsize == dtype.itemsize
