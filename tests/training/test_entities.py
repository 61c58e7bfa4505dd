"""Scores over spans, worked by hand: seqeval's default mode."""

from __future__ import annotations

import random

import pytest

from offramp.errors import DataError
from offramp.training.entities import EntityScores, entity_f1, tag_scores, word_accuracy


def test_the_example_of_seqeval() -> None:
    # Its README: micro F1 0.50; MISC 0, PER 1.
    gold = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    said = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert entity_f1(gold, said) == EntityScores(
        0.5,
        0.5,
        0.5,
        2,
        {"MISC": EntityScores(0.0, 0.0, 0.0, 1), "PER": EntityScores(1.0, 1.0, 1.0, 1)},
    )


def test_a_small_case_as_seqeval_1_2_2_scored_it() -> None:
    # Its f1_score, accuracy_score and classification_report, run on these tags.
    gold = [
        ["B-PER", "I-PER", "O", "B-creative-work", "I-creative-work", "I-creative-work", "O"],
        ["I-LOC", "O", "B-LOC", "B-LOC", "I-PER"],
        ["O", "O", "B-PER"],
        ["B-LOC", "I-LOC", "O"],
    ]
    said = [
        ["B-PER", "I-PER", "O", "B-creative-work", "I-creative-work", "O", "B-PER"],
        ["B-LOC", "O", "I-LOC", "B-LOC", "I-PER"],
        ["O", "O", "O"],
        ["I-LOC", "I-PER", "I-PER"],
    ]
    found = tag_scores(gold, said)
    assert found == pytest.approx(
        {
            "precision": 0.5555555555555556,
            "recall": 0.625,
            "f1": 0.5882352941176471,
            "macro_f1": 0.4404761904761905,
            "accuracy": 0.5555555555555556,
        }
    )
    by_type = entity_f1(gold, said).by_type
    assert {name: scores.support for name, scores in by_type.items()} == {
        "LOC": 4, "PER": 3, "creative-work": 1,
    }  # fmt: skip
    assert by_type["LOC"] == EntityScores(0.75, 0.75, 0.75, 4)
    assert by_type["PER"].f1 == pytest.approx(0.5714285714285715)


def test_words_with_the_right_tag() -> None:
    assert word_accuracy([["O", "B-A"], ["O"]], [["O", "O"], ["O"]]) == pytest.approx(2 / 3)
    assert word_accuracy([], []) == 0.0
    with pytest.raises(DataError, match="Sentence 0 has 2 gold tags and 1"):
        word_accuracy([["O", "O"]], [["O"]])


def test_precision_and_recall_apart() -> None:
    gold = [["B-A", "O", "B-B", "I-B"], ["I-A", "I-A"]]  # A 0, B 2-3; A 0-1
    said = [["B-A", "B-C", "B-B", "B-B"], ["B-A", "I-A"]]  # A 0, C 1, B 2, B 3; A 0-1
    scores = entity_f1(gold, said)
    assert (scores.precision, scores.recall, scores.support) == (2 / 5, 2 / 3, 3)
    assert scores.f1 == pytest.approx(2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3))
    assert scores.by_type["A"] == EntityScores(1.0, 1.0, 1.0, 2)
    assert scores.by_type["B"] == EntityScores(0.0, 0.0, 0.0, 1)
    assert scores.by_type["C"] == EntityScores(0.0, 0.0, 0.0, 0)


def test_a_span_does_not_go_over_a_sentences_end() -> None:
    assert entity_f1([["B-A"], ["I-A"]], [["B-A"], ["B-A"]]).f1 == 1.0


def test_nothing_there_and_nothing_said() -> None:
    assert entity_f1([], []) == EntityScores(0.0, 0.0, 0.0, 0)
    assert entity_f1([["O"]], [["O"]]) == EntityScores(0.0, 0.0, 0.0, 0)


def test_sentences_that_do_not_match() -> None:
    with pytest.raises(DataError, match="2 sentences have gold tags and 1"):
        entity_f1([["O"], ["O"]], [["O"]])
    with pytest.raises(DataError, match="Sentence 1 has 2 gold tags and 1"):
        entity_f1([["O"], ["O", "O"]], [["O"], ["O"]])


def seqevals_entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """By the two tables that seqeval publishes: when a chunk ends before a word, and begins at it.

    Written out as conditions on (the tag before, the tag), for tags with a type.
    """
    ends = {"BB", "BS", "BO", "IB", "IS", "IO"}
    begins = {"EE", "EI", "SE", "SI", "OE", "OI"}
    found, start, before = set(), 0, ("O", "")
    for place, tag in enumerate([*tags, "O"]):
        here = (tag[0], tag[2:])
        pair = before[0] + here[0]
        if before[0] in "ES" or pair in ends or (before[0] != "O" and before[1] != here[1]):
            found.add((before[1], start, place))
        if here[0] in "BS" or pair in begins or (here[0] != "O" and before[1] != here[1]):
            start = place
        before = here
    found.discard(("", 0, 0))
    return found


def test_random_tags_against_seqevals_tables() -> None:
    rng = random.Random(0)
    choices = ["O", "O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in "XY")]
    for _ in range(300):
        gold, said = ([rng.choice(choices) for _ in range(8)] for _ in range(2))
        true, found = seqevals_entities(gold), seqevals_entities(said)
        hits = len(true & found)
        scores = entity_f1([gold], [said])
        assert scores.support == len(true)
        assert scores.precision == pytest.approx(hits / len(found) if found else 0)
        assert scores.recall == pytest.approx(hits / len(true) if true else 0)
