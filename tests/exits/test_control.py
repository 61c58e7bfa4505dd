"""Choices along a path: hand-worked cases, and that the guarantees hold over many draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from offramp.errors import ConfigError, DataError
from offramp.exits.calibration.bounds import betting_p_value, binomial_p_value
from offramp.exits.calibration.control import (
    METHODS,
    Found,
    Losses,
    Target,
    bound_of,
    choose,
    rows_needed,
)

HUNDREDTH = Target(0.01, 0.95)


def errors(counts: list[int], n: int = 1000) -> Losses:
    """Steps with so many errors, on the same rows as far as they go."""
    return Losses(torch.stack([torch.arange(n) < count for count in counts]).double(), binary=True)


def test_ltt_takes_the_last_step_that_is_rejected() -> None:
    found = choose(errors([0, 1, 3, 4, 5, 4, 9]), HUNDREDTH, "ltt")
    assert (found.step, found.risk) == (3, 0.004)  # and not 5, which comes after a failure


def test_a_bound_is_clopper_and_pearsons() -> None:
    bound = bound_of(errors([0, 4]), HUNDREDTH, 1)
    assert binomial_p_value(4, 1000, bound) == pytest.approx(0.05, abs=1e-4)
    assert bound == pytest.approx(0.009128, abs=1e-5)
    assert bound_of(errors([0, 1000]), HUNDREDTH, 1) == 1


def test_a_bound_holds_as_often_as_it_says() -> None:
    """Of a step that the rows did not choose, whatever the losses' kind."""
    for kind in ("binary", "bounded", "gap"):
        everyone, target, draws = population(kind), Target(0.5, 0.9), 300
        step = 30
        risk = everyone.values_PR[step].mean().item()
        generator = torch.Generator().manual_seed(6)
        missed = 0
        for _ in range(draws):
            rows_R = torch.randint(len(everyone), (400,), generator=generator)
            drawn = Losses(everyone.values_PR[:, rows_R], everyone.binary, everyone.least)
            missed += bound_of(drawn, target, step) < risk
        assert missed / draws <= 0.1 + 2.576 * math.sqrt(0.1 * 0.9 / draws)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_rows_says_nothing(method: str) -> None:
    """Files are sorted: those that are lost may all be at the end, or at the beginning."""
    values_PR = torch.zeros(2, 1000)
    values_PR[1, -100:] = 1
    for losses in (
        Losses(values_PR, binary=True),
        Losses(values_PR.flip(1), binary=True),
        Losses(values_PR, least=-1),
        Losses(values_PR),
    ):
        assert choose(losses, HUNDREDTH, method).step == 0
        assert bound_of(losses, HUNDREDTH, 1) > 0.1


def test_crc_by_hand() -> None:
    """(sum + 1) / 1001 <= .01: nine errors, of rows that were lost once."""
    assert choose(errors([0, 5, 9, 3, 10]), HUNDREDTH, "crc") == Found(3, 0.003)
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
    assert choose(Losses(values_PR, binary=True), Target(0.0035), "empirical").step == 3


def test_ucb_is_below_the_bound() -> None:
    """Of a bettor who is given the rows in the order of chance that all methods have."""
    losses = errors([0, 1, 2, 3, 4, 5, 6])
    found = choose(losses, HUNDREDTH, "ucb")
    shuffled_PR = losses.shuffled().values_PR
    certain = [betting_p_value(row_R, 0.01, 0.05) <= 0.05 for row_R in shuffled_PR]
    assert found.step == certain.index(False) - 1 > 0


def test_no_step_is_a_choice() -> None:
    for method in METHODS:
        found = choose(errors([0, 500]), HUNDREDTH, method)
        assert (found.step, found.risk) == (0, 0)
    for method in METHODS:
        assert choose(errors([0, 0, 0]), HUNDREDTH, method).step == 2


@pytest.mark.parametrize(
    ("method", "needed"), [("ltt", 299), ("crc", 99), ("empirical", 1), ("ucb", 401)]
)
def test_too_few_rows(method: str, needed: int) -> None:
    """.99^299 is the first power below .05; 1 / 100 is .01; three quarters bet on each row would
    make 1.0075^401 of 1, above 20, and at first a little more than that is bet on none."""
    found = rows_needed(errors([0]), HUNDREDTH, method)
    assert found >= needed
    if method != "ucb":
        assert found == needed
    assert found < 410
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
        ({"max_risk": "0.1"}, "max_risk is a number; got '0.1'"),
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
