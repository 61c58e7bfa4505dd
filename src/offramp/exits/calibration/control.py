"""Choosing from a path of criteria so that a risk is bounded, with a stated probability.

A path goes from where no row leaves early to where most do. Losses are what each of its P steps
costs on each of R rows, and the risk is their mean over all rows that there could be. The R rows
were drawn independently from these, and chose nothing before: not the path either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from offramp.errors import ConfigError, DataError
from offramp.exits.calibration.bounds import (
    betting_p_value,
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
        for name in ("max_risk", "confidence"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise ConfigError(f"{name} is a number; got {value!r}.")
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

    def shuffled(self) -> Losses:
        """With the rows in another order, the same for as many rows.

        A bettor must not know what comes, and files are sorted by label, length or ease.
        """
        generator = torch.Generator().manual_seed(len(self))
        order_R = torch.randperm(len(self), generator=generator)
        return replace(self, values_PR=self.values_PR[:, order_R])

    def __len__(self) -> int:
        return self.values_PR.shape[1]


@dataclass(frozen=True)
class Found:
    """The step of the path that was chosen, and its mean loss on the rows."""

    step: int
    risk: float


PValue: TypeAlias = Callable[[Tensor, float], float]
"""Of rows' losses [R], that their mean is a risk or more."""


def ltt(losses: Losses, target: Target) -> int:
    """Learn then test: the risk is at most `max_risk` with the target's confidence.

    Step after step, from all layers on, the hypothesis is tested that the risk is more, each at the
    whole level; the first that is not rejected ends it, and the last that was is chosen. Losses may
    fall along the path. Of losses of 0 and 1 the test is the exact binomial one, of others from 0
    to 1 that of Hoeffding and Bentkus; where rows may gain it is the bettor's, which alone makes
    use of most losses being 0. Angelopoulos et al. 2021, "Learn then Test".
    """
    p_value = _test_of(losses, target)
    rejected = (p_value(row_R, target.max_risk) <= target.level for row_R in losses.values_PR)
    return _last_of_prefix(rejected)


def ucb(losses: Losses, target: Target) -> int:
    """By an upper bound of the mean: the risk is at most `max_risk` with the target's confidence.

    The last step whose bound, and that of all before it, is at most that. A risk that never falls
    along the path needs no correction for its many steps, so losses are made monotone. The bound is
    that of Waudby-Smith and Ramdas; it is at most a risk where the bettor rejects that risk. Bates
    et al. 2021, "Distribution-Free, Risk-Controlling Prediction Sets".
    """
    below = (_bettor(row_R, target.max_risk, target) <= target.level for row_R in losses.monotone())
    return _last_of_prefix(below)


def crc(losses: Losses, target: Target) -> int:
    """Conformal risk control: the expected risk is at most `max_risk`.

    The last step at which, as at all before it, (the sum of the losses + 1) / (R + 1) is at most
    that; losses are made monotone. Angelopoulos et al. 2024, "Conformal Risk Control".
    """
    inflated_P = (losses.monotone().sum(1) + 1) / (len(losses) + 1)
    return _last_of_prefix((inflated_P <= target.max_risk + _ROUNDING).tolist())


def empirical(losses: Losses, target: Target) -> int:
    """The mean loss on these rows is at most `max_risk`, which guarantees nothing of others."""
    means_P = losses.monotone().mean(1)
    return _last_of_prefix((means_P <= target.max_risk + _ROUNDING).tolist())


METHODS: dict[str, Callable[[Losses, Target], int]] = {
    method.__name__: method for method in (ltt, ucb, crc, empirical)
}
SURE = ("ltt", "ucb")
"""Those that bound the risk with a probability."""
_ROUNDING = 1e-12  # of sums of losses


def choose(losses: Losses, target: Target, method: str) -> Found:
    """What `METHODS[method]` chooses, with the rows in an order of chance, always the same.

    DataError where the rows are so few that it could not allow any step, whatever their losses.
    """
    needed = rows_needed(losses, target, method)
    if len(losses) < needed:
        surely = "in expectation" if method == "crc" else f"with probability {target.confidence:g}"
        raise DataError(
            f"{len(losses)} rows are too few to bound the risk by {target.max_risk:g} {surely}, "
            f"even if none of them loses anything: that takes {needed} rows."
        )
    step = METHODS[method](losses.shuffled(), target)
    return Found(step, losses.values_PR[step].double().mean().item())


def bound_of(losses: Losses, target: Target, step: int) -> float:
    """Not below the risk of a step that was chosen by other rows, with the target's confidence.

    To a ten-millionth, from above; 1 where the rows rule nothing out.
    """
    p_value, row_R = _test_of(losses, target), losses.shuffled().values_PR[step]
    low, high = max(0.0, row_R.double().mean().item()), 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (low, middle) if p_value(row_R, middle) <= target.level else (middle, high)
    return high


def rows_needed(losses: Losses, target: Target, method: str) -> int:
    """So many rows without any loss are just enough for `method` to allow a step."""
    if method == "empirical":
        return 1
    if method == "crc":
        return math.ceil(1 / target.max_risk - 1 - 1e-9)
    if method == "ltt" and losses.least == 0:  # exact, and Hoeffding's, of no loss at all
        return math.ceil(math.log(target.level) / math.log1p(-target.max_risk) - 1e-9)

    def enough(n: int) -> bool:
        rows_R = torch.zeros(n)
        p_value = _test_of(losses, target) if method == "ltt" else partial(_bettor, target=target)
        return p_value(rows_R, target.max_risk) <= target.level

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
        if high > _MOST_ROWS:
            return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


_MOST_ROWS = 10_000_000  # more are said to be about so many


def _test_of(losses: Losses, target: Target) -> PValue:
    if losses.binary:
        return lambda row_R, risk: binomial_p_value(int(row_R.sum()), len(row_R), risk)
    if losses.least == 0:
        return lambda row_R, risk: hoeffding_bentkus_p_value(
            row_R.double().sum().item(), len(row_R), risk
        )
    return partial(_bettor, target=target, least=losses.least)


def _bettor(row_R: Tensor, risk: float, target: Target, least: float = 0.0) -> float:
    """The bettor's p-value of losses from `least` to 1, and of risks from 0 on."""
    span = 1 - least
    scaled_R, nothing = (row_R.double() - least) / span, -least / span
    return betting_p_value(scaled_R, (risk - least) / span, target.level, least_risk=nothing)


def _last_of_prefix(allowed: Iterable[bool]) -> int:
    """The step before the first that is not allowed; the first itself always is."""
    step = -1
    for step, yes in enumerate(allowed):
        if not yes:
            return max(0, step - 1)
    return step
