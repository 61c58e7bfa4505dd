"""Pickles put together one instruction at a time, so that a file can say what no pickler would.

Each function gives the instructions that leave one value on the stack. The instructions:
https://docs.python.org/3/library/pickletools.html
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np


class Ops(bytes):
    """Instructions, as against bytes that are a value of the pickle."""


def pickled(*parts: bytes, protocol: int = 4) -> bytes:
    """A whole file: the protocol, the parts, STOP."""
    return b"\x80" + bytes([protocol]) + b"".join(parts) + b"."


def of(value: Any) -> Ops:
    """A plain value; one that is instructions already stays as it is."""
    if isinstance(value, Ops):
        return value
    if isinstance(value, (bool, type(None))):
        return Ops({None: b"N", True: b"\x88", False: b"\x89"}[value])
    if isinstance(value, int):
        small = struct.pack("<i", value) if -(2**31) <= value < 2**31 else None
        number = pickle.encode_long(value)
        return Ops(b"J" + small if small else b"\x8a" + bytes([len(number)]) + number)
    if isinstance(value, float):
        return Ops(b"G" + struct.pack(">d", value))
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        return Ops(b"X" + struct.pack("<I", len(raw)) + raw)
    if isinstance(value, bytes):
        return Ops(b"B" + struct.pack("<I", len(value)) + value)
    if isinstance(value, tuple):
        return Ops(b"(" + b"".join(map(of, value)) + b"t")
    if isinstance(value, list):
        return Ops(b"](" + b"".join(map(of, value)) + b"e")
    return Ops(b"}(" + b"".join(of(part) for item in value.items() for part in item) + b"u")


def name(module: str, attribute: str) -> Ops:
    """GLOBAL."""
    return Ops(b"c" + f"{module}\n{attribute}\n".encode())


def stacked(module: str, attribute: str) -> Ops:
    """STACK_GLOBAL, whose names may have any character."""
    return Ops(of(module) + of(attribute) + b"\x93")


def call(function: Ops, *arguments: Any) -> Ops:
    """REDUCE."""
    return Ops(function + of(arguments) + b"R")


def built(target: Ops, state: Any) -> Ops:
    """BUILD."""
    return Ops(target + of(state) + b"b")


RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
NDARRAY = name("numpy", "ndarray")


def dtype(word: Any = "f4", order: Any = "<", **lies: Any) -> Ops:
    """A `numpy.dtype`; `arguments` and `state` are what it has in place of the usual ones."""
    arguments = lies.get("arguments", (word, False, True))
    state = lies.get("state", (3, order, None, None, None, -1, -1, 0))
    return built(call(name("numpy", "dtype"), *arguments), state)


def array(value: np.ndarray[Any, Any], **lies: Any) -> Ops:
    """An array as numpy 1 pickles it, but for the lies: `shape`, `dtype`, `by_column`, `raw`.

    `make` and `kind` are the function and the class that it is rebuilt with, `state` all of the
    rest.
    """
    made = call(lies.get("make", RECONSTRUCT), lies.get("kind", NDARRAY), (0,), b"b")
    state = (
        1,
        lies.get("shape", value.shape),
        lies.get("dtype", dtype(value.dtype.str[1:])),
        lies.get("by_column", False),
        lies.get("raw", value.tobytes()),
    )
    return built(made, lies.get("state", state))


def arrays(values: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Ops]:
    return {key: array(value) for key, value in values.items()}


def deep_tuple(depth: int = 200_000) -> Ops:
    """A tuple in a tuple in a tuple ...: hashing it in C overflows a stack of 8 MiB."""
    return Ops(b")" + b"\x85" * depth)


def shared_tuple(doublings: int = 60) -> Ops:
    """A tuple of twice the same tuple of twice the same ...: walking it never ends."""
    steps = (b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(doublings))
    return Ops(b")" + b"".join(steps))
