"""Accuracy and F1 from class numbers."""

from __future__ import annotations

from torch import Tensor


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


def paired_difference(a_R: Tensor, b_R: Tensor) -> tuple[float, float, float]:
    """Mean of a - b over rows and its 95% interval (normal); correctness of the same rows."""
    difference_R = a_R.double() - b_R.double()
    mean = difference_R.mean().item()
    spread = difference_R.std(unbiased=True).item() / max(1, len(difference_R)) ** 0.5
    half = 1.96 * spread
    return mean, mean - half, mean + half


__all__ = ["accuracy", "f1_by_class", "paired_difference", "scores"]
