"""The post-norm transformer encoder layer, named as BERT's checkpoints name it.

Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers". RoBERTa, ERNIE and
ELECTRA are built of the same layer under the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from offramp.nn.attention import self_attention
from offramp.nn.layout import Layout

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": F.tanh,
}
"""`hidden_act` of a configuration: its function."""


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each added to its input and then normalised.

    Takes and gives hidden states in either layout. With `queries`, one packed token of each row
    [R], it gives those tokens' alone, [R, D]: all tokens are attended to, and nothing else is
    computed for the others. `dropout` and `attention_dropout` are probabilities, in force in
    training mode only.
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
    ) -> None:
        super().__init__()
        self.attention = Attention(width, n_heads, norm_eps, dropout, attention_dropout)
        self.intermediate = Intermediate(width, intermediate, activation)
        self.output = AddAndNorm(intermediate, width, norm_eps, dropout)

    def forward(self, hidden: Tensor, layout: Layout, queries: Tensor | None = None) -> Tensor:
        attended = self.attention(hidden, layout, queries)
        output: Tensor = self.output(self.intermediate(attended), attended)
        return output


class Attention(nn.Module):
    """Self-attention, projected and added to its input."""

    def __init__(
        self, width: int, n_heads: int, norm_eps: float, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.self = SelfAttention(width, n_heads, attention_dropout)
        self.output = AddAndNorm(width, width, norm_eps, dropout)

    def forward(self, hidden: Tensor, layout: Layout, queries: Tensor | None = None) -> Tensor:
        asking = hidden if queries is None else hidden.index_select(0, queries)
        output: Tensor = self.output(self.self(hidden, layout, asking), asking)
        return output


class SelfAttention(nn.Module):
    """Multi-head attention of each row's tokens, or of one of them (`asking`), to all of them."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, hidden: Tensor, layout: Layout, asking: Tensor) -> Tensor:
        return self_attention(
            self.query(asking),
            self.key(hidden),
            self.value(hidden),
            layout,
            self.n_heads,
            self.dropout if self.training else 0.0,
        )


class Intermediate(nn.Module):
    """The perceptron's first half: widen, then activate."""

    def __init__(self, width: int, intermediate: int, activation: str) -> None:
        super().__init__()
        self.dense = nn.Linear(width, intermediate)
        self.activation = ACTIVATIONS[activation]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.activation(self.dense(hidden))


class AddAndNorm(nn.Module):
    """Project, drop out, add to the residual, normalise."""

    def __init__(self, width_in: int, width: int, norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dropout(self.dense(hidden)) + residual)
        return normed
