"""JSON that says one thing: no name twice, no NaN, and no more of it than a model needs."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

DEEPEST = 32
"""How far values may lie inside one another."""
MOST_VALUES = 400_000
"""How many values there may be; an index of ten thousand tensors has some twenty thousand."""
_LONGEST_WIDE = 4_000_000
_LONG_NUMBER = re.compile(rb"\d{41}")
_TEXTS = re.compile(rb'"[^"]*"')


def parse_json(text: str | bytes, deepest: int | None = DEEPEST) -> Any:
    """What `json.loads` gives, without names that stand twice, NaN and Infinity: ValueError.

    ValueError too for text that would take far more memory than it is long, or that nests values
    deeper than `deepest`; without that RecursionError, where it is deeper than Python's own reader
    goes.
    """
    raw = text.encode() if isinstance(text, str) else text
    if raw.startswith(b"\xef\xbb\xbf"):
        raise ValueError("it begins with a byte order mark")
    _check_size(raw)
    if deepest is not None and _depth(raw) > deepest:
        raise ValueError(f"values nested deeper than {deepest}")
    return json.loads(
        raw.decode(),
        object_pairs_hook=_no_name_twice,
        parse_constant=_no_constant,
        parse_float=_finite,
        parse_int=_short_number if _LONG_NUMBER.search(raw) else None,  # a call for each costs
    )


def _check_size(raw: bytes) -> None:
    """A few bytes of `[],[],` take twenty times as much as lists, and one emoji widens a text."""
    if len(raw) > _LONGEST_WIDE and (b"\\" in raw or not raw.isascii()):
        raise ValueError(f"more than {_LONGEST_WIDE} bytes that are not plain ASCII")
    if sum(raw.count(mark) for mark in (b"[", b"{", b",")) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")


def _depth(raw: bytes) -> int:
    depth = deepest = 0
    plain = raw.replace(rb"\\", b"").replace(rb"\"", b"")  # no quote that ends no text
    for bracket in re.findall(rb"[\[\]{}]", _TEXTS.sub(b"", plain)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"{counts.most_common(1)[0][0]!r} is named twice")
    return found


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is larger than a number can be")
    return number


def _short_number(digits: str) -> int:
    if len(digits) > 40:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
