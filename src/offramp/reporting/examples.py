"""Rows to look at: those that leave first, those that stay, and those that go wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from offramp.reporting.answers import Said
from offramp.text.tables import Text

SHOWN = 8  # rows of a kind
LONGEST_TEXT = 240  # letters of each text of a row: a page of any data stays small
LONGEST_NAME = 60


@dataclass(frozen=True)
class Example:
    """A row with the chosen criterion's answer, and that of all layers (`full_answer`).

    `text` has one text or the two of a pair, cut to 240 letters each. `probability` is None where
    the model says numbers.
    """

    text: tuple[str, ...]
    label: str
    answer: str
    full_answer: str
    probability: float | None
    exit_layer: int


@dataclass(frozen=True)
class Examples:
    """Up to eight rows of each kind, no text twice.

    `easiest` leave first of those that are right, the surest first; of numbers, of the half that
    is nearest. `hardest` leave last, the least sure first. `wrong` are the surest of those that
    are wrong; of numbers, the furthest off.
    """

    easiest: list[Example]
    hardest: list[Example]
    wrong: list[Example]


def examples(
    texts: Sequence[Text],
    labels: Sequence[str],
    fast: Said,
    full: Said,
    exit_layers: Sequence[int],
) -> Examples:
    """Of rows with what a criterion (`fast`) and all layers (`full`) say of them."""
    error = fast.error_R.tolist()
    numbers = fast.sure_R is None
    sure = [-value for value in error] if fast.sure_R is None else fast.sure_R.tolist()
    near = sorted(error)[(len(error) - 1) // 2] if numbers else 0.0

    def example(row: int) -> Example:
        text = texts[row]
        parts = (text,) if isinstance(text, str) else text
        return Example(
            text=tuple(cut(part, LONGEST_TEXT) for part in parts),
            label=cut(labels[row], LONGEST_NAME),
            answer=cut(fast.words[row], LONGEST_NAME),
            full_answer=cut(full.words[row], LONGEST_NAME),
            probability=None if numbers else sure[row],
            exit_layer=exit_layers[row],
        )

    def first(rows: Iterable[int], key: Callable[[int], tuple[float, ...]]) -> list[Example]:
        found: dict[Text, int] = {}
        for row in sorted(rows, key=key):
            found.setdefault(texts[row], row)
        return [example(row) for row in itertools.islice(found.values(), SHOWN)]

    rows = range(len(texts))
    return Examples(
        easiest=first(
            [row for row in rows if error[row] <= near],
            lambda row: (exit_layers[row], -sure[row], row),
        ),
        hardest=first(rows, lambda row: (-exit_layers[row], sure[row], row)),
        wrong=first(
            [row for row in rows if error[row] > near],
            lambda row: (-error[row], -sure[row], row),
        ),
    )


def cut(text: str, most: int) -> str:
    """A text of at most so many letters, with an ellipsis where there was more."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
