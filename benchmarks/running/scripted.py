"""Criteria that do not look at what the ramps say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from offramp.errors import ConfigError
from offramp.exits.criteria import Criterion, Decision
from offramp.runner.sweep import EveryExit


class Scripted(Criterion):
    """Row r leaves after `layers_R[r]` layers.

    A criterion sees logits and no rows, so it knows a row by its logits: `answers` are every exit's
    for the same rows, and the nearest first logit is the row's. One that is taken for another
    leaves at that one's depth, or later; what is reported is where rows did leave.
    """

    name = "scripted"

    def __init__(self, answers: EveryExit, layers_R: Tensor) -> None:
        self._known = {}
        for depth, logits_RC in zip(answers.depths, answers.logits_ERC, strict=True):
            known_R, order_R = logits_RC[:, 0].contiguous().sort()
            self._known[depth] = (known_R, layers_R[order_R])

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Rows leave that should have left by now."""
        known_R, layers_R = self._known[depth]
        asked_R = logits_RC[:, 0].contiguous().to(known_R.dtype)
        above_R = torch.searchsorted(known_R, asked_R).clamp(1, len(known_R) - 1)
        below_R = above_R - 1
        nearer_R = (asked_R - known_R[below_R]) < (known_R[above_R] - asked_R)
        row_R = torch.where(nearer_R, below_R, above_R)
        return Decision(
            leave_R=layers_R[row_R] <= depth,
            slack_R=torch.full((len(asked_R),), math.inf),
            state_RS=state_RS,
        )

    def to_dict(self) -> dict[str, Any]:
        """The name alone: such a criterion is not saved."""
        return {"name": self.name}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """ConfigError: a script is not in a file."""
        raise ConfigError("A scripted criterion belongs to its rows; it cannot be loaded.")


class InDoubt(Criterion):
    """No row leaves, and any change of its logits might change that."""

    name = "in doubt"

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Nobody leaves, without slack."""
        zeros_R = torch.zeros(len(logits_RC), dtype=torch.float64)
        return Decision(leave_R=zeros_R > 0, slack_R=zeros_R, state_RS=state_RS)

    def to_dict(self) -> dict[str, Any]:
        """The name alone."""
        return {"name": self.name}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The criterion, which has no settings."""
        return cls()


class CountsDoubt(InDoubt):
    """The same, of a criterion that remembers: how often a row was asked."""

    name = "in doubt and remembered"

    def start(self, n_rows: int, n_classes: int) -> Tensor:
        """A number for each row."""
        return torch.zeros(n_rows, 1, dtype=torch.float64)

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Nobody leaves, without slack, and it was one time more."""
        return super().update(state_RS, depth, logits_RC)._replace(state_RS=state_RS + 1)
