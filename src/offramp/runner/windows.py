"""Windows of a long text: which of them decides about a word that several of them show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from offramp.text.tokenizer import Tokens


@dataclass(frozen=True, slots=True)
class Word:
    """A word's characters, and the token that speaks for it: its first, in one of the windows."""

    start: int
    end: int
    window: int
    token: int


def words_of(windows: Sequence[Tokens]) -> dict[int, Word]:
    """The words of a text by their numbers, in order, from all windows of it.

    Of the windows in which a word's first token is, the one decides that shows most on the side
    where it shows less: so many tokens before the word or after it. A text's own beginning and end
    do not count as cut off. Words of which there is no token are left out.
    """
    found: dict[int, tuple[float, Word]] = {}
    for number, window in enumerate(windows):
        inside = np.flatnonzero(window.words >= 0)
        if not len(inside):
            continue
        words, offsets = window.words[inside], window.offsets[inside]
        firsts = np.flatnonzero(np.diff(words, prepend=-1))
        ends = np.maximum.reduceat(offsets[:, 1], firsts).tolist()
        places = np.arange(len(inside), dtype=np.float64)
        before = places if number else np.full_like(places, np.inf)
        after = places[::-1] if number < len(windows) - 1 else np.full_like(places, np.inf)
        context = np.minimum(before, after)
        for first, end in zip(firsts.tolist(), ends, strict=True):
            start, name = int(offsets[first, 0]), int(words[first])
            here = (float(context[first]), Word(start, end, number, int(inside[first])))
            found[name] = _better(found[name], here) if name in found else here
    return {name: word for name, (_, word) in sorted(found.items())}


def stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The bounds of `text[start:end]` without the white space that some tokens begin with."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, max(start, end - len(part) + len(part.rstrip()))


def _better(one: tuple[float, Word], other: tuple[float, Word]) -> tuple[float, Word]:
    """The window that decides about a word; of equals, the earlier one."""
    context, word = one
    end = max(word.end, other[1].end)  # a window may show a part of it alone
    if other[1].start < word.start or (other[1].start == word.start and other[0] > context):
        context, word = other
    return context, replace(word, end=end)
