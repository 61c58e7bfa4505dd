"""What leaving early may cost a sentence whose words have a tag each, against the full model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from offramp.errors import ConfigError
from offramp.training.risks import Risk, check_name, name_of

SentenceTags: TypeAlias = Sequence[Sequence[str]]
"""A tag for each word of each sentence."""

TagLoss: TypeAlias = Callable[[SentenceTags, SentenceTags, SentenceTags | None], object]
"""Of the tags where R sentences left, the full model's and the labels': each sentence's, [R].

From 0, and exactly that where both have the same tags, to 1.
"""

TAG_RISKS = ("disagreement", "word-disagreement", "accuracy")


@dataclass(frozen=True)
class WordTags:
    """The tags of R sentences' words: class numbers [N] of those words that have tokens.

    `row_N` and `place_N` say which word of which sentence each is; `others` has all words, and the
    tags of those without tokens.
    """

    number_N: Tensor
    row_N: Tensor
    place_N: Tensor
    others: SentenceTags
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.others)

    def spelled(self) -> list[list[str]]:
        """All words' tags, by sentence."""
        tags = [list(own) for own in self.others]
        each = (own_N.tolist() for own_N in (self.row_N, self.place_N, self.number_N))
        for row, place, number in zip(*each, strict=True):
            tags[row][place] = self.names[number]
        return tags

    def differ(self, other: WordTags) -> Tensor:
        """1 where a word has another tag there, [N], float64."""
        return (self.number_N != other.number_N).double()

    def share(self, values_N: Tensor) -> Tensor:
        """The mean over all words of a sentence, [R]; 0 for words without tokens."""
        n_words_R = torch.tensor([max(1, len(own)) for own in self.others])
        return torch.zeros(len(self)).double().index_add(0, self.row_N, values_N) / n_words_R


def tag_risk_of(asked: str | TagLoss, tolerance: float | None) -> Risk[WordTags]:
    """The risk of this name for a tagger, or that of a loss of one's own."""
    if tolerance is not None:
        raise ConfigError("tolerance is of numbers; a tagger says tags.")
    if callable(asked):
        return _own(asked)
    check_name(asked, TAG_RISKS)
    if asked == "disagreement":
        return Risk(asked, _any_word, binary=True)
    if asked == "word-disagreement":
        return Risk(asked, _share_of_words)
    return Risk(asked, _gap, takes_labels=True, needs_labels=True, least=-1.0)


def _own(asked: TagLoss) -> Risk[WordTags]:
    def loss(left: WordTags, full: WordTags, gold: WordTags | None) -> object:
        return asked(left.spelled(), full.spelled(), None if gold is None else gold.spelled())

    return Risk(name_of(asked), loss, takes_labels=True)


def _any_word(left: WordTags, full: WordTags, gold: WordTags | None) -> Tensor:
    return (_share_of_words(left, full, gold) > 0).double()


def _share_of_words(left: WordTags, full: WordTags, gold: WordTags | None) -> Tensor:
    return full.share(left.differ(full))


def _gap(left: WordTags, full: WordTags, gold: WordTags | None) -> Tensor:
    assert gold is not None
    return full.share(left.differ(gold) - full.differ(gold))
