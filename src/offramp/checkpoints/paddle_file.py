"""PaddlePaddle's .pdparams: a pickle of numpy arrays, read without Paddle and without executing it.

What `paddle.save` of Paddle 2.6 writes: https://github.com/PaddlePaddle/Paddle, framework/io.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from offramp.checkpoints.inert_pickle import Call, Name, read_pickle
from offramp.errors import CheckpointError

Array: TypeAlias = "np.ndarray[Any, Any]"

_OWN_NAMES = "StructuredToParameterName@@"
"""Paddle's names of its own parameters: of no use here."""
_PARTS = "UnpackBigParamInfor@@"
"""How arrays of more than a gibibyte were cut up, under pickle protocols before 4."""
_SHARED = 4
"""How many times a file's own length its arrays may take, where names share one."""
_DEEPEST = 4
_KINDS = {"f2", "f4", "f8", "u1", "i1", "u2", "i2", "i4", "i8", "b1"}


def read_paddle(path: Path) -> dict[str, Array]:
    """The arrays of a file by name. bfloat16 comes as uint16, which is how Paddle writes it.

    Those of a dictionary inside have its name and a dot before theirs; numbers and texts beside
    them (an epoch, say) are no weights and are left out. Raises CheckpointError for anything else.
    """
    value = read_pickle(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}; expected arrays by name.")
    if _PARTS in value:
        raise CheckpointError(
            f"{path} keeps large arrays in parts, which this offramp does not join. Save it with "
            "pickle protocol 4."
        )
    value.pop(_OWN_NAMES, None)
    found: dict[str, Array] = {}
    allowed = _SHARED * path.stat().st_size
    try:
        for name, array in _items(value):
            allowed -= len(name) + (0 if array is None else array.nbytes)
            if array is not None:
                found[name] = array
            if allowed < 0:  # one array, or dictionary, under ever more names
                raise _NoArrayError("more in all than the file is long")
        return found
    except _NoArrayError as error:
        raise CheckpointError(f"{path} does not hold arrays alone: {error}.") from None


class _NoArrayError(Exception):
    """What was found in place of an array."""


def _items(values: dict[str, Any], depth: int = 0) -> Iterator[tuple[str, Array | None]]:
    """Names and arrays, None for what is no array; one by one, so that a bomb can be stopped."""
    if depth > _DEEPEST or not values:
        raise _NoArrayError("dictionaries that are empty, or inside one another without end")
    for name, item in values.items():
        if isinstance(item, dict):
            for rest, array in _items(item, depth + 1):
                yield f"{name}.{rest}", array
        else:
            constant = isinstance(item, (bool, int, float, str, type(None)))
            yield name, None if constant else _array(item)


def _array(item: Any) -> Array:
    if isinstance(item, Call) and item.of in ("builtins.tuple", "__builtin__.tuple"):
        (item,) = item.args if len(item.args) == 1 else (None,)
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        item = item[1]  # Paddle's own name of the tensor, and its array
    if not isinstance(item, Call) or item.of not in _RECONSTRUCT:
        raise _NoArrayError(_told(item))
    if not item.args or item.args[0] != Name("numpy.ndarray"):
        raise _NoArrayError("an array of another class")
    state = item.state
    if not isinstance(state, tuple) or len(state) != 5:
        raise _NoArrayError("an array without its contents")
    _, shape, kind, by_column, content = state
    if not _is_shape(shape) or not isinstance(by_column, bool):
        raise _NoArrayError(f"an array of the shape {shape!r}")
    dtype, content = _dtype(kind), _bytes(content)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise _NoArrayError(f"an array of shape {list(shape)} in {len(content)} bytes")
    array: Array = np.ndarray(shape, dtype, content, order="F" if by_column else "C")
    return array


_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= 8
        and all(type(size) is int and size >= 0 for size in shape)
    )


def _dtype(kind: Any) -> np.dtype[Any]:
    if isinstance(kind, Call) and kind.of == "numpy.dtype" and kind.args and kind.state:
        word, order = kind.args[0], kind.state[1] if len(kind.state) > 1 else None
        if word in _KINDS and order in ("<", "|", "="):
            return np.dtype(str(word))
    raise _NoArrayError(f"numbers of another kind, {_told(kind)}")


def _bytes(content: Any) -> bytes:
    if isinstance(content, Call) and content.of == "_codecs.encode":  # protocol 2 has no bytes
        text, codec = content.args if len(content.args) == 2 else (None, None)
        if isinstance(text, str) and codec == "latin1":
            try:
                return text.encode("latin1")
            except UnicodeEncodeError:
                pass
    if isinstance(content, Call) and content.of == "__builtin__.bytes" and not content.args:
        return b""
    if not isinstance(content, bytes):
        raise _NoArrayError(f"contents that are {_told(content)}")
    return content


def _told(item: Any) -> str:
    if isinstance(item, Call):
        return f"a call of {item.of}"
    return f"the global {item.name}" if isinstance(item, Name) else f"a {type(item).__name__}"
