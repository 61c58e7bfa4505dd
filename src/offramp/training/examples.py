"""Tables to encoded rows with class numbers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from offramp.errors import DataError, nearest
from offramp.exits.criteria.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task
from offramp.models.config import PretrainedConfig
from offramp.models.inputs import Inputs
from offramp.runner.rows import Row
from offramp.runner.sweep import EveryExit
from offramp.text.columns import Columns, has_columns
from offramp.text.tables import Label, Table
from offramp.text.tokenizer import Encoded, Tokenizer
from offramp.training.options import SCORES
from offramp.training.problems import PROBLEMS

R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class EncodedRows(Generic[R]):
    """Rows that can be put into batches."""

    rows: list[R]

    def __len__(self) -> int:
        return len(self.rows)

    def inputs(self, which: Sequence[int]) -> Inputs:
        """These rows packed in order of length; `row_ids_R` are their numbers here."""
        order = sorted(which, key=lambda i: len(self.rows[i].ids))
        return Inputs.from_rows(
            [self.rows[i].ids for i in order], [self.rows[i].types for i in order], order
        )

    def asked(self) -> Sequence[Row]:
        """The rows as a runner takes them."""
        return self.rows

    def labels_of(self, row_ids_R: Tensor) -> Tensor:
        """What is to be learnt of packed rows: a label each, or one for each token that counts."""
        raise NotImplementedError

    def learnt(self, row_ids_R: Tensor) -> Tensor | slice:
        """Which of a model's answers to packed rows those labels are beside: an index."""
        return slice(None)

    def scores(self, answers: EveryExit, score: str | None) -> dict[str, Any]:
        """A log line's figures: `score`, `dev` (at full depth), and one by depth.

        `answers` are beside the labels of all rows; `score` is by what the best is chosen, None for
        the usual one.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Examples(EncodedRows[Encoded]):
    """Encoded rows and their labels: class numbers [R], floats [R], or 1 and 0 [R, C]."""

    labels_R: Tensor

    def labels_of(self, row_ids_R: Tensor) -> Tensor:
        """[R]."""
        return self.labels_R[row_ids_R]

    def scores(self, answers: EveryExit, score: str | None) -> dict[str, Any]:
        """By the measures of the answers' task."""
        problem_type = SINGLE_LABEL if answers.task is None else answers.task.kind
        problem = PROBLEMS[problem_type]
        at_full = problem.scores(answers.logits_ERC[-1], self.labels_R)
        by_depth = {
            str(depth): round(problem.judge(logits_RC, self.labels_R), 5)
            for depth, logits_RC in zip(answers.depths, answers.logits_ERC, strict=True)
        }
        counts = at_full[score or SCORES[problem_type][0]]
        return {"score": counts, "dev": at_full, problem.by_depth: by_depth}


def class_names(table: Table) -> list[str]:
    """The different labels, numbers in order of value and words in order of letters."""
    return _in_order(_words(table), table.source)


def label_names(table: Table) -> list[str]:
    """As `class_names`, where a row has any number of them."""
    return _in_order([label for labels in _sets(table) for label in labels], table.source)


def _in_order(labels: Iterable[str], source: str) -> list[str]:
    names = sorted(set(labels))
    if len(names) < 2:
        raise DataError(
            f"{source} has only the labels {names}; a classifier needs at least two classes."
        )
    try:
        values = [float(name) for name in names]
    except ValueError:
        return names
    if not all(map(math.isfinite, values)):  # `nan` is a word here
        return names
    return sorted(names, key=float)


def examples_of(table: Table, tokenizer: Tokenizer, config: PretrainedConfig) -> Examples:
    """Encode a table with labels such as a model of this configuration says."""
    kind = Task.of(config).kind
    if kind == REGRESSION:
        return to_numbered(table, tokenizer)
    if kind == MULTI_LABEL:
        return to_many_labelled(table, tokenizer, config.label2id)
    return to_examples(table, tokenizer, config.label2id)


def to_examples(table: Table, tokenizer: Tokenizer, label2id: Mapping[str, int]) -> Examples:
    """Encode a table; DataError for a label that is not in `label2id`."""
    labels = _words(table)
    for row, label in enumerate(labels, start=1):
        _check_known(label, label2id, table.source, row)
    numbers = torch.tensor([label2id[label] for label in labels])
    return Examples(tokenizer.encode(table.texts), numbers)


def to_many_labelled(table: Table, tokenizer: Tokenizer, label2id: Mapping[str, int]) -> Examples:
    """Encode a table whose rows have any number of labels; DataError for an unknown one."""
    labels = _sets(table)
    there_RC = torch.zeros(len(labels), len(label2id))
    for row, own in enumerate(labels):
        for label in own:
            _check_known(label, label2id, table.source, row + 1)
            there_RC[row, label2id[label]] = 1.0
    return Examples(tokenizer.encode(table.texts), there_RC)


def _check_known(label: str, known: Mapping[str, int], source: str, row: int) -> None:
    if label not in known:
        raise DataError(
            f"{source}, row {row}: the label {label!r} was not seen in training. "
            f"{nearest(label, known)}".rstrip()
        )


def to_numbered(table: Table, tokenizer: Tokenizer) -> Examples:
    """Encode a table whose labels are numbers; DataError for one that is not."""
    numbers = []
    for row, label in enumerate(_words(table), start=1):
        try:
            numbers.append(float(label))
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise DataError(
                f"{table.source}, row {row}: the label {label!r} is no number, which a "
                "regression model says. To learn classes leave problem_type out."
            )
    return Examples(tokenizer.encode(table.texts), torch.tensor(numbers))


def hold_out(table: Table, share: float = 0.1) -> tuple[Table, Table]:
    """Train and dev, split by a hash of the text, so that equal texts fall on one side."""
    labels = _labels(table)
    sides = split([repr(text) for text in table.texts], share, table.source)
    train, dev = (
        Table(table.source, [table.texts[i] for i in side], [labels[i] for i in side])
        for side in sides
    )
    return train, dev


def split(texts: Sequence[str], share: float, source: str) -> tuple[list[int], list[int]]:
    """Numbers of the rows to train on and of those held out, by a hash of each row's text."""
    sides: tuple[list[int], list[int]] = ([], [])
    for row, text in enumerate(texts):
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        sides[int.from_bytes(digest[:8], "big") < share * 2**64].append(row)
    if not all(sides):
        raise DataError(
            f"{source} has {len(texts)} rows, too few to hold some out for dev. Pass a dev file."
        )
    return sides


def batches(
    examples: EncodedRows[Any], size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """Row numbers of one epoch's batches: shuffled, rows of like length together.

    Like lengths make few attention blocks; the order of the batches is random again.
    """
    order = torch.randperm(len(examples), generator=generator).tolist()
    made = []
    for start in range(0, len(order), size * 32):
        pool = sorted(order[start : start + size * 32], key=lambda i: len(examples.rows[i].ids))
        made += [pool[i : i + size] for i in range(0, len(pool), size)]
    for i in torch.randperm(len(made), generator=generator).tolist():
        yield made[i]


def as_table(data: Table | Columns) -> Table:
    """Rows in memory as a table, with the columns `text` and `label`."""
    if has_columns(data):
        return Table.of(data)
    check_kind(data, Table, "offramp.read_table")
    return cast(Table, data)


def check_kind(table: object, kind: type, reader: str) -> None:
    """DataError for a table of another task's rows."""
    if not isinstance(table, kind):
        raise DataError(
            f"Expected a {kind.__name__}, as {reader} gives, a dict of columns or a "
            f"datasets.Dataset; got a {type(table).__name__}. offramp.train takes texts with "
            "labels, offramp.train_tagger words with tags."
        )


def _words(table: Table) -> list[str]:
    """A table's labels, one a row."""
    words = []
    for row, label in enumerate(_labels(table), start=1):
        if not isinstance(label, str):
            raise DataError(
                f"{table.source}, row {row}: the label is a list, {list(label)}. For any number of "
                "labels a row train with problem_type='multi_label_classification'."
            )
        words.append(label)
    return words


def _sets(table: Table) -> list[tuple[str, ...]]:
    """A table's labels, any number a row."""
    sets = []
    for row, labels in enumerate(_labels(table), start=1):
        if isinstance(labels, str):
            raise DataError(
                f"{table.source}, row {row}: the label {labels!r} is no list; with "
                "problem_type='multi_label_classification' each row has one, such as [\"sport\", "
                '"money"] or []. (JSONL and Parquet have lists, TSV and CSV do not.)'
            )
        sets.append(tuple(labels))
    return sets


def _labels(table: Table) -> Sequence[Label]:
    check_kind(table, Table, "offramp.read_table")
    if table.labels is None:
        raise DataError(f"{table.source} was read without labels; pass the label's column.")
    return table.labels
