"""Names of one library's tensors in another's: tables of rows, each with its inverse."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

_PLACES = {
    "{n}": r"(?P<n>\d+)",
    "{p}": r"(?P<p>weight|bias)",
    "{b}": r"(?P<b>(?:\w+\.)?)",
    "{any}": r"(?P<any>.+)",
}


@dataclass(frozen=True)
class Row:
    """A foreign name and ours; `transpose` where a matrix lies the other way round.

    In both {n} stands for a number, {p} for "weight" or "bias", {b} for the body's prefix with its
    dot, or nothing; {any} for anything.
    """

    foreign: str
    own: str
    transpose: bool = False


def renamed(name: str, rows: Iterable[Row]) -> tuple[str, bool] | None:
    """Our name of a foreign tensor, and whether a matrix is to be transposed; None for no row."""
    for row in rows:
        if found := _pattern(row.foreign).fullmatch(name):
            return row.own.format(**found.groupdict()), row.transpose
    return None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for place, found in _PLACES.items():
        pattern = pattern.replace(re.escape(place), found)
    return re.compile(pattern)
