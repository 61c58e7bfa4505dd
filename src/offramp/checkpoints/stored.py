"""Tensors as files hold them: numpy arrays and the name of their type. torch is not needed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from offramp.checkpoints.checked_file import UnsoundError
from offramp.checkpoints.content import Array, copied, is_mapped

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types that weights may have."""
TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no such number: its bits
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""safetensors' name of a type: numpy's."""
MOST_DIMENSIONS = 8
_MOST_NUMBERS = 1 << 56  # numpy counts bytes in 63 bits, and an empty dimension does not help
_LONGEST_NAME = 1000
_NO_NAME = re.compile(r"^/|(^|/)\.\.(/|$)|^$")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a file: safetensors' name of its type, and its numbers (of BF16 the bits)."""

    dtype: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.array.shape
        return shape

    @property
    def nbytes(self) -> int:
        return self.array.nbytes


def check_name(name: str) -> None:
    """UnsoundError for a tensor's name that is a path or no text to be shown."""
    if len(name) > _LONGEST_NAME or _NO_NAME.search(name) or not name.isprintable():
        raise UnsoundError(f"a tensor is called {name[:60]!r}")


def check_shape(shape: object) -> tuple[int, ...]:
    """The sizes as they are; UnsoundError for what is no shape that memory can have."""
    sizes = check_sizes(shape)
    count = 1
    for size in sizes:
        count *= size or 1
    if count >= _MOST_NUMBERS:
        raise UnsoundError("a tensor's shape is larger than memory can be")
    return sizes


def check_sizes(values: object) -> tuple[int, ...]:
    """Sizes or steps as they are; UnsoundError for what is no list of at most eight of them."""
    if not isinstance(values, (list, tuple)) or len(values) > MOST_DIMENSIONS:
        raise UnsoundError("a tensor's shape is no list of at most eight sizes")
    for value in values:
        if type(value) is not int or not 0 <= value < 1 << 62:
            raise UnsoundError("a tensor's shape has a size that is no whole number from 0")
    return tuple(values)


def view(content: Array, start: int, dtype: str, shape: tuple[int, ...]) -> Stored:
    """The tensor that begins at a byte of a file; UnsoundError where it would not lie in it."""
    kind = TYPES[dtype]
    if not 0 <= start <= start + math.prod(shape) * kind.itemsize <= len(content):
        raise UnsoundError(f"a tensor of shape {list(shape)} lies outside the file", start)
    return Stored(dtype, np.ndarray(shape, kind, content.data, start))


def in_memory(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """A file's tensors in memory of their own, so that the file is no longer needed.

    One under several names stays one.
    """
    copies: dict[int, Stored] = {}
    for stored in tensors.values():
        if id(stored) not in copies:
            mapped = is_mapped(stored.array)
            copies[id(stored)] = Stored(stored.dtype, copied(stored.array)) if mapped else stored
    return {name: copies[id(stored)] for name, stored in tensors.items()}
