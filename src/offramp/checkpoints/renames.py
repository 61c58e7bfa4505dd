"""Names of one library's tensors in another's: tables of rows, each read in both directions."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

_PLACES = {
    "{n}": r"(?P<n>\d+)",
    "{n+1}": r"(?P<next>\d+)",
    "{m}": r"(?P<m>\d+)",
    "{p}": r"(?P<p>weight|bias)",
    "{b}": r"(?P<b>(?:\w+\.)?)",
    "{any}": r"(?P<any>.+)",
}


@dataclass(frozen=True)
class Row:
    """A foreign name and ours; `transpose` where a matrix lies the other way round.

    In both {n} and {m} stand for numbers, {n+1} for the next one, {p} for "weight" or "bias", {b}
    for the body's prefix with its dot, or nothing; {any} for anything. `own` is None for what is
    left out. A row that is `read_only` is an older spelling, which is never written.
    """

    foreign: str
    own: str | None
    transpose: bool = False
    read_only: bool = False


def renamed(name: str, rows: Iterable[Row]) -> tuple[str | None, bool] | None:
    """Our name of a foreign tensor, and whether a matrix is to be transposed; None for no row."""
    for row in rows:
        if found := _pattern(row.foreign).fullmatch(name):
            return row.own and _filled(row.own, found), row.transpose
    return None


def named_back(name: str, rows: Iterable[Row]) -> tuple[str, bool] | None:
    """The foreign name of a tensor of ours: `renamed` the other way round, by the same rows."""
    for row in rows:
        if row.own is None or row.read_only:
            continue
        if found := _pattern(row.own).fullmatch(name):
            return _filled(row.foreign, found), row.transpose
    return None


def _filled(template: str, found: re.Match[str]) -> str:
    places: dict[str, str] = found.groupdict()
    if "n" in places:
        places["n+1"] = str(int(places["n"]) + 1)
    if "next" in places:
        places["n"] = str(int(places["next"]) - 1)
    return template.format(**places)


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for place, found in _PLACES.items():
        pattern = pattern.replace(re.escape(place), found)
    return re.compile(pattern)
