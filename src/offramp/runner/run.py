"""The breadth-first runner: rows in, answers out, a window of many rows at a time."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Literal, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.errors import ConfigError
from offramp.exits.calibration.drift import ExitWatch
from offramp.exits.container import exits_of, task_of
from offramp.exits.criteria import Criterion, check_criterion
from offramp.exits.decisions import Units
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel
from offramp.runner.peeks import LeaveRates
from offramp.runner.prepare import checked, prepared
from offramp.runner.rows import BLOCK, TOKENS, Row, gather, tokens_at_once
from offramp.runner.window import Leavers, Route, Window


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row's answer: logits [C] on the host, and how many layers it took.

    Of a token classifier the logits are [L, C], of the row's own tokens. They are float64 if the
    model is, and float32 otherwise. `forced` says that the row left because of a deadline or
    `max_depth`, and would have gone on.
    """

    logits_C: Tensor
    exit_layer: int
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Results:
    """Rows' answers in input order: logits [R, C] and layers taken [R], on the host.

    Of a token classifier the logits are [R, L, C], with zeros behind a row's own tokens.
    `forced_R` are the rows that left because of a deadline or `max_depth`, and would have gone on;
    `nan_rows` how many went on to the end since an exit said NaN of them.
    """

    logits_RC: Tensor
    exit_layers_R: Tensor
    forced_R: Tensor
    nan_rows: int = 0

    @property
    def mean_layers(self) -> float:
        """Layers that a row took, on average."""
        return self.exit_layers_R.double().mean().item()


class Runner:
    """Runs encoded rows through a model with exits.

    `criterion` replaces the model's own (its threshold, say). `exits=False` is the plain model.
    `depth` cuts the model off after that many layers, where the ramp trained there, or the
    model's head at full depth, answers for every row. A window holds at most `window_rows` rows
    and about `window_tokens` tokens, which bounds the memory; a microbatch about
    `microbatch_tokens`, by default what suits the machine. A row's label and exit layer do not
    depend on the rows beside it.

    Of a token classifier a row leaves when all of its tokens may. A row that has `counted` beside
    its ids, a bool for each token, is held back by such tokens alone: those whose answers are read.

    On CPUs, and in float32, it is a copy of the model that is run, whose weights are laid out for
    the processor (`offramp.prepare`); `prepare=False` runs the model itself, which takes half the
    memory. `rates` are for runners of one model that follow each other, so that the next one knows
    where rows left before; by default a runner has its own.

    Two limits hold for a call. After `deadline` seconds rows leave with the answer of the exit that
    they passed last; all pass the first. With `max_depth` none passes more layers than that: the
    deepest exit up to there answers. Rows that would have gone on are marked as forced.
    """

    def __init__(
        self,
        model: PretrainedModel,
        *,
        criterion: Criterion | None = None,
        exits: bool = True,
        depth: int | None = None,
        window_rows: int = BLOCK,
        window_tokens: int = TOKENS,
        microbatch_tokens: int | None = None,
        prepare: bool = True,
        rates: LeaveRates | None = None,
        watch: ExitWatch | None = None,
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
            if value is not None and not (_is_number(value, Integral) and value >= 1):
                raise ConfigError(f"{name} must be a whole number of at least 1; got {value!r}.")
        self.model = model
        self._n_layers = cast(ExitableModel, model).stack.n_layers
        self._prepares = prepare
        self._rates = rates or LeaveRates()
        self._watch = watch
        self._criterion = None if criterion is None else check_criterion(criterion)
        self._use_exits = exits and (criterion is not None or hasattr(model, "exits"))
        self._depth = self._check_depth(depth)
        self._window_rows = window_rows
        self._window_tokens = window_tokens
        self._microbatch_tokens = microbatch_tokens

    def run(
        self,
        rows: Sequence[Row],
        *,
        deadline: float | None = None,
        max_depth: int | None = None,
    ) -> Results:
        """All rows' answers, stacked."""
        windows = list(self.windows(rows, deadline=deadline, max_depth=max_depth))
        if not windows:
            windows = [self._blank([])]
        return Results(
            _joined([w.logits_RC for w in windows]),
            torch.cat([w.exit_layers_R for w in windows]),
            torch.cat([w.forced_R for w in windows]),
            sum(w.nan_rows for w in windows),
        )

    @overload
    def stream(
        self,
        rows: Iterable[Row],
        *,
        ordered: Literal[True] = ...,
        deadline: float | None = ...,
        max_depth: int | None = ...,
    ) -> Iterator[RowResult]: ...

    @overload
    def stream(
        self,
        rows: Iterable[Row],
        *,
        ordered: Literal[False],
        deadline: float | None = ...,
        max_depth: int | None = ...,
    ) -> Iterator[tuple[int, RowResult]]: ...

    def stream(
        self,
        rows: Iterable[Row],
        *,
        ordered: bool = True,
        deadline: float | None = None,
        max_depth: int | None = None,
    ) -> Iterator[RowResult] | Iterator[tuple[int, RowResult]]:
        """Each row's answer, in order, as windows complete; `rows` is read a window at a time.

        With `ordered=False` it is (index, answer), as soon as a row leaves: within a window the
        rows that leave early come first. `index` counts the rows from 0.
        """
        route = self.route(deadline, max_depth)
        return self._in_order(rows, route) if ordered else self._as_they_leave(rows, route)

    def _in_order(self, rows: Iterable[Row], route: Route) -> Iterator[RowResult]:
        for window in self.gather(rows):
            yield from self.answer_window(window, route)

    def _as_they_leave(self, rows: Iterable[Row], route: Route) -> Iterator[tuple[int, RowResult]]:
        first = 0
        for window in self.gather(rows):
            for left in self.leavers(window, route):
                for place, result in _row_results(left):
                    yield first + place, result
            first += len(window)

    def windows(
        self,
        rows: Iterable[Row],
        *,
        deadline: float | None = None,
        max_depth: int | None = None,
    ) -> Iterator[Results]:
        """The answers a window at a time; the thresholds are those of the moment of the call."""
        route = self.route(deadline, max_depth)
        return (self.run_window(window, route) for window in self.gather(rows))

    def gather(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """`rows` in windows of bounded size, read as they are asked for."""
        return gather(rows, self._window_rows, self._window_tokens)

    def route(self, deadline: float | None = None, max_depth: int | None = None) -> Route:
        """What holds for a whole run, so that a threshold changed meanwhile waits for the next.

        The time until the `deadline` begins here. Raises InputError for a model in training mode
        and ConfigError for limits that cannot be kept, or a criterion that does not fit the task.
        """
        if deadline is not None and not (
            _is_number(deadline, Real) and deadline > 0 and math.isfinite(deadline)
        ):
            raise ConfigError(f"deadline is a time from now in seconds, above 0; got {deadline!r}.")
        if max_depth is not None and not _is_number(max_depth, Integral):
            raise ConfigError(f"max_depth is a whole number of layers; got {max_depth!r}.")
        until = None if deadline is None else time.monotonic() + deadline
        model = prepared(self.model) if self._prepares else checked(self.model)
        last, criterion, cut = self._depth, None, False
        task, asked = task_of(self.model), tuple[int, ...]()
        exits, after_all = None, None
        if self._use_exits:
            exits = exits_of(model)
            asked = tuple(depth for depth in exits.depths if depth < last)
            after_all = exits.after_all if last == self._n_layers else None
        depths = asked
        if max_depth is not None and max_depth < last:
            asked = tuple(depth for depth in asked if depth <= max_depth)
            if not asked:
                where = f"the first is after layer {depths[0]}" if depths else "this run has none"
                raise ConfigError(
                    f"max_depth={max_depth}: a row leaves at an exit, and {where}. Take a greater "
                    "max_depth."
                )
            depths, last, cut, after_all = asked[:-1], asked[-1], True, None
        if self._use_exits:
            criterion = self._criterion or exits_of(self.model).criterion
            deepest = () if after_all is None else (last,)
            criterion = criterion.for_task(replace(task, depths=(*asked, *deepest)))
        return Route(model, task, depths, last, criterion, cut, until, exits, after_all)

    def run_window(self, rows: Sequence[Row], route: Route) -> Results:
        """The answers of one window's rows, in their order."""
        results, before = self._blank(rows), route.nan_rows.count
        for left in self.leavers(rows, route):
            if left.lengths_R is None:
                results.logits_RC[left.places_R] = left.logits_RC
            else:
                units = Units(len(left.lengths_R), left.lengths_R)
                at = left.places_R[units.row_of_each()], units.place_of_each()
                results.logits_RC[at] = left.logits_RC
            results.exit_layers_R[left.places_R] = left.depth
            results.forced_R[left.places_R] = left.forced_R
        return replace(results, nan_rows=route.nan_rows.count - before)

    def answer_window(self, rows: Sequence[Row], route: Route) -> list[RowResult]:
        """Each answer to one window's rows, in their order."""
        found = dict(pair for left in self.leavers(rows, route) for pair in _row_results(left))
        return [found[place] for place in range(len(rows))]

    def leavers(self, rows: Sequence[Row], route: Route) -> Iterator[Leavers]:
        """One window's rows as they leave."""
        # Now and not before: the machine's part that a call may use is set around it.
        microbatch = self._microbatch_tokens or tokens_at_once(self.model.device)
        leavers = Window(rows, route, microbatch, self._rates).leavers()
        limited = route.cut or route.deadline is not None  # rows leave where they must
        watch = None if limited else self._watch
        yield from leavers if watch is None else _watched(leavers, watch)

    def _blank(self, rows: Sequence[Row]) -> Results:
        wide = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        n_labels, n_rows = self.model.config.num_labels, len(rows)
        longest = max((len(row.ids) for row in rows), default=0)
        shape = (longest, n_labels) if task_of(self.model).tokens else (n_labels,)
        return Results(
            torch.zeros(n_rows, *shape, dtype=wide),
            torch.zeros(n_rows, dtype=torch.int64),
            torch.zeros(n_rows, dtype=torch.bool),
        )

    def _check_depth(self, depth: int | None) -> int:
        n_layers = self._n_layers
        if depth is None or depth == n_layers:
            return n_layers
        depths = exits_of(self.model).depths
        if depth not in depths:
            raise ConfigError(
                f"depth must be a layer with an exit ({', '.join(map(str, depths))}) or the "
                f"last, {n_layers}; got {depth}."
            )
        return depth


def _watched(leavers: Iterator[Leavers], watch: ExitWatch) -> Iterator[Leavers]:
    """The same; a window's rows are counted when all have left."""
    seen: Counter[int] = Counter()
    for left in leavers:
        seen[left.depth] += len(left.places_R)
        yield left
    watch.add(seen)


def _joined(logits: Sequence[Tensor]) -> Tensor:
    """[R, C], or [R, L, C] with the largest L, of several windows."""
    longest = max(part.shape[1] for part in logits)
    parts = [F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in logits if part.dim() == 3]
    return torch.cat(parts or [*logits])


def _row_results(left: Leavers) -> Iterator[tuple[int, RowResult]]:
    """Rows that left: the place of each, and its answer in memory of its own."""
    places, forced = left.places_R.tolist(), left.forced_R.tolist()
    own = replace(left, logits_RC=left.logits_RC.clone()).each()
    for place, logits, by_force in zip(places, own, forced, strict=True):
        yield place, RowResult(logits, left.depth, by_force)


def _is_number(value: object, kind: type) -> bool:
    """Whether it is a number of that kind, whatever its type says."""
    return isinstance(value, kind)
