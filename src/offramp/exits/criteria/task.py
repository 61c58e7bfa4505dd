"""What a model is asked, as far as exits have to know."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from offramp.models.config import PretrainedConfig

Kind = Literal["regression", "single_label_classification", "multi_label_classification"]
"""As a configuration's `problem_type`."""

REGRESSION: Kind = "regression"
SINGLE_LABEL: Kind = "single_label_classification"
MULTI_LABEL: Kind = "multi_label_classification"

CLASSES: tuple[Kind, ...] = (SINGLE_LABEL, MULTI_LABEL)

WORDS: dict[Kind, str] = {
    REGRESSION: "numbers",
    SINGLE_LABEL: "one class of several",
    MULTI_LABEL: "any number of labels",
}
"""What a row's answer is."""

LARGEST = 1e300
"""What infinite logits count as."""


@dataclass(frozen=True)
class Task:
    """The kind of a model's answer, and of how many numbers it is.

    `certainty` says whether its exits tell beside it how sure they are; `tokens` whether there is
    such an answer for each token of a row, and not one for the row. `depths` are the layers after
    which a criterion is asked, where that is known; two tasks that differ in these alone are equal.
    """

    kind: Kind
    n_outputs: int
    certainty: bool = False
    tokens: bool = False
    depths: tuple[int, ...] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, config: PretrainedConfig, certainty: bool = False) -> Task:
        """What `problem_type` says, or else one class of several; a single output is a number.

        That a row may have several labels has to be said (`multi_label_classification`): a loss
        knows it by the labels' type too, and exits see no labels.
        """
        return cls.outputs(config.num_labels, config.problem_type, certainty)

    @classmethod
    def of_tokens(cls, config: PretrainedConfig, certainty: bool = False) -> Task:
        """Of a model that answers for each token: one class of several."""
        return replace(cls.outputs(config.num_labels, None, certainty), tokens=True)

    @classmethod
    def outputs(
        cls, n_outputs: int, problem_type: str | None = None, certainty: bool = False
    ) -> Task:
        """Of so many outputs a row."""
        kind = REGRESSION if problem_type == REGRESSION or n_outputs == 1 else SINGLE_LABEL
        kind = MULTI_LABEL if problem_type == MULTI_LABEL else kind
        return cls(kind, n_outputs, certainty)

    def lead(self, logits_RC: Tensor) -> Tensor:
        """How far logits may move, each its own way, before the labels that they say change; [R].

        A number has no label, and may always.
        """
        if self.kind == REGRESSION:
            return torch.full((len(logits_RC),), torch.inf, dtype=torch.float64)
        if self.kind == MULTI_LABEL:
            return logits_RC.double().abs().amin(-1)
        return lead(logits_RC)


def lead(logits_RC: Tensor) -> Tensor:
    """How far logits may move, each its own way, before another of the classes is the best; [R]."""
    best_R2 = finite(logits_RC).topk(2, dim=-1).values
    return (best_R2[:, 0] - best_R2[:, 1]) / 2


def finite(logits_RC: Tensor) -> Tensor:
    """In float64, infinite ones as very large ones; NaN stays."""
    return logits_RC.double().clamp(-LARGEST, LARGEST)
