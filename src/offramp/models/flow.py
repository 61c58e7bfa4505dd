"""The LayerStack contract: a model as a start, N steps and a finish, over a `Flow` of rows.

An ordinary forward is start, N steps, finish. Early exit is the same steps with rows taken out
in between; none of it is in a family's file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from offramp.models.inputs import Inputs
from offramp.models.outputs import ModelOutput
from offramp.nn.attention import Probe
from offramp.nn.blocks import KeysValues
from offramp.nn.layout import (
    Index,
    Layout,
    Packed,
    Padded,
    fill,
    round_size,
    rows_of_tokens,
)

Output = TypeVar("Output", bound=ModelOutput)


@dataclass(frozen=True, slots=True)
class Flow:
    """Rows between two layers.

    `hidden` is [B, L, D] or [T, D] as `layout` says; `row_ids_R` (host) are the rows' names;
    `positions` a token's place in its own row. `trace`, where asked for, collects the hidden states
    after the embedding and after each layer, and `probe` what attention did. `bias_HLL`, of a body
    with relative positions, is what attention adds to its scores in every row.

    A packed flow that is `filled` may have some tokens of no row behind the others in `hidden`, so
    that the number of them is round: kernels are made for each number of tokens that comes.
    """

    hidden: Tensor
    layout: Layout
    row_ids_R: Tensor
    positions: Tensor
    trace: tuple[Tensor, ...] | None = field(default=None)
    probe: Probe | None = field(default=None)
    bias_HLL: Tensor | None = field(default=None)
    filled: bool = field(default=False)

    def fill(self) -> Flow:
        """This packed flow, filled. Untraced."""
        return replace(self, hidden=fill([self.hidden]), trace=None, filled=True)

    def bare(self) -> Flow:
        """This flow without tokens that are of no row."""
        if not self.filled:
            return self
        n_tokens = cast(Packed, self.layout).n_tokens
        return replace(self, hidden=self.hidden[:n_tokens], filled=False)

    def advanced(self, hidden: Tensor) -> Flow:
        """The same rows with the hidden states of the next layer."""
        trace = None if self.trace is None else (*self.trace, hidden)
        return replace(self, hidden=hidden, trace=trace)

    def narrowed(self, hidden: Tensor, tokens: Tensor) -> Flow:
        """The same rows with the next layer's hidden states of one token each, [R, D]. Untraced."""
        return Flow(
            hidden=hidden,
            layout=Packed.of(torch.ones(len(self.row_ids_R), dtype=torch.int64)),
            row_ids_R=self.row_ids_R,
            positions=self.positions[tokens],
            bias_HLL=self.bias_HLL,
            filled=len(hidden) > len(tokens),
        )

    def take(self, rows: Index) -> Flow:
        """These rows only, in this order: a host index tensor [R], or a slice (a view).

        What a probe saw is of the whole batch, and stays behind.
        """
        layout, tokens = self.layout.take(rows)

        def pick(x: Tensor) -> Tensor:
            return (
                x[tokens]
                if isinstance(tokens, slice)
                else x[tokens.to(x.device, non_blocking=True)]
            )

        if self.filled and not isinstance(tokens, slice):
            rest = tokens.new_zeros(round_size(len(tokens)) - len(tokens))  # some token, of no use
            hidden, filled = self.hidden[torch.cat([tokens, rest])], True
        else:
            hidden, filled = pick(self.hidden), False
        return Flow(
            hidden=hidden,
            layout=layout,
            row_ids_R=self.row_ids_R[rows],
            positions=pick(self.positions),
            trace=None if self.trace is None else tuple(map(pick, self.trace)),
            bias_HLL=self.bias_HLL,
            filled=filled,
        )

    def in_input_order(self, values_R: Tensor) -> Tensor:
        """Row-indexed values put back in the order of the rows' names (names 0 to R-1)."""
        return values_R[torch.argsort(self.row_ids_R).to(values_R.device)]

    def to_padded(self, hidden: Tensor, n_rows: int, length: int) -> Tensor:
        """Token-indexed [.., D] values as [B, L, D] in input order, zeros at masked positions."""
        if isinstance(self.layout, Padded):
            keys = self.layout.keys
            if keys is None or keys.dim() == 3:
                return hidden
            return hidden * keys[..., None]
        row_T = self.row_ids_R[rows_of_tokens(self.layout)].to(hidden.device)
        flat = hidden.new_zeros(n_rows * length, hidden.shape[-1])
        flat = flat.index_copy(0, row_T * length + self.positions, hidden)
        return flat.view(n_rows, length, -1)


def join(flows: Sequence[Flow]) -> Flow:
    """Packed flows one after the other as one flow, filled if one of them is. Untraced."""
    if len(flows) == 1:
        return flows[0]
    hidden, filled = [flow.bare().hidden for flow in flows], any(flow.filled for flow in flows)
    lengths_R = torch.cat([flow.layout.lengths_R for flow in flows])  # type: ignore[union-attr]
    biases = [flow.bias_HLL for flow in flows if flow.bias_HLL is not None]
    return Flow(
        hidden=fill(hidden) if filled else torch.cat(hidden),
        layout=Packed.of(lengths_R, flows[0].layout.causal),
        row_ids_R=torch.cat([flow.row_ids_R for flow in flows]),
        positions=torch.cat([flow.positions for flow in flows]),
        bias_HLL=max(biases, key=lambda bias_HLL: bias_HLL.shape[1], default=None),
        filled=filled,
    )


class LayerStack(Protocol):
    """What a family's body offers; meeting it gives the family exits and the runner.

    A class whose `pool` reads nothing but the first token of a row may say so with
    `pools_first = True` beside that method: the last layer is then run for those tokens alone. One
    whose positions are numbered as RoBERTa's says with `padding_id` which token is not counted; one
    of relative positions says `packs_holes = False`, and rows with holes in their mask stay padded.
    One whose `forward` takes words for token types, as GPT-2's does, says `types_are_words = True`.
    """

    config: Any
    """The model's configuration; a head mask is held against its number of heads."""

    @property
    def n_layers(self) -> int:
        """N, the number of steps."""

    def start(self, inputs: Inputs) -> Flow:
        """Embed the inputs."""

    def step(self, flow: Flow, i: int, queries: Tensor | None = None) -> Flow:
        """Pass layer i, from 0; with `queries`, one packed token a row [R], for those alone."""

    def finish(self, flow: Flow) -> Flow:
        """What comes after the last layer, and before a pooler or an exit reads (a final norm)."""

    def pool(self, flow: Flow) -> Tensor:
        """One vector a row of a finished flow, [R, D]."""


@runtime_checkable
class PeekableStack(LayerStack, Protocol):
    """A stack whose layers may be asked for some tokens first, and for the rest afterwards."""

    def keys_values(self, flow: Flow, i: int) -> KeysValues:
        """What layer i, from 0, attends to; it may be given to `step`."""

    def step(
        self, flow: Flow, i: int, queries: Tensor | None = None, known: KeysValues | None = None
    ) -> Flow:
        """Pass layer i, from 0, with this flow's `keys_values` where they were made before."""


class ExitableModel(Protocol):
    """A task model on a LayerStack: rows of a finished flow to logits.

    A class whose `logits` read nothing but the first token of a row, or `pool` of its body, may say
    so with `reads_first = True` beside that method. One whose `logits` are of each token, [T, C],
    says so with `answers_tokens = True`.
    """

    @property
    def stack(self) -> LayerStack:
        """The body."""

    def logits(self, flow: Flow) -> Tensor:
        """The model's own answer for a flow that passed all layers and was finished, [R, C]."""


def reads_first(model: ExitableModel, method: str = "logits") -> bool:
    """Whether the last layer is needed for the first token of each row alone.

    So it is if the model says `reads_first` of its `logits`, and its body `pools_first` of its
    `pool`.
    """
    return _says(model, "reads_first", method) and _says(model.stack, "pools_first", "pool")


def _says(owner: object, claim: str, method: str) -> bool:
    """Whether the class that has `method` makes the claim: a subclass may have another method."""
    kinds = type(owner).__mro__
    meant = next((kind for kind in kinds if method in vars(kind)), object)
    said = next((kind for kind in kinds if claim in vars(kind)), None)
    return said is meant and bool(vars(meant)[claim])


def run_layers(
    stack: LayerStack,
    inputs: Inputs,
    *,
    trace: bool = False,
    probe: Probe | None = None,
    first_alone: bool = False,
) -> Flow:
    """start, N steps, finish; with `first_alone` the last step is for packed rows' first tokens."""
    flow = replace(stack.start(inputs), probe=probe)
    if trace:
        flow = flow.bare()
        flow = replace(flow, trace=(flow.hidden,))
    alone = first_alone and not trace and isinstance(flow.layout, Packed) and stack.n_layers > 0
    for i in range(stack.n_layers - alone):
        flow = stack.step(flow, i)
    if alone:
        starts_R = cast(Packed, flow.layout).starts_R.to(flow.hidden.device)
        flow = stack.step(flow, stack.n_layers - 1, queries=starts_R)
    return stack.finish(flow)
