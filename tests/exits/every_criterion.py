"""One of every criterion, and rows asked ramp by ramp, for the tests of exits and runner."""

from __future__ import annotations

import torch
from torch import Tensor

from offramp.exits.criteria import (
    Answer,
    ConfidentPatience,
    Criterion,
    Energy,
    Entropy,
    JensenShannonPatience,
    LayerEntropy,
    Margin,
    MaxProbability,
    MinDepth,
    NormalizedEntropy,
    Patience,
    RandomExit,
    RegressionPatience,
    Voting,
)

CLASSES: dict[str, Criterion] = {
    "entropy": Entropy(0.4),
    "entropy that grows": Entropy(0.2, 1.4),
    "entropy by layer": LayerEntropy((0.5, -1.0, 0.3, 0.6, 0.2, 0.1)),
    "normalised entropy": NormalizedEntropy(0.4),
    "best probability": MaxProbability(0.8),
    "margin": Margin(0.6),
    "energy": Energy(-4.0, 1.5),
    "patience": Patience(2),
    "confident patience": ConfidentPatience(2, 0.7),
    "jensen-shannon": JensenShannonPatience(1, 0.03),
    "jensen-shannon, twice": JensenShannonPatience(2, 0.1),
    "votes": Voting(1.4, 0.6),
    "share of votes": Voting(0.7) & MinDepth(3),
    "depth": MinDepth(3),
    "chance": RandomExit(0.3, seed=5),
    "not before": Entropy(0.5) & MinDepth(2),
    "at the latest": MaxProbability(0.8) | MinDepth(3),
    "both": Patience(1) & JensenShannonPatience(1, 0.1),
    "one of three": Entropy(0.1) | Patience(2) | ConfidentPatience(2, 0.6),
    "nested": (Entropy(0.2) | Voting(1.9, 0.2)) & (Margin(0.9) | Patience(1)) & MinDepth(2),
}
"""Criteria of class logits: of each, thresholds that some rows of the test models meet."""

NUMBERS: dict[str, Criterion] = {
    "regression": RegressionPatience(1, 0.5),
    "regression, twice": RegressionPatience(2, 1.0),
    "regression or depth": RegressionPatience(1, 0.1) | MinDepth(4),
    "regression and depth": RegressionPatience(1, 0.7) & MinDepth(3),
}
"""Criteria of numbers."""

EVERY = CLASSES | NUMBERS


def ask_all(criterion: Criterion, logits_ERC: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Who leaves and the slacks, [E, R] each, and the states, of ramps 1, 2, ... in turn.

    Rows are asked on though they left.
    """
    state_RS = criterion.start(*logits_ERC.shape[1:])
    leaves, slacks, states = [], [], []
    for depth, logits_RC in enumerate(logits_ERC, start=1):
        leave_R, slack_R, state_RS = criterion.ask(state_RS, depth, Answer(logits_RC))
        leaves.append(leave_R)
        slacks.append(slack_R.double())
        states.append(state_RS)
    return torch.stack(leaves), torch.stack(slacks), states


def exits_by_hand(criterion: Criterion, logits_ERC: Tensor) -> list[int | None]:
    """The ramp, counted from 1, at which each row leaves; None for a row that never does."""
    leave_ER, _, _ = ask_all(criterion, logits_ERC)
    first_R = leave_ER.int().argmax(0) + 1
    return [
        int(first) if left else None for first, left in zip(first_R, leave_ER.any(0), strict=True)
    ]
