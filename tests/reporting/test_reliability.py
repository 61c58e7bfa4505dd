"""The expected calibration error, by hand and by another way of counting."""

import numpy as np
import pytest
import torch

from offramp.reporting.reliability import reliability


def test_a_case_by_hand() -> None:
    """Two answers at .55 and .60, one right; two at .95 and .91, both right; one wrong at .10."""
    found = reliability(
        torch.tensor([0.55, 0.60, 0.95, 0.91, 0.10], dtype=torch.float64),
        torch.tensor([True, False, True, True, False]),
    )
    bins = [(one.low, one.high, one.rows, one.right) for one in found.bins]
    assert bins == [(0.0, 0.1, 1, 0.0), (0.5, 0.6, 2, 0.5), (0.9, 1.0, 2, 1.0)]
    assert [one.probability for one in found.bins] == pytest.approx([0.1, 0.575, 0.93])
    assert found.ece == pytest.approx((1 * 0.10 + 2 * 0.075 + 2 * 0.07) / 5)


def test_ends() -> None:
    found = reliability(torch.tensor([0.0, 1.0]), torch.tensor([False, True]))
    assert [one.rows for one in found.bins] == [1, 1]
    assert found.ece == 0


def test_as_numpy_counts() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(size=500)
    right = rng.uniform(size=500) < probability**2
    edges = np.linspace(0, 1, 11)
    place = np.digitize(probability, edges, right=True)
    ece = sum(
        abs(right[place == b].sum() - probability[place == b].sum()) / 500 for b in range(1, 11)
    )
    found = reliability(torch.from_numpy(probability), torch.from_numpy(right))
    assert found.ece == pytest.approx(ece)
    assert sum(one.rows for one in found.bins) == 500
