"""Scores of class numbers and of numbers, paired differences; the check that a loss is one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from offramp.errors import TrainingError


def accuracy(predicted_R: Tensor, labels_R: Tensor) -> float:
    """Share of rows whose label was found."""
    return (predicted_R == labels_R).double().mean().item()


def f1_by_class(predicted_R: Tensor, labels_R: Tensor, n_classes: int) -> list[float]:
    """2 TP / (2 TP + FP + FN) of each class; 0 for a class that is neither there nor predicted."""
    scores = []
    for number in range(n_classes):
        said_R, true_R = predicted_R == number, labels_R == number
        hits = (said_R & true_R).sum().item()
        total = said_R.sum().item() + true_R.sum().item()
        scores.append(2 * hits / total if total else 0.0)
    return scores


def scores(predicted_R: Tensor, labels_R: Tensor, n_classes: int) -> dict[str, float]:
    """`accuracy`, `macro_f1` and, for two classes, `f1` of the second."""
    by_class = f1_by_class(predicted_R, labels_R, n_classes)
    found = {
        "accuracy": accuracy(predicted_R, labels_R),
        "macro_f1": sum(by_class) / n_classes,
    }
    if n_classes == 2:
        found["f1"] = by_class[1]
    return found


def label_scores(said_RC: Tensor, there_RC: Tensor) -> dict[str, float]:
    """Of rows with any number of labels, as booleans: `micro_f1` over all labels of all rows,
    `macro_f1`, the mean over labels, and `exact_match`, the share of rows with all labels right.

    F1 is 2 TP / (2 TP + FP + FN), and 0 where that is 0 / 0.
    """
    hits_C = (said_RC & there_RC).sum(0).double()
    total_C = said_RC.sum(0).double() + there_RC.sum(0)
    return {
        "micro_f1": (2 * hits_C.sum() / total_C.sum().clamp(min=1)).item(),
        "macro_f1": (2 * hits_C / total_C.clamp(min=1)).mean().item(),
        "exact_match": (said_RC == there_RC).all(-1).double().mean().item(),
    }


def pearson(a_R: Tensor, b_R: Tensor) -> float:
    """Pearson's correlation, from -1 to 1; 0 where one of the two does not change."""
    a_R, b_R = (x_R.double() - x_R.double().mean() for x_R in (a_R, b_R))
    scale = a_R.norm() * b_R.norm()
    return 0.0 if scale == 0 else (a_R @ b_R / scale).item()


def spearman(a_R: Tensor, b_R: Tensor) -> float:
    """Spearman's correlation: Pearson's of the ranks, of which equal values have the mean."""
    return pearson(_ranks(a_R), _ranks(b_R))


def _ranks(values_R: Tensor) -> Tensor:
    _, place_R, count_U = torch.unique(values_R, return_inverse=True, return_counts=True)
    last_U = count_U.cumsum(0).double()
    mean_U: Tensor = last_U - (count_U - 1) / 2
    return mean_U[place_R]


def paired_difference(a_R: Tensor, b_R: Tensor) -> tuple[float, float, float]:
    """Mean of a - b over rows and its 95% interval (normal); correctness of the same rows."""
    difference_R = a_R.double() - b_R.double()
    mean = difference_R.mean().item()
    rows = len(difference_R)
    spread = difference_R.std(unbiased=True).item() if rows > 1 else 0.0
    half = 1.96 * spread / rows**0.5
    return mean, mean - half, mean + half


def paired_bootstrap(
    judge: Callable[[Tensor, Tensor], float],
    a_RC: Tensor,
    b_RC: Tensor,
    labels_R: Tensor,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """a's score less b's on the same rows, and its 95% interval, for scores that are no mean.

    The interval is that of the 2.5th and 97.5th percentile over `resamples` draws of as many rows,
    with replacement, each judged for both. Efron and Tibshirani 1993, "An Introduction to the
    Bootstrap", chapter 13.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, found = len(labels_R), []
    for _ in range(resamples):
        drawn_R = torch.randint(rows, (rows,), generator=generator)
        ours_R = labels_R[drawn_R]
        found.append(judge(a_RC[drawn_R], ours_R) - judge(b_RC[drawn_R], ours_R))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(torch.tensor(found, dtype=torch.float64), ends).tolist()
    return judge(a_RC, labels_R) - judge(b_RC, labels_R), low, high


def check_loss(loss: float, step: int) -> None:
    """TrainingError for a loss that is no number."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss at step {step} is {loss}. Lower learning_rate or ramp_learning_rate."
        )
