"""What is written in any format is what is read, in one file or in several."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_cases import LAYOUTS, TORCH_KINDS, assert_same, numbers, small, tensors

from offramp import ConfigError, ModelNotFoundError
from offramp.checkpoints.content import Array
from offramp.checkpoints.file_names import PADDLE_FILE, SAFETENSORS_FILE, TORCH_FILE, with_variant
from offramp.checkpoints.finding import find_save
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.weights import Reading, open_save
from offramp.checkpoints.writing import write_weights

FORMATS = (SAFETENSORS_FILE, TORCH_FILE, PADDLE_FILE)
FOUR = {
    name: Stored("F32", np.full(100, n, np.float32)) for n, name in enumerate("abcd")
}  # of 400 bytes each


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("size", [None, 400, 800, 1000, "1KB", "0.4 kb", "5GB", 1])
def test_what_is_written_is_read(
    tmp_path: Path, size: int | str | None, variant: str | None, file: str
) -> None:
    write_weights(tmp_path, FOUR, file, variant, size)
    save = find_save(tmp_path, variant=variant)
    assert_same(open_save(save).tensors, FOUR)
    suffix = Path(file).suffix
    if size in (None, "5GB"):
        assert names(tmp_path) == [with_variant(file, variant)]
    else:
        shards = len(names(tmp_path)) - 1
        assert shards == {400: 4, 800: 2, 1000: 2, "1KB": 2, "0.4 kb": 4, 1: 4}[size]
        assert all(path.stat().st_size < 3000 for path in tmp_path.glob(f"*{suffix}"))
        index = json.loads(save.read_text())
        assert index["metadata"]["total_size"] == 1600
        assert index["weight_map"].keys() == FOUR.keys()
    with pytest.raises(ModelNotFoundError):
        find_save(tmp_path, variant="bf16")


@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.parametrize("size", [None, 1000])
def test_every_kind_and_layout(tmp_path: Path, file: str, size: int | None) -> None:
    unsaid = {"U16"} if file == PADDLE_FILE else set()  # since bfloat16 is written as these
    kinds = [kind for kind in TORCH_KINDS if kind not in unsaid]
    written = {
        name.replace("encoder.layer.", "encoder.block."): t for name, t in tensors(kinds).items()
    }
    write_weights(tmp_path, written, file, None, size)
    options = Reading(uint16_is_bfloat16=True)
    assert_same(open_save(find_save(tmp_path), (), options).tensors, written)


def from_file(directory: Path, shape: tuple[int, ...]) -> Array:
    """Numbers that lie in a mapped file, and have been changed since."""
    write_weights(directory, {"w": Stored("F32", np.zeros(shape, np.float32))}, "source.bin")
    array = open_save(directory / "source.bin").tensors["w"].array
    array[:] = numbers("U8", shape).array
    return array


@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.parametrize("layout", ["by row", "transposed", "every other column"])
def test_what_is_written_is_not_changed(tmp_path: Path, file: str, layout: str) -> None:
    """Nor read again from where it came from: it may have been trained since."""
    array = from_file(tmp_path, (600, 500))
    before = array.copy()
    view = LAYOUTS[layout][1](array)
    write_weights(tmp_path, {"w": Stored("F32", view)}, file)
    assert np.array_equal(array, before)
    found = open_save(tmp_path / file).tensors["w"].array
    turn = LAYOUTS[layout][1]
    assert np.array_equal(found, turn(before))


@pytest.mark.parametrize("file", FORMATS)
def test_a_file_may_be_written_over_itself(tmp_path: Path, file: str) -> None:
    """Only where it is another file by the same name; a mapped one is not to be cut short."""
    write_weights(tmp_path, FOUR, file)
    found = open_save(tmp_path / file, options=Reading(mmap=False)).tensors
    write_weights(tmp_path, found, file)
    assert_same(open_save(tmp_path / file).tensors, FOUR)


@pytest.mark.parametrize("file", FORMATS)
def test_permissions_follow_the_umask(tmp_path: Path, file: str) -> None:
    before = os.umask(0o027)
    try:
        write_weights(tmp_path, FOUR, file, max_shard_size=800)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_names_that_are_not_ascii(tmp_path: Path) -> None:
    """In the index too."""
    for file in FORMATS:
        (tmp_path / file).mkdir()
        written = small("größe", "重み", "🙂")
        write_weights(tmp_path / file, written, file, max_shard_size=16)
        assert_same(open_save(find_save(tmp_path / file)).tensors, written)


@pytest.mark.parametrize(
    "size", [0, -1, True, "", "many", "5", 2.5, "0GB", "-5GB", "infGB", "nanMB", "1e3KB", "٣GB"]
)
def test_a_size_that_is_none(tmp_path: Path, size: Any) -> None:
    with pytest.raises(ConfigError, match="max_shard_size"):
        write_weights(tmp_path, FOUR, max_shard_size=size)
    assert names(tmp_path) == []


@pytest.mark.parametrize("file", FORMATS)
def test_a_place_that_cannot_be_written(tmp_path: Path, file: str) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_weights(tmp_path / "nowhere", FOUR, file)
