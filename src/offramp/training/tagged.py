"""Sentences with tags to encoded rows with a class number for each word's first token."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offramp.errors import DataError, nearest
from offramp.runner.iob import OUTSIDE
from offramp.runner.tagger import Tagger
from offramp.runner.windows import words_of
from offramp.text.columns import Columns, has_columns
from offramp.text.tagged import TaggedTable
from offramp.text.tokenizer import Tokens
from offramp.training.examples import EncodedRows, check_kind, split

NO_LABEL = -100
"""Of a token whose answer is not asked for; losses leave it out."""


@dataclass(frozen=True)
class TaggedExamples(EncodedRows[Tokens]):
    """Windows of sentences and, beside each of their tokens, a class number or `NO_LABEL`."""

    labels: list[npt.NDArray[np.int64]]

    def beside(self, row_ids_R: Tensor) -> Tensor:
        """The labels of packed rows, [T]."""
        return torch.from_numpy(np.concatenate([self.labels[i] for i in row_ids_R.tolist()]))

    def class_numbers(self) -> Tensor:
        """The labels of all words, [N]."""
        labels = np.concatenate(self.labels)
        return torch.from_numpy(labels[labels != NO_LABEL])


def tag_names(table: TaggedTable) -> list[str]:
    """The different tags: O first, then by type, of each type what begins a span first."""
    names = sorted({tag for tags in tags_of(table) for tag in tags}, key=_rank)
    if len(names) < 2:
        raise DataError(
            f"{table.source} has only the tags {names}; a tagger needs at least two of them."
        )
    return names


def to_tagged_examples(
    table: TaggedTable, tagger: Tagger, label2id: Mapping[str, int]
) -> TaggedExamples:
    """Encode a table as the tagger reads it; DataError for a tag that is not in `label2id`.

    A sentence that is too long is several windows, as in prediction, and a word has its label in
    the one that decides about it: each is learnt once, and nothing is cut off. Windows without any
    label (all of their words vanish in the tokenizer) are left out.
    """
    all_tags = known_tags(table, label2id)
    rows: list[Tokens] = []
    labels: list[npt.NDArray[np.int64]] = []
    for group, tags in zip(tagger.word_windows(table.words), all_tags, strict=True):
        beside = [np.full(len(window.ids), NO_LABEL) for window in group.rows]
        for number, word in words_of(group.rows).items():
            beside[word.window][word.token] = label2id[tags[number]]
        for window, own in zip(group.rows, beside, strict=True):
            if (own != NO_LABEL).any():
                rows.append(window)
                labels.append(own)
    if not rows:
        raise DataError(f"The tokenizer keeps no word of {table.source}.")
    return TaggedExamples(rows, labels)


def hold_out_sentences(table: TaggedTable, share: float = 0.1) -> tuple[TaggedTable, TaggedTable]:
    """Train and dev, split by a hash of the words, so that equal sentences fall on one side."""
    tags = tags_of(table)
    sides = split([" ".join(words) for words in table.words], share, table.source)
    train, dev = (
        TaggedTable(table.source, [table.words[i] for i in side], [tags[i] for i in side])
        for side in sides
    )
    return train, dev


def known_tags(table: TaggedTable, known: Collection[str]) -> list[list[str]]:
    """`tags_of`; DataError for one that a model has not."""
    found = tags_of(table)
    for row, tags in enumerate(found, start=1):
        for tag in tags:
            if tag not in known:
                raise DataError(
                    f"{table.source}, sentence {row}: the tag {tag!r} was not seen in training. "
                    f"{nearest(tag, known)}".rstrip()
                )
    return found


def tags_of(table: TaggedTable) -> list[list[str]]:
    """A table's tags, one for each word; DataError where it has no such."""
    check_kind(table, TaggedTable, "offramp.read_tagged")
    if table.tags is None:
        raise DataError(f"{table.source} was read without tags; pass the label's column.")
    if len(table.tags) != len(table.words):
        raise DataError(
            f"{table.source} has the words of {len(table.words)} sentences and the tags of "
            f"{len(table.tags)}."
        )
    _check_lengths(table.source, table.words, table.tags)
    return table.tags


def as_tagged(data: TaggedTable | Columns) -> TaggedTable:
    """Rows in memory as a table, with the columns `tokens` and `label`."""
    if has_columns(data):
        return TaggedTable.of(data)
    check_kind(data, TaggedTable, "offramp.read_tagged")
    return cast(TaggedTable, data)


def _check_lengths(
    source: str, words: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]
) -> None:
    for row, (own, beside) in enumerate(zip(words, tags, strict=True), start=1):
        if len(own) != len(beside):
            raise DataError(
                f"{source}, sentence {row}: {len(own)} words and {len(beside)} tags; each word "
                "has one tag."
            )


def _rank(tag: str) -> tuple[bool, str, str]:
    prefix, _, kind = tag.partition("-")
    return tag != OUTSIDE, kind, prefix
