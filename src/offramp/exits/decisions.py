"""What is asked of rows at an exit, who leaves, and what is remembered of them.

A row is asked about once, or about each of its tokens: the units. What is said of units lies row
after row, without padding.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offramp.errors import InputError, NaNLogitsWarning
from offramp.exits.criteria import Answer, Criterion, RowsOf, Task, ask_rows, begun

MARGIN = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Rows whose logits lie closer than this to a change of answer are computed again, alone.

In units of the row's largest logit, or of 1 if that is larger. Float products differ in the last
digits with the batch's shape: by up to 2e-6 in a logit of all-MiniLM-L6-v2 in float32
(docs/notes.md); the figures for half precision are estimates from the formats' digits.
"""


class HasIds(Protocol):
    """A row of tokens. Of one that has `counted` beside them only such tokens count."""

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """[T] of the row's tokens, the special ones included."""


@dataclass(frozen=True, slots=True)
class Units:
    """What some rows are asked about: the U tokens of `lengths_R`, or without those the rows.

    `counted_U` are the tokens whose answers are read; the criterion is not asked about the others.
    """

    n_rows: int
    lengths_R: Tensor | None = None
    counted_U: Tensor | None = None

    @classmethod
    def of(cls, rows: Sequence[HasIds], task: Task) -> Units:
        """Those of whole rows. Of a row that has `counted` ([T] bool) only such tokens count."""
        if not task.tokens:
            return cls(len(rows))
        lengths = [len(row.ids) for row in rows]
        counted = [getattr(row, "counted", None) for row in rows]
        for number, (own, length) in enumerate(zip(counted, lengths, strict=True)):
            if own is not None and (len(own) != length or np.asarray(own).dtype != bool):
                raise InputError(
                    f"Row {number} of the window has {length} tokens, and its `counted` is "
                    f"{np.asarray(own).dtype} of length {len(own)}; expected a bool for each token."
                )
        counted_U = None
        if any(own is not None for own in counted):
            each = zip(counted, lengths, strict=True)
            parts = [np.ones(n, dtype=bool) if own is None else own for own, n in each]
            counted_U = torch.from_numpy(np.concatenate(parts))
        return cls(len(rows), torch.tensor(lengths), counted_U)

    @property
    def n_units(self) -> int:
        """U; or R where the rows are asked."""
        return self.n_rows if self.lengths_R is None else int(self.lengths_R.sum())

    def row_of_each(self) -> Tensor:
        """Which of the rows each unit is of, [U]."""
        rows_R = torch.arange(self.n_rows)
        return rows_R if self.lengths_R is None else rows_R.repeat_interleave(self.lengths_R)

    def place_of_each(self) -> Tensor:
        """Which of its row each unit is, from 0; [U]."""
        if self.lengths_R is None:
            return torch.zeros(self.n_rows, dtype=torch.int64)
        starts_R = self.lengths_R.cumsum(0) - self.lengths_R
        return torch.arange(self.n_units) - starts_R.repeat_interleave(self.lengths_R)

    def places(self, rows_R: Tensor) -> Tensor:
        """Where the units of these rows lie, row after row in the order given."""
        if self.lengths_R is None:
            return rows_R
        lengths_R, starts_R = self.lengths_R[rows_R], self.lengths_R.cumsum(0) - self.lengths_R
        shift_R = starts_R[rows_R] - (lengths_R.cumsum(0) - lengths_R)
        return torch.arange(int(lengths_R.sum())) + shift_R.repeat_interleave(lengths_R)

    def take(self, rows_R: Tensor) -> Units:
        """The units of these rows only, in this order."""
        if self.lengths_R is None:
            return Units(len(rows_R))
        counted_U = None if self.counted_U is None else self.counted_U[self.places(rows_R)]
        return Units(len(rows_R), self.lengths_R[rows_R], counted_U)

    def asked(self, answer: Answer) -> Answer:
        """Of what an exit says of all units, what the criterion is asked about."""
        if self.lengths_R is None:
            return answer
        asked, sure_U = self.counted(), answer.certainty_R
        return Answer(
            logits_RC=answer.logits_RC[asked],
            certainty_R=None if sure_U is None else sure_U[asked],
            rows=RowsOf(self.row_of_each()[asked], self.n_rows),
        )

    def counted(self) -> Tensor | slice:
        """The index of the units that the criterion is asked about."""
        return slice(None) if self.counted_U is None else torch.nonzero(self.counted_U).flatten()

    def padded(self, values_UC: Tensor) -> Tensor:
        """The units' values as [R, L, C], zeros behind a row's own; those of rows as they are."""
        if self.lengths_R is None:
            return values_UC
        longest = int(self.lengths_R.max()) if self.n_rows else 0
        padded_RLC = values_UC.new_zeros(self.n_rows, longest, values_UC.shape[-1])
        padded_RLC[self.row_of_each(), self.place_of_each()] = values_UC
        return padded_RLC


class Memory(NamedTuple):
    """What is carried from exit to exit: the criterion's state, and which rows are lost to it.

    An exit has said NaN of those. The state is of the units.
    """

    state_US: Tensor
    lost_R: Tensor

    @classmethod
    def blank(cls, criterion: Criterion | None, units: Units, n_labels: int) -> Memory | None:
        """What is remembered before the first exit; None where no criterion asks."""
        if criterion is None:
            return None
        lost_R = torch.zeros(units.n_rows, dtype=torch.bool)
        return cls(begun(criterion, units.n_units, n_labels), lost_R)

    def part(self, units: Units, rows_R: Tensor) -> Memory:
        """A copy of what is remembered of some of the rows, whose units these are."""
        return Memory(self.state_US[units.places(rows_R)], self.lost_R[rows_R])

    def put(self, units: Units, rows_R: Tensor, new: Memory) -> None:
        """Put what is remembered of some of the rows from now on."""
        self.state_US[units.places(rows_R)] = new.state_US.double()
        self.lost_R[rows_R] = new.lost_R


class Decided(NamedTuple):
    """Which rows leave, which of them have to, the criterion's slack, and what is remembered."""

    leave_R: Tensor
    forced_R: Tensor
    slack_R: Tensor
    memory: Memory | None

    def put(self, units: Units, rows_R: Tensor, new: Decided) -> None:
        """Replace what was decided of some of the rows by something new."""
        self.leave_R[rows_R], self.forced_R[rows_R] = new.leave_R, new.forced_R
        if self.memory is not None and new.memory is not None:
            self.memory.put(units, rows_R, new.memory)


def decide(
    criterion: Criterion | None,
    answer: Answer,
    units: Units,
    memory: Memory | None,
    depth: int,
    *,
    last: bool = False,
) -> Decided:
    """What the criterion says of what it is asked (`units.asked`); where it is `last` all leave.

    Those that it would keep there are marked as forced.
    """
    everyone = torch.ones(units.n_rows, dtype=torch.bool)
    if criterion is None or memory is None:
        endless_R = torch.full((units.n_rows,), torch.inf, dtype=torch.float64)
        return Decided(everyone, ~everyone, endless_R, memory)
    asked = units.counted()
    said, lost_R = ask_rows(criterion, memory.state_US[asked], depth, answer, memory.lost_R)
    state_US = said.state_RS
    if units.counted_U is not None:
        state_US = memory.state_US.clone()
        state_US[asked] = said.state_RS.double()
    memory = Memory(state_US, lost_R)
    if last:
        return Decided(everyone, ~said.leave_R, said.slack_R, memory)
    return Decided(said.leave_R, ~everyone, said.slack_R, memory)


def in_doubt(task: Task, answer: Answer, decided: Decided, margin: float) -> Tensor:
    """The rows of which something changes if their numbers move by so large a part of them, [R].

    Who leaves takes a label along, which must not hang on the last digits either.
    """
    slack_R = decided.slack_R
    if bool(decided.leave_R.any()):
        lead_R = task.lead(answer.logits_RC)
        if answer.rows is not None:
            lead_R = answer.rows.least(lead_R)
        slack_R = torch.where(decided.leave_R, slack_R.minimum(lead_R), slack_R)
    return ~(slack_R >= answer.size() * margin)  # a slack that is NaN is none


class NaNRows:
    """Counts the rows of a run of which an exit said NaN; warns of the first window with some."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, lost: int, rows: int) -> None:
        """So many of a window's rows were lost to the criterion."""
        with self._lock:
            first, self.count = lost > 0 and self.count == 0, self.count + lost
        if first:
            warnings.warn(
                f"Exits answered with NaN for {lost} rows of {rows} (the first window of this run "
                "that has such), and those went on to the last layer. Look for NaN in the ramps' "
                "weights, and for hidden states that are too large for the model's type. Further "
                "windows of the run are not warned of.",
                NaNLogitsWarning,
                stacklevel=2,
            )
