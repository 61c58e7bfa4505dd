"""Choices along a path: hand-worked cases, and that the guarantees hold over many draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from offramp.errors import ConfigError, DataError
from offramp.exits.calibration.bounds import betting_upper_bound, binomial_p_value
from offramp.exits.calibration.control import METHODS, Found, Losses, Target, choose, rows_needed

HUNDREDTH = Target(0.01, 0.95)


def errors(counts: list[int], n: int = 1000) -> Losses:
    """Steps with so many errors, on the same rows as far as they go."""
    return Losses(torch.stack([torch.arange(n) < count for count in counts]).double(), binary=True)


def test_ltt_takes_the_last_step_that_is_rejected() -> None:
    found = choose(errors([0, 1, 3, 4, 5, 4, 9]), HUNDREDTH, "ltt")
    assert (found.step, found.risk) == (3, 0.004)  # and not 5, which comes after a failure
    assert found.bound is not None
    assert binomial_p_value(4, 1000, found.bound) == pytest.approx(0.05, abs=1e-4)
    assert found.bound < 0.01


def test_crc_by_hand() -> None:
    """(sum + 1) / 1001 <= .01: nine errors, made monotone."""
    assert choose(errors([0, 5, 9, 3, 10]), HUNDREDTH, "crc") == Found(3, 0.009)
    monotone = choose(errors([0, 5, 10, 3, 10]), HUNDREDTH, "crc")
    assert monotone == Found(1, 0.005)


def test_losses_are_of_rows_and_not_of_sums() -> None:
    """One row that errs at the second step and another at the third: two, made monotone."""
    values_PR = torch.zeros(4, 1000)
    for step, row in ((1, 0), (2, 1), (3, 2)):
        values_PR[step, row] = 1
    target = Target(3 / 1001)
    assert choose(Losses(values_PR, binary=True), target, "crc").step == 2
    assert choose(Losses(values_PR, binary=True), target, "empirical").step == 2
    assert choose(Losses(values_PR, binary=True), Target(0.0035), "empirical").risk == 0.003


def test_ucb_is_below_the_bound() -> None:
    losses = errors([0, 1, 2, 3, 4, 5, 6])
    found = choose(losses, HUNDREDTH, "ucb")
    bounds = [betting_upper_bound(row_R, 0.05) for row_R in losses.values_PR]
    expected = sum(bound <= 0.01 for bound in bounds) - 1
    assert found.step == expected > 0
    assert found.bound == pytest.approx(bounds[expected])


def test_no_step_is_a_choice() -> None:
    for method in METHODS:
        found = choose(errors([0, 500]), HUNDREDTH, method)
        assert (found.step, found.risk) == (0, 0)
    for method in METHODS:
        assert choose(errors([0, 0, 0]), HUNDREDTH, method).step == 2


@pytest.mark.parametrize(
    ("method", "needed"), [("ltt", 299), ("crc", 99), ("empirical", 1), ("ucb", 302)]
)
def test_too_few_rows(method: str, needed: int) -> None:
    """.99^299 is the first power below .05; 1 / 100 is .01; betting all on each row, 1.01^302
    would be above 20, and less is bet at first."""
    found = rows_needed(errors([0]), HUNDREDTH, method)
    assert found >= needed
    if method != "ucb":
        assert found == needed
    assert found < 400
    assert choose(errors([0, 0], found), HUNDREDTH, method).step == 1
    if found > 1:
        with pytest.raises(DataError, match=f"{found - 1} rows are too few.*takes {found} rows"):
            choose(errors([0, 0], found - 1), HUNDREDTH, method)


def test_gains_count_by_ltt() -> None:
    """A thousand rows of which ten get wrong and thirty get right."""
    values_PR = torch.zeros(3, 1000)
    values_PR[1:, :10], values_PR[1:, 10:40] = 1, -1
    shuffled_PR = values_PR[:, torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
    gap = Losses(shuffled_PR, least=-1)
    found = choose(gap, HUNDREDTH, "ltt")
    assert (found.step, found.risk) == (2, pytest.approx(-0.02))
    assert found.bound is not None
    assert 0 <= found.bound <= 0.01
    assert choose(gap, HUNDREDTH, "ucb").step == 0  # made monotone ten rows of a thousand are lost
    assert choose(gap, HUNDREDTH, "crc").step == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_risk": 0}, "share between 0 and 1"),
        ({"max_risk": 1}, "share between 0 and 1"),
        ({"max_risk": math.nan}, "share between 0 and 1"),
        ({"max_risk": 0.1, "confidence": 1}, "confidence is a probability"),
        ({"max_risk": 0.1, "confidence": 95}, "confidence is a probability"),
    ],
)
def test_targets_that_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Target(**values)


def population(kind: str, size: int = 4000, steps: int = 40) -> Losses:
    """Losses of many rows whose mean rises along the path, of three kinds."""
    random = np.random.default_rng(11)
    hard_R, at_P = random.random(size), np.linspace(0, 0.12, steps)[:, None]
    wrong_PR = (random.random((steps, size)) < at_P) & (hard_R < 0.5)
    if kind == "binary":
        return Losses(torch.from_numpy(wrong_PR).double(), binary=True)
    if kind == "bounded":
        return Losses(torch.from_numpy(np.where(wrong_PR, random.random(size), 0)))
    right_PR = (random.random((steps, size)) < at_P) & (hard_R > 0.7)
    return Losses(torch.from_numpy(wrong_PR.astype(float) - right_PR), least=-1)


@pytest.mark.parametrize("kind", ["binary", "bounded", "gap"])
@pytest.mark.parametrize("method", ["ltt", "ucb", "crc"])
def test_the_guarantee_holds(kind: str, method: str) -> None:
    """Drawn from a finite population again and again: its own risk at what was chosen."""
    everyone, target, draws, n = population(kind), Target(0.03, 0.9), 300, 400
    generator = torch.Generator().manual_seed(5)
    risks = []
    for _ in range(draws):
        rows_R = torch.randint(len(everyone), (n,), generator=generator)
        drawn = Losses(everyone.values_PR[:, rows_R], everyone.binary, everyone.least)
        step = choose(drawn, target, method).step
        risks.append(everyone.values_PR[step].mean().item())
    if method == "crc":
        assert np.mean(risks) <= target.max_risk
    else:
        band = 2.576 * math.sqrt(0.1 * 0.9 / draws)
        assert np.mean(np.array(risks) > target.max_risk) <= target.level + band
    assert np.max(risks) > 0.002  # it is not that no row ever leaves
