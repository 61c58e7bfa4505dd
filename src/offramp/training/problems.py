"""What a run learns to say (a class, labels, a number): its scores, and the exits to choose from.

One row of the table below for each `problem_type`; what a loss is follows from the labels' type
(`offramp.models.losses`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from offramp.exits.criteria import AllOf, Entropy, MinDepth, RegressionPatience
from offramp.exits.criteria.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from offramp.runner.classifier import Classifier
from offramp.runner.leaving import LeavingModel
from offramp.runner.multi_label import MultiLabelClassifier
from offramp.runner.regressor import Regressor
from offramp.runner.sweep import EveryExit
from offramp.training.metrics import accuracy, label_scores, pearson, scores, spearman

Chosen: TypeAlias = Entropy | RegressionPatience | AllOf
"""The criteria whose threshold is chosen: of a combination, that of the first part."""


@dataclass(frozen=True)
class Problem:
    """How a `problem_type` is scored and served.

    `scores` are of logits [R, C] against labels. `measure` is the one that each exit is judged by,
    at most 1, and `judge` gives that alone. `criteria` are those to choose from, given
    dev's answers and a growth: lists of one kind, slowest first. `runner` is what takes the texts.
    """

    measure: str
    judge: Callable[[Tensor, Tensor], float]
    scores: Callable[[Tensor, Tensor], dict[str, float]]
    criteria: Callable[[EveryExit, float], list[list[Chosen]]]
    runner: type[LeavingModel[Any]]

    @property
    def by_depth(self) -> str:
        """Under which name a log line has what each exit is worth on dev."""
        return f"dev_{self.measure}_by_depth"


def grid(most: float) -> list[float]:
    """Thresholds to try: 0, and a hundred from a thousandth of `most` up to it."""
    return [0.0, *(float(f"{most * 10 ** (-3 * step / 99):.4g}") for step in range(99, -1, -1))]


def _accuracy(logits_RC: Tensor, labels_R: Tensor) -> float:
    return accuracy(logits_RC.argmax(-1), labels_R)


def _class_scores(logits_RC: Tensor, labels_R: Tensor) -> dict[str, float]:
    return scores(logits_RC.argmax(-1), labels_R, logits_RC.shape[-1])


def _micro_f1(logits_RC: Tensor, there_RC: Tensor) -> float:
    return _label_scores(logits_RC, there_RC)["micro_f1"]


def _label_scores(logits_RC: Tensor, there_RC: Tensor) -> dict[str, float]:
    return label_scores(logits_RC > 0, there_RC > 0.5)


def _pearson(logits_RC: Tensor, labels_R: Tensor) -> float:
    return pearson(logits_RC[:, 0], labels_R)


def _number_scores(logits_RC: Tensor, labels_R: Tensor) -> dict[str, float]:
    said_R = logits_RC[:, 0]
    return {
        "pearson": pearson(said_R, labels_R),
        "spearman": spearman(said_R, labels_R),
        "mean_squared_error": (said_R - labels_R).double().square().mean().item(),
    }


def _entropies(answers: EveryExit, growth: float) -> list[list[Chosen]]:
    """Up to ln C at the first layer, the most entropy that C classes have."""
    return [[Entropy(at, growth) for at in grid(math.log(answers.logits_ERC.shape[-1]))]]


def _entropies_of_labels(answers: EveryExit, growth: float) -> list[list[Chosen]]:
    """Each label is a question of two answers, and the row leaves with the least sure of them."""
    return [[Entropy(at, growth) for at in grid(math.log(2))]]


def _changes(answers: EveryExit, growth: float) -> list[list[Chosen]]:
    """One small change lets a row leave: up to the largest that there is from ramp to ramp.

    From each depth on: ramps that know nothing yet all say the mean, and agree about it.
    """
    ramps_XR = answers.logits_ERC[:-1, :, 0].double()
    largest = ramps_XR.diff(dim=0).abs().max().item() if len(ramps_XR) > 1 else 0.0
    still = [RegressionPatience(1, at) for at in grid(largest * 1.001)]  # strictly below
    found: list[list[Chosen]] = [[*still]]
    for depth in answers.depths[2:-1]:
        found.append([one & MinDepth(depth) for one in still])
    return found


PROBLEMS: dict[str, Problem] = {
    SINGLE_LABEL: Problem("accuracy", _accuracy, _class_scores, _entropies, Classifier),
    MULTI_LABEL: Problem(
        "micro_f1", _micro_f1, _label_scores, _entropies_of_labels, MultiLabelClassifier
    ),
    REGRESSION: Problem("pearson", _pearson, _number_scores, _changes, Regressor),
}
