"""One batch through the layers, each row until its exit lets it go: what the research models do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from offramp.errors import ConfigError, InputError
from offramp.exits.criteria import Answer, Criterion, Task
from offramp.exits.decisions import MARGIN, Memory, NaNRows, Units, decide, in_doubt
from offramp.models.checks import check_tensor
from offramp.models.flow import Flow, LayerStack
from offramp.models.passing import Options, read_batch
from offramp.nn.attention import Probe


class Asks(Protocol):
    """A ramp: what it reads of a finished flow, and what it makes of it."""

    def pool(self, flow: Flow) -> Tensor:
        """What it reads of each row, [R, D]."""

    def answer(self, pooled: Tensor) -> Tensor:
        """The logits [R, C] of what it read."""


@dataclass(frozen=True)
class Batch:
    """A padded batch, as `forward` takes it."""

    input_ids: Tensor | None
    attention_mask: Tensor | None
    token_type_ids: Tensor | None
    position_ids: Tensor | None
    inputs_embeds: Tensor | None
    head_mask: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """(B, L)."""
        given = self.inputs_embeds if self.input_ids is None else self.input_ids
        n_rows, length = cast(Tensor, given).shape[:2]
        return n_rows, length

    def row(self, number: int) -> Batch:
        """A row as a batch of its own, without the padding behind it."""
        mask, end = self.attention_mask, self.shape[1]
        if mask is not None and mask.dim() == 2 and bool(mask[number].any()):
            end = int(torch.nonzero(mask[number])[-1]) + 1

        def of_row(x: Tensor | None) -> Tensor | None:
            if x is None:
                return None
            own = x if len(x) == 1 else x[number : number + 1]
            return own[:, :end]

        return Batch(
            of_row(self.input_ids),
            of_row(mask),
            of_row(self.token_type_ids),
            of_row(self.position_ids),
            of_row(self.inputs_embeds),
            self.head_mask,
        )

    def check_labels(self, labels: Tensor) -> None:
        """InputError unless there is a label a row, or several."""
        check_tensor("labels", labels)
        n_rows, _ = self.shape
        if labels.dim() == 0 or len(labels) != n_rows:
            raise InputError(
                f"labels are [{n_rows}], one a row, or [{n_rows}, C]; got {list(labels.shape)}."
            )


class Asked(NamedTuple):
    """What the exit after `depth` layers said: logits [B, C], and what it read, [B, D].

    `asked_B` are the rows that it was asked about; the others had left before, and are NaN.
    """

    depth: int
    logits_BC: Tensor
    read_BD: Tensor
    asked_B: Tensor


@dataclass(frozen=True)
class Departures:
    """A batch whose rows have left: their logits [B, C] and layers [B], from 1, on the host.

    `asked` are the exits in their order, up to the last that had a row to ask. `flow` are the rows
    that passed all layers, finished; None if there are none. `trace` are hidden states [B, L, D]
    after the embedding and each layer, zeros for rows that had left, where they were asked for; as
    in the research code the last layer's are not among them where the whole batch left early.
    `lost_B` are the rows of which an exit said NaN.
    """

    logits_BC: Tensor
    layers_B: Tensor
    asked: tuple[Asked, ...]
    flow: Flow | None
    trace: tuple[Tensor, ...] | None
    probe: Probe | None
    lost_B: Tensor | None


@dataclass(frozen=True)
class Asking:
    """Who is asked on the way: `ramps` {depth: ramp}, and `last` after all layers.

    By `rule` (a criterion `for_task`) rows leave; without one no row does. A `frozen` body has no
    dropout and gets no gradient.
    """

    ramps: Mapping[int, Asks]
    last: Callable[[Flow], Tensor]
    task: Task
    rule: Criterion | None
    frozen: bool = False


def ask_along(stack: LayerStack, batch: Batch, asking: Asking) -> Departures:
    """Pass a batch through the layers and ask each ramp after its layer.

    Rows that leave are not computed further, unless a probe looks at the whole batch. Those that
    stay to the end get the logits of `last`. A row whose answer hangs on the last digits, which
    depend on the batch, is decided by a run of its own, as the runner does. Warns of rows of which
    an exit said NaN: they go on to the end.
    """
    left = _passed(stack, batch, asking)
    if left.lost_B is not None:
        NaNRows().add(int(left.lost_B.sum()), len(left.lost_B))
    return left


def _passed(stack: LayerStack, batch: Batch, asking: Asking) -> Departures:
    options = Options.asked(stack.config, None, None, batch.head_mask, None)
    inputs, probe = read_batch(
        stack,
        batch.input_ids,
        batch.attention_mask,
        batch.token_type_ids,
        batch.position_ids,
        batch.inputs_embeds,
        options,
    )
    body = _Frozen(stack) if asking.frozen else nullcontext()
    with body:
        flow = replace(stack.start(inputs), probe=probe)
    n_rows, length = batch.shape
    leaving = _Leaving(stack, batch, asking)
    trace: list[Tensor] = []

    def keep(flow: Flow) -> None:
        if options.output_hidden_states:
            trace.append(flow.to_padded(flow.bare().hidden, n_rows, length))

    def departures(flow: Flow | None) -> Departures:
        return Departures(
            cast(Tensor, leaving.answers_BC),
            leaving.layers_B,
            tuple(leaving.asked),
            flow,
            tuple(trace) if options.output_hidden_states else None,
            probe,
            None if leaving.memory is None else leaving.memory.lost_R,
        )

    keep(flow)
    for depth in range(1, stack.n_layers + 1):
        with body:
            flow = stack.step(flow, depth - 1)
        if depth in asking.ramps:
            leaving.ask(depth, stack.finish(flow))
            if n_rows and bool(leaving.gone_B.all()):
                return departures(None)
        keep(flow)
        stay_R = ~leaving.gone_B[flow.row_ids_R]
        if probe is None and not bool(stay_R.all()):
            flow = flow.take(torch.nonzero(stay_R).flatten())
    flow = stack.finish(flow)
    leaving.end(flow)
    return departures(flow)


class _Leaving:
    """A batch's rows: who has left, after which layer, and with which answer."""

    def __init__(self, stack: LayerStack, batch: Batch, asking: Asking) -> None:
        n_rows, _ = batch.shape
        self._stack, self._batch, self._asking = stack, batch, asking
        self._units = Units(n_rows)
        self._alone: dict[int, Departures] = {}  # those in doubt, each in a batch of its own
        self.answers_BC: Tensor | None = None
        self.layers_B = torch.full((n_rows,), stack.n_layers)
        self.gone_B = torch.zeros(n_rows, dtype=torch.bool)
        self.asked: list[Asked] = []
        self.memory: Memory | None = None

    def ask(self, depth: int, flow: Flow) -> None:
        """Ask the ramp after `depth` layers about the rows of a finished flow that are here."""
        places, rows = self._here(flow)
        ramp = self._asking.ramps[depth]
        read = ramp.pool(flow)
        logits, read = (x[places.to(x.device)] for x in (ramp.answer(read), read))
        leave = torch.zeros(len(rows), dtype=torch.bool)
        if self._asking.rule is not None:
            leave = self._decide(self._asking.rule, depth, rows, logits)
            for place, row in enumerate(rows.tolist()):
                if (own := self._alone.get(row)) is None:
                    continue
                leave[place] = own.flow is None and int(own.layers_B) <= depth
                if said := next((one for one in own.asked if one.depth == depth), None):
                    logits = _with_row(logits, place, said.logits_BC[0])
                    read = _with_row(read, place, said.read_BD[0])
        asked_B = torch.zeros_like(self.gone_B)
        asked_B[rows] = True
        self.asked.append(
            Asked(depth, self._placed(logits, rows), self._placed(read, rows), asked_B)
        )
        if bool(leave.any()):
            self._answer(rows[leave], logits[leave.to(logits.device)])
            self.layers_B[rows[leave]], self.gone_B[rows[leave]] = depth, True

    def end(self, flow: Flow) -> None:
        """The rows of a finished flow that passed all layers get the last answer."""
        places, rows = self._here(flow)
        logits = self._asking.last(flow)
        logits = logits[places.to(logits.device)]
        for place, row in enumerate(rows.tolist()):
            if row in self._alone:
                logits = _with_row(logits, place, self._alone[row].logits_BC[0])
        self._answer(rows, logits)

    def _decide(self, rule: Criterion, depth: int, rows: Tensor, logits: Tensor) -> Tensor:
        """Who leaves; rows in doubt are run alone."""
        if self.memory is None:
            self.memory = Memory.blank(rule, self._units, logits.shape[1])
        memory, task = cast(Memory, self.memory), self._asking.task
        answer = Answer(logits.detach().cpu())
        part = memory.part(self._units, rows)
        decided = decide(rule, answer, self._units.take(rows), part, depth)
        memory.put(self._units, rows, cast(Memory, decided.memory))
        if self._units.n_rows > 1:
            doubt = in_doubt(task, answer, decided, MARGIN.get(logits.dtype, 0.1))
            for row in rows[doubt].tolist():
                if row not in self._alone:
                    self._alone[row] = _passed(self._stack, self._batch.row(row), self._asking)
        return decided.leave_R

    def _here(self, flow: Flow) -> tuple[Tensor, Tensor]:
        """The places in a flow of the rows that have not left, and the rows."""
        places = torch.nonzero(~self.gone_B[flow.row_ids_R]).flatten()
        return places, flow.row_ids_R[places]

    def _answer(self, rows: Tensor, logits: Tensor) -> None:
        if self.answers_BC is None:
            self.answers_BC = logits.new_zeros(len(self.gone_B), logits.shape[1])
        self.answers_BC = self.answers_BC.index_copy(0, rows.to(logits.device), logits)

    def _placed(self, values: Tensor, rows: Tensor) -> Tensor:
        """Some rows' values [.., X] in the batch's order [B, X], NaN for the others."""
        placed = values.new_full((len(self.gone_B), *values.shape[1:]), torch.nan)
        return placed.index_copy(0, rows.to(values.device), values)


def _with_row(values: Tensor, place: int, row: Tensor) -> Tensor:
    """A copy with another row at a place."""
    return values.index_copy(0, torch.tensor([place], device=values.device), row[None])


def kept_settings(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a configuration keeps under a name; ConfigError where that is no object."""
    kept = values.get(name, {})
    if not isinstance(kept, Mapping):
        raise ConfigError(f"{name!r} in config.json must be an object of settings; it is {kept!r}.")
    return kept


def plain_number(x: object) -> Any:
    """A number of Python's, of numpy's or of a tensor [] as Python's; None for what is none."""
    if (isinstance(x, Tensor | np.ndarray) and x.ndim == 0) or isinstance(x, np.generic):
        x = x.item()
    return x if isinstance(x, int | float) and not isinstance(x, bool) else None


class _Frozen:
    """Without dropout and gradients in the block; it may be entered again."""

    def __init__(self, stack: LayerStack) -> None:
        modules = cast(nn.Module, stack).modules()
        self._trained = [module for module in modules if module.training]
        self._no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self._no_grad.__enter__()
        for module in self._trained:
            module.training = False

    def __exit__(self, *error: object) -> None:
        for module in self._trained:
            module.training = True
        self._no_grad.__exit__(*error)
