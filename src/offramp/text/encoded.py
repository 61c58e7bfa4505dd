"""Rows as numbers: what a tokenizer gives."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import tokenizers

Truncation: TypeAlias = Literal["longest_first", "only_first", "only_second", "do_not_truncate"]
"""Of a row that is too long, what goes: tokens of the longer text, of one of them, or none, and
then the row is an error."""

TRUNCATIONS: tuple[Truncation, ...] = (
    "longest_first",
    "only_first",
    "only_second",
    "do_not_truncate",
)


class Encoded(NamedTuple):
    """One row: token ids and, beside each, 0 for the first text and 1 for the second. int64."""

    ids: npt.NDArray[np.int64]
    types: npt.NDArray[np.int64]


class Tokens(NamedTuple):
    """One row, or one window of a row, with where its tokens come from. Arrays are int64."""

    ids: npt.NDArray[np.int64]
    """[T], as in `Encoded`."""
    types: npt.NDArray[np.int64]
    """[T], as in `Encoded`."""
    offsets: npt.NDArray[np.int64]
    """[T, 2]: the characters of its own text (of its own word, where words were given) that a
    token stands for, `text[start:end]`; 0, 0 for a special token."""
    words: npt.NDArray[np.int64]
    """[T]: the number of its word in its text, -1 for a special token. Words are the given ones,
    or else what the tokenizer itself splits a text into before it looks for tokens."""
    texts: npt.NDArray[np.int64]
    """[T]: 0 in the first text, 1 in the second, -1 for a special token that is in neither."""
    row: int
    """The number of the row that was given, counted from `first_row`."""


def as_encoded(encoding: tokenizers.Encoding) -> Encoded:
    """The library's row as ours."""
    return Encoded(
        np.asarray(encoding.ids, dtype=np.int64), np.asarray(encoding.type_ids, dtype=np.int64)
    )


def as_tokens(encoding: tokenizers.Encoding, row: int) -> Tokens:
    """The library's row, or window, as ours."""
    return Tokens(
        *as_encoded(encoding),
        np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2),
        _numbers(encoding.word_ids),
        _numbers(encoding.sequence_ids),
        row,
    )


def _numbers(values: list[int | None]) -> npt.NDArray[np.int64]:
    return np.asarray([-1 if value is None else value for value in values], dtype=np.int64)
