"""Tagged sentences with a rule that a tiny model learns in seconds."""

from __future__ import annotations

import random
from collections.abc import Callable

from offramp.text.tagged import TaggedTable

_FILLERS = ("lives", "the", "city", "walked", "walking", "to", "and", "who", ".")
_PARTS: tuple[Callable[[random.Random], list[tuple[str, str]]], ...] = (
    lambda rng: [(rng.choice(["Anna", "bobby"]), "B-PER")],
    lambda rng: [("bob", "B-PER"), ("York", "I-PER")],
    lambda rng: [("New", "B-LOC"), ("York", "I-LOC")],
    # What Rome is hangs on the word before it.
    lambda rng: [("in", "O"), ("Rome", "B-LOC")],
    lambda rng: [("of", "O"), ("Rome", "B-PER")],
    lambda rng: [(rng.choice(_FILLERS), "O")],
)


def tagged_table(n: int, seed: int = 0, source: str = "toy") -> TaggedTable:
    rng = random.Random(seed)
    words, tags = [], []
    for _ in range(n):
        pairs = [pair for _ in range(rng.randint(1, 6)) for pair in rng.choice(_PARTS)(rng)]
        words.append([word for word, _ in pairs])
        tags.append([tag for _, tag in pairs])
    return TaggedTable(source, words, tags)


TOY_TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
"""As a model has them that was trained on enough of these."""
