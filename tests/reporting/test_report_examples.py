"""Which rows are shown, of answers that are scripted."""

import torch

from offramp.reporting.answers import Said
from offramp.reporting.examples import LONGEST_TEXT, cut, examples

TEXTS = ["a", "b", "c", "d", "e"]


def said(words: str, sure: list[float] | None, error: list[float]) -> Said:
    probability = None if sure is None else torch.tensor(sure, dtype=torch.float64)
    return Said([*words], probability, torch.tensor(error), None)


def shown(rows: list) -> list[str]:
    return ["+".join(row.text) for row in rows]


def test_of_classes() -> None:
    fast = said("xyxyx", [0.9, 0.6, 0.99, 0.8, 0.7], [0, 1, 0, 1, 0])
    full = said("xxxxx", [1.0] * 5, [0] * 5)
    found = examples(TEXTS, [*"xxxxx"], fast, full, [1, 1, 1, 3, 3])
    assert shown(found.easiest) == ["c", "a", "e"]  # at layer 1 the surest first; b and d are wrong
    assert shown(found.hardest) == ["e", "d", "b", "a", "c"]
    assert shown(found.wrong) == ["d", "b"]  # the surest first
    row = found.wrong[0]
    assert (row.label, row.answer, row.full_answer, row.exit_layer) == ("x", "y", "x", 3)
    assert row.probability == 0.8


def test_of_numbers() -> None:
    fast = said("12345", None, [0.5, 0.1, 2.0, 0.2, 0.9])
    found = examples(TEXTS, [*"12345"], fast, fast, [1, 2, 3, 1, 3])
    assert shown(found.easiest) == ["d", "a", "b"]  # the nearer half, and there layer 1 first
    assert shown(found.hardest) == ["c", "e", "b", "a", "d"]
    assert shown(found.wrong) == ["c", "e"]
    assert found.wrong[0].probability is None


def test_no_text_twice_and_at_most_eight() -> None:
    texts = ["again", "again", *map(str, range(20))]
    fast = said("x" * 22, [0.5, 0.9] + [0.7] * 20, [0] * 22)
    found = examples(texts, ["x"] * 22, fast, fast, [1] * 22)
    assert shown(found.easiest)[0] == "again"
    assert found.easiest[0].probability == 0.9
    assert len(set(shown(found.easiest))) == len(found.easiest) == 8


def test_texts_are_cut() -> None:
    pair = ("w" * 10_000, "short")
    fast = said("x", [0.9], [0])
    row = examples([pair], ["l" * 10_000], fast, fast, [1]).easiest[0]
    assert row.text == ("w" * (LONGEST_TEXT - 1) + "…", "short")
    assert len(row.label) == 60
    assert cut("a b", 3) == "a b"
    assert cut("a bcd", 3) == "a…"
