"""A file's bytes as an array: its own pages, or a copy, and in memory only once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stored_cases import LAYOUTS, assert_same, bits, numbers, save, small

from offramp.checkpoints.checked_file import UnsoundError
from offramp.checkpoints.content import Array, copied, file_bytes, settled, taken
from offramp.checkpoints.safetensors_file import write_safetensors
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.weights import Reading, open_save, read_file

# Bytes


def test_all_bytes_to_write_on(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    found = file_bytes(path)
    assert found.dtype == np.uint8
    assert type(found) is np.ndarray
    assert found.tobytes() == b"abc"
    found[0] = 0
    assert path.read_bytes() == b"abc"


def test_a_mapping_is_the_file_and_a_copy_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    mapped = file_bytes(path)
    copy = copied(file_bytes(path))
    with path.open("r+b") as file:
        file.write(b"x")
    assert mapped.tobytes() == b"xbc"
    assert copy.tobytes() == b"abc"
    path.unlink()  # which takes its name alone
    assert mapped.tobytes() == b"xbc"


def test_a_pointer_of_git_lfs_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UnsoundError, match="run `git lfs pull`"):
        file_bytes(tmp_path / "x")


def test_a_copy_outlives_a_file_that_is_cut_short(tmp_path: Path) -> None:
    """Of a mapping the system would end the process."""
    path = save(tmp_path / "x.safetensors", "a")
    found = open_save(path, options=Reading(mmap=False)).tensors
    os.truncate(path, 0)
    assert_same(found, small("a"))


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(UnsoundError, match="it is empty") as caught:
        file_bytes(tmp_path / "x")
    assert (caught.value.kind, caught.value.offset) == ("truncated", 0)


# Settled arrays


@pytest.mark.parametrize("settle", [settled, taken])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_settled_arrays_are_equal(layout: str, settle: Callable[[Array], Array]) -> None:
    shape, turn = LAYOUTS[layout]
    array = turn(numbers("F32", shape).array)
    found = settle(array)
    assert found.flags.c_contiguous
    assert found.flags.aligned
    assert bits(Stored("F32", found)) == bits(Stored("F32", array))
    in_order = array.flags.c_contiguous and array.flags.aligned
    assert (found is array) == in_order


def test_what_was_written_to_a_mapping_stays(tmp_path: Path) -> None:
    """Where an array is settled; none is taken that anybody has written to."""
    path = tmp_path / "x"
    path.write_bytes(bytes(1 << 20))
    array = file_bytes(path).reshape(1024, 1024)
    array[:] = 1
    assert settled(array.T).all()
    assert array.all()


def in_memory(path: Path) -> int:
    """Bytes of a mapped file that lie in this process's memory."""
    found = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[0] in "0123456789abcdef" and "-" in line.split()[0]:
            of_file = line.endswith(str(path))
        elif of_file and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's smaps")
@pytest.mark.parametrize("offset", [0, 1, 4096, 4100])
def test_of_a_copied_array_the_pages_are_given_back(tmp_path: Path, offset: int) -> None:
    """And are read again where they are wanted again; a neighbour's are as they were."""
    path, size = tmp_path / "x", 1024
    numbers_in_it = np.random.default_rng(0).random((3, size, size), dtype=np.float32)
    path.write_bytes(bytes(offset) + numbers_in_it.tobytes())
    content = file_bytes(path)
    mapped: Array = np.ndarray((3, size, size), np.float32, content.data, offset)
    turns: list[Callable[[Array], Array]] = [lambda array: array.T, lambda array: array[:, ::2]]
    for turn in turns:
        view = turn(mapped[1])
        assert mapped.sum() != 0  # which touches them all
        assert in_memory(path) >= mapped.nbytes
        copy = taken(view)
        assert in_memory(path) <= mapped.nbytes * 2 / 3 + 2 * 4096
        assert np.array_equal(copy, turn(numbers_in_it[1]))
        assert np.array_equal(mapped, numbers_in_it)
        assert in_memory(path) >= mapped.nbytes


def test_of_memory_nothing_is_given_back() -> None:
    array = np.random.default_rng(0).random((1024, 1024), dtype=np.float32)
    before = array.copy()
    assert np.array_equal(taken(array.T), before.T)
    assert np.array_equal(array, before)


def test_a_small_array_of_a_page_with_others(tmp_path: Path) -> None:
    expected = small("a", "b") | {"c": numbers("F32", (5, 7))}
    write_safetensors(tmp_path / "x.safetensors", expected)
    found = read_file(tmp_path / "x.safetensors")
    found["a"].array[:] = 1
    turned = taken(found["c"].array.T)
    assert np.array_equal(turned.T, expected["c"].array, equal_nan=True)
    assert found["a"].array.tolist() == [1.0] * 4
