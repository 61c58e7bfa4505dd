"""Whether rows leave elsewhere: against scipy, and over many draws."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from offramp.errors import DriftWarning
from offramp.exits.calibration.drift import ExitWatch, homogeneity_p_value

EXPECTED = {"1": 300, "2": 400, "3": 200, "6": 100}


def test_scipys_p_value() -> None:
    one, other = {1: 30, 2: 50, 3: 20}, {1: 90, 2: 80, 3: 40}
    table = [list(one.values()), list(other.values())]
    theirs = stats.chi2_contingency(table, correction=False).pvalue
    assert homogeneity_p_value(one, other) == pytest.approx(float(theirs), rel=1e-9)


def test_small_cells_are_joined() -> None:
    one, other = {1: 50, 2: 50, 3: 1}, {1: 40, 2: 60, 4: 2}
    joined = homogeneity_p_value({1: 50, 2: 51}, {1: 40, 2: 62})
    assert homogeneity_p_value(one, other) == joined
    assert homogeneity_p_value({6: 100}, {6: 300}) == 1


def test_the_same_rows_seldom_warn() -> None:
    random, depths = np.random.default_rng(1), [1, 2, 3, 6]
    warned = 0
    for _ in range(300):
        expected = Counter(random.choice(depths, 1000, p=[0.3, 0.4, 0.2, 0.1]).tolist())
        watch = ExitWatch({str(depth): count for depth, count in expected.items()})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(20):
                watch.add(Counter(random.choice(depths, 100, p=[0.3, 0.4, 0.2, 0.1]).tolist()))
        assert watch.rows == 2000
        warned += len(caught)
    assert warned <= 1


def test_other_rows_warn_once() -> None:
    watch = ExitWatch(EXPECTED)
    with pytest.warns(DriftWarning, match=r"leave after 3.25 layers .* after 2.30") as caught:
        for _ in range(10):
            watch.add({1: 20, 3: 40, 6: 20})
    assert len(caught) == 1


def test_late_drift_shows_too() -> None:
    watch = ExitWatch(EXPECTED)
    for _ in range(100):
        watch.add({int(depth): count for depth, count in EXPECTED.items()})
    assert watch.rows == 100_000
    with pytest.warns(DriftWarning):
        for _ in range(20):
            watch.add({6: 1000})


def test_few_rows_say_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExitWatch(EXPECTED).add({6: 199})
