"""The breadth-first runner.

A window of many rows passes the layers up to the next exit in full microbatches of like length;
then the exit is asked once for the whole window, leavers are written out, and survivors are
packed into full microbatches again. Deep layers see full microbatches however few rows survive,
so that a saved layer is a saved millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast, overload

import torch
from torch import Tensor

from offramp.errors import ConfigError, InputError
from offramp.exits.attach import exits_of
from offramp.exits.criteria import Criterion
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel, Flow, Inputs, join, reads_first
from offramp.nn.layout import Packed
from offramp.runner.rows import BLOCK, by_length, gather, microbatches, split
from offramp.text.tokenizer import Encoded

MARGIN = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Rows whose logits lie closer than this to a change of answer are computed again, alone.

In units of the row's largest logit, or of 1 if that is larger. Float products differ in the last
digits with the batch's shape: by up to 2e-6 in a logit of all-MiniLM-L6-v2 in float32
(docs/notes.md); the figures for half precision are estimates from the formats' digits.
"""


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row's answer: logits [C] on the host, and how many layers it took.

    Logits are float64 if the model is, and float32 otherwise.
    """

    logits_C: Tensor
    exit_layer: int


@dataclass(frozen=True, slots=True)
class Results:
    """Rows' answers in input order: logits [R, C] and layers taken [R], on the host."""

    logits_RC: Tensor
    exit_layers_R: Tensor

    @property
    def mean_layers(self) -> float:
        """Layers that a row took, on average."""
        return self.exit_layers_R.double().mean().item()


@dataclass(frozen=True, slots=True)
class Leavers:
    """Rows of a window that leave after `depth` layers: their places [R] in it, logits [R, C]."""

    places_R: Tensor
    logits_RC: Tensor
    depth: int


@dataclass(frozen=True, slots=True)
class Route:
    """Where rows are asked: a criterion at each of `depths`, and everyone leaves at `last`."""

    depths: tuple[int, ...]
    last: int
    criterion: Criterion | None


class Runner:
    """Runs encoded rows through a model with exits.

    `criterion` replaces the model's own (its threshold, say). `exits=False` is the plain model.
    `depth` cuts the model off after that many layers, where the ramp trained there, or the
    model's head at full depth, answers for every row. A window holds at most `window_rows` rows
    and about `window_tokens` tokens, which bounds the memory; a microbatch about
    `microbatch_tokens`. A row's label and exit layer do not depend on the rows beside it.
    """

    def __init__(
        self,
        model: PretrainedModel,
        *,
        criterion: Criterion | None = None,
        exits: bool = True,
        depth: int | None = None,
        window_rows: int = BLOCK,
        window_tokens: int = 65_536,
        microbatch_tokens: int = 1024,
    ) -> None:
        if not hasattr(model, "logits"):
            raise ConfigError(
                f"A runner takes a model with a head, such as BertForSequenceClassification; got "
                f"{type(model).__name__}."
            )
        for name, value in (
            ("window_rows", window_rows),
            ("window_tokens", window_tokens),
            ("microbatch_tokens", microbatch_tokens),
        ):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")
        self.model = model
        self._task = cast(ExitableModel, model)
        self._reads_first = reads_first(self._task)
        self._criterion = criterion
        self._use_exits = exits and (criterion is not None or hasattr(model, "exits"))
        self._depth = self._check_depth(depth)
        self._window_rows = window_rows
        self._window_tokens = window_tokens
        self._microbatch_tokens = microbatch_tokens

    def run(self, rows: Sequence[Encoded]) -> Results:
        """All rows' answers, stacked."""
        windows = list(self.windows(rows))
        if not windows:
            n_labels = self.model.config.num_labels
            return Results(torch.zeros(0, n_labels), torch.zeros(0, dtype=torch.int64))
        return Results(
            torch.cat([w.logits_RC for w in windows]),
            torch.cat([w.exit_layers_R for w in windows]),
        )

    @overload
    def stream(
        self, rows: Iterable[Encoded], *, ordered: Literal[True] = ...
    ) -> Iterator[RowResult]: ...

    @overload
    def stream(
        self, rows: Iterable[Encoded], *, ordered: Literal[False]
    ) -> Iterator[tuple[int, RowResult]]: ...

    def stream(
        self, rows: Iterable[Encoded], *, ordered: bool = True
    ) -> Iterator[RowResult] | Iterator[tuple[int, RowResult]]:
        """Each row's answer, in order, as windows complete; `rows` is read a window at a time.

        With `ordered=False` it is (index, answer), as soon as a row leaves: within a window the
        rows that leave early come first. `index` counts the rows from 0.
        """
        return self._in_order(rows) if ordered else self._as_they_leave(rows)

    def _in_order(self, rows: Iterable[Encoded]) -> Iterator[RowResult]:
        for window in self.windows(rows):
            layers = window.exit_layers_R.tolist()
            for logits_C, layer in zip(window.logits_RC.clone(), layers, strict=True):
                yield RowResult(logits_C, layer)

    def _as_they_leave(self, rows: Iterable[Encoded]) -> Iterator[tuple[int, RowResult]]:
        route, first = self.route(), 0
        for window in self.gather(rows):
            for left in self.leavers(window, route):
                logits_RC = left.logits_RC.clone()
                for place, logits_C in zip(left.places_R.tolist(), logits_RC, strict=True):
                    yield first + place, RowResult(logits_C, left.depth)
            first += len(window)

    def windows(self, rows: Iterable[Encoded]) -> Iterator[Results]:
        """The answers a window at a time; the thresholds are those of the moment of the call."""
        route = self.route()
        return (self.run_window(window, route) for window in self.gather(rows))

    def gather(self, rows: Iterable[Encoded]) -> Iterator[list[Encoded]]:
        """`rows` in windows of bounded size, read as they are asked for."""
        return gather(rows, self._window_rows, self._window_tokens)

    def route(self) -> Route:
        """What holds for a whole run, so that a threshold changed meanwhile waits for the next."""
        if any(module.training for module in self.model.modules()):
            raise InputError("The model is in training mode; call model.eval() before running it.")
        last = self._depth
        if not self._use_exits:
            return Route((), last, None)
        exits = exits_of(self.model)
        criterion = self._criterion or exits.criterion
        return Route(tuple(d for d in exits.depths if d < last), last, criterion)

    def run_window(self, rows: Sequence[Encoded], route: Route) -> Results:
        """The answers of one window's rows, in their order."""
        wide = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        logits_RC = torch.zeros(len(rows), self.model.config.num_labels, dtype=wide)
        layers_R = torch.full((len(rows),), route.last)
        for left in self.leavers(rows, route):
            logits_RC[left.places_R] = left.logits_RC
            layers_R[left.places_R] = left.depth
        return Results(logits_RC, layers_R)

    @torch.inference_mode()
    def leavers(self, rows: Sequence[Encoded], route: Route) -> Iterator[Leavers]:
        """One window's rows as they leave, those of one depth together."""
        stack = self._task.stack
        inputs = by_length(rows, self.model.device)
        flows = [stack.start(part) for part in split(inputs, self._microbatch_tokens)]
        wide = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        state_RS = None if route.criterion is None else route.criterion.start(len(rows))
        done = 0
        for depth in (*route.depths, route.last):
            parts = [self._advance(flow, done, depth) for flow in flows]
            flows = [flow for flow, _ in parts]
            names_R = torch.cat([flow.row_ids_R for flow in flows])
            answers_RC = self._answer(torch.cat([read for _, read in parts]), depth)
            done = depth
            leave_R, answers_RC, state_RS = self._decide(
                answers_RC, names_R, state_RS, depth, route, rows
            )
            if not bool(leave_R.any()):
                continue
            yield Leavers(names_R[leave_R], answers_RC[leave_R].to(wide), depth)
            if bool(leave_R.all()):
                break
            state_RS = None if state_RS is None else state_RS[~leave_R]
            flows = _regroup(flows, ~leave_R, self._microbatch_tokens)

    def _advance(self, flow: Flow, done: int, depth: int) -> tuple[Flow, Tensor]:
        """Pass the layers from `done` to `depth`: the flow, and what `_answer` needs of it.

        That is read at once, while the hidden states are in the processor's cache. The last layer
        is run for the tokens that the answer reads.
        """
        stack = self._task.stack
        whole = stack.n_layers - 1 if self._reads_first else stack.n_layers
        for i in range(done, min(depth, whole)):
            flow = stack.step(flow, i)
        if depth > whole:
            layout = cast(Packed, flow.layout)
            flow = stack.step(flow, whole, queries=layout.starts_R.to(flow.hidden.device))
        finished = stack.finish(flow)
        if depth == stack.n_layers:
            return flow, self._task.logits(finished)
        return flow, exits_of(self.model).ramp(depth).pool(finished)

    def _answer(self, read: Tensor, depth: int) -> Tensor:
        """What the exit after `depth` layers says, [R, C] on the host."""
        if depth < self._task.stack.n_layers:
            read = exits_of(self.model).ramp(depth).answer(read)
        return read.cpu()

    def _decide(
        self,
        answers_RC: Tensor,
        names_R: Tensor,
        state_RS: Tensor | None,
        depth: int,
        route: Route,
        rows: Sequence[Encoded],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Who leaves, with which answers; doubtful rows are decided from a run of the row alone."""
        leave_R, slack_R, state_RS = _ask(answers_RC, state_RS, depth, route)
        if len(rows) == 1:
            return leave_R, answers_RC, state_RS
        scale_R = answers_RC.abs().amax(-1).clamp(min=1).double()
        doubtful = slack_R < scale_R * MARGIN.get(self.model.dtype, 0.1)
        for place in torch.nonzero(doubtful).flatten().tolist():
            alone, answer_1C, own_state = self._alone(rows[int(names_R[place])], depth, route)
            leave_R[place] = alone
            answers_RC[place] = answer_1C
            if state_RS is not None and own_state is not None:
                state_RS[place] = own_state
        return leave_R, answers_RC, state_RS

    def _alone(self, row: Encoded, depth: int, route: Route) -> tuple[bool, Tensor, Tensor | None]:
        """The answer at `depth` of a row that shares its batch with none."""
        inputs = Inputs.from_rows([row.ids], [row.types], [0], self.model.device)
        flow = self._task.stack.start(inputs)
        state = None if route.criterion is None else route.criterion.start(1)
        done = 0
        for asked in (*route.depths, route.last):
            flow, read = self._advance(flow, done, asked)
            answer_1C = self._answer(read, asked)
            leave_1, _, state = _ask(answer_1C, state, asked, route)
            done = asked
            if asked == depth:
                break
        return bool(leave_1), answer_1C[0], None if state is None else state[0]

    def _check_depth(self, depth: int | None) -> int:
        n_layers = self._task.stack.n_layers
        if depth is None or depth == n_layers:
            return n_layers
        depths = exits_of(self.model).depths
        if depth not in depths:
            raise ConfigError(
                f"depth must be a layer with an exit ({', '.join(map(str, depths))}) or the "
                f"last, {n_layers}; got {depth}."
            )
        return depth


def _ask(
    answers_RC: Tensor, state_RS: Tensor | None, depth: int, route: Route
) -> tuple[Tensor, Tensor, Tensor | None]:
    """leave_R, slack_R and the next state; slack also counts the lead of the best class."""
    if depth == route.last or route.criterion is None or state_RS is None:
        leave_R = torch.ones(len(answers_RC), dtype=torch.bool)
        return leave_R, _lead(answers_RC), state_RS
    leave_R, slack_R, state_RS = route.criterion.update(state_RS, depth, answers_RC)
    # A row that leaves takes its label along, which must not hang on the last digits either.
    slack_R = torch.where(leave_R, slack_R.minimum(_lead(answers_RC)), slack_R)
    return leave_R, slack_R, state_RS


def _lead(logits_RC: Tensor) -> Tensor:
    """How far the best class lies before the second, [R]."""
    if logits_RC.shape[-1] == 1:
        return torch.full((len(logits_RC),), torch.inf, dtype=torch.float64)
    best_R2 = logits_RC.double().topk(2, dim=-1).values
    return (best_R2[:, 0] - best_R2[:, 1]) / 2  # either may move


def _regroup(flows: Sequence[Flow], stay_R: Tensor, tokens: int) -> list[Flow]:
    """The rows that stay, in full microbatches again; their order, that of length, is kept."""
    kept, start = [], 0
    for flow in flows:
        rows = torch.nonzero(stay_R[start : start + len(flow.row_ids_R)]).flatten()
        start += len(flow.row_ids_R)
        if len(rows):
            kept.append(flow.take(rows))
    survivors = join(kept)
    return [survivors.take(rows) for rows in microbatches(cast(Packed, survivors.layout), tokens)]
