"""Criteria that do not ask what the ramp says: a fixed depth, and chance as a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from offramp.exits.criteria.base import (
    Criterion,
    Decision,
    check_number,
    check_whole,
    everybody,
)
from offramp.exits.criteria.task import finite


@dataclass(frozen=True)
class MinDepth(Criterion):
    """Every row leaves at the first exit after `layers` layers or more.

    Alone it is a fixed depth, and bears that name too (`FixedDepth`). In `Entropy(.2) &
    MinDepth(4)` it is the first depth at which a row may leave, in `Entropy(.2) | MinDepth(8)` the
    depth at which all do.
    """

    name: ClassVar[str] = "min_depth"
    layers: int
    """Counted from 1."""

    def __post_init__(self) -> None:
        check_whole(self.layers, 1, "A depth is a number of layers, a whole number of at least 1")

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """All leave, or none."""
        return everybody(depth >= self.layers, state_RS)

    def each_label(self) -> Criterion:
        """Itself: a depth is the row's."""
        return self


FixedDepth = MinDepth
"""The same criterion, by what it is when it stands alone."""


@dataclass(frozen=True)
class RandomExit(Criterion):
    """At each ramp a row leaves with a probability of `rate`: a baseline to hold others against.

    The draw is a hash of the seed, the depth and the row's logits, rounded to 1 / 32: the same row
    always leaves at the same ramp, and rows with the same rounded logits leave together.
    """

    name: ClassVar[str] = "random"
    rate: float
    """A probability, from 0 (nobody leaves) to 1."""
    seed: int = 0
    """Another seed draws anew; a whole number of at least 0."""

    def __post_init__(self) -> None:
        check_number(self.rate, 0, 1, "rate is the probability to leave at a ramp, from 0 to 1")
        check_whole(self.seed, 0, "seed is a whole number of at least 0")

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Draw for each row."""
        if self.rate in (0, 1):
            return everybody(self.rate == 1, state_RS)
        steps_RC = finite(logits_RC).nan_to_num(0).mul(32).clamp(-(2**40), 2**40)
        rounded_RC = steps_RC.round()
        classes_C = torch.arange(logits_RC.shape[-1])
        mixed_R = _mixed(rounded_RC.long() + _mixed(classes_C + 1)).sum(-1)
        mixed_R = _mixed(mixed_R + _mixed(torch.tensor(self.seed * 2**20 + depth)))
        draw_R = ((mixed_R >> 11) & (2**53 - 1)).double() / 2**53
        # How far the logit that is nearest to where the rounding changes is from there.
        slack_R = (0.5 - (steps_RC - rounded_RC).abs()).amin(-1) / 32
        return Decision(draw_R < self.rate, slack_R, state_RS)

    def each_label(self) -> Criterion:
        """Itself: there is one draw a row."""
        return self

    def each_token(self) -> Criterion:
        """One draw a row, from its first token's logits."""
        from offramp.exits.criteria.units import FirstToken

        return FirstToken(self)


def _mixed(numbers: Tensor) -> Tensor:
    """Each 64-bit number as another that shows nothing of it: a one-to-one hash.

    Multiplications by odd numbers (modulo 2^64) and shifts by half the width in turn.
    """
    for factor in (-0x61C8864680B583EB, 0x2545F4914F6CDD1D):
        numbers = numbers * factor
        numbers = numbers ^ ((numbers >> 32) & 0xFFFFFFFF)
    return numbers * -0x3B314601E57A13AD
