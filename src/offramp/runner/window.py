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
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor

from offramp.exits.container import Exits, exits_of
from offramp.exits.criteria import Answer, Criterion, Task
from offramp.exits.decisions import MARGIN, Decided, Memory, NaNRows, Units, decide, in_doubt
from offramp.exits.ramps import FirstTokenRamp
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel, Flow, LayerStack, PeekableStack, join, reads_first
from offramp.models.inputs import Inputs
from offramp.nn.blocks import KeysValues
from offramp.nn.layout import Packed, fill
from offramp.runner.peeks import LeaveRates, Peeks
from offramp.runner.prepare import sums_alike
from offramp.runner.rows import Row, by_length, split

REDONE, ALONE = 1 / 128, 100
"""The most that rows computed again may cost, of what the window costs at full depth; and how many
tokens in a microbatch cost as much as a row alone does beside its own.

Of a prepared model only, whose products give each row the same to the last bit in any batch, so
that rows past the bound are decided as they would be alone; for others there is no bound.
"""


@dataclass(frozen=True, slots=True)
class Route:
    """Where rows are asked: a criterion at each of `depths`, and everyone leaves at `last`.

    `model` is the one that is run, `task` what it is asked. With `cut` the rows that the criterion
    would keep at `last` are marked as forced. From the moment `deadline` (of `time.monotonic`) on,
    rows leave with the answer that they have; a row that has none goes on to the first exit.
    `exits` are the model's, where they are asked, and `after_all` one that is asked about rows that
    passed all layers, which have its answer if it lets them go. `nan_rows` counts those of which
    an exit said NaN.
    """

    model: PretrainedModel
    task: Task
    depths: tuple[int, ...]
    last: int
    criterion: Criterion | None
    cut: bool = False
    deadline: float | None = None
    exits: Exits | None = None
    after_all: FirstTokenRamp | None = None
    nan_rows: NaNRows = field(default_factory=NaNRows, init=False, compare=False)


@dataclass(frozen=True, slots=True)
class Leavers:
    """Rows of a window that leave after `depth` layers: their places [R] in it, logits [R, C].

    `forced_R`: which of them the criterion would have kept. Where each token is answered the logits
    are [T, C], row after row, and `lengths_R` the rows' tokens.
    """

    places_R: Tensor
    logits_RC: Tensor
    forced_R: Tensor
    depth: int
    lengths_R: Tensor | None = None

    def each(self) -> Sequence[Tensor]:
        """Each row's logits, [C]; or [L, C] of its own tokens."""
        if self.lengths_R is None:
            return self.logits_RC.unbind()
        return torch.split(self.logits_RC, self.lengths_R.tolist())


class Passed(NamedTuple):
    """A microbatch at an exit: its flow, what the exit reads, and a peek's keys and values.

    After a peek the flow is still before the exit's layer. Of tokens it is what the exit said: they
    are many, and in the processor's cache.
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
        self._body = cast(PeekableStack, self._stack)  # where there are peeks
        self._reads_first = reads_first(self._task)
        n_rows = len(rows)
        wide = torch.float64 if self._model.dtype == torch.float64 else torch.float32
        n_labels = self._model.config.num_labels
        self._units = Units.of(rows, route.task)
        self._answers_UC = torch.zeros(self._units.n_units, n_labels, dtype=wide)
        self._memory = Memory.blank(route.criterion, self._units, n_labels)
        n_tokens = sum(len(row.ids) for row in rows)
        self._peeks = Peeks(
            route.model,
            route.criterion,
            route.last,
            n_rows,
            n_tokens / tokens,
            self._rates,
            route.exits,
        )
        bound = REDONE * n_tokens * self._stack.n_layers
        self._sums_alike = sums_alike(route.model)
        self._redo_left = bound if self._sums_alike else math.inf

    @property
    def _exits(self) -> Exits:
        """The model's; fetched once a run, which costs something where they are a view."""
        return self._route.exits or exits_of(self._model)

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
                    self._advance(flow, done, depth, self._peeks.wanted(flow, depth))
                    for flow in batch
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
        if self._memory is not None:
            route.nan_rows.add(int(self._memory.lost_R.sum()), len(self._rows))

    def _batches(self, flows: Sequence[Flow], depth: int) -> Iterator[Sequence[Flow]]:
        """What is asked together: the whole window, which costs least, unless something is gained.

        Peeks are made a microbatch at a time, while its keys and values are in the processor's
        cache, and so is everything where time may be up in between.
        """
        apart = self._route.deadline is not None or self._peeks.wanted(flows[-1], depth)
        return iter([[flow] for flow in flows] if apart else [flows])

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
                body, read_R = self._body, self._exits.ramp(depth).tokens(layout)
                known = body.keys_values(flow, depth - 1)
                seen = body.step(flow, depth - 1, read_R.to(flow.hidden.device), known)
            else:
                seen = stack.step(
                    flow, depth - 1, layout.starts_R.to(flow.hidden.device, non_blocking=True)
                )
        finished = stack.finish(seen)
        if at_end:
            logits, after_all = self._task.logits(finished), self._route.after_all
            if after_all is not None:
                logits = torch.cat([logits, after_all(finished)], 1)
            return Passed(flow, logits, known)
        read = self._exits.ramp(depth).pool(finished)
        if self._route.task.tokens:
            logits_TC, sure_T = self._said([read], depth)
            read = logits_TC if sure_T is None else torch.cat([logits_TC, sure_T[:, None]], 1)
        return Passed(flow, read, known)

    def _answer(self, reads: Sequence[Tensor], depth: int) -> Answer:
        """What the exit after `depth` layers says of what it read, on the host."""
        if depth == self._stack.n_layers:
            return Answer(torch.cat([*reads]).cpu())
        if self._route.task.tokens:
            said, n_labels = torch.cat([*reads]).cpu(), self._answers_UC.shape[1]
            return Answer(said[:, :n_labels], said[:, -1] if said.shape[1] > n_labels else None)
        logits_RC, certainty_R = self._said(reads, depth)
        return Answer(logits_RC.cpu(), None if certainty_R is None else certainty_R.cpu())

    def _said(self, reads: Sequence[Tensor], depth: int) -> tuple[Tensor, Tensor | None]:
        """The logits of the ramp after `depth` layers for what it read, and its certainty."""
        n_units = sum(map(len, reads))
        filled = n_units > 1 and getattr(self._stack, "fills", False)
        read = fill(reads) if filled else torch.cat([*reads])
        answer = self._exits.answer(depth, read)
        sure_U = None if answer.certainty_R is None else answer.certainty_R[:n_units]
        return answer.logits_RC[:n_units], sure_U

    def _judged(
        self, reads: Sequence[Tensor], units: Units, memory: Memory | None, depth: int
    ) -> tuple[Answer, Decided]:
        """What is said of rows after `depth` layers, and what the criterion makes of it.

        Everyone leaves at the end.
        """
        route, answer = self._route, self._answer(reads, depth)
        last = depth == route.last
        if last and route.after_all is not None:
            own_RC, early_RC = answer.logits_RC.chunk(2, 1)
            size_R = answer.size()
            decided = decide(route.criterion, Answer(early_RC, size_R=size_R), units, memory, depth)
            logits_RC = torch.where(decided.leave_R[:, None], early_RC, own_RC)
            everyone = torch.ones_like(decided.leave_R)
            return Answer(logits_RC, size_R=size_R), decided._replace(leave_R=everyone)
        criterion = None if last and not route.cut else route.criterion
        asked = units.asked(answer)
        return answer, decide(criterion, asked, units, memory, depth, last=last)

    def _ask(self, passed: Sequence[Passed], depth: int) -> tuple[Tensor, Leavers | None]:
        """Which rows leave, with which answers; doubtful ones are decided from a run of their own.

        A row is doubtful whose answer hangs on the last digits, which depend on the batch.
        """
        names_R = torch.cat([flow.row_ids_R for flow, _, _ in passed])
        units, kept = self._units.take(names_R), self._memory
        memory = None if kept is None else kept.part(self._units, names_R)
        answer, asked = self._judged([read for _, read, _ in passed], units, memory, depth)
        peeked = any(known for _, _, known in passed)
        doubtful = torch.zeros_like(asked.leave_R)
        if len(self._rows) > 1:
            margin = MARGIN.get(self._model.dtype, 0.1)
            doubtful = in_doubt(self._route.task, units.asked(answer), asked, margin)
            places = torch.nonzero(doubtful).flatten()
            if peeked:
                self._peeks.doubted(len(places) / len(names_R))
            if self._sums_alike and len(places) and peeked:
                # A peek's last digits are not those of a row alone; a whole layer's are.
                reads = [self._unpeeked(passed, doubtful, depth)]
                memory = None if kept is None else kept.part(self._units, names_R[places])
                again, newly = self._judged(reads, units.take(places), memory, depth)
                answer.logits_RC[places] = again.logits_RC
                asked.put(units, places, newly)
            for place in places.tolist():
                row = self._rows[int(names_R[place])]
                cost = (len(row.ids) + ALONE) * depth
                if cost > self._redo_left:
                    continue
                self._redo_left -= cost
                alone, newly = self._alone(row, depth)
                here = torch.tensor([place])
                answer.logits_RC[units.places(here)] = alone.logits_RC
                asked.put(units, here, newly)
        leave_R = asked.leave_R
        dtype = self._answers_UC.dtype
        self._answers_UC[self._units.places(names_R)] = answer.logits_RC.to(dtype)
        if kept is not None and asked.memory is not None:
            kept.put(self._units, names_R, asked.memory)
        left_R = names_R[leave_R]
        if depth != self._route.last:  # where all leave, which says nothing of another route
            self._rates.add(depth, len(names_R), int((leave_R & ~doubtful).sum()))
        if not len(left_R):
            return leave_R, None
        return leave_R, self._leavers(left_R, asked.forced_R[leave_R], depth)

    def _leavers(self, names_R: Tensor, forced_R: Tensor, depth: int) -> Leavers:
        """Rows that leave, with what was said of them last."""
        lengths_R = self._units.take(names_R).lengths_R
        logits_UC = self._answers_UC[self._units.places(names_R)]
        return Leavers(names_R, logits_UC, forced_R, depth, lengths_R)

    def _unpeeked(self, passed: Sequence[Passed], rows_R: Tensor, depth: int) -> Tensor:
        """What the exit reads of some rows [R] when their layer is whole."""
        reads, start = list[Tensor](), 0
        for flow, read, known in passed:
            rows = torch.nonzero(rows_R[start : start + len(flow.row_ids_R)]).flatten()
            start += len(flow.row_ids_R)
            if known is not None and len(rows):
                part = flow.take(rows), depth - 1, None, _of_rows(known, flow, rows)
                whole = self._stack.finish(self._body.step(*part))
                reads.append(self._exits.ramp(depth).pool(whole))
            else:
                reads.append(read[rows.to(read.device)])
        return torch.cat(reads)

    def _alone(self, row: Row, depth: int) -> tuple[Answer, Decided]:
        """The answer at `depth` of a row in a batch of its own, and what it means."""
        inputs = Inputs.from_rows([row.ids], [row.types], [0], self._model.device)
        flow = self._stack.start(inputs)
        units, n_labels, done = Units.of([row], self._route.task), self._answers_UC.shape[1], 0
        memory = Memory.blank(self._route.criterion, units, n_labels)
        for asked in (*self._route.depths, self._route.last):
            # Without a peek: its last digits differ, and rows that ran before decide on it.
            passed = self._advance(flow, done, asked, peeks=False)
            answer, decided = self._judged([passed.read], units, memory, asked)
            if asked == depth:
                break
            (flow,) = self._completed([passed], torch.ones(1, dtype=torch.bool), asked)
            memory, done = decided.memory, asked
        return answer, decided

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
                flow = self._body.step(flow, depth - 1, known=known)
            kept.append(flow)
        return kept

    def _forced(self, batch: Sequence[Flow], depth: int) -> Leavers:
        """The rows of a batch, with the answers that they had after `depth` layers."""
        names_R = torch.cat([flow.row_ids_R for flow in batch])
        forced_R = torch.ones(len(names_R), dtype=torch.bool)
        return self._leavers(names_R, forced_R, depth)


def _of_rows(known: KeysValues, flow: Flow, rows: Tensor) -> KeysValues:
    """The keys and values of some rows' tokens."""
    _, tokens = flow.layout.take(rows)
    return KeysValues(known.key[tokens], known.value[tokens])


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
