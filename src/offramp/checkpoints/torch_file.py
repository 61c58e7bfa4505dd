"""PyTorch's .bin: a zip of a pickle and the tensors' memory, read without executing the pickle.

What `torch.save` writes: https://docs.pytorch.org/docs/stable/notes/serialization.html. Not read is
its format of before 1.6, which is no zip.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offramp.checkpoints.inert_pickle import Call, Name, Stored, parse_pickle
from offramp.errors import CheckpointError

_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_LONGEST_PICKLE = 100_000_000  # bytes; names and shapes of a large model take one million
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # of a zip's entry: APPNOTE.TXT 4.3.7


def read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: private views of its mapping, read when touched.

    Numbers and texts beside them are left out. Raises CheckpointError for a file that is not such a
    zip, or holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive)
            pickles = [name for name in entries if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise _UnsoundError(f"{len(pickles)} files data.pkl in it; expected one")
            folder = pickles[0].removesuffix("data.pkl")
            if entries[pickles[0]].file_size > _LONGEST_PICKLE:
                raise _UnsoundError("a data.pkl of more than 100 MB")
            order = folder + "byteorder"
            if order in entries and archive.read(order) != b"little":
                raise _UnsoundError("numbers that are not little-endian")
            with archive.open(pickles[0]) as file:
                value = parse_pickle(file, f"{path}, data.pkl", stored=True)
        memory = np.memmap(path, dtype=np.uint8, mode="c")
        storages = {
            name.removeprefix(folder + "data/"): _content(memory, info)
            for name, info in entries.items()
            if name.startswith(folder + "data/")
        }
        return dict(_tensors(value, storages))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{path} is not a zip of PyTorch's ({error}). A file of torch before 1.6 is none: save "
            "it again with a later torch, or take the model's safetensors."
        ) from error
    except (_UnsoundError, ValueError, struct.error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not sound: {error}.") from error


class _UnsoundError(Exception):
    """What is wrong with the file."""


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in entries:
            raise _UnsoundError(f"{info.filename} is in it twice")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _UnsoundError(f"{info.filename} is compressed or encrypted")
        entries[info.filename] = info
    return entries


def _content(memory: np.ndarray[Any, Any], info: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    """An entry's bytes, where its own header says that they begin."""
    header = memory[info.header_offset : info.header_offset + _LOCAL_HEADER.size].tobytes()
    magic, *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if magic != b"PK\x03\x04" or start + info.file_size > len(memory):
        raise _UnsoundError(f"{info.filename} lies outside the file")
    return memory[start : start + info.file_size]


def _tensors(value: Any, storages: dict[str, np.ndarray[Any, Any]]) -> list[tuple[str, Tensor]]:
    if not isinstance(value, dict):
        raise _UnsoundError(f"it holds a {type(value).__name__}; expected tensors by name")
    return [
        (name, _tensor(item, storages))
        for name, item in value.items()
        if not isinstance(item, (bool, int, float, str, type(None)))
    ]


def _tensor(item: Any, storages: dict[str, np.ndarray[Any, Any]]) -> Tensor:
    if isinstance(item, Call) and item.of == "torch._utils._rebuild_parameter" and item.args:
        item = item.args[0]
    if not isinstance(item, Call) or item.of != "torch._utils._rebuild_tensor_v2":
        told = f"a call of {item.of}" if isinstance(item, Call) else f"a {type(item).__name__}"
        raise _UnsoundError(f"it holds {told}; expected tensors alone")
    if len(item.args) < 4:
        raise _UnsoundError("a tensor without a shape")
    stored, offset, shape, stride = item.args[:4]
    key: tuple[Any, ...] = stored.key if isinstance(stored, Stored) else ()
    if len(key) != 5 or key[0] != "storage" or not isinstance(key[1], Name):
        raise _UnsoundError("a tensor without memory")
    dtype, content = _STORAGES.get(key[1].name), storages.get(str(key[2]))
    if dtype is None or content is None:
        raise _UnsoundError(f"a tensor in {key[1].name} {key[2]!r}, which is not there")
    if not _are_sizes((offset,)) or not _are_sizes(shape) or not _are_sizes(stride):
        raise _UnsoundError(f"a tensor of the shape {shape!r}")
    if len(shape) != len(stride) or len(shape) > 8:
        raise _UnsoundError(f"a tensor of the shape {shape!r}, stepping {stride!r}")
    count = len(content) // dtype.itemsize
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= count:
        raise _UnsoundError(f"a tensor of shape {list(shape)} in {len(content)} bytes")
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(content.data, dtype=dtype, count=count)
    return flat.as_strided(shape, stride, offset)


def _are_sizes(sizes: Any) -> bool:
    return isinstance(sizes, tuple) and all(type(n) is int and 0 <= n < 2**48 for n in sizes)
