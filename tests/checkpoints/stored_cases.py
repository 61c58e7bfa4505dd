"""Tensors of every kind of number and every layout in memory, and when two of them are the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offramp.checkpoints.content import Array
from offramp.checkpoints.safetensors_file import write_safetensors
from offramp.checkpoints.stored import TYPES, Stored

TORCH_KINDS = tuple(kind for kind in TYPES if kind not in ("U16", "U32", "U64"))
"""The kinds of number of which torch has storages, which a .bin names."""

NAMES = (
    "bert.encoder.layer.0.attention.self.query.weight",
    "b",
    "with space",
    'with "quotes" and \\',
    "größe.重み.🙂",
    "x" * 300,
)
"""What a tensor may be called."""


def numbers(kind: str, shape: tuple[int, ...], seed: int = 0) -> Stored:
    """A tensor of random bits: among many floating-point numbers there are NaNs."""
    dtype = TYPES[kind]
    bits = np.random.default_rng(seed).integers(0, 256, math.prod(shape) * dtype.itemsize, "u1")
    bits = bits % 2 if kind == "BOOL" else bits
    return Stored(kind, bits.view(dtype).reshape(shape))


def _unaligned(array: Array) -> Array:
    raw = np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:]
    found: Array = np.ndarray(array.shape, array.dtype, raw.data)
    return found


LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[Array], Array]]] = {
    "by row": ((6, 5), lambda array: array),
    "by column": ((6, 5), np.asfortranarray),
    "transposed": ((6, 5), lambda array: array.T),
    "permuted": ((4, 3, 2), lambda array: array.transpose(1, 2, 0)),
    "every other column": ((6, 5), lambda array: array[:, ::2]),
    "a part": ((6, 5), lambda array: array[1:3, 1:4]),
    "backwards": ((6, 5), lambda array: array[::-1]),
    "repeated": ((5,), lambda array: np.broadcast_to(array, (3, 5))),
    "read only": ((6, 5), lambda array: np.frombuffer(array.tobytes(), array.dtype)),
    "not aligned": ((6, 5), _unaligned),
    "one number": ((), lambda array: array),
    "one element": ((1, 1, 1), lambda array: array),
    "eight dimensions": ((2, 1, 2, 1, 2, 1, 2, 1), lambda array: array),
    "empty": ((0,), lambda array: array),
    "empty rows": ((4, 0), lambda array: array),
    "no rows, transposed": ((0, 4), lambda array: array.T),
}
"""{layout: (shape of the numbers, what is made of them)}."""


def tensors(kinds: Iterable[str] = TYPES) -> dict[str, Stored]:
    """One tensor of every kind in every layout, and one under each of `NAMES`."""
    found = {
        f"{layout}.{kind}": Stored(kind, turn(numbers(kind, shape).array))
        for kind in kinds
        for layout, (shape, turn) in LAYOUTS.items()
    }
    return found | {name: numbers("F32", (2, 3), seed) for seed, name in enumerate(NAMES)}


def bits(stored: Stored) -> tuple[str, tuple[int, ...], bytes]:
    """What two tensors have in common if they are the same one."""
    return stored.dtype, stored.shape, stored.array.tobytes()


def assert_same(found: Mapping[str, Stored], expected: Mapping[str, Stored]) -> None:
    """Names, kinds, shapes and every bit."""
    assert sorted(found) == sorted(expected)
    for name, stored in expected.items():
        assert found[name].array.dtype == TYPES[stored.dtype], name
        assert bits(found[name]) == bits(stored), name


def small(*names: str) -> dict[str, Stored]:
    """A vector of four numbers under each name, all of them different."""
    return {name: numbers("F32", (4,), seed) for seed, name in enumerate(names)}


def save(path: Path, *names: str) -> Path:
    """A safetensors file of `small` tensors."""
    write_safetensors(path, small(*names))
    return path


def plain(values: Mapping[str, Any]) -> dict[str, Stored]:
    """numpy's arrays under the names of their kinds."""
    kinds = {dtype: kind for kind, dtype in TYPES.items() if kind != "BF16"}
    return {name: Stored(kinds[array.dtype], array) for name, array in values.items()}
