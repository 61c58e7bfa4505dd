"""Tags to spans, worked by hand after seqeval's default rules."""

from __future__ import annotations

import pytest

from offramp.runner.iob import Span, spans

CASES = {
    "": [],
    "O O": [],
    "B-PER I-PER O B-LOC": [("PER", 0, 2), ("LOC", 3, 4)],
    "B-PER B-PER": [("PER", 0, 1), ("PER", 1, 2)],
    "B-PER I-LOC": [("PER", 0, 1), ("LOC", 1, 2)],
    "O I-PER I-PER O": [("PER", 1, 3)],
    "I-PER I-LOC I-LOC": [("PER", 0, 1), ("LOC", 1, 3)],
    "I-PER B-PER I-PER": [("PER", 0, 1), ("PER", 1, 3)],
    "B-PER I-PER E-PER": [("PER", 0, 3)],
    "B-PER E-PER I-PER": [("PER", 0, 2), ("PER", 2, 3)],
    "S-PER I-PER S-PER": [("PER", 0, 1), ("PER", 1, 2), ("PER", 2, 3)],
    "E-PER E-PER": [("PER", 0, 1), ("PER", 1, 2)],
    "B-PER S-PER": [("PER", 0, 1), ("PER", 1, 2)],
    "B-a-b I-a-b": [("a-b", 0, 2)],
    "B I O I": [("_", 0, 2), ("_", 3, 4)],
    "NOUN NOUN O VERB": [("NOUN", 0, 1), ("NOUN", 1, 2), ("VERB", 3, 4)],
    "B-NOUN NOUN I-NOUN": [("NOUN", 0, 1), ("NOUN", 1, 2), ("NOUN", 2, 3)],
}


@pytest.mark.parametrize("tags", CASES)
def test_spans(tags: str) -> None:
    assert spans(tags.split()) == [Span(*case) for case in CASES[tags]]
