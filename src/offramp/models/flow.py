"""The LayerStack contract: a model as a start, N steps and a finish, over a `Flow` of rows.

An ordinary forward is start, N steps, finish. Early exit is the same steps with rows taken out
in between; none of it is in a family's file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offramp.errors import InputError
from offramp.models.checks import check_tensor
from offramp.models.outputs import ModelOutput
from offramp.nn.attention import Probe
from offramp.nn.blocks import KeysValues
from offramp.nn.layout import (
    Index,
    Layout,
    Packed,
    Padded,
    fill,
    ordinals,
    round_size,
    rows_of_tokens,
)

Output = TypeVar("Output", bound=ModelOutput)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Rows before the first layer. Token-indexed fields are [T] or [B, L] as `layout` says.

    `positions` is a token's place in its own row, padding and holes of the mask counted.
    `position_ids` replaces it in the position embedding where the caller gave one; `embeds`
    ([.., D]) replaces the word embedding of `ids`. `ordinals` are those of `nn.layout.ordinals`,
    where tokens of the batch were left out that a body with a `padding_id` counts. `task_types` are
    ERNIE's.
    """

    layout: Layout
    row_ids_R: Tensor
    positions: Tensor
    ids: Tensor | None = None
    token_types: Tensor | None = None
    position_ids: Tensor | None = None
    embeds: Tensor | None = None
    ordinals: Tensor | None = None
    task_types: Tensor | None = None

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[npt.ArrayLike],
        token_types: Sequence[npt.ArrayLike],
        row_ids: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> Inputs:
        """Packed rows of token ids, in the order given (order of length is fastest).

        `row_ids` are what the rows are called from here on; 0, 1, 2, ... by default.
        """
        arrays, types = ([np.asarray(row) for row in side] for side in (rows, token_types))
        if len(arrays) == 0 or any(array.size == 0 for array in arrays):
            raise InputError("Packed rows have at least one token each, and there is at least one.")
        if [array.shape for array in arrays] != [array.shape for array in types]:
            raise InputError("Each row has one token type a token; got other lengths.")
        if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in (*arrays, *types)):
            raise InputError("Rows and their token types are lists of whole numbers.")
        lengths_R = torch.tensor([len(array) for array in arrays], dtype=torch.int64)
        layout = Packed.of(lengths_R)
        positions_T = torch.arange(layout.n_tokens) - layout.starts_R.repeat_interleave(lengths_R)
        return cls(
            layout=layout,
            row_ids_R=torch.tensor(range(len(arrays)) if row_ids is None else row_ids),
            positions=positions_T.to(device, non_blocking=True),
            ids=torch.from_numpy(np.concatenate(arrays).astype(np.int64)).to(
                device, non_blocking=True
            ),
            token_types=torch.from_numpy(np.concatenate(types).astype(np.int64)).to(
                device, non_blocking=True
            ),
        )

    @classmethod
    def from_padded(
        cls,
        ids: Tensor | None,
        mask: Tensor | None,
        token_types: Tensor | None = None,
        position_ids: Tensor | None = None,
        embeds: Tensor | None = None,
        task_types: Tensor | None = None,
        *,
        padding_id: int | None = None,
        packs_holes: bool = True,
        pack: bool = True,
    ) -> Inputs:
        """A padded batch: `ids` [B, L] or `embeds` [B, L, D]; `mask` None, [B, L] or [B, L, L].

        A 2-D mask is packed: each row's real tokens, holes closed, rows in order of length. A row
        whose first position is masked keeps the batch padded, because poolers that read the first
        position read it all the same; so do `pack=False`, and a hole without `packs_holes`.
        `padding_id` is the body's.
        """
        _check_batch(ids, mask, token_types, position_ids, embeds, task_types)
        given = cast(Tensor, embeds if ids is None else ids)
        n_rows, length = given.shape[:2]
        layout = Padded(n_rows, length, None if mask is None else mask.to(given.device) != 0)

        def whole(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.expand(n_rows, length)

        counted = ids is not None and padding_id is not None
        padded = cls(
            layout=layout,
            row_ids_R=torch.arange(n_rows),
            positions=torch.arange(length, device=given.device).expand(n_rows, length),
            ids=ids,
            token_types=whole(token_types),
            position_ids=whole(position_ids),
            embeds=embeds,
            ordinals=ordinals(given, layout, cast(int, padding_id)) if counted else None,
            task_types=whole(task_types),
        )
        return padded._packed(packs_holes) if pack else padded

    def take(self, rows: slice) -> Inputs:
        """These successive rows only (views)."""
        layout, tokens = self.layout.take(rows)

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[tokens]

        return Inputs(
            layout=layout,
            row_ids_R=self.row_ids_R[rows],
            positions=self.positions[tokens],
            ids=pick(self.ids),
            token_types=pick(self.token_types),
            position_ids=pick(self.position_ids),
            embeds=pick(self.embeds),
            ordinals=pick(self.ordinals),
            task_types=pick(self.task_types),
        )

    @staticmethod
    def check_range(name: str, ids: Tensor | None, size: int) -> None:
        """Raise InputError if an id has no row in a table of `size`.

        On a GPU the check would wait for the device, and the device's own assertion stays. A
        traced program is without it.
        """
        if ids is None or ids.device.type != "cpu" or ids.numel() == 0 or is_traced():
            return
        low, high = (int(x) for x in ids.aminmax())
        if low < 0 or high >= size:
            raise InputError(
                f"{name} holds {low if low < 0 else high}; this model takes 0 to {size - 1}."
            )

    def _packed(self, packs_holes: bool) -> Inputs:
        """A padded batch packed, if it can be."""
        keys = cast(Padded, self.layout).keys
        n_rows, length = self.positions.shape
        if n_rows == 0 or length == 0 or (keys is not None and keys.dim() == 3):
            return self
        keys = None if keys is None else keys.cpu()
        if keys is None or bool(keys.all()):
            layout = Packed.of(torch.full((n_rows,), length, dtype=torch.int64))
            return self._gathered(layout, self.row_ids_R, None)
        if not bool(keys[:, 0].all()):
            return self
        if not packs_holes and bool((keys[:, 1:] > keys[:, :-1]).any()):
            return self
        lengths_R = keys.sum(1)
        order_R = torch.argsort(lengths_R, stable=True)
        tokens_T = (order_R[:, None] * length + torch.arange(length))[keys[order_R]]
        return self._gathered(Packed.of(lengths_R[order_R]), order_R, tokens_T)

    def _gathered(self, layout: Packed, row_ids_R: Tensor, tokens_T: Tensor | None) -> Inputs:
        """These tokens as packed rows; all of them, in their order, with None."""
        index = None if tokens_T is None else tokens_T.to(self.positions.device, non_blocking=True)

        def gather(x: Tensor | None) -> Tensor | None:
            if x is None or index is None:
                return None if x is None else x.flatten(0, 1)
            return x.flatten(0, 1).index_select(0, index)

        return Inputs(
            layout=layout,
            row_ids_R=row_ids_R,
            positions=cast(Tensor, gather(self.positions)),
            ids=gather(self.ids),
            token_types=gather(self.token_types),
            position_ids=gather(self.position_ids),
            embeds=gather(self.embeds),
            ordinals=gather(self.ordinals),
            task_types=gather(self.task_types),
        )


def _check_batch(
    ids: Tensor | None,
    mask: Tensor | None,
    token_types: Tensor | None,
    position_ids: Tensor | None,
    embeds: Tensor | None,
    task_types: Tensor | None,
) -> None:
    """InputError for arguments that are no batch together."""
    named = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": token_types,
        "position_ids": position_ids,
        "inputs_embeds": embeds,
        "task_type_ids": task_types,
    }
    for name, value in named.items():
        check_tensor(name, value)
    if (ids is None) == (embeds is None):
        raise InputError("Pass either input_ids or inputs_embeds, and not both.")
    given = cast(Tensor, embeds if ids is None else ids)
    if given.dim() != (3 if ids is None else 2):
        raise InputError(
            "input_ids must be [batch, length] and inputs_embeds [batch, length, width]; "
            f"got {tuple(given.shape)}."
        )
    n_rows, length = given.shape[:2]
    if n_rows and not length:
        raise InputError(f"{n_rows} rows without a token; a row has one at least.")
    beside = {
        "token_type_ids": token_types,
        "position_ids": position_ids,
        "task_type_ids": task_types,
    }
    for name, value in {"input_ids": ids, **beside}.items():
        if value is not None and value.dtype not in (torch.int64, torch.int32):
            raise InputError(f"{name} must be int64 or int32; got {value.dtype}.")
    if mask is not None and tuple(mask.shape) not in ((n_rows, length), (n_rows, length, length)):
        raise InputError(
            f"attention_mask must be [{n_rows}, {length}] or [{n_rows}, {length}, {length}] "
            f"beside these inputs; got {list(mask.shape)}."
        )
    for name, value in beside.items():
        if value is not None and tuple(value.shape) not in ((n_rows, length), (1, length)):
            raise InputError(
                f"{name} must be [{n_rows}, {length}] beside these inputs; got {list(value.shape)}."
            )


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


def is_traced() -> bool:
    """Whether torch makes a program of what runs, which must not depend on tensors' values."""
    return bool(torch.jit.is_tracing()) or torch.compiler.is_compiling()  # type: ignore
