"""One batch through the layers, each row until its exit lets it go: what the research models do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from offramp.exits.criteria import Answer, Criterion, ask_rows
from offramp.models.flow import Flow, Inputs, LayerStack
from offramp.nn.attention import Probe


class Asks(Protocol):
    """A ramp: what it reads of a finished flow, and what it makes of it."""

    def pool(self, flow: Flow) -> Tensor:
        """What it reads of each row, [R, D]."""

    def answer(self, pooled: Tensor) -> Tensor:
        """The logits [R, C] of what it read."""


class Asked(NamedTuple):
    """What the exit after `depth` layers said: logits [B, C], and what it read, [B, D].

    Rows that had left before are NaN.
    """

    depth: int
    logits_BC: Tensor
    read_BD: Tensor


@dataclass(frozen=True)
class Departures:
    """A batch whose rows have left: their logits [B, C] and layers [B], from 1, on the host.

    `asked` are the exits in their order, up to the last that had a row to ask. `flow` are the rows
    that passed all layers, finished; None if there are none. `trace` are hidden states [B, L, D]
    after the embedding and each layer, zeros for rows that had left, where they were asked for.
    """

    logits_BC: Tensor
    layers_B: Tensor
    asked: tuple[Asked, ...]
    flow: Flow | None
    trace: tuple[Tensor, ...] | None
    probe: Probe | None


def ask_along(
    stack: LayerStack,
    inputs: Inputs,
    ramps: Mapping[int, Asks],
    criterion: Criterion,
    last: Callable[[Flow], Tensor],
    *,
    probe: Probe | None = None,
    shape: tuple[int, int] | None = None,
    frozen: bool = False,
) -> Departures:
    """Pass rows through the layers and ask each of `ramps` {depth: ramp} after its layer.

    Rows that leave are not computed further, unless a `probe` looks at the whole batch. Those that
    stay to the end get the logits of `last`. With `shape` (B, L) hidden states are kept. A `frozen`
    body has no dropout and gets no gradient.
    """
    with _frozen(stack, frozen):
        flow = replace(stack.start(inputs), probe=probe)
    n_rows = len(flow.row_ids_R)
    layers_B = torch.full((n_rows,), stack.n_layers)
    gone_B, lost_B = torch.zeros(n_rows, dtype=torch.bool), torch.zeros(n_rows, dtype=torch.bool)
    state_BS = answers_BC = None
    asked: list[Asked] = []
    trace = [] if shape is None else [flow.to_padded(flow.bare().hidden, *shape)]
    for depth in range(1, stack.n_layers + 1):
        with _frozen(stack, frozen):
            flow = stack.step(flow, depth - 1)
        if shape is not None:
            trace.append(flow.to_padded(flow.bare().hidden, *shape))
        if depth not in ramps:
            continue
        names_R = flow.row_ids_R
        read_RD = ramps[depth].pool(stack.finish(flow))
        logits_RC = ramps[depth].answer(read_RD)
        if state_BS is None or answers_BC is None:
            state_BS = criterion.start(n_rows, logits_RC.shape[1])
            answers_BC = logits_RC.new_zeros(n_rows, logits_RC.shape[1])
        asked.append(Asked(depth, *(_placed(x, flow, gone_B) for x in (logits_RC, read_RD))))
        answer = Answer(logits_RC.detach().cpu())
        said, lost_B[names_R] = ask_rows(
            criterion, state_BS[names_R], depth, answer, lost_B[names_R]
        )
        state_BS[names_R] = said.state_RS
        leave_R = said.leave_R & ~gone_B[names_R]
        left_R = names_R[leave_R]
        if not len(left_R):
            continue
        answers_BC[left_R.to(answers_BC.device)] = logits_RC[leave_R.to(logits_RC.device)]
        layers_B[left_R], gone_B[left_R] = depth, True
        if bool(gone_B.all()):
            return Departures(answers_BC, layers_B, tuple(asked), None, tuple(trace) or None, probe)
        if probe is None:
            flow = flow.take(torch.nonzero(~leave_R).flatten())
    flow = stack.finish(flow)
    stay_R = ~gone_B[flow.row_ids_R]
    logits_RC = last(flow)
    if answers_BC is None:
        answers_BC = logits_RC.new_zeros(n_rows, logits_RC.shape[1])
    here = answers_BC.device
    answers_BC[flow.row_ids_R[stay_R].to(here)] = logits_RC[stay_R.to(here)]
    return Departures(answers_BC, layers_B, tuple(asked), flow, tuple(trace) or None, probe)


def _placed(values: Tensor, flow: Flow, gone_B: Tensor) -> Tensor:
    """A flow's values [R, ..] as [B, ..] in the batch's order, NaN for rows that have left."""
    placed = values.new_full((len(gone_B), *values.shape[1:]), torch.nan)
    stay_R = ~gone_B[flow.row_ids_R]
    placed[flow.row_ids_R[stay_R].to(values.device)] = values[stay_R.to(values.device)]
    return placed


@contextmanager
def _frozen(stack: LayerStack, frozen: bool) -> Iterator[None]:
    """Without dropout and gradients meanwhile, if so."""
    if not frozen:
        yield
        return
    modules = list(cast(nn.Module, stack).modules())
    trained = [module for module in modules if module.training]
    for module in trained:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in trained:
            module.training = True
