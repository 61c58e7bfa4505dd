"""PaddlePaddle's .pdparams: a pickle of numpy arrays, read without Paddle and without executing it.

What `paddle.save` of Paddle 2.6 writes: https://github.com/PaddlePaddle/Paddle, framework/io.py.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offramp.checkpoints.checked_file import UnsoundError, reading
from offramp.checkpoints.content import Array, file_bytes, give_back
from offramp.checkpoints.inert_pickle import Call, LongText, Name, Outside, parse_pickle
from offramp.checkpoints.pickle_writer import PickleWriter
from offramp.checkpoints.stored import TYPES, Stored, check_name, check_shape

_OWN_NAMES = "StructuredToParameterName@@"
"""Paddle's names of its own parameters: of no use here."""
_PARTS = "UnpackBigParamInfor@@"
"""How arrays of more than a gibibyte are cut up, under pickle protocols before 4."""
_PROGRAM_NAME = re.compile(r"[\w.]+\.[wb]_\d+(_\w+)?")
_DEEPEST = 4
_MOST_NAMES = 16_000_000
_KINDS = {np.dtype(kind).str[1:]: name for name, kind in TYPES.items() if name != "BF16"}
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_NAMES = frozenset(
    {
        *_RECONSTRUCT,
        "numpy.ndarray",
        "numpy.dtype",
        "builtins.tuple",
        "__builtin__.tuple",
        "__builtin__.bytes",
        "_codecs.encode",
        "collections.OrderedDict",
    }
)
"""All that a file may name."""
_LOD_TENSOR = (
    "it holds a LoDTensor, which Paddle reads by evaluating text; save a layer's state_dict() in "
    "its place"
)
_UNSUPPORTED = {"builtins.eval": _LOD_TENSOR, "__builtin__.eval": _LOD_TENSOR}
_CHUNK = 1 << 20


def read_paddle(path: Path) -> dict[str, Stored]:
    """The tensors of a file by name: views of its mapping where it holds their bytes as they are.

    Those of a dictionary inside have its name and a dot before theirs; numbers and texts beside
    them (an epoch, say) are no weights and are left out. bfloat16 comes as U16, which is how Paddle
    writes it. Raises CheckpointError for anything else.
    """
    remedy = "Expected arrays by name, as paddle.save(layer.state_dict(), path) writes them."
    with reading(path, "pickle", remedy):
        content = file_bytes(path)
        if content[:4].tobytes() == b"\0\0\0\0" or content[:2].tobytes() == b"\x0a\x00":
            raise UnsoundError(
                "it is a program's (a static graph's) and not a layer's", 0, "unsupported"
            )
        value, end = parse_pickle(content, names=_NAMES, unsupported=_UNSUPPORTED)
        if end != len(content):
            raise UnsoundError("bytes follow its end", end)
        if type(value) is not dict:
            raise UnsoundError(f"it holds {_told(value)}")
        own_names = value.pop(_OWN_NAMES, {})
        if type(own_names) is not dict or not all(type(n) is str for n in own_names.values()):
            raise UnsoundError(f"{_OWN_NAMES} does not hold names")
        parts = value.pop(_PARTS, {})
        found: dict[str, Stored] = {}
        budget = _Budget(len(content))
        names_left = _MOST_NAMES
        for name, array in _items(value, budget):
            names_left -= len(name) + 100
            if names_left < 0:  # one dictionary under ever more names
                raise UnsoundError("what its names stand for is more than the file is long")
            if array is not None:
                check_name(name)
                if name in found:
                    raise UnsoundError(f"{name} is named twice")
                found[name] = Stored(_KINDS[array.dtype.str[1:]], array)
        if found and all(_PROGRAM_NAME.fullmatch(name) for name in found):
            raise UnsoundError(
                "it has a program's names (a static graph's), which say nothing of a layer",
                kind="unsupported",
            )
        return _joined(found, parts)


class _Budget:
    """The bytes that a file's arrays may take, which are no more than the file has."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:  # one array under ever more names
            raise UnsoundError("what its names stand for is more than the file is long")


def write_paddle(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Write what `paddle.load` reads: arrays by name in a pickle of protocol 4."""
    with path.open("wb") as file:
        pickle = PickleWriter(file, protocol=4)
        pickle.begin_dict()
        for name, stored in tensors.items():
            pickle.text(name)
            pickle.array(stored.array)
        pickle.end_dict()
        pickle.stop()


def _items(
    values: dict[str, Any], budget: _Budget, depth: int = 0
) -> Iterator[tuple[str, Array | None]]:
    """Names and arrays, None for what is no array; one by one, so that a bomb can be stopped."""
    if depth > _DEEPEST or not values:
        raise UnsoundError("dictionaries that are empty, or inside one another without end")
    for name, item in values.items():
        if type(item) is dict:
            for rest, array in _items(item, budget, depth + 1):
                yield f"{name}.{rest}", array
        else:
            constant = type(item) in (bool, int, float, str, type(None))
            yield name, None if constant else _array(name, item, budget)


def _array(name: str, item: Any, budget: _Budget) -> Array:
    if type(item) is Call and item.of in ("builtins.tuple", "__builtin__.tuple"):
        (item,) = item.args if len(item.args) == 1 else (None,)
    if type(item) in (list, tuple) and len(item) == 2 and type(item[0]) is str:
        item = item[1]  # Paddle's own name of the tensor, and its array
    if type(item) is not Call or item.of not in _RECONSTRUCT:
        raise UnsoundError(f"{name} is {_told(item)}")
    if not item.args or type(item.args[0]) is not Name or item.args[0].name != "numpy.ndarray":
        raise UnsoundError(f"{name} is an array of another class")
    state = item.state
    if type(state) is not tuple or len(state) != 5 or not _are(state[::3], (int, bool)):
        raise UnsoundError(f"{name} is an array without its contents")
    _, shape, kind, by_column, content = state
    shape, dtype = check_shape(shape if type(shape) is tuple else None), _dtype(name, kind)
    length = math.prod(shape) * dtype.itemsize
    budget.spend(length)  # before any of it is copied
    raw = _bytes(name, content, length)
    array: Array = np.ndarray(shape, dtype, raw.data, order="F" if by_column else "C")
    return array


def _dtype(name: str, kind: Any) -> np.dtype[Any]:
    """The type of a `numpy.dtype` as numpy writes it: no fields, no subarray, little-endian."""
    if type(kind) is Call and kind.of == "numpy.dtype" and _are(kind.args, (str, bool, bool)):
        state, word = kind.state, str(kind.args[0])
        empty = type(None)
        as_written = type(state) is tuple and _are(state, (int, str, *[empty] * 3, *[int] * 3))
        if as_written and word in _KINDS and state[1] in ("<", "|", "="):
            return np.dtype(word)
    raise UnsoundError(f"{name} has numbers of another kind, {_told(kind)}")


def _are(values: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a tuple's values are of these types, one by one."""
    return tuple(map(type, values)) == kinds


def _bytes(name: str, content: Any, length: int) -> Array:
    """An array's contents, which must be so many bytes."""
    if type(content) is Call and content.of == "_codecs.encode":  # protocol 2 has no bytes
        text, codec = content.args if len(content.args) == 2 else (None, None)
        if type(codec) is str and codec == "latin1" and isinstance(text, (str, LongText)):
            return _from_latin1(name, text, length)
    if type(content) is Call and content.of == "__builtin__.bytes" and not content.args:
        content = np.empty(0, np.uint8)
    if type(content) is not np.ndarray:
        raise UnsoundError(f"{name} has contents that are {_told(content)}")
    if len(content) != length:
        raise UnsoundError(f"{name} takes {length} bytes, and has {len(content)}")
    return content


def _from_latin1(name: str, text: str | LongText, length: int) -> Array:
    """The bytes that Python 2 would have written: each a letter of the text, as UTF-8 has it.

    In pieces, since text takes more memory than the bytes that it stands for.
    """
    utf8 = np.frombuffer(text.encode(), np.uint8) if isinstance(text, str) else text.raw
    wrong = f"{name} takes {length} bytes, and its text is other ones"
    if not length <= len(utf8) <= 2 * length:
        raise UnsoundError(wrong)
    found = np.empty(length, np.uint8)
    decoder, filled = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for start in range(0, len(utf8), _CHUNK):
            piece = utf8[start : start + _CHUNK].tobytes()
            letters = decoder.decode(piece, start + _CHUNK >= len(utf8)).encode("latin1")
            found[filled : filled + len(letters)] = np.frombuffer(letters, np.uint8)
            filled += len(letters)
    except ValueError:  # no UTF-8, no letter of latin1, or more of them
        raise UnsoundError(wrong) from None
    if filled != length:
        raise UnsoundError(wrong)
    give_back(utf8)
    return found


def _joined(found: dict[str, Stored], parts: Any) -> dict[str, Stored]:
    """With the arrays whose pieces the file lists put together again."""
    if type(parts) is not dict:
        raise UnsoundError(f"{_PARTS} is {_told(parts)}")
    for name, part in parts.items():
        slices = part.get("slices") if type(part) is dict else None
        if type(slices) is not list or not all(type(piece) is str for piece in slices):
            raise UnsoundError(f"{_PARTS} does not list the pieces of {name}")
        shape = check_shape(part.get("OriginShape"))
        pieces = [found.pop(piece, None) for piece in slices]
        kinds = {(piece.dtype, piece.array.ndim) for piece in pieces if piece is not None}
        count = sum(piece.array.size for piece in pieces if piece is not None)
        if None in pieces or len(kinds) != 1 or {1} != {n for _, n in kinds} or name in found:
            raise UnsoundError(f"the pieces of {name} are lacking, or are not of one kind")
        if count != math.prod(shape):
            raise UnsoundError(f"{name} has {math.prod(shape)} numbers, and its pieces {count}")
        check_name(name)
        whole, filled = np.empty(count, TYPES[next(iter(kinds))[0]]), 0
        for piece in pieces:
            assert piece is not None
            whole[filled : filled + piece.array.size] = piece.array
            filled += piece.array.size
            give_back(piece.array)
        found[name] = Stored(next(iter(kinds))[0], whole.reshape(shape))
    return found


def _told(item: Any) -> str:
    if type(item) is Call:
        return f"a call of {item.of}"
    if type(item) is Outside:
        return "something outside"
    return f"the global {item.name}" if type(item) is Name else f"a {type(item).__name__}"
