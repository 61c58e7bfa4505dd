"""One window of rows on its way through the layers.

The window passes the layers up to the next exit in full microbatches of like length; the exit is
asked, leavers are given out, and survivors are packed into full microbatches again. Deep layers see
full microbatches however few rows survive, so that a saved layer is a saved millisecond.

Where an exit reads nothing but first tokens, and enough rows are expected to leave, its layer is
run for these alone before the exit is asked (a peek), and completed for the rows that stay.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from offramp.exits.attach import exits_of
from offramp.exits.criteria import Criterion
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel, Flow, Inputs, LayerStack, join, reads_first
from offramp.nn.blocks import KeysValues
from offramp.nn.layout import Packed, fill
from offramp.runner.prepare import sums_alike
from offramp.runner.rows import Row, by_length, split

MARGIN = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Rows whose logits lie closer than this to a change of answer are computed again, alone.

In units of the row's largest logit, or of 1 if that is larger. Float products differ in the last
digits with the batch's shape: by up to 2e-6 in a logit of all-MiniLM-L6-v2 in float32
(docs/notes.md); the figures for half precision are estimates from the formats' digits.
"""

REDONE, ALONE = 1 / 64, 100
"""The most that rows computed again may cost, of what the window costs at full depth; and how many
tokens in a microbatch cost as much as a row alone does beside its own.

Of a prepared model only, whose products give each row the same to the last bit in any batch, so
that rows past the bound are decided as they would be alone; for others there is no bound.
"""


@dataclass(frozen=True, slots=True)
class Route:
    """Where rows are asked: a criterion at each of `depths`, and everyone leaves at `last`.

    `model` is the one that is run. With `cut` the rows that the criterion would keep at `last` are
    marked as forced. From the moment `deadline` (of `time.monotonic`) on, rows leave with the
    answer that they have; a row that has none goes on to the first exit.
    """

    model: PretrainedModel
    depths: tuple[int, ...]
    last: int
    criterion: Criterion | None
    cut: bool = False
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Leavers:
    """Rows of a window that leave after `depth` layers: their places [R] in it, logits [R, C].

    `forced_R`: which of them the criterion would have kept.
    """

    places_R: Tensor
    logits_RC: Tensor
    forced_R: Tensor
    depth: int


class LeaveRates:
    """Which share of rows left at each depth, of those that a run asked lately."""

    def __init__(self) -> None:
        self._of_depth: dict[int, tuple[float, float]] = {}

    def add(self, depth: int, asked: int, left: int) -> None:
        """So many were asked there, and so many of them left."""
        before, left_before = self._of_depth.get(depth, (0.0, 0.0))
        fade = 0.5 if before > 1024 else 1.0
        self._of_depth[depth] = (before * fade + asked, left_before * fade + left)

    def expected(self, depth: int) -> float:
        """The share that is to be expected; all, before any was asked."""
        asked, left = self._of_depth.get(depth, (0.0, 0.0))
        return left / asked if asked else 1.0


class Passed(NamedTuple):
    """A microbatch at an exit: its flow, what the exit reads, and a peek's keys and values.

    After a peek the flow is still before the exit's layer.
    """

    flow: Flow
    read: Tensor
    known: KeysValues | None


class Window:
    """Rows that are run together along `route`, in microbatches of about so many `tokens`."""

    def __init__(
        self, rows: Sequence[Row], route: Route, tokens: int, rates: LeaveRates | None = None
    ) -> None:
        self._rows = rows
        self._route = route
        self._tokens = tokens
        self._rates = LeaveRates() if rates is None else rates
        self._model = route.model
        self._task = cast(ExitableModel, route.model)
        self._stack: LayerStack = self._task.stack
        self._reads_first = reads_first(self._task)
        n_rows = len(rows)
        wide = torch.float64 if self._model.dtype == torch.float64 else torch.float32
        self._answers_RC = torch.zeros(n_rows, self._model.config.num_labels, dtype=wide)
        self._state_RS = None if route.criterion is None else route.criterion.start(n_rows)
        n_tokens = sum(len(row.ids) for row in rows)
        bound = REDONE * n_tokens * self._stack.n_layers
        self._sums_alike = sums_alike(route.model)
        self._redo_left = bound if self._sums_alike else math.inf

    @torch.inference_mode()
    def leavers(self) -> Iterator[Leavers]:
        """The rows as they leave, each once."""
        route = self._route
        inputs = by_length(self._rows, self._model.device)
        flows = [self._stack.start(part) for part in split(inputs, self._tokens)]
        done = 0
        for depth in (*route.depths, route.last):
            left, stay = False, list[Flow]()
            for batch in self._batches(flows, depth):
                if done and route.deadline is not None and time.monotonic() >= route.deadline:
                    left = True
                    yield self._forced(batch, done)
                    continue
                passed = [
                    self._advance(flow, done, depth, self._peeks(flow, depth)) for flow in batch
                ]
                leave_R, leavers = self._ask(passed, depth)
                if leavers is not None:
                    left = True
                    yield leavers
                stay += self._completed(passed, ~leave_R, depth)
            flows = _regrouped(stay, self._tokens) if left else stay
            if not flows:
                break
            done = depth

    def _batches(self, flows: Sequence[Flow], depth: int) -> Iterator[Sequence[Flow]]:
        """What is asked together: the whole window, which costs least, unless something is gained.

        Peeks are made a microbatch at a time, while its keys and values are in the processor's
        cache, and so is everything where time may be up in between.
        """
        apart = self._route.deadline is not None or self._peeks(flows[-1], depth)
        return iter([[flow] for flow in flows] if apart else [flows])

    def _peeks(self, flow: Flow, depth: int) -> bool:
        """Whether layer `depth` is run for the token that its exit reads, and then for who stays.

        Never for a row alone: it is what others are held to, and must not depend on former rows.
        """
        if (
            len(self._rows) == 1
            or depth == self._stack.n_layers
            or not hasattr(self._stack, "keys_values")
        ):
            return False
        ramp = exits_of(self._model).ramp(depth)
        possible = hasattr(self._stack, "keys_values") and getattr(ramp, "pools_one", False)
        if not possible or flow.hidden.device.type != "cpu":
            return False
        if depth == self._route.last:
            return True
        layout = cast(Packed, flow.layout)
        return self._rates.expected(depth) > worth_a_peek(layout.n_rows, layout.n_tokens)

    def _advance(self, flow: Flow, done: int, depth: int, peeks: bool) -> Passed:
        """Pass the layers from `done` to `depth`, and take what the exit there reads.

        That is read at once, while the hidden states are in the processor's cache. The last layer
        is run for the tokens that the answer reads, as is that of a peek.
        """
        stack, at_end = self._stack, depth == self._stack.n_layers
        narrow = peeks or (at_end and self._reads_first)
        for i in range(done, depth - 1 if narrow else depth):
            flow = stack.step(flow, i)
        seen, known = flow, None
        if narrow:
            layout = cast(Packed, flow.layout)
            if peeks:
                body, read_R = cast(Any, stack), exits_of(self._model).ramp(depth).tokens(layout)
                known = body.keys_values(flow, depth - 1)
                seen = body.step(flow, depth - 1, read_R.to(flow.hidden.device), known)
            else:
                seen = stack.step(flow, depth - 1, layout.starts_R.to(flow.hidden.device))
        finished = stack.finish(seen)
        if at_end:
            return Passed(flow, self._task.logits(finished), known)
        return Passed(flow, exits_of(self._model).ramp(depth).pool(finished), known)

    def _answer(self, reads: Sequence[Tensor], depth: int) -> Tensor:
        """What the exit after `depth` layers says of what it read, [R, C] on the host."""
        if depth == self._stack.n_layers:
            return torch.cat([*reads]).cpu()
        n_rows = sum(map(len, reads))
        filled = n_rows > 1 and getattr(self._stack, "fills", False)
        read = fill(reads) if filled else torch.cat([*reads])
        return exits_of(self._model).ramp(depth).answer(read)[:n_rows].cpu()

    def _ask(self, passed: Sequence[Passed], depth: int) -> tuple[Tensor, Leavers | None]:
        """Which rows leave, with which answers; doubtful ones are decided from a run of their own.

        A row is doubtful whose answer hangs on the last digits, which depend on the batch.
        """
        names_R = torch.cat([flow.row_ids_R for flow, _, _ in passed])
        answers_RC = self._answer([read for _, read, _ in passed], depth)
        state_RS = None if self._state_RS is None else self._state_RS[names_R]
        asked = _decide(answers_RC, state_RS, depth, self._route)
        leave_R, forced_R, slack_R, state_RS = asked
        if len(self._rows) > 1:
            scale_R = answers_RC.abs().amax(-1).clamp(min=1).double()
            # Who leaves takes a label along, which must not hang on the last digits either.
            slack_R = torch.where(leave_R, slack_R.minimum(_lead(answers_RC)), slack_R)
            doubtful = slack_R < scale_R * MARGIN.get(self._model.dtype, 0.1)
            places = torch.nonzero(doubtful).flatten()
            if self._sums_alike and len(places) and any(known for _, _, known in passed):
                # A peek's last digits are not those of a row alone; a whole layer's are.
                answers_RC[places] = self._answer([self._unpeeked(passed, doubtful, depth)], depth)
                before_RS = None if self._state_RS is None else self._state_RS[names_R[places]]
                found = _decide(answers_RC[places], before_RS, depth, self._route)
                leave_R[places], forced_R[places] = found.leave_R, found.forced_R
                if state_RS is not None and found.state_RS is not None:
                    state_RS[places] = found.state_RS
            for place in places.tolist():
                row = self._rows[int(names_R[place])]
                cost = (len(row.ids) + ALONE) * depth
                if cost > self._redo_left:
                    continue
                self._redo_left -= cost
                answer_1C, alone = self._alone(row, depth)
                answers_RC[place] = answer_1C[0]
                leave_R[place], forced_R[place] = alone.leave_R[0], alone.forced_R[0]
                if state_RS is not None and alone.state_RS is not None:
                    state_RS[place] = alone.state_RS[0]
        self._answers_RC[names_R] = answers_RC.to(self._answers_RC.dtype)
        if self._state_RS is not None and state_RS is not None:
            self._state_RS[names_R] = state_RS
        left_R = names_R[leave_R]
        if depth != self._route.last:  # where all leave, which says nothing of another route
            self._rates.add(depth, len(names_R), len(left_R))
        if not len(left_R):
            return leave_R, None
        return leave_R, Leavers(left_R, self._answers_RC[left_R], forced_R[leave_R], depth)

    def _unpeeked(self, passed: Sequence[Passed], rows_R: Tensor, depth: int) -> Tensor:
        """What the exit reads of some rows [R] when their layer is whole."""
        reads, start = list[Tensor](), 0
        for flow, read, known in passed:
            rows = torch.nonzero(rows_R[start : start + len(flow.row_ids_R)]).flatten()
            start += len(flow.row_ids_R)
            if known is not None and len(rows):
                part = flow.take(rows), depth - 1, None, _of_rows(known, flow, rows)
                whole = self._stack.finish(cast(Any, self._stack).step(*part))
                reads.append(exits_of(self._model).ramp(depth).pool(whole))
            else:
                reads.append(read[rows.to(read.device)])
        return torch.cat(reads)

    def _alone(self, row: Row, depth: int) -> tuple[Tensor, Decided]:
        """The answer [1, C] at `depth` of a row in a batch of its own, and what it means."""
        inputs = Inputs.from_rows([row.ids], [row.types], [0], self._model.device)
        flow = self._stack.start(inputs)
        criterion = self._route.criterion
        state_1S = None if criterion is None else criterion.start(1)
        done = 0
        for asked in (*self._route.depths, self._route.last):
            # Without a peek: its last digits differ, and rows that ran before decide on it.
            passed = self._advance(flow, done, asked, peeks=False)
            answer_1C = self._answer([passed.read], asked)
            decided = _decide(answer_1C, state_1S, asked, self._route)
            if asked == depth:
                break
            (flow,) = self._completed([passed], torch.ones(1, dtype=torch.bool), asked)
            state_1S, done = decided.state_RS, asked
        return answer_1C, decided

    def _completed(self, passed: Sequence[Passed], stay_R: Tensor, depth: int) -> list[Flow]:
        """The flows of the rows that stay, after `depth` layers."""
        kept, start = list[Flow](), 0
        for flow, _, known in passed:
            rows = torch.nonzero(stay_R[start : start + len(flow.row_ids_R)]).flatten()
            start += len(flow.row_ids_R)
            if not len(rows):
                continue
            if len(rows) < len(flow.row_ids_R):
                known = None if known is None else _of_rows(known, flow, rows)
                flow = flow.take(rows)
            if known is not None:
                flow = cast(Any, self._stack).step(flow, depth - 1, known=known)
            kept.append(flow)
        return kept

    def _forced(self, batch: Sequence[Flow], depth: int) -> Leavers:
        """The rows of a batch, with the answers that they had after `depth` layers."""
        names_R = torch.cat([flow.row_ids_R for flow in batch])
        forced_R = torch.ones(len(names_R), dtype=torch.bool)
        return Leavers(names_R, self._answers_RC[names_R], forced_R, depth)


class Decided(NamedTuple):
    """Which rows leave, which of them have to, the criterion's slack, and the next state."""

    leave_R: Tensor
    forced_R: Tensor
    slack_R: Tensor
    state_RS: Tensor | None


def worth_a_peek(n_rows: int, n_tokens: int) -> float:
    """The share of a microbatch's rows that must leave for a peek to pay.

    A fit of what was measured (docs/notes.md): a peek computes first tokens twice, and calls twice
    as many kernels.
    """
    return 0.02 + 1.5 * n_rows / n_tokens + 20 / n_tokens


def _decide(answers_RC: Tensor, state_RS: Tensor | None, depth: int, route: Route) -> Decided:
    """What the criterion says; everyone leaves at the end of the route."""
    everyone = torch.ones(len(answers_RC), dtype=torch.bool)
    last = depth == route.last
    if route.criterion is None or state_RS is None or (last and not route.cut):
        endless_R = torch.full((len(answers_RC),), torch.inf, dtype=torch.float64)
        return Decided(everyone, ~everyone, endless_R, state_RS)
    leave_R, slack_R, state_RS = route.criterion.update(state_RS, depth, answers_RC)
    if last:
        return Decided(everyone, ~leave_R, slack_R, state_RS)
    return Decided(leave_R, ~everyone, slack_R, state_RS)


def _lead(logits_RC: Tensor) -> Tensor:
    """How far the logits may move, each its own way, before another class is the best, [R]."""
    if logits_RC.shape[-1] == 1:
        return torch.full((len(logits_RC),), torch.inf, dtype=torch.float64)
    best_R2 = logits_RC.double().topk(2, dim=-1).values
    return (best_R2[:, 0] - best_R2[:, 1]) / 2


def _of_rows(known: KeysValues, flow: Flow, rows: Tensor) -> KeysValues:
    """The keys and values of some rows' tokens."""
    _, tokens = flow.layout.take(rows)
    key, value = known
    return key[tokens], value[tokens]


def _regrouped(flows: Sequence[Flow], tokens: int) -> list[Flow]:
    """Successive flows joined until they are full microbatches; the order of length is kept."""
    grouped, waiting, size = list[Flow](), list[Flow](), 0
    for flow in flows:
        n_tokens = cast(Packed, flow.layout).n_tokens
        if waiting and size + n_tokens > 1.25 * tokens:
            grouped.append(join(waiting))
            waiting, size = [], 0
        waiting.append(flow)
        size += n_tokens
    return [*grouped, join(waiting)] if waiting else grouped
