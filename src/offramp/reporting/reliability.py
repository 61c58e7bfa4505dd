"""Whether answers given with probability p are right p of the time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The answers whose probability is above `low` and at most `high`.

    `rows` is how many (of several labels a row, how many labels), `probability` the mean of theirs
    and `right` the share of them that is right.
    """

    low: float
    high: float
    rows: int
    probability: float
    right: float


@dataclass(frozen=True)
class Reliability:
    """The bins that are not empty, and the expected calibration error over all ten."""

    bins: list[Bin]
    ece: float


def reliability(probability_N: Tensor, right_N: Tensor) -> Reliability:
    """Bins of equal width, and the mean over answers of |share right - mean probability|.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    place_N = (probability_N * BINS).ceil().long().clamp(1, BINS) - 1
    bins, error = [], 0.0
    for place in range(BINS):
        here_N = place_N == place
        rows = int(here_N.sum())
        if rows:
            probability = probability_N[here_N].double().mean().item()
            right = right_N[here_N].double().mean().item()
            bins.append(Bin(place / BINS, (place + 1) / BINS, rows, probability, right))
            error += rows / len(place_N) * abs(right - probability)
    return Reliability(bins, error)
