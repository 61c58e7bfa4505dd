"""p-values: against hand-worked cases, scipy, and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats

from offramp.exits.calibration.bounds import (
    betting_p_value,
    binomial_p_value,
    hoeffding_bentkus_p_value,
)


def test_binomial_by_hand() -> None:
    """3 rows, a risk of one quarter: (3/4)^3, then 3 (1/4) (3/4)^2 more, and so on."""
    expected = [27 / 64, 54 / 64, 63 / 64, 1]
    assert [binomial_p_value(k, 3, 0.25) for k in range(4)] == pytest.approx(expected, rel=1e-12)


def test_a_thousand_rows_admit_four_errors() -> None:
    admitted = [k for k in range(20) if binomial_p_value(k, 1000, 0.01) <= 0.05]
    assert admitted == [0, 1, 2, 3, 4]
    exact = sum(math.comb(1000, k) * 0.01**k * 0.99 ** (1000 - k) for k in range(5))
    assert binomial_p_value(4, 1000, 0.01) == pytest.approx(exact, rel=1e-11)


@settings(deadline=None)
@given(n=st.integers(1, 5000), data=st.data(), risk=st.floats(1e-4, 0.9))
def test_binomial_is_scipys(n: int, data: st.DataObject, risk: float) -> None:
    k = data.draw(st.integers(0, n))
    theirs = float(stats.binom.cdf(k, n, risk))
    assert binomial_p_value(k, n, risk) == pytest.approx(theirs, rel=1e-8, abs=1e-300)


def test_the_ends() -> None:
    assert binomial_p_value(0, 10, 0.0) == binomial_p_value(10, 10, 0.5) == 1
    assert binomial_p_value(3, 10, 1.0) == 0
    assert hoeffding_bentkus_p_value(5, 10, 0.5) == 1
    assert hoeffding_bentkus_p_value(0, 10, 0.5) == pytest.approx(0.5**10)  # exp(-n ln 2)


def test_hoeffding_bentkus_by_hand() -> None:
    """100 rows, a sum of 4.5, a risk of .1."""
    hoeffding = math.exp(-100 * (0.045 * math.log(0.45) + 0.955 * math.log(0.955 / 0.9)))
    bentkus = math.e * sum(math.comb(100, k) * 0.1**k * 0.9 ** (100 - k) for k in range(6))
    assert bentkus < 1
    expected = min(hoeffding, bentkus)
    assert hoeffding_bentkus_p_value(4.5, 100, 0.1) == pytest.approx(expected, rel=1e-10)
    whole = sum([0.1] * 30)  # 3.0000000000000013 or so
    assert hoeffding_bentkus_p_value(whole, 100, 0.1) == pytest.approx(
        hoeffding_bentkus_p_value(3, 100, 0.1), rel=1e-9
    )


def test_betting_by_hand() -> None:
    """Three rows at level 1/e: bets of sqrt(2 / (3 v)), v the variance so far, at most 3/4."""
    losses, level, risk = [0.0, 1.0, 0.5], math.exp(-1), 0.8
    bets, spread, means = [], 0.25, []
    for i, loss in enumerate(losses):
        variance = spread / (1 + i)
        bets.append(min(0.75, math.sqrt(2 / (3 * variance))))
        means.append((0.5 + sum(losses[: i + 1])) / (2 + i))
        spread += (loss - means[-1]) ** 2
    assert bets == [0.75, 0.75, 0.75]  # of so few rows all that may be bet
    has = [1.6, 1.6 * 0.85, 1.6 * 0.85 * 1.225]
    found = betting_p_value(torch.tensor(losses), risk, level)
    assert found == pytest.approx(1 / max(has), rel=1e-12)
    # against risks of at least one half twice as much may be bet
    found = betting_p_value(torch.tensor(losses), risk, level, least_risk=0.5)
    spread, wealth, most = 0.25, 1.0, 1.0
    for i, loss in enumerate(losses):
        bet = min(1.5, math.sqrt(2 / (3 * spread / (1 + i))))
        wealth *= 1 + bet * (risk - loss)
        most = max(most, wealth)
        spread += (loss - means[i]) ** 2
    assert found == pytest.approx(1 / most, rel=1e-12)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 400), st.floats(0.01, 0.5))
def test_betting_one_row_after_the_other(seed: int, n: int, risk: float) -> None:
    losses = np.random.default_rng(seed).beta(0.3, 3, n)
    level, wealth, most, spread, total = 0.1, 1.0, 0.0, 0.25, 0.5
    for i, loss in enumerate(losses):
        bet = min(0.75, math.sqrt(2 * math.log(1 / level) / (n * spread / (1 + i))))
        wealth *= 1 - bet * (loss - risk)
        most = max(most, wealth)
        total += loss
        spread += (loss - total / (2 + i)) ** 2
    assert betting_p_value(torch.from_numpy(losses), risk, level) == pytest.approx(
        min(1, 1 / most), rel=1e-9
    )


@pytest.mark.parametrize("name", ["binomial", "hoeffding-bentkus", "betting"])
@pytest.mark.parametrize("kind", ["rare", "coin", "bounded"])
def test_p_values_are_valid(name: str, kind: str) -> None:
    """Of a mean that is the risk itself: below each level in at most that share of draws."""
    if name == "binomial" and kind == "bounded":
        pytest.skip("of losses of 0 and 1 alone")
    draws, n = 2000, 200
    random = np.random.default_rng(7)
    losses, risk = {
        "rare": lambda: (random.random((draws, n)) < 0.03, 0.03),
        "coin": lambda: (random.random((draws, n)) < 0.5, 0.5),
        "bounded": lambda: (random.beta(0.2, 1.8, (draws, n)), 0.1),
    }[kind]()
    ask = {
        "binomial": lambda row: binomial_p_value(int(row.sum()), n, risk),
        "hoeffding-bentkus": lambda row: hoeffding_bentkus_p_value(float(row.sum()), n, risk),
        "betting": lambda row: betting_p_value(torch.from_numpy(row), risk),
    }[name]
    found = np.array([ask(row) for row in losses.astype(float)])
    for level in (0.05, 0.1, 0.3):
        band = 2.576 * math.sqrt(level * (1 - level) / draws)
        assert (found <= level).mean() <= level + band
    # and they are not idle: of a mean well below the risk most draws say so
    tighter = {"rare": 0.12, "coin": 0.7, "bounded": 0.2}[kind]
    risk = tighter
    assert np.mean([ask(row) <= 0.05 for row in losses[:200].astype(float)]) > 0.9
