"""The part of a model's card that a save writes: it is of the weights beside it and goes with them.

A card is README.md, as model hubs show it. What else is in it is its owner's, and stays.
"""

from __future__ import annotations

CARD = "README.md"

_BEGIN, _END = b"<!-- offramp: begin -->\n", b"<!-- offramp: end -->\n"
_NEW = b"---\nlibrary_name: offramp\n---\n\n"


def new_card(part: str) -> bytes:
    """A card that has nothing but this part, in Markdown."""
    return _NEW + marked(part).encode()


def marked(part: str) -> str:
    """The part as it stands in a card, between the marks by which the next save finds it."""
    return f"{_BEGIN.decode()}{part.strip()}\n{_END.decode()}"


def merged_card(old: bytes, fresh: bytes | None) -> bytes | None:
    """The old card with the part of the fresh one, or without where that has none.

    None for a card that would be left without words. `fresh` is what `new_card` made.
    """
    before, begin, rest = old.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):  # none of ours, or no telling where it ends
        before, after = old, b""
    part = b"" if fresh is None else fresh.removeprefix(_NEW)
    if part and before and not before.endswith(b"\n\n"):
        before += b"\n" if before.endswith(b"\n") else b"\n\n"
    merged = before + part + after
    return None if merged.strip() in (b"", _NEW.strip()) else merged
