"""Tags of words to spans of words: IOB2 and its like, as seqeval reads them by default.

A tag is `B-type`, `I-type`, `E-type`, `S-type` (begin, inside, end, single) or `O`.
https://github.com/chakki-works/seqeval: what begins where it cannot go on is a span all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

OUTSIDE = "O"
_TAG = re.compile(r"([BIES])(?:-(.*))?", re.DOTALL)


class Span(NamedTuple):
    """Words `start` to `stop` - 1, and of what type they are."""

    label: str
    start: int
    stop: int


def spans(tags: Iterable[str]) -> list[Span]:
    """The spans that tags say, in order.

    A span goes on from B or I to an I or E of its own type; whatever else is not O begins one. A
    label that is no such tag is a span of its own: that word. The type of a bare `B` is "_".
    """
    found: list[Span] = []
    open_type: str | None = None  # of a span that the next word may go on with
    for place, tag in enumerate(tags):
        if tag == OUTSIDE:
            open_type = None
            continue
        parsed = _TAG.fullmatch(tag)
        prefix, label = (parsed[1], parsed[2] or "_") if parsed else ("S", tag)
        if prefix in "IE" and label == open_type:
            found[-1] = found[-1]._replace(stop=place + 1)
        else:
            found.append(Span(label, place, place + 1))
        open_type = label if prefix in "BI" else None
    return found
