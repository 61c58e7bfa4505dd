"""Precision, recall and F1 of named entities, from the tags of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from offramp.errors import DataError
from offramp.runner.iob import spans


@dataclass(frozen=True)
class EntityScores:
    """Scores over spans, all types together (micro); and of each type alone.

    `support` is how many spans the gold tags have. A share of nothing is 0.
    """

    precision: float
    recall: float
    f1: float
    support: int
    by_type: dict[str, EntityScores] = field(default_factory=dict)


def entity_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityScores:
    """How many spans were found with their exact bounds and type.

    `gold` and `predicted` are the tags of each sentence's words (`B-PER`, `I-PER`, `O`), read as
    seqeval reads them by default. Raises DataError for sentences of different lengths.
    """
    _check_same_words(gold, predicted)
    true: Counter[str] = Counter()
    said: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for own, other in zip(gold, predicted, strict=True):
        own_spans, other_spans = set(spans(own)), set(spans(other))
        true.update(span.label for span in own_spans)
        said.update(span.label for span in other_spans)
        hits.update(span.label for span in own_spans & other_spans)
    by_type = {
        label: _scores(hits[label], said[label], true[label]) for label in sorted(true | said)
    }
    return _scores(hits.total(), said.total(), true.total(), by_type)


def word_accuracy(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Share of the words of all sentences that have the right tag; 0 where there are none."""
    _check_same_words(gold, predicted)
    pairs = [
        (tag, said)
        for row in zip(gold, predicted, strict=True)
        for tag, said in zip(*row, strict=True)
    ]
    return sum(tag == said for tag, said in pairs) / max(1, len(pairs))


def tag_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """`precision`, `recall` and `f1` of entities, `macro_f1` over types; `accuracy` of words."""
    found = entity_f1(gold, predicted)
    types = [scores.f1 for scores in found.by_type.values()]
    return {
        "precision": found.precision,
        "recall": found.recall,
        "f1": found.f1,
        "macro_f1": sum(types) / max(1, len(types)),
        "accuracy": word_accuracy(gold, predicted),
    }


def _check_same_words(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    if len(gold) != len(predicted):
        raise DataError(
            f"{len(gold)} sentences have gold tags and {len(predicted)} predicted ones."
        )
    for row, (own, other) in enumerate(zip(gold, predicted, strict=True)):
        if len(own) != len(other):
            raise DataError(
                f"Sentence {row} has {len(own)} gold tags and {len(other)} predicted ones; each "
                "word has one of either."
            )


def _scores(
    hits: int, said: int, true: int, by_type: dict[str, EntityScores] | None = None
) -> EntityScores:
    precision = hits / said if said else 0.0
    recall = hits / true if true else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return EntityScores(precision, recall, f1, true, by_type or {})
