"""Criteria as paths of one parameter: from where no row leaves early to where most do."""

from __future__ import annotations

from collections.abc import Mapping

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
from offramp.training.thresholds import default_growth

GROWING = "entropy, growing"
"""With the library's own growth for so many layers."""
LEARNED = "learned to exit"

_OF_CLASSES: Mapping[str, Criterion] = {
    "entropy": Entropy(),
    GROWING: Entropy(),
    "normalised entropy": NormalizedEntropy(0),
    "max probability": MaxProbability(1),
    "margin": Margin(1),
    "energy": Energy(0),
    "patience": Patience(0),
    "confident patience 2": ConfidentPatience(2, 0),
    "Jensen-Shannon patience 1": JensenShannonPatience(1, 0),
    "Jensen-Shannon patience 2": JensenShannonPatience(2, 0),
    # With the root of the number of ramps: their share of votes is 1 at the first, whatever is said
    # there, and their number alone is patience that forgives.
    "voting": Voting(1, 0.5),
    LEARNED: LearnedToExit(1),
    "random": RandomExit(0),
}
FAMILIES: Mapping[Kind, Mapping[str, Criterion]] = {
    "classification": _OF_CLASSES,
    "tokens": _OF_CLASSES,
    "regression": {
        "regression patience 1": RegressionPatience(1),
        "regression patience 2": RegressionPatience(2),
        LEARNED: LearnedToExit(1),
        "random": RandomExit(0),
    },
}
"""By the kind of a set and a family's name, the criterion whose first setting is varied."""
DEFAULTS: Mapping[Kind, str] = {
    "classification": GROWING,
    "tokens": GROWING,
    "regression": "regression patience 1",
}
"""What the library takes where nobody says."""


def path(kind: Kind, family: str, exits: EveryExit) -> list[Criterion]:
    """The family's criteria for a model; none if its exits cannot be asked so.

    `exits` are dev's answers: what is in the model's own units is read off them.
    """
    if family == LEARNED and exits.certainty_XR is None:
        return []
    criterion, n_layers = FAMILIES[kind][family], exits.depths[-1]
    if family == GROWING:
        criterion = Entropy(0.0, default_growth(n_layers))
    n_outputs = exits.logits_ERC.shape[-1]
    return path_of(criterion, Grounds(n_outputs, n_layers, exits.logits_ERC))
