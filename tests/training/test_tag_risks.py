"""What a sentence loses by leaving early, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from offramp.errors import ConfigError
from offramp.training.tag_risks import SentenceTags, TagLoss, WordTags, tag_risk_of

NAMES = ["O", "B-PER", "I-PER"]
# Three sentences of 4, 2 and 1 words; the second word of the first and the third sentence's only
# one have no token.
ROWS, PLACES = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 2, 3, 0, 1])
NONE = [["O"] * 4, ["O"] * 2, ["O"]]


def tags(*numbers: int, others: SentenceTags = NONE) -> WordTags:
    return WordTags(torch.tensor(numbers), ROWS, PLACES, others, NAMES)


LEFT, FULL = tags(1, 2, 0, 0, 0), tags(1, 0, 1, 0, 0)
GOLD = tags(1, 2, 1, 0, 1, others=[["O", "I-PER", "O", "O"], ["O", "O"], ["B-PER"]])


def loss(risk: str | TagLoss, left: WordTags = LEFT, full: WordTags = FULL) -> list[float]:
    found: Tensor = tag_risk_of(risk, None).of(left, full, GOLD)
    return found.tolist()


def test_two_of_four_words_differ() -> None:
    assert loss("disagreement") == [1, 0, 0]
    assert loss("word-disagreement") == [2 / 4, 0, 0]


def test_words_that_get_wrong_and_words_that_get_right() -> None:
    # The third word is right where it left and was not, the fourth the other way round.
    assert loss("accuracy") == [0, 0, 0]
    # In the second sentence the first word gets wrong, in the first the fourth gets right.
    left, full = tags(1, 2, 1, 1, 0), tags(1, 2, 0, 0, 0)
    assert loss("accuracy", left, full) == [-1 / 4, 1 / 2, 0]


def test_nothing_is_lost_where_both_are_the_same() -> None:
    for risk in ("disagreement", "word-disagreement", "accuracy"):
        assert loss(risk, FULL, FULL) == [0, 0, 0]


def test_what_is_known_of_losses() -> None:
    known = {
        name: (risk.binary, risk.least, risk.needs_labels)
        for name in ("disagreement", "word-disagreement", "accuracy")
        for risk in [tag_risk_of(name, None)]
    }
    assert known == {
        "disagreement": (True, 0, False),
        "word-disagreement": (False, 0, False),
        "accuracy": (False, -1, True),
    }


def test_a_loss_of_ones_own_sees_words() -> None:
    seen = []

    def own(left: SentenceTags, full: SentenceTags, gold: SentenceTags | None) -> list[float]:
        seen.append((left, full, gold))
        return [0.5, 0, 0]

    assert loss(own) == [0.5, 0, 0]
    assert seen == [
        (
            [["B-PER", "O", "I-PER", "O"], ["O", "O"], ["O"]],
            [["B-PER", "O", "O", "B-PER"], ["O", "O"], ["O"]],
            # words without tokens keep the tags that the table gives them
            [["B-PER", "I-PER", "I-PER", "B-PER"], ["O", "B-PER"], ["B-PER"]],
        )
    ]
    assert tag_risk_of(own, None).name == "own"
    with pytest.raises(ConfigError, match=r"gives \(2,\); expected one number for each of 3 rows"):
        loss(lambda left, full, gold: torch.zeros(2))
    with pytest.raises(ConfigError, match="from 0 to 2"):
        loss(lambda left, full, gold: [0, 2, 0])


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'word-disagreement'"):
        tag_risk_of("words-disagreement", None)
    with pytest.raises(ConfigError, match="tolerance is of numbers; a tagger says tags"):
        tag_risk_of("disagreement", 1.0)
