"""Criteria as paths of one parameter: from where no row leaves early to where most do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from exiting.sets import Kind
from offramp.exits.calibration.paths import Grounds, path_of
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
from offramp.training.problems import PROBLEMS
from offramp.training.thresholds import default_growth

GROWING = "entropy, growing"
"""With the library's own growth for so many layers."""
NEAR_ONCE = "regression patience 1, from a depth on"
"""What the library chooses from: the depth is chosen too."""
LEARNED = "learned to exit"

Paths: TypeAlias = list[list[Criterion]]


def _varied(criterion: Criterion) -> Callable[[EveryExit], Paths]:
    """One path: the criterion with its first setting varied."""

    def paths_of(exits: EveryExit) -> Paths:
        n_outputs, n_layers = exits.logits_ERC.shape[-1], exits.depths[-1]
        return [path_of(criterion, Grounds(n_outputs, n_layers, exits.logits_ERC))]

    return paths_of


def _growing(exits: EveryExit) -> Paths:
    return _varied(_grown(exits))(exits)


def _growing_and_settled(exits: EveryExit) -> Paths:
    return _varied(_grown(exits) & Patience(1))(exits)


def _grown(exits: EveryExit) -> Entropy:
    return Entropy(0.0, default_growth(exits.depths[-1]))


def _near_once(exits: EveryExit) -> Paths:
    found = PROBLEMS["regression"].criteria(exits, default_growth(exits.depths[-1]))
    return [[*criteria] for criteria in found]


def _learned(exits: EveryExit) -> Paths:
    """None if the exits do not say how sure they are."""
    return [] if exits.certainty_XR is None else _varied(LearnedToExit(1))(exits)


_OF_CLASSES: Mapping[str, Callable[[EveryExit], Paths]] = {
    "entropy": _varied(Entropy()),
    GROWING: _growing,
    "entropy, growing & patience 1": _growing_and_settled,
    "normalised entropy": _varied(NormalizedEntropy(0)),
    "max probability": _varied(MaxProbability(1)),
    "margin": _varied(Margin(1)),
    "energy": _varied(Energy(0)),
    "patience": _varied(Patience(0)),
    "confident patience 2": _varied(ConfidentPatience(2, 0)),
    "Jensen-Shannon patience 1": _varied(JensenShannonPatience(1, 0)),
    "Jensen-Shannon patience 2": _varied(JensenShannonPatience(2, 0)),
    # With the root of the number of ramps: their share of votes is 1 at the first, whatever is said
    # there, and their number alone is patience that forgives.
    "voting": _varied(Voting(1, 0.5)),
    LEARNED: _learned,
    "random": _varied(RandomExit(0)),
}
FAMILIES: Mapping[Kind, Mapping[str, Callable[[EveryExit], Paths]]] = {
    "classification": _OF_CLASSES,
    "tokens": _OF_CLASSES,
    "regression": {
        NEAR_ONCE: _near_once,
        "regression patience 1": _varied(RegressionPatience(1)),
        "regression patience 2": _varied(RegressionPatience(2)),
        LEARNED: _learned,
        "random": _varied(RandomExit(0)),
    },
}
"""By the kind of a set and a family's name, what makes its paths."""
DEFAULTS: Mapping[Kind, str] = {
    "classification": GROWING,
    "tokens": GROWING,
    "regression": NEAR_ONCE,
}
"""What the library takes where nobody says."""


def paths(kind: Kind, family: str, exits: EveryExit) -> Paths:
    """The family's criteria for a model, slowest first; none if its exits cannot be asked so.

    `exits` are dev's answers: what is in the model's own units is read off them. Most families are
    one path.
    """
    return FAMILIES[kind][family](exits)
