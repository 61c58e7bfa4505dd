"""Scores against confusion matrices worked by hand."""

import math

import pytest
import torch

from offramp.training.metrics import accuracy, f1_by_class, paired_difference, scores


def rows_of(matrix: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and labels from `matrix[label][prediction]`."""
    pairs = [
        (said, true)
        for true, counts in enumerate(matrix)
        for said, count in enumerate(counts)
        for _ in range(count)
    ]
    return torch.tensor([p for p, _ in pairs]), torch.tensor([t for _, t in pairs])


def test_two_classes_by_hand() -> None:
    predicted_R, labels_R = rows_of([[50, 10], [5, 35]])
    # Class 1: precision 35/45, recall 35/40. Class 0: precision 50/55, recall 50/60.
    found = scores(predicted_R, labels_R, 2)
    f1_one = 2 * (35 / 45) * (35 / 40) / (35 / 45 + 35 / 40)
    f1_zero = 2 * (50 / 55) * (50 / 60) / (50 / 55 + 50 / 60)
    assert found == pytest.approx(
        {"accuracy": 0.85, "f1": f1_one, "macro_f1": (f1_one + f1_zero) / 2}
    )
    assert f1_by_class(predicted_R, labels_R, 2) == pytest.approx([f1_zero, f1_one])


def test_three_classes_by_hand() -> None:
    predicted_R, labels_R = rows_of([[4, 1, 0], [2, 3, 1], [0, 0, 0]])
    found = scores(predicted_R, labels_R, 3)
    by_class = [8 / (8 + 2 + 1), 6 / (6 + 1 + 3), 0.0]
    assert found == pytest.approx({"accuracy": 7 / 11, "macro_f1": sum(by_class) / 3})
    assert f1_by_class(predicted_R, labels_R, 3) == pytest.approx(by_class)


def test_a_class_that_is_nowhere_counts_as_0() -> None:
    assert f1_by_class(torch.tensor([0, 0]), torch.tensor([0, 0]), 3) == [1.0, 0.0, 0.0]


def test_accuracy_by_hand() -> None:
    assert accuracy(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2])) == 0.75


def test_paired_difference_by_hand() -> None:
    a_R = torch.tensor([True] * 80 + [False] * 20)
    b_R = torch.tensor([True] * 74 + [False] * 6 + [True] * 2 + [False] * 18)
    # 6 rows that only a has right, 2 that only b has: mean .04, sum of squares 8.
    mean = 0.04
    spread = math.sqrt((8 - 100 * mean**2) / 99) / 10
    expected = (mean, mean - 1.96 * spread, mean + 1.96 * spread)
    assert paired_difference(a_R, b_R) == pytest.approx(expected)
    assert paired_difference(a_R, a_R) == (0, 0, 0)


def test_paired_difference_of_one_row_is_a_number() -> None:
    one = torch.tensor([True])
    assert all(map(math.isfinite, paired_difference(one, ~one)))
