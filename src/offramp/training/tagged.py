"""Sentences with tags to encoded rows with a class number for each word's first token."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offramp.errors import DataError, nearest
from offramp.runner.iob import OUTSIDE
from offramp.runner.rows import CountedRow
from offramp.runner.run import Results
from offramp.runner.sweep import EveryExit
from offramp.runner.tagger import Tagger
from offramp.runner.windows import words_of
from offramp.text.columns import Columns, has_columns
from offramp.text.tagged import TaggedTable
from offramp.text.tokenizer import Tokens
from offramp.training.entities import tag_scores
from offramp.training.examples import EncodedRows, check_kind, split
from offramp.training.options import TAGGER_SCORE

NO_LABEL = -100
"""Of a token whose answer is not asked for; losses leave it out."""


@dataclass(frozen=True)
class TaggedExamples(EncodedRows[Tokens]):
    """Windows of sentences and, beside each of their tokens, a class number or `NO_LABEL`.

    `gold` are the tags of each sentence's words, `names` all tags by class number.
    """

    labels: list[npt.NDArray[np.int64]]
    gold: list[list[str]]
    names: list[str]

    def beside(self, row_ids_R: Tensor) -> Tensor:
        """The labels of packed rows, [T]."""
        return torch.from_numpy(np.concatenate([self.labels[i] for i in row_ids_R.tolist()]))

    def labels_of(self, row_ids_R: Tensor) -> Tensor:
        """The class numbers of packed rows' words, in the order of their tokens, [N]."""
        labels_T = self.beside(row_ids_R)
        return labels_T[labels_T != NO_LABEL]

    def learnt(self, row_ids_R: Tensor) -> Tensor:
        """Which tokens of packed rows have a label, [N]."""
        return torch.nonzero(self.beside(row_ids_R) != NO_LABEL).flatten()

    def asked(self) -> list[CountedRow]:
        """The windows as a runner takes them: tokens with a label count."""
        each = zip(self.rows, self.labels, strict=True)
        return [CountedRow(row.ids, row.types, own != NO_LABEL) for row, own in each]

    def scores(self, answers: EveryExit, score: str | None) -> dict[str, Any]:
        """`tag_scores` at full depth, and the F1 of entities by depth."""
        by_depth = {
            depth: tag_scores(self.gold, self.tags_by(logits_NC.argmax(-1)))
            for depth, logits_NC in zip(answers.depths, answers.logits_ERC, strict=True)
        }
        at_full = by_depth[answers.depths[-1]]
        f1_by_depth = {str(depth): round(found["f1"], 5) for depth, found in by_depth.items()}
        counts = at_full[score or TAGGER_SCORE]
        return {"score": counts, "dev": at_full, "dev_f1_by_depth": f1_by_depth}

    def tags_in(self, results: Results) -> list[list[str]]:
        """The tags of each sentence's words in a runner's answers to all windows."""
        best_RL = results.logits_RC.argmax(-1)
        at = [torch.from_numpy(own != NO_LABEL) for own in self.labels]
        best = [best_L[: len(own)][own] for best_L, own in zip(best_RL, at, strict=True)]
        return self.tags_by(torch.cat(best))

    def tags_by(self, best_N: Tensor) -> list[list[str]]:
        """The tags of each sentence's words from the class numbers of all tokens that count.

        `O` for words of which the tokenizer keeps nothing.
        """
        tags = [[OUTSIDE] * len(words) for words in self.gold]
        best = iter(best_N.tolist())
        for row, own in zip(self.rows, self.labels, strict=True):
            for number in row.words[own != NO_LABEL].tolist():
                tags[row.row][number] = self.names[next(best)]
        return tags

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
    return TaggedExamples(rows, labels, all_tags, tagger.labels)


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
