"""Rows of several answers, their labels or their tokens: a row leaves when all of them may."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offramp.exits.criteria.base import Answer, Criterion, Decision, RowsOf, asked, begun


def by_unit(
    criterion: Criterion, state_US: Tensor, depth: int, answer: Answer, row_U: Tensor, n_rows: int
) -> Decision:
    """Ask about U units of some rows; a row leaves when all of its units may.

    `answer` and `state_US` are of the units, `row_U` says which row each is of, from 0 to `n_rows`
    - 1; rows may have any number of units, in any order, and one without any leaves. What comes
    back is of the rows, but for the state, which is of the units.
    """
    said = asked(criterion, state_US, depth, answer)
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
        state_US = begun(self.of, n_rows * n_labels, 2)
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
            certainty_R=None if answer.certainty_R is None else answer.certainty_R[row_U],
            size_R=answer.size()[row_U],  # a label's logit is off by a part of the row's largest
        )
        state_US = state_RS.reshape(n_rows * n_labels, width // n_labels)
        said = by_unit(self.of, state_US, depth, of_labels, row_U, n_rows)
        return said._replace(state_RS=said.state_RS.reshape(n_rows, width))


@dataclass(frozen=True)
class EachToken(Criterion):
    """Asks a criterion about each token of some rows; a row leaves when all of its tokens may.

    One without tokens leaves. It is what a run makes of a criterion for a model that answers for
    tokens (`Criterion.for_task`), and is not saved. Its state is of the tokens, [U, S].
    """

    of: Criterion
    """The criterion that is asked."""

    def start(self, n_rows: int, n_classes: int) -> Tensor:
        """The state of so many tokens, [U, S]."""
        return begun(self.of, n_rows, n_classes)

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """`ask` about rows of one token each."""
        return self.ask(state_RS, depth, Answer(logits_RC))

    def ask(self, state_RS: Tensor, depth: int, answer: Answer) -> Decision:
        """Ask about each token; leaves and slacks are those of `answer.rows`."""
        rows = _rows_of(answer)
        # A row is decided again as a whole, so by its largest number.
        of_tokens = answer._replace(size_R=answer.size()[rows.row_U], rows=None)
        return by_unit(self.of, state_RS, depth, of_tokens, rows.row_U, rows.n_rows)


@dataclass(frozen=True)
class FirstToken(Criterion):
    """Asks a criterion that decides about a row as a whole, and has no memory, by its first token.

    As `EachToken`, it is made by a run.
    """

    of: Criterion
    """The criterion that is asked."""

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """`ask` about rows of one token each."""
        return self.ask(state_RS, depth, Answer(logits_RC))

    def ask(self, state_RS: Tensor, depth: int, answer: Answer) -> Decision:
        """Ask about the first token of each row."""
        row_U, n_rows = _rows_of(answer)
        numbers_U, sizes_R = torch.arange(len(row_U)), answer.size()
        none_R = torch.full((n_rows,), len(row_U))
        first_R = none_R.scatter_reduce(0, row_U, numbers_U, "amin")
        has_R = first_R < len(row_U)
        first_U = first_R[has_R]
        sure_U = None if answer.certainty_R is None else answer.certainty_R[first_U]
        of_rows = Answer(answer.logits_RC[first_U], sure_U, sizes_R[has_R])
        said = asked(self.of, state_RS[first_U], depth, of_rows)
        leave_R = torch.ones(n_rows, dtype=torch.bool)
        leave_R[has_R] = said.leave_R
        slack_R = torch.full((n_rows,), torch.inf, dtype=torch.float64)
        slack_R[has_R] = said.slack_R.double()
        return Decision(leave_R, slack_R, state_RS)


def _rows_of(answer: Answer) -> RowsOf:
    if answer.rows is not None:
        return answer.rows
    n_rows = len(answer.logits_RC)
    return RowsOf(torch.arange(n_rows), n_rows)
