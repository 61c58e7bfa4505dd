"""What logits say of rows, in words; how sure they are of it, and how wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offramp.exits.criteria.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL


@dataclass(frozen=True)
class Said:
    """The answers to R rows.

    `sure_R` is the probability of a row's answer: of several labels, of the least sure one; None
    where the model says numbers. `error_R` is 0 for a right answer and 1 for a wrong one; of a
    number, how far it is off. `claims` are (probability, right or not), each [N], of all that
    was said, one claim a row, or one a label of a row; None where the model says numbers.
    """

    words: list[str]
    sure_R: Tensor | None
    error_R: Tensor
    claims: tuple[Tensor, Tensor] | None


def said(kind: str, logits_RC: Tensor, labels_R: Tensor, names: Sequence[str]) -> Said:
    """What a model of this `problem_type` says with these logits; `names` are the labels'."""
    return _SAYING[kind](logits_RC.double(), labels_R, names)


def label_words(kind: str, labels_R: Tensor, names: Sequence[str]) -> list[str]:
    """Labels as `Examples` has them, in the words of `Said`."""
    if kind == MULTI_LABEL:
        return _sets(labels_R > 0.5, names)
    if kind == REGRESSION:
        return [f"{value:.4g}" for value in labels_R.tolist()]
    return [names[number] for number in labels_R.tolist()]


def _classes(logits_RC: Tensor, labels_R: Tensor, names: Sequence[str]) -> Said:
    sure_R, number_R = logits_RC.softmax(-1).max(-1)
    right_R = number_R == labels_R
    words = [names[number] for number in number_R.tolist()]
    return Said(words, sure_R, (~right_R).double(), (sure_R, right_R))


def _several(logits_RC: Tensor, there_RC: Tensor, names: Sequence[str]) -> Said:
    sure_RC, said_RC = logits_RC.abs().sigmoid(), logits_RC > 0
    right_RC = said_RC == (there_RC > 0.5)
    claims = sure_RC.flatten(), right_RC.flatten()
    error_R = (~right_RC.all(-1)).double()
    return Said(_sets(said_RC, names), sure_RC.amin(-1), error_R, claims)


def _numbers(logits_RC: Tensor, labels_R: Tensor, names: Sequence[str]) -> Said:
    said_R = logits_RC[:, 0]
    words = [f"{value:.4g}" for value in said_R.tolist()]
    return Said(words, None, (said_R - labels_R).abs(), None)


def _sets(there_RC: Tensor, names: Sequence[str]) -> list[str]:
    found: list[list[str]] = [[] for _ in range(len(there_RC))]
    for row, number in torch.nonzero(there_RC).tolist():
        found[row].append(names[number])
    return [", ".join(labels) or "(none)" for labels in found]


_SAYING: dict[str, Callable[[Tensor, Tensor, Sequence[str]], Said]] = {
    SINGLE_LABEL: _classes,
    MULTI_LABEL: _several,
    REGRESSION: _numbers,
}
