"""The reader and writer against the safetensors library and bytes laid out by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from offramp.checkpoints.safetensors_file import (
    TensorInfo,
    read_header,
    read_tensors,
    tensor_info,
    torch_dtype,
    write_tensors,
)
from offramp.errors import CheckpointError, ModelNotFoundError

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]


def test_a_file_by_hand(tmp_path: Path) -> None:
    # https://huggingface.co/docs/safetensors/index#format: length, header, data.
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "hand.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + struct.pack("<ffq", 1.5, -2.0, 7))
    assert read_header(path) == {"a": TensorInfo((2,), "F32"), "b": TensorInfo((), "I64")}
    found = read_tensors(str(path), {"b": "number", "a": "pair"})
    assert found["pair"].tolist() == [1.5, -2.0]
    assert found["number"].item() == 7


def test_the_header_is_what_the_library_wrote(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.ones(2, 3).to(dtype) for dtype in DTYPES}
    save_file(tensors, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    assert header.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert header[name].shape == (2, 3)
        assert tensor_info(tensor) == header[name]
        expected = tensor.dtype if tensor.is_floating_point() else None
        assert torch_dtype(header[name]) == expected


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    square = torch.arange(6.0).view(2, 3)
    tensors = {
        "plain": square,
        "transposed": square.T,
        "empty": torch.zeros(0, 4),
        "trained": torch.ones(2, requires_grad=True),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    write_tensors(tmp_path / "x.safetensors", tensors)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses a file without it


def test_only_asked_for_tensors_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1), "b": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert list(read_tensors(tmp_path / "x.safetensors", {"b": "c"})) == ["c"]


def test_a_tensor_that_is_not_there(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(tmp_path / "x.safetensors", {"b": "b"})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        read_header(tmp_path / "nowhere.safetensors")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "x.safetensors"
    save_file({"a": torch.ones(2, 2), "b": torch.zeros(3)}, path)
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_raise_nothing_but_checkpoint_errors(
    tmp_path: Path, sound: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        header = read_header(path)
        for info in header.values():
            torch_dtype(info)
        read_tensors(path, {name: name for name in header})
    except CheckpointError as error:
        assert str(path) in str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80).filter(lambda noise: noise[8:9] != b"{"))
def test_noise_is_no_safetensors_file(tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(noise)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        read_header(path)
