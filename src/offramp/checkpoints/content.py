"""A file's bytes as an array: mapped, or read."""

from __future__ import annotations

import mmap as mapping
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from offramp.checkpoints.checked_file import UnsoundError, opened

Array: TypeAlias = "np.ndarray[Any, Any]"
_PAGE = mapping.PAGESIZE
_SLAB = 1 << 24  # bytes that are copied at once
_POINTER = b"version https://git-lfs"


def file_bytes(path: Path) -> Array:
    """All bytes of a file [n], uint8: a private mapping, read when touched.

    A mapped file must not be cut short while its tensors live: the system ends a process that
    touches what is gone (SIGBUS). OSError or UnsoundError for what is no ordinary file.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise UnsoundError("it is empty", 0, "truncated")
        content = np.asarray(np.memmap(file, dtype=np.uint8, mode="c"))
    if content[: len(_POINTER)].tobytes() == _POINTER:
        raise UnsoundError("it is git-lfs's pointer to the file: run `git lfs pull`", 0)
    return content


def settled(array: Array) -> Array:
    """The array row by row in memory, its address as its type wants it: a copy only if need be."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array, order="C", subok=False)


def taken(array: Array) -> Array:
    """`settled`, of a file's own array that nobody has written to.

    Where it is a copy the mapped pages are given back, so that the array is in memory once.
    """
    return array if array.flags.c_contiguous and array.flags.aligned else copied(array)


def copied(array: Array) -> Array:
    """A file's own array in memory of its own; the mapped pages are given back bit by bit."""
    copy = np.empty(array.shape, array.dtype)
    if array.ndim == 0:
        copy[()] = array
        return copy
    axis = max(range(array.ndim), key=lambda axis: array.strides[axis])
    slab = max(_SLAB * array.shape[axis] // max(array.nbytes, 1), 1)
    for start in range(0, array.shape[axis], slab):
        part = (*[slice(None)] * axis, slice(start, start + slab))
        copy[part] = array[part]
        give_back(array[part])
    return copy


def give_back(array: Array) -> None:
    """Tell the system that the mapped pages under an array need not stay in memory.

    What was written to them is lost: only for a file's own arrays, while it is read.
    """
    found = _mapping(array)
    if found is None or not array.size or not hasattr(found[0], "madvise"):
        return
    owner, mapped = found
    steps = zip(array.shape, array.strides, strict=True)
    start = array.ctypes.data - mapped.ctypes.data
    stop = start + sum((size - 1) * step for size, step in steps) + array.itemsize
    first, last = -(-start // _PAGE) * _PAGE, stop // _PAGE * _PAGE
    if last > first:
        owner.madvise(mapping.MADV_DONTNEED, first, last - first)


def is_mapped(array: Array) -> bool:
    """Whether the array's numbers are those of a mapped file, and no copy."""
    return _mapping(array) is not None


def _mapping(array: Array) -> tuple[mapping.mmap, Array] | None:
    """The mapping that an array lies in, and the whole of it as an array."""
    owner: Any = array
    mapped: Array | None = None
    while owner is not None and not isinstance(owner, mapping.mmap):
        mapped = owner if isinstance(owner, np.memmap) else mapped
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return None if owner is None or mapped is None else (owner, mapped)
