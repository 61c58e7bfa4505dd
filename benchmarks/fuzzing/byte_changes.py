"""Changes that know nothing of a format: bits, integers, spans of bytes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Literal, TypeVar

INTEGERS = (
    *(0, 1, -1, 2, 4, 9, 33, -8, 25_000_001),
    *(2**bits + by for bits in (3, 5, 7, 8, 15, 16, 31, 32, 40, 61, 62, 63, 64) for by in (-1, 0)),
)
"""Lengths, places and sizes at which a reader may trip."""

T = TypeVar("T")


def change_bytes(rng: Random, data: bytes, other: bytes) -> bytes:
    """One change; `other` is a file to take something from."""
    return rng.choice(BYTE_CHANGES)(rng, data, other)


def one_in(rng: Random, count: int) -> bool:
    return rng.randrange(count) == 0


def packed(rng: Random, width: int, value: int) -> bytes:
    """So many bytes of an integer, now and then in the wrong order."""
    order: Literal["little", "big"] = "big" if one_in(rng, 5) else "little"
    return (value & (1 << 8 * width) - 1).to_bytes(width, order)


def change_list(rng: Random, parts: list[T], new: Callable[[Random], T]) -> None:
    """One change of a row of parts; `new` gives one that may come in."""
    kind = rng.choice(("delete", "repeat", "swap", "move", "insert", "insert", "replace"))
    if not parts or kind == "insert":
        parts.insert(rng.randint(0, len(parts)), new(rng))
        return
    at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    piece = parts[at : at + rng.choice((1, 1, 1, 2, 5, 20))]
    if kind == "replace":
        parts[at] = new(rng)
    elif kind == "swap":
        parts[at], parts[other] = parts[other], parts[at]
    elif kind == "repeat":
        times = rng.choice((1, 1, 3, 100)) if len(str(piece)) < 10_000 else 1
        parts[other:other] = piece * times
    else:
        del parts[at : at + len(piece)]
        if kind == "move":
            parts[other:other] = piece


def _place(rng: Random, length: int) -> int:
    """A byte, more often one near an end: there is more to break."""
    if not length:
        return 0
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randrange(min(length, 64))
    if kind == 1:
        return length - 1 - rng.randrange(min(length, 100))
    return rng.randrange(length)


def _span(rng: Random, length: int) -> tuple[int, int]:
    start = _place(rng, length)
    size = rng.choice((1, 1, 2, 3, 4, 8, 16, 30, 64, 200, length))
    return start, min(length, start + rng.randint(1, max(1, size)))


def flip(rng: Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[_place(rng, len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_byte(rng: Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, len(data))
    new = rng.choice((0, 255, 127, 128, 10, 46, rng.randrange(256)))
    return data[:at] + bytes([new]) + data[at + 1 :]


def set_integer(rng: Random, data: bytes, other: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    at = _place(rng, len(data))
    return data[:at] + packed(rng, width, rng.choice(INTEGERS)) + data[at + width :]


def step_integer(rng: Random, data: bytes, other: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    at = _place(rng, len(data))
    value = int.from_bytes(data[at : at + width], "little") + rng.choice((-8, -2, -1, 1, 2, 4, 8))
    return data[:at] + (value & (1 << 8 * width) - 1).to_bytes(width, "little") + data[at + width :]


def cut_out(rng: Random, data: bytes, other: bytes) -> bytes:
    start, stop = _span(rng, len(data))
    return data[:start] + data[stop:]


def double(rng: Random, data: bytes, other: bytes) -> bytes:
    start, stop = _span(rng, len(data))
    return data[:stop] + data[start:stop] * rng.choice((1, 1, 2, 30)) + data[stop:]


def exchange(rng: Random, data: bytes, other: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(rng, len(data)), _span(rng, len(data))))
    if b > c:
        return data[:a] + data[c:d] + data[a:c] + data[d:]
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def put_in(rng: Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, len(data))
    size = rng.choice((1, 2, 8, 40, 4096))
    new = rng.randbytes(size) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * size
    return data[:at] + new + data[at:]


def truncate(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, len(data))]


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    if rng.random() < 0.5:
        return data[: _place(rng, len(data))] + other[_place(rng, len(other)) :]
    start, stop = _span(rng, len(other))
    at = _place(rng, len(data))
    return data[:at] + other[start:stop] + data[at + rng.choice((0, stop - start)) :]


BYTE_CHANGES: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (
    *(flip, flip, set_byte, set_integer, set_integer, step_integer),
    *(cut_out, double, exchange, put_in, truncate, splice),
)
