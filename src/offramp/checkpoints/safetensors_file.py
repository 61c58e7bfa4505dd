"""safetensors files: https://huggingface.co/docs/safetensors/index#format"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, TensorSpec, serialize_file

from offramp.checkpoints.checked_file import UnsoundError, reading
from offramp.checkpoints.content import Array, file_bytes, settled
from offramp.checkpoints.stored import TYPES, Stored, check_name, check_shape, view
from offramp.checkpoints.strict_json import parse_json

LONGEST_HEADER = 25_000_000
"""Bytes; that of a thousand tensors has a hundred thousand."""
_LIBRARY_TYPES = {  # what the library calls them
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors by name: views of the file's mapping.

    Only the header is looked at. Raises CheckpointError for a file in which the header does not
    say, once and exactly, what each byte after it is.
    """
    with reading(path, "header", "Expected a safetensors file; save the model again."):
        content = file_bytes(path)
        start, header = _header(content)
        header.pop("__metadata__", None)
        places = {name: _place(name, entry) for name, entry in header.items()}
        end = 0
        for name, (_, _, begin, stop) in sorted(places.items(), key=lambda item: item[1][2:]):
            if begin != end:
                what = "overlaps another" if begin < end else "follows bytes that are nobody's"
                raise UnsoundError(f"{name} {what}", start + begin)
            end = stop
        if start + end != len(content):
            short = start + end > len(content)
            raise UnsoundError(
                f"its tensors end at byte {start + end}, and the file at {len(content)}",
                min(start + end, len(content)),
                "truncated" if short else None,
            )
        return {
            name: view(content, start + begin, dtype, shape)
            for name, (dtype, shape, begin, _) in places.items()
        }


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a header has beside the tensors: `format`, and what a writer put there."""
    with reading(path, "header"):
        return dict(_header(file_bytes(path))[1].get("__metadata__") or {})


def write_safetensors(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Write tensors as transformers does, with the metadata `format: pt`."""
    arrays = {name: settled(stored.array) for name, stored in tensors.items()}
    specs = {
        name: TensorSpec(
            dtype=_LIBRARY_TYPES[tensors[name].dtype],
            shape=array.shape,
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in arrays.items()
    }
    path.touch()
    mode = path.stat().st_mode  # by the umask; the library would leave 0600
    try:
        serialize_file(specs, str(path), metadata={"format": "pt"})
    except SafetensorError as error:  # what the library makes of a full disk
        raise OSError(str(error)) from error
    path.chmod(mode)


def _header(content: Array) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and what the header says."""
    if len(content) < 8:
        raise UnsoundError("it is shorter than the length of its header", 0, "truncated")
    (length,) = struct.unpack("<Q", content[:8].tobytes())
    if length > LONGEST_HEADER:
        raise UnsoundError(f"a header of {length} bytes; at most {LONGEST_HEADER} are read", 0)
    if 8 + length > len(content):
        raise UnsoundError(f"a header of {length} bytes, which it does not have", 0, "truncated")
    raw = content[8 : 8 + length].tobytes()
    if not raw.startswith(b"{"):
        raise UnsoundError("no header of JSON", 8)
    try:
        header = parse_json(raw, deepest=None)  # an entry may hold two lists, which is checked
    except (ValueError, RecursionError) as error:
        raise UnsoundError(f"its header is no JSON that can be read ({error})", 8) from None
    about = header.get("__metadata__")
    if about is not None and not (
        isinstance(about, dict) and all(isinstance(text, str) for text in about.values())
    ):
        raise UnsoundError("__metadata__ does not hold texts", 8)
    return 8 + length, header


def _place(name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """(type, shape, first byte, byte after the last) of a header's entry."""
    check_name(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UnsoundError(f"{name} has no dtype, shape and data_offsets, and these alone", 8)
    dtype, shape, offsets = entry["dtype"], check_shape(entry["shape"]), entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in TYPES:
        raise UnsoundError(
            f"{name} has type {str(dtype)[:20]}, expected one of {', '.join(TYPES)}. What is "
            "quantised is not read here",
            8,
        )
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(place) is int for place in offsets)
        or not 0 <= offsets[0] <= offsets[1]
    ):
        raise UnsoundError(f"{name} has no two data_offsets in order", 8)
    size = math.prod(shape) * TYPES[dtype].itemsize
    if offsets[1] - offsets[0] != size:
        raise UnsoundError(
            f"{name} of shape {list(shape)} and type {dtype} takes {size} bytes, and has "
            f"{offsets[1] - offsets[0]}",
            8,
        )
    return dtype, shape, offsets[0], offsets[1]
