"""Rows of several answers, their labels or their tokens: a row leaves when all of them may."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offramp.exits.criteria.base import Answer, Criterion, Decision


def by_unit(
    criterion: Criterion, state_US: Tensor, depth: int, answer: Answer, row_U: Tensor, n_rows: int
) -> Decision:
    """Ask about U units of some rows; a row leaves when all of its units may.

    `answer` and `state_US` are of the units, `row_U` says which row each is of, from 0 to `n_rows`
    - 1; rows may have any number of units, in any order, and one without any leaves. What comes
    back is of the rows, but for the state, which is of the units.
    """
    said = criterion.ask(state_US, depth, answer)
    slack_U = said.slack_R.double()
    none_R = torch.full((n_rows,), torch.inf, dtype=torch.float64)
    stays_R = torch.zeros(n_rows, dtype=torch.int64).index_add(0, row_U, (~said.leave_R).long())
    leave_R = stays_R == 0
    least_R = none_R.scatter_reduce(0, row_U, slack_U, "amin")
    # One unit that stays keeps the row, so the firmest of those holds the decision. A state is to
    # stay the same in all units.
    if state_US.shape[-1] == 0:
        keeping_U = torch.where(said.leave_R, -torch.inf, slack_U)
        firmest_R = (-none_R).scatter_reduce(0, row_U, keeping_U, "amax")
        return Decision(leave_R, torch.where(leave_R, least_R, firmest_R), said.state_RS)
    return Decision(leave_R, least_R, said.state_RS)


@dataclass(frozen=True)
class EachLabel(Criterion):
    """Asks a criterion of two classes about each of a row's labels, with the logits (0, z).

    A row leaves when all of its labels may. It is what a run makes of a criterion for a multi-label
    model (`Criterion.for_task`), and is not saved.
    """

    of: Criterion
    """The criterion that is asked."""

    def start(self, n_rows: int, n_labels: int) -> Tensor:
        """The labels' states side by side, [R, C x S]."""
        state_US = self.of.start(n_rows * n_labels, 2)
        return state_US.reshape(n_rows, n_labels * state_US.shape[-1])

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """`ask`, by logits alone."""
        return self.ask(state_RS, depth, Answer(logits_RC))

    def ask(self, state_RS: Tensor, depth: int, answer: Answer) -> Decision:
        """Ask about each label."""
        (n_rows, n_labels), width = answer.logits_RC.shape, state_RS.shape[-1]
        row_U = torch.arange(n_rows).repeat_interleave(n_labels)
        logits_U = answer.logits_RC.reshape(-1)
        of_labels = Answer(
            logits_RC=torch.stack([torch.zeros_like(logits_U), logits_U], -1),
            size_R=answer.size()[row_U],  # a label's logit is off by a part of the row's largest
        )
        state_US = state_RS.reshape(n_rows * n_labels, width // n_labels)
        said = by_unit(self.of, state_US, depth, of_labels, row_U, n_rows)
        return said._replace(state_RS=said.state_RS.reshape(n_rows, width))
