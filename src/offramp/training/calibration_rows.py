"""The rows that a model is calibrated on, and what leaving early costs each of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from typing_extensions import Self

from offramp.errors import DataError
from offramp.exits.container import task_of
from offramp.runner.exiting import ExitingModel
from offramp.runner.iob import OUTSIDE
from offramp.runner.rows import CountedRow, Row
from offramp.runner.sweep import EveryExit, every_exit
from offramp.runner.tagger import Marked, Tagger
from offramp.text.columns import Columns
from offramp.text.tables import Label, Table
from offramp.text.tagged import TaggedTable
from offramp.training.examples import as_table, examples_of
from offramp.training.risks import Loss, Risk, risk_of
from offramp.training.tag_risks import SentenceTags, TagLoss, WordTags, tag_risk_of
from offramp.training.tagged import as_tagged, known_tags


@dataclass(frozen=True)
class CalibrationRows(ABC):
    """Rows that are drawn independently, and the risk that is to be bounded.

    `texts` are the rows, `encoded` is what a runner takes of them: as many, or of a long sentence
    several windows.
    """

    model: ExitingModel
    source: str
    texts: list[Any]
    encoded: Sequence[Row]
    risk: Risk[Any]

    def __len__(self) -> int:
        return len(self.texts)

    def answers(self) -> EveryExit:
        """Every exit's; CheckpointError where the model's own are no numbers."""
        answers = every_exit(self.model.model, self.encoded)
        self.model.check_finite(answers.logits_ERC[-1])
        return answers

    def asked(self) -> Tensor | slice:
        """Which of `encoded` an exit is asked about; what has nothing to be read leaves at once."""
        return slice(None)

    @abstractmethod
    def losses(self, left: Tensor, full: Tensor) -> Tensor:
        """What each row loses, [R], by a run's logits where rows left, and the full model's."""

    @abstractmethod
    def lost_at_exits(self, answers: EveryExit) -> tuple[Tensor, Tensor]:
        """Logits [E, U, C] of what exits answer, and what each but the last would lose, [X, U].

        From 0 to 1: what is gained is no reason to let another go.
        """

    @abstractmethod
    def taken(self, which: Sequence[int]) -> Self:
        """Some of the rows."""

    def halves(self) -> tuple[Self, Self]:
        """Two halves by chance, the same for as many rows."""
        if len(self) < 2:
            raise DataError(
                f"{self.source} has one row; a speed is found on one half of the rows, and its "
                "risk on the other."
            )
        generator = torch.Generator().manual_seed(len(self))
        order = torch.randperm(len(self), generator=generator).tolist()
        middle = len(order) // 2
        return self.taken(sorted(order[:middle])), self.taken(sorted(order[middle:]))

    def check_apart(self, calibration: CalibrationRows) -> None:
        """DataError where rows to tune on are among those of the calibration."""
        shared = {_key(text) for text in self.texts} & {_key(text) for text in calibration.texts}
        if shared:
            raise DataError(
                f"{len(shared)} texts of {calibration.source} are among the rows to tune on; a "
                "path is found on other rows than those it is held against."
            )


def rows_of(
    model: ExitingModel,
    data: Table | TaggedTable | Columns,
    risk: str | Loss | TagLoss,
    tolerance: float | None,
) -> CalibrationRows:
    """The rows as `model` takes them.

    DataError where there are none, where all have one label, or none where the risk needs them;
    ConfigError for a risk that the model's task has not.
    """
    if isinstance(model, Tagger):
        of_tags = tag_risk_of(cast("str | TagLoss", risk), tolerance)
        return _tagged_rows(model, as_tagged(cast("TaggedTable | Columns", data)), of_tags)
    of_logits = risk_of(cast("str | Loss", risk), task_of(model.model), tolerance)
    return _text_rows(model, as_table(cast("Table | Columns", data)), of_logits)


@dataclass(frozen=True)
class TextRows(CalibrationRows):
    """Texts, or pairs, of which each has an answer."""

    labels: Tensor | None

    def losses(self, left: Tensor, full: Tensor) -> Tensor:
        """By logits [R, C]."""
        return self.risk.of(left, full, self.labels)

    def lost_at_exits(self, answers: EveryExit) -> tuple[Tensor, Tensor]:
        """Of the rows."""
        *exits, full_RC = answers.logits_ERC
        lost_XR = torch.stack([self.losses(own_RC, full_RC) for own_RC in exits])
        return answers.logits_ERC, lost_XR.clamp(min=0)

    def taken(self, which: Sequence[int]) -> Self:
        """Some of the rows."""
        return replace(
            self,
            texts=[self.texts[i] for i in which],
            encoded=[self.encoded[i] for i in which],
            labels=None if self.labels is None else self.labels[which],
        )


class WordPlaces(NamedTuple):
    """Of N words which of which sentence each is, and where its answer is read."""

    row_N: Tensor
    place_N: Tensor
    window_N: Tensor
    token_N: Tensor


@dataclass(frozen=True)
class SentenceRows(CalibrationRows):
    """Sentences, split into words that have a tag each.

    `groups` are their windows, `tags` the labels where the risk looks at them, `names` all tags by
    class number.
    """

    groups: Sequence[Marked[Sequence[str]]]
    tags: SentenceTags | None
    names: Sequence[str]

    def asked(self) -> Tensor:
        """The windows that decide about a word, [W]."""
        return torch.tensor([bool(row.counted.any()) for row in windows_of(self.groups)])

    def losses(self, left: Tensor, full: Tensor) -> Tensor:
        """By logits [W, L, C] of all windows."""
        return self.risk.of(self._tags(left), self._tags(full), self._gold)

    def lost_at_exits(self, answers: EveryExit) -> tuple[Tensor, Tensor]:
        """Of the words, whatever the risk: which have another tag than the full model's."""
        logits_ENC = answers.counted().logits_ERC
        *exits, full_N = logits_ENC.argmax(-1)
        return logits_ENC, torch.stack([own_N != full_N for own_N in exits]).double()

    def taken(self, which: Sequence[int]) -> Self:
        """Some of the sentences."""
        groups = [self.groups[i] for i in which]
        return replace(
            self,
            texts=[self.texts[i] for i in which],
            encoded=windows_of(groups),
            groups=groups,
            tags=None if self.tags is None else [self.tags[i] for i in which],
        )

    @cached_property
    def _places(self) -> WordPlaces:
        """Of the words that have tokens, sentence after sentence."""
        found, first = list[tuple[int, int, int, int]](), 0
        for row, group in enumerate(self.groups):
            for place, word in group.words.items():
                found.append((row, place, first + word.window, word.token))
            first += len(group.rows)
        return WordPlaces(*torch.tensor(found).unbind(-1))

    @cached_property
    def _outside(self) -> list[list[str]]:
        """What prediction says of words without tokens, in the place of every word."""
        return [[OUTSIDE] * len(words) for words in self.texts]

    @cached_property
    def _gold(self) -> WordTags | None:
        if self.tags is None:
            return None
        numbers = {name: number for number, name in enumerate(self.names)}
        row_N, place_N, _, _ = self._places
        each = zip(row_N.tolist(), place_N.tolist(), strict=True)
        number_N = torch.tensor([numbers[self.tags[row][place]] for row, place in each])
        return WordTags(number_N, row_N, place_N, self.tags, self.names)

    def _tags(self, logits_WLC: Tensor) -> WordTags:
        row_N, place_N, window_N, token_N = self._places
        number_N = logits_WLC[window_N, token_N].argmax(-1)
        return WordTags(number_N, row_N, place_N, self._outside, self.names)


def windows_of(groups: Sequence[Marked[Sequence[str]]]) -> list[CountedRow]:
    """What a runner takes of sentences."""
    return [row for group in groups for row in group.rows]


def _text_rows(model: ExitingModel, table: Table, risk: Risk[Tensor]) -> TextRows:
    _check_labels(table.source, len(table), table.labels, risk)
    if table.labels is None or not risk.takes_labels:
        encoded, labels = model.tokenizer.encode(table.texts), None
    else:
        examples = examples_of(table, model.tokenizer, model.model.config)
        encoded, labels = examples.rows, examples.labels_R
    return TextRows(model, table.source, table.texts, encoded, risk, labels)


def _tagged_rows(tagger: Tagger, table: TaggedTable, risk: Risk[WordTags]) -> SentenceRows:
    words = None if table.tags is None else [tag for tags in table.tags for tag in tags]
    _check_labels(table.source, len(table), words, risk)
    known = table.tags is not None and risk.takes_labels
    tags = known_tags(table, tagger.labels) if known else None
    groups = list(tagger.counted_windows(table.words))
    if not any(group.words for group in groups):
        raise DataError(f"The tokenizer keeps no word of {table.source}.")
    encoded = windows_of(groups)
    return SentenceRows(
        tagger, table.source, table.words, encoded, risk, groups, tags, tagger.labels
    )


def _check_labels(source: str, rows: int, labels: Sequence[Label] | None, risk: Risk[Any]) -> None:
    """DataError where there are no rows, all have the same label, or lack those that are needed."""
    if not rows:
        raise DataError(f"{source} has no rows.")
    if len(different := set(labels or [])) == 1:
        raise DataError(
            f"All {rows} rows of {source} have one label, {different.pop()!r}. Calibrate on rows "
            "like those that will come, which have several."
        )
    if labels is None and risk.needs_labels:
        raise DataError(
            f"The accuracy's risk needs labels, and {source} was read without. Name their column, "
            "or bound the disagreement, which needs none."
        )


def _key(text: Any) -> Hashable:
    return tuple(text) if isinstance(text, list) else cast(Hashable, text)
