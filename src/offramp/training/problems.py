"""What a run learns to say (classes or numbers): how that is scored, and which exits may be chosen.

One row of the table below for each `problem_type`; what a loss is follows from the labels' type
(`offramp.models.losses`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from offramp.exits.criteria import Entropy, RegressionPatience
from offramp.exits.criteria.task import REGRESSION, SINGLE_LABEL
from offramp.runner.classifier import Classifier
from offramp.runner.leaving import LeavingModel
from offramp.runner.regressor import Regressor
from offramp.runner.sweep import EveryExit
from offramp.training.metrics import accuracy, pearson, scores, spearman

Chosen: TypeAlias = Entropy | RegressionPatience
"""The criteria whose threshold is chosen."""


@dataclass(frozen=True)
class Problem:
    """How a `problem_type` is scored and served.

    `scores` are of logits [R, C] against labels. `measure` is the one that each exit is judged by,
    at most 1, and `judge` gives that alone. `criteria` are those to choose from, slowest first,
    given dev's answers and a growth. `runner` is what takes the texts.
    """

    measure: str
    judge: Callable[[Tensor, Tensor], float]
    scores: Callable[[Tensor, Tensor], dict[str, float]]
    criteria: Callable[[EveryExit, float], list[Chosen]]
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


def _pearson(logits_RC: Tensor, labels_R: Tensor) -> float:
    return pearson(logits_RC[:, 0], labels_R)


def _number_scores(logits_RC: Tensor, labels_R: Tensor) -> dict[str, float]:
    said_R = logits_RC[:, 0]
    return {
        "pearson": pearson(said_R, labels_R),
        "spearman": spearman(said_R, labels_R),
        "mean_squared_error": (said_R - labels_R).double().square().mean().item(),
    }


def _entropies(answers: EveryExit, growth: float) -> list[Chosen]:
    """Up to ln C at the first layer, the most entropy that C classes have."""
    return [Entropy(at, growth) for at in grid(math.log(answers.logits_ERC.shape[-1]))]


def _changes(answers: EveryExit, growth: float) -> list[Chosen]:
    """One small change lets a row leave: up to the largest that there is from ramp to ramp."""
    ramps_XR = answers.logits_ERC[:-1, :, 0].double()
    largest = ramps_XR.diff(dim=0).abs().max().item() if len(ramps_XR) > 1 else 0.0
    return [RegressionPatience(1, at) for at in grid(largest * 1.001)]  # strictly below


PROBLEMS: dict[str, Problem] = {
    SINGLE_LABEL: Problem("accuracy", _accuracy, _class_scores, _entropies, Classifier),
    REGRESSION: Problem("pearson", _pearson, _number_scores, _changes, Regressor),
}
