"""JSON that says one thing: no name twice, no NaN."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_json(text: str | bytes) -> Any:
    """What `json.loads` gives; ValueError for a name that stands twice, and for NaN or Infinity.

    RecursionError for what is nested without end.
    """
    return json.loads(text, object_pairs_hook=_no_name_twice, parse_constant=_no_constant)


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is named twice")
    return found


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
