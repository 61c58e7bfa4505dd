"""What a run learns to say (a class, labels, a number): its scores, and the exits to choose from.

One row of the table below for each `problem_type`; what a loss is follows from the labels' type
(`offramp.models.losses`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor

from offramp.exits.criteria import (
    AllOf,
    AnyOf,
    Criterion,
    Entropy,
    MinDepth,
    RegressionPatience,
)
from offramp.exits.criteria.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from offramp.runner.classifier import Classifier
from offramp.runner.leaving import LeavingModel
from offramp.runner.multi_label import MultiLabelClassifier
from offramp.runner.regressor import Regressor
from offramp.runner.sweep import EveryExit
from offramp.training.metrics import (
    accuracy,
    label_scores,
    paired_bootstrap,
    paired_difference,
    pearson,
    scores,
    spearman,
)

Chosen: TypeAlias = Entropy | RegressionPatience | AllOf
"""The criteria whose threshold is chosen: of a combination, that of the first part."""

Interval: TypeAlias = tuple[float, float, float]
"""A difference, and the two ends of its 95% interval."""


@dataclass(frozen=True)
class Problem:
    """How a `problem_type` is scored and served.

    `scores` are of logits [R, C] against labels. `measure` is the one that each exit is judged by,
    at most 1, and `judge` gives that alone; `lost` is by how much the first of two sets of logits
    is better by it on the same rows. `asking` makes a criterion of the problem's own kind of a
    threshold and a growth, and `most` is the largest threshold that is worth trying, given every
    exit's answers. `criteria` are those to choose from, given dev's answers and a growth: lists of
    one kind, slowest first. `runner` is what takes the texts.
    """

    measure: str
    judge: Callable[[Tensor, Tensor], float]
    scores: Callable[[Tensor, Tensor], dict[str, float]]
    lost: Callable[[Tensor, Tensor, Tensor], Interval]
    asking: Callable[[float, float], Chosen]
    most: Callable[[EveryExit], float]
    criteria: Callable[[EveryExit, float], list[list[Chosen]]]
    runner: type[LeavingModel[Any]]

    @property
    def by_depth(self) -> str:
        """Under which name a log line has what each exit is worth on dev."""
        return f"dev_{self.measure}_by_depth"


def grid(most: float) -> list[float]:
    """Thresholds to try: 0, and a hundred from a thousandth of `most` up to it."""
    return [0.0, *(float(f"{most * 10 ** (-3 * step / 99):.4g}") for step in range(99, -1, -1))]


def spread(most: float) -> list[float]:
    """Thresholds to report, up to half of `most`: closer where the curve bends."""
    return [float(f"{most * share:.4g}") for share in (0.03, 0.06, 0.12, 0.2, 0.35, 0.5)]


def threshold_of(criterion: Criterion) -> float | None:
    """The threshold by which criteria of a problem's own kind differ; None for another kind.

    Of a combination it is the first part's. Without patience nobody leaves, whatever it is.
    """
    if isinstance(criterion, (AllOf, AnyOf)):
        return threshold_of(criterion.of[0])
    if isinstance(criterion, RegressionPatience) and criterion.patience == 0:
        return None
    return criterion.threshold if isinstance(criterion, (Entropy, RegressionPatience)) else None


def with_threshold(criterion: Criterion, threshold: float) -> Criterion:
    """The same criterion with another `threshold_of`, which it must have."""
    if isinstance(criterion, (AllOf, AnyOf)):
        first, *rest = criterion.of
        return replace(criterion, of=(with_threshold(first, threshold), *rest))
    assert isinstance(criterion, (Entropy, RegressionPatience))
    return replace(criterion, threshold=threshold)


def _accuracy(logits_RC: Tensor, labels_R: Tensor) -> float:
    return accuracy(logits_RC.argmax(-1), labels_R)


def _class_scores(logits_RC: Tensor, labels_R: Tensor) -> dict[str, float]:
    return scores(logits_RC.argmax(-1), labels_R, logits_RC.shape[-1])


def _accuracy_lost(full_RC: Tensor, fast_RC: Tensor, labels_R: Tensor) -> Interval:
    return paired_difference(full_RC.argmax(-1) == labels_R, fast_RC.argmax(-1) == labels_R)


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


def _ln_classes(answers: EveryExit) -> float:
    """The most entropy that C classes have."""
    return math.log(answers.logits_ERC.shape[-1])


def _ln_two(answers: EveryExit) -> float:
    """Each label is a question of two answers, and the row leaves with the least sure of them."""
    return math.log(2)


def _largest_change(answers: EveryExit) -> float:
    """Just above the largest that there is from ramp to ramp: rows leave strictly below."""
    ramps_XR = answers.logits_ERC[:-1, :, 0].double()
    return ramps_XR.diff(dim=0).abs().max().item() * 1.001 if len(ramps_XR) > 1 else 0.0


def _near_once(threshold: float, growth: float) -> Chosen:
    """One small change lets a row leave; distances do not grow with depth."""
    return RegressionPatience(1, threshold)


def _entropies(answers: EveryExit, growth: float) -> list[list[Chosen]]:
    return [[Entropy(at, growth) for at in grid(_ln_classes(answers))]]


def _entropies_of_labels(answers: EveryExit, growth: float) -> list[list[Chosen]]:
    return [[Entropy(at, growth) for at in grid(_ln_two(answers))]]


def _changes(answers: EveryExit, growth: float) -> list[list[Chosen]]:
    """From each depth on: ramps that know nothing yet all say the mean, and agree about it."""
    still = [_near_once(at, growth) for at in grid(_largest_change(answers))]
    found = [still]
    for depth in answers.depths[2:-1]:
        found.append([one & MinDepth(depth) for one in still])
    return found


PROBLEMS: dict[str, Problem] = {
    SINGLE_LABEL: Problem(
        measure="accuracy",
        judge=_accuracy,
        scores=_class_scores,
        lost=_accuracy_lost,
        asking=Entropy,
        most=_ln_classes,
        criteria=_entropies,
        runner=Classifier,
    ),
    MULTI_LABEL: Problem(
        measure="micro_f1",
        judge=_micro_f1,
        scores=_label_scores,
        lost=partial(paired_bootstrap, _micro_f1),
        asking=Entropy,
        most=_ln_two,
        criteria=_entropies_of_labels,
        runner=MultiLabelClassifier,
    ),
    REGRESSION: Problem(
        measure="pearson",
        judge=_pearson,
        scores=_number_scores,
        lost=partial(paired_bootstrap, _pearson),
        asking=_near_once,
        most=_largest_change,
        criteria=_changes,
        runner=Regressor,
    ),
}
