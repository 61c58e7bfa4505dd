"""Criteria as paths of one parameter: from where no row leaves early to where most do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from exiting.sets import Kind
from offramp.exits.criteria import (
    ConfidentPatience,
    Criterion,
    Energy,
    Entropy,
    JensenShannonPatience,
    LearnedToExit,
    Margin,
    MaxProbability,
    NormalizedEntropy,
    Patience,
    RandomExit,
    RegressionPatience,
    Voting,
)
from offramp.runner.sweep import EveryExit
from offramp.training.problems import grid
from offramp.training.thresholds import default_growth

STEPS = 80

Path = Callable[[EveryExit], list[Criterion]]


def _entropy(growth: float, exits: EveryExit) -> list[Criterion]:
    """With growth 0, the library's own for so many layers."""
    growth = growth or default_growth(exits.depths[-1])
    return [Entropy(threshold, growth) for threshold in grid(math.log(_n_outputs(exits)))]


def _normalized(exits: EveryExit) -> list[Criterion]:
    return [NormalizedEntropy(part) for part in falling_to_0(1)]


def _max_probability(exits: EveryExit) -> list[Criterion]:
    return [MaxProbability(1 - rest) for rest in falling_to_0(1 - 1 / _n_outputs(exits))]


def _margin(exits: EveryExit) -> list[Criterion]:
    return [Margin(1 - rest) for rest in falling_to_0(1)]


def _energy(exits: EveryExit) -> list[Criterion]:
    """The energies that are there: its unit is the logits' own."""
    energies = -exits.logits_ERC[:-1].double().logsumexp(-1).flatten()
    return [Energy(threshold) for threshold in _quantiles(energies)]


def _patience(exits: EveryExit) -> list[Criterion]:
    return [Patience(count) for count in range(len(exits.depths) - 1, 0, -1)]


def _confident_patience(exits: EveryExit) -> list[Criterion]:
    return [ConfidentPatience(2, threshold) for threshold in grid(math.log(_n_outputs(exits)))]


def _jensen_shannon(patience: int, exits: EveryExit) -> list[Criterion]:
    thresholds = falling_to_0(math.log(2), decades=6)
    return [JensenShannonPatience(patience, threshold) for threshold in thresholds]


def _voting(exits: EveryExit) -> list[Criterion]:
    """With the root of the number of ramps: their share of votes is 1 at the first, whatever is
    said there, and their number alone is patience that forgives.
    """
    n_ramps = len(exits.depths) - 1
    scores = {votes / n**0.5 for n in range(2, n_ramps + 1) for votes in range(1, n + 1)}
    return [Voting(round(score - 1e-3, 4), 0.5) for score in sorted(scores, reverse=True)]


def _random(exits: EveryExit) -> list[Criterion]:
    return [RandomExit(step / STEPS) for step in range(STEPS + 1)]


def _learned(exits: EveryExit) -> list[Criterion]:
    rest = falling_to_0(1, decades=4)
    return [LearnedToExit(1 - part) for part in rest] if exits.certainty_XR is not None else []


def _regression(patience: int, exits: EveryExit) -> list[Criterion]:
    """The changes from exit to exit that are there."""
    changes = exits.logits_ERC.double().diff(dim=0).abs().amax(-1).flatten()
    return [RegressionPatience(patience, threshold) for threshold in _quantiles(changes)]


_OF_CLASSES: Mapping[str, Path] = {
    "entropy": partial(_entropy, 1.0),
    "entropy, growing": partial(_entropy, 0.0),
    "normalised entropy": _normalized,
    "max probability": _max_probability,
    "margin": _margin,
    "energy": _energy,
    "patience": _patience,
    "confident patience 2": _confident_patience,
    "Jensen-Shannon patience 1": partial(_jensen_shannon, 1),
    "Jensen-Shannon patience 2": partial(_jensen_shannon, 2),
    "voting": _voting,
    "learned to exit": _learned,
    "random": _random,
}
FAMILIES: Mapping[Kind, Mapping[str, Path]] = {
    "classification": _OF_CLASSES,
    "tokens": _OF_CLASSES,
    "regression": {
        "regression patience 1": partial(_regression, 1),
        "regression patience 2": partial(_regression, 2),
        "learned to exit": _learned,
        "random": _random,
    },
}
DEFAULTS: Mapping[Kind, str] = {
    "classification": "entropy, growing",
    "tokens": "entropy, growing",
    "regression": "regression patience 1",
}
"""What the library takes where nobody says."""


def falling_to_0(most: float, decades: float = 4) -> list[float]:
    """0, and numbers from so many powers of ten below `most` up to it."""
    parts = [10 ** (-decades * (1 - step / STEPS)) for step in range(STEPS + 1)]
    return [0.0, *(float(f"{most * part:.6g}") for part in parts)]


def _quantiles(values_N: Tensor) -> list[float]:
    """Rising."""
    shares = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
    found: Sequence[float] = torch.quantile(
        values_N[:: 1 + len(values_N) // 10**6], shares
    ).tolist()
    return [*found, found[-1] + 1e-6]


def _n_outputs(exits: EveryExit) -> int:
    return exits.logits_ERC.shape[-1]
