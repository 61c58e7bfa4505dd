"""Scores against confusion matrices worked by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

from offramp.training.metrics import (
    accuracy,
    f1_by_class,
    paired_bootstrap,
    paired_difference,
    pearson,
    scores,
)


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


# Six rows: what one model says of them, what another does, and the truth.
SAID = torch.tensor([[0.0], [1.0], [2.5], [2.0], [4.5], [5.0]])
OTHER = torch.tensor([[1.0], [0.0], [2.0], [4.0], [3.0], [4.5]])
TRUE = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])


def correlation(logits_RC: torch.Tensor, labels_R: torch.Tensor) -> float:
    return pearson(logits_RC[:, 0], labels_R)


def test_paired_bootstrap_is_that_of_all_draws() -> None:
    said, other, true = (values.flatten().numpy() for values in (SAID, OTHER, TRUE))
    losses = []
    for draw in itertools.product(range(6), repeat=6):  # all 46,656, each as likely
        rows = list(draw)
        if len(set(rows)) == 1:  # no correlation there: 0 for both
            losses.append(0.0)
            continue
        one, two = (np.corrcoef(x[rows], true[rows])[0, 1] for x in (said, other))
        losses.append(one - two)
    loss, low, high = paired_bootstrap(correlation, SAID, OTHER, TRUE, resamples=20_000)
    expected = np.corrcoef(said, true)[0, 1] - np.corrcoef(other, true)[0, 1]
    assert loss == pytest.approx(expected)
    assert np.mean(np.array(losses) < low) == pytest.approx(0.025, abs=0.004)
    assert np.mean(np.array(losses) > high) == pytest.approx(0.025, abs=0.004)


def test_paired_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    generator = torch.Generator().manual_seed(1)
    labels_R = torch.randint(2, (400,), generator=generator)
    noise_2RC = torch.randn(2, 400, 2, generator=generator)
    a_RC, b_RC = noise_2RC + torch.tensor([2.0, 1.0])[:, None, None] * torch.eye(2)[labels_R]

    def right(logits_RC: torch.Tensor, labels_R: torch.Tensor) -> float:
        return accuracy(logits_RC.argmax(-1), labels_R)

    expected = paired_difference(a_RC.argmax(-1) == labels_R, b_RC.argmax(-1) == labels_R)
    found = paired_bootstrap(right, a_RC, b_RC, labels_R)
    assert found[0] == pytest.approx(expected[0])
    assert found[1:] == pytest.approx(expected[1:], abs=0.006)


def test_paired_bootstrap_is_the_same_again_and_draws_from_nothing_else() -> None:
    before = torch.get_rng_state()
    first = paired_bootstrap(correlation, SAID, OTHER, TRUE, resamples=50)
    assert first == paired_bootstrap(correlation, SAID, OTHER, TRUE, resamples=50)
    assert first != paired_bootstrap(correlation, SAID, OTHER, TRUE, resamples=50, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert paired_bootstrap(correlation, SAID, SAID, TRUE) == (0, 0, 0)
    assert paired_bootstrap(correlation, SAID[:1], OTHER[:1], TRUE[:1]) == (0, 0, 0)
