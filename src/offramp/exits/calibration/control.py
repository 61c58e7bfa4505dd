"""Choosing from a path of criteria so that a risk is bounded, with a stated probability.

A path goes from where no row leaves early to where most do. Losses are what each of its P steps
costs on each of R rows, and the risk is their mean over all rows that there could be. The R rows
were drawn independently from these, and chose nothing before: not the path either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from offramp.errors import ConfigError, DataError
from offramp.exits.calibration.bounds import (
    betting_p_value,
    betting_upper_bound,
    binomial_p_value,
    hoeffding_bentkus_p_value,
)


@dataclass(frozen=True)
class Target:
    """What is to be bounded: the risk by `max_risk`, with the probability `confidence`.

    By `crc` the risk is bounded in expectation, over calibration sets as well as rows, and
    `confidence` says nothing.
    """

    max_risk: float
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.max_risk < 1:
            raise ConfigError(
                f"The most risk allowed is a share between 0 and 1, such as 0.01 for one row in a "
                f"hundred; got {self.max_risk}."
            )
        if not 0.5 <= self.confidence < 1:
            raise ConfigError(
                f"confidence is a probability from 0.5 to below 1, such as 0.95; got "
                f"{self.confidence}."
            )

    @property
    def level(self) -> float:
        """With at most this probability the risk is above `max_risk`: 1 - `confidence`."""
        return 1 - self.confidence


@dataclass(frozen=True)
class Losses:
    """What each step of a path costs on each row, at most 1; of the first step, all layers, 0."""

    values_PR: Tensor
    binary: bool = False
    """Whether they can be nothing but 0 and 1."""
    least: float = 0.0
    """What they cannot be below: 0, or -1 where a row may gain."""

    def monotone(self) -> Tensor:
        """[P, R]: of each row the most that it has cost up to each step, which never falls."""
        return self.values_PR.double().cummax(0).values

    def __len__(self) -> int:
        return self.values_PR.shape[1]


@dataclass(frozen=True)
class Found:
    """The step of the path that was chosen.

    `risk` is its mean loss on the rows, made monotone where the method asks for it. `bound` is not
    below its risk with the target's confidence; None by the methods that say nothing of that.
    """

    step: int
    risk: float
    bound: float | None = None


PValue: TypeAlias = Callable[[Tensor, float], float]
"""Of rows' losses [R], that their mean is a risk or more."""


def ltt(losses: Losses, target: Target) -> Found:
    """Learn then test: the risk is at most `max_risk` with the target's confidence.

    Step after step, from all layers on, the hypothesis is tested that the risk is more, each at the
    whole level; the first that is not rejected ends it, and the last that was is chosen. Losses may
    fall along the path. Of losses of 0 and 1 the test is the exact binomial one, of others from 0
    to 1 that of Hoeffding and Bentkus; where rows may gain it is the bettor's, which alone makes
    use of most losses being 0. Angelopoulos et al. 2021, "Learn then Test".
    """
    p_value = _test_of(losses, target)
    rejected = (p_value(row_R, target.max_risk) <= target.level for row_R in losses.values_PR)
    step = _last_of_prefix(rejected)
    row_R = losses.values_PR[step]
    return Found(step, row_R.double().mean().item(), _least_rejected(row_R, target, p_value))


def ucb(losses: Losses, target: Target) -> Found:
    """By an upper bound of the mean: the risk is at most `max_risk` with the target's confidence.

    The last step whose bound, and that of all before it, is at most that. A risk that never falls
    along the path needs no correction for its many steps, so losses are made monotone. The bound is
    that of Waudby-Smith and Ramdas. Bates et al. 2021, "Distribution-Free, Risk-Controlling
    Prediction Sets".
    """
    p_value = partial(betting_p_value, level=target.level)
    monotone_PR = losses.monotone()
    below = (p_value(row_R, target.max_risk) <= target.level for row_R in monotone_PR)
    step = _last_of_prefix(below)
    row_R = monotone_PR[step]
    return Found(step, row_R.mean().item(), betting_upper_bound(row_R, target.level))


def crc(losses: Losses, target: Target) -> Found:
    """Conformal risk control: the expected risk is at most `max_risk`.

    The last step at which, as at all before it, (the sum of the losses + 1) / (R + 1) is at most
    that; losses are made monotone. Angelopoulos et al. 2024, "Conformal Risk Control".
    """
    monotone_PR = losses.monotone()
    inflated_P = (monotone_PR.sum(1) + 1) / (len(losses) + 1)
    step = _last_of_prefix((inflated_P <= target.max_risk + _ROUNDING).tolist())
    return Found(step, monotone_PR[step].mean().item())


def empirical(losses: Losses, target: Target) -> Found:
    """The mean loss on these rows is at most `max_risk`, which guarantees nothing of others."""
    monotone_PR = losses.monotone()
    step = _last_of_prefix((monotone_PR.mean(1) <= target.max_risk + _ROUNDING).tolist())
    return Found(step, monotone_PR[step].mean().item())


METHODS: dict[str, Callable[[Losses, Target], Found]] = {
    method.__name__: method for method in (ltt, ucb, crc, empirical)
}
GIVEN = "given"
"""The method of a step that was chosen without these rows, and whose risk is bounded as it is."""
SURE = ("ltt", "ucb")
"""Those that bound the risk with a probability."""
_ROUNDING = 1e-12  # of sums of losses


def choose(losses: Losses, target: Target, method: str) -> Found:
    """What `METHODS[method]` chooses.

    DataError where the rows are so few that it could not allow any step, whatever their losses.
    """
    needed = rows_needed(losses, target, method)
    if len(losses) < needed:
        surely = "in expectation" if method == "crc" else f"with probability {target.confidence:g}"
        raise DataError(
            f"{len(losses)} rows are too few to bound the risk by {target.max_risk:g} {surely}, "
            f"even if none of them loses anything: that takes {needed} rows."
        )
    return METHODS[method](losses, target)


def bound_of(losses: Losses, target: Target, step: int) -> Found:
    """The risk of a step that was chosen by other rows, and its bound with the confidence."""
    row_R = losses.values_PR[step]
    p_value = _test_of(losses, target)
    return Found(step, row_R.double().mean().item(), _least_rejected(row_R, target, p_value))


def rows_needed(losses: Losses, target: Target, method: str) -> int:
    """So many rows without any loss are just enough for `method` to allow a step."""
    if method == "empirical":
        return 1
    if method == "crc":
        return math.ceil(1 / target.max_risk - 1 - 1e-9)
    betting: PValue = partial(betting_p_value, level=target.level)
    p_value = _test_of(losses, target) if method == "ltt" else betting

    def enough(n: int) -> bool:
        return p_value(torch.zeros(n), target.max_risk) <= target.level

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _test_of(losses: Losses, target: Target) -> PValue:
    if losses.binary:
        return lambda row_R, risk: binomial_p_value(int(row_R.sum()), len(row_R), risk)
    if losses.least == 0:
        return lambda row_R, risk: hoeffding_bentkus_p_value(
            row_R.double().sum().item(), len(row_R), risk
        )
    span = 1 - losses.least
    return lambda row_R, risk: betting_p_value(
        (row_R.double() - losses.least) / span, (risk - losses.least) / span, target.level
    )


def _last_of_prefix(allowed: Iterable[bool]) -> int:
    """The step before the first that is not allowed; the first itself always is."""
    step = -1
    for step, yes in enumerate(allowed):
        if not yes:
            return max(0, step - 1)
    return step


def _least_rejected(row_R: Tensor, target: Target, p_value: PValue) -> float:
    """The least risk that is rejected, to a ten-millionth and from above; 1 if none is."""
    low, high = max(0.0, row_R.double().mean().item()), 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (low, middle) if p_value(row_R, middle) <= target.level else (middle, high)
    return high
