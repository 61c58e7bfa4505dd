"""The post-norm transformer encoder layer, named as BERT's checkpoints name it.

Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers". RoBERTa, ERNIE and
ELECTRA are built of the same layer under the same names; ALBERT, DistilBERT and MPNet of the same
arithmetic under others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from offramp.errors import ConfigError
from offramp.nn.activations import ACTIVATIONS
from offramp.nn.attention import Probe, self_attention
from offramp.nn.layout import Layout
from offramp.nn.prepared import PreparedLinear, activated, added


@dataclass(frozen=True, slots=True, eq=False)
class KeysValues:
    """What attention looks at in the tokens it reads, each beside their hidden states.

    Not a tuple: torch's compiler looks into those, and fails where a call has none.
    """

    key: Tensor
    value: Tensor


class CheckpointedLayer(nn.Module):
    """A layer that can keep its input alone while training, and compute the rest again.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; the non-reentrant kind.
    """

    checkpointed = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        probed = any(isinstance(arg, Probe) for arg in args)  # it would see everything twice
        if self.checkpointed and self.training and torch.is_grad_enabled() and not probed:
            return checkpoint(super().__call__, *args, use_reentrant=False, **kwargs)
        return super().__call__(*args, **kwargs)


def repeated(count: int, make: Callable[[], nn.Module]) -> nn.ModuleList:
    """So many modules of one make, each with weights of its own.

    On the meta device, where weights have no values, all but the first are copies of its structure:
    constructors are most of what opening a checkpoint takes.
    """
    first = make()
    tensors = [*first.parameters(), *first.buffers()]
    if not all(isinstance(one, nn.Parameter) and one.is_meta for one in tensors):
        return nn.ModuleList([first, *(make() for _ in range(count - 1))])
    return nn.ModuleList([first, *(_structure(first) for _ in range(count - 1))])


def _structure(module: nn.Module) -> nn.Module:
    """A module like this one, whose parameters have no values."""
    like: nn.Module = object.__new__(type(module))
    for name, value in vars(module).items():
        # Containers of its own, of which some are the module's parts, and what is in them as it is.
        vars(like)[name] = value.copy() if isinstance(value, (dict, list, set)) else value
    for name, inner in module._modules.items():
        like._modules[name] = None if inner is None else _structure(inner)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            like._parameters[name] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    return like


class EncoderLayer(CheckpointedLayer):
    """Self-attention and a two-layer perceptron, each added to its input and then normalised.

    Takes and gives hidden states in either layout. With `queries`, one packed token of each row
    [R], it gives those tokens' alone, [R, D]: all tokens are attended to, and nothing else is
    computed for the others. `probe` looks into attention, and `bias` is added to its scores (see
    `self_attention`). `known` are the layer's keys and values, where they were made before.
    `dropout` and `attention_dropout` are probabilities, in force in training mode only. `attention`
    replaces BERT's by one of other names.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        intermediate: int,
        *,
        activation: str = "gelu",
        norm_eps: float = 1e-12,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        attention: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if attention is None:
            attention = AddedAttention(width, n_heads, norm_eps, dropout, attention_dropout)
        self.attention = attention
        self.intermediate = Intermediate(width, intermediate, activation)
        self.output = AddAndNorm(intermediate, width, norm_eps, dropout)

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        queries: Tensor | None = None,
        probe: Probe | None = None,
        bias: Tensor | None = None,
        known: KeysValues | None = None,
    ) -> Tensor:
        attended = self.attention(hidden, layout, queries, probe, bias, known)
        output: Tensor = self.output(self.intermediate(attended), attended)
        return output


class Joint(NamedTuple):
    """The heads' projections of one input in one product."""

    all: PreparedLinear
    keys_values: PreparedLinear


class Heads(nn.Module):
    """Multi-head attention of each row's tokens, or of one of them (`asking`), to all of them.

    A family whose checkpoints have other names derives a class with its own `projections`.
    """

    projections: ClassVar[tuple[str, str, str]] = ("query", "key", "value")
    joint: Joint | None = None
    """Where the heads are prepared."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.heads = list(range(n_heads))  # those that were not pruned
        self.attention_dropout = dropout
        for name in self.projections:
            setattr(self, name, nn.Linear(width, width))

    def keys_values(self, hidden: Tensor) -> KeysValues:
        """The tokens' keys and values, beside `hidden`."""
        if self.joint is not None:
            return KeysValues(*self.joint.keys_values(hidden).chunk(2, -1))
        _, key, value = (getattr(self, name) for name in self.projections)
        return KeysValues(key(hidden), value(hidden))

    def query_of(self, asking: Tensor) -> Tensor:
        """What tokens ask with, beside their hidden states."""
        query: Tensor = getattr(self, self.projections[0])(asking)
        return query

    def projected(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """The tokens' queries, keys and values."""
        if self.joint is not None:
            query, key, value = self.joint.all(hidden).chunk(3, -1)
            return query, key, value
        known = self.keys_values(hidden)
        return self.query_of(hidden), known.key, known.value

    def mix(
        self,
        hidden: Tensor,
        layout: Layout,
        asking: Tensor,
        probe: Probe | None = None,
        bias: Tensor | None = None,
        known: KeysValues | None = None,
    ) -> Tensor:
        """What the heads find for each token that asks, side by side."""
        if asking is hidden and known is None:
            query, key, value = self.projected(hidden)
        else:
            query = self.query_of(asking)
            known = self.keys_values(hidden) if known is None else known
            key, value = known.key, known.value
        if bias is not None and len(self.heads) < self.n_heads and bias.shape[-3] > 1:
            bias = bias[..., self.heads, :, :]
        return self_attention(
            query,
            key,
            value,
            layout,
            len(self.heads),
            self.attention_dropout if self.training else 0.0,
            self.heads,
            probe,
            bias,
            one_a_row=asking is not hidden,
        )


class SelfAttention(Heads):
    """The heads, as a module of their own."""

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        asking: Tensor,
        probe: Probe | None = None,
        bias: Tensor | None = None,
        known: KeysValues | None = None,
    ) -> Tensor:
        return self.mix(hidden, layout, asking, probe, bias, known)


class Attention(nn.Module):
    """Base of a layer's whole attention, whatever its parts are called: what pruning finds.

    A family's class has `core`, `out_name`, and `added` for what comes after the heads.
    """

    out_name: ClassVar[str]
    """Where inside is the linear layer that takes what the heads found together."""

    @property
    def core(self) -> Heads:
        """The heads."""
        raise NotImplementedError

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        queries: Tensor | None = None,
        probe: Probe | None = None,
        bias: Tensor | None = None,
        known: KeysValues | None = None,
    ) -> Tensor:
        """What the layer goes on with: of all tokens, or of one a row, `queries` [R]."""
        asking = hidden if queries is None else hidden.index_select(0, queries)
        return self.added(self.core.mix(hidden, layout, asking, probe, bias, known), asking)

    def added(self, mixed: Tensor, asking: Tensor) -> Tensor:
        """What the heads found, projected and joined with the hidden states of those that asked."""
        raise NotImplementedError

    def check_prunable(self, heads: Iterable[int]) -> None:
        """Raise ConfigError for heads that were never there, or if none would be left."""
        asked, core = set(heads), self.core
        if unknown := sorted(head for head in asked if head not in range(core.n_heads)):
            raise ConfigError(
                f"prune_heads names heads {unknown}; a layer of this model has heads 0 to "
                f"{core.n_heads - 1}."
            )
        if not set(core.heads) - asked:
            raise ConfigError("prune_heads leaves a layer without a head; it needs at least one.")

    def prune(self, heads: Iterable[int]) -> None:
        """Take heads out, by their numbers in the whole layer. Those that are out stay out."""
        core = self.core
        out = [head for head in core.heads if head in set(heads)]
        if not out:
            return
        linears = [cast(nn.Linear, core.get_submodule(name)) for name in core.projections]
        width = linears[0].out_features // len(core.heads)
        kept = [place for place, head in enumerate(core.heads) if head not in out]
        index = [place * width + number for place in kept for number in range(width)]
        for name, linear in zip(core.projections, linears, strict=True):
            setattr(core, name, _part(linear, index, 0))
        path, _, last = self.out_name.rpartition(".")
        owner = self.get_submodule(path)
        setattr(owner, last, _part(getattr(owner, last), index, 1))
        core.heads = [core.heads[place] for place in kept]


class AddedAttention(Attention):
    """Self-attention, projected and added to its input, under BERT's names."""

    out_name = "output.dense"

    def __init__(
        self, width: int, n_heads: int, norm_eps: float, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.self = SelfAttention(width, n_heads, attention_dropout)
        self.output = AddAndNorm(width, width, norm_eps, dropout)

    @property
    def core(self) -> Heads:
        return self.self

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        queries: Tensor | None = None,
        probe: Probe | None = None,
        bias: Tensor | None = None,
        known: KeysValues | None = None,
    ) -> Tensor:
        asking = hidden if queries is None else hidden.index_select(0, queries)
        mixed = self.self(hidden, layout, asking, probe, bias, known)
        output: Tensor = self.output(mixed, asking)
        return output


class FlatAttention(Heads, Attention):
    """Base of a layer's attention whose projections and heads are one module.

    A family's class adds the linear layer that `out_name` names, and `added`.
    """

    @property
    def core(self) -> Heads:
        return self


class Intermediate(nn.Module):
    """The perceptron's first half: widen, then activate."""

    def __init__(self, width: int, intermediate: int, activation: str) -> None:
        super().__init__()
        self.dense = nn.Linear(width, intermediate)
        self.activation = ACTIVATIONS[activation]

    def forward(self, hidden: Tensor) -> Tensor:
        return activated(self.dense, hidden, self.activation)


class AddAndNorm(nn.Module):
    """Project, drop out, add to the residual, normalise."""

    def __init__(self, width_in: int, width: int, norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(added(self.dense, hidden, residual, self.dropout))
        return normed


def _part(linear: nn.Linear, index: list[int], dim: int) -> nn.Linear:
    """A linear layer with some of its outputs (dim 0) or inputs (dim 1)."""
    weight = linear.weight
    rows, columns = (len(index), weight.shape[1]) if dim == 0 else (weight.shape[0], len(index))
    has_bias = linear.bias is not None
    part = nn.Linear(columns, rows, has_bias, device=weight.device, dtype=weight.dtype)
    if not weight.is_meta:  # there the shape is all that there is
        place = torch.tensor(index, device=weight.device)
        with torch.no_grad():
            part.weight.copy_(weight.index_select(dim, place))
            if has_bias:
                part.bias.copy_(linear.bias.index_select(0, place) if dim == 0 else linear.bias)
    for name, parameter in part.named_parameters():
        parameter.requires_grad_(linear.get_parameter(name).requires_grad)
    return part.train(linear.training)
