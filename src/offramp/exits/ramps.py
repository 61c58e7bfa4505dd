"""Ramps: the small heads that read a layer's hidden states and answer early."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from offramp.models.flow import Flow
from offramp.nn.layout import Packed
from offramp.nn.pooling import pool_attention, pool_first, pool_last, pool_mean
from offramp.nn.prepared import activated

POOLERS = ("attention", "first", "last", "mean")
"""Of ramps that answer once for a row."""
TOKENS = "tokens"
"""The pooler of ramps that answer for each token, which leaves them as they are."""

_POOLS = {"first": pool_first, "last": pool_last, "mean": pool_mean}


class FirstTokenRamp(nn.Module):
    """What a ramp over the first token of a row is to the runner: `pool` it, then `answer`."""

    @property
    def pools_one(self) -> bool:
        """Whether it reads one token of a row, and not the others."""
        return True

    def tokens(self, layout: Packed) -> Tensor:
        """The token that it reads of each row, [R] on the host, where it `pools_one`."""
        return layout.starts_R

    def forward(self, flow: Flow) -> Tensor:
        """The logits [R, C] of a finished flow, in its row order."""
        return self.answer(self.pool(flow))

    def pool(self, flow: Flow) -> Tensor:
        """What it reads of each row, [R, D]."""
        raise NotImplementedError

    def answer(self, pooled: Tensor) -> Tensor:
        """The logits [R, C] of pooled rows, which may come from several flows."""
        raise NotImplementedError


class Ramp(FirstTokenRamp):
    """A pooler, a tanh layer and a classifier: a flow to logits [R, C].

    Poolers: `first` or `last` token; `mean` of the row's tokens; `attention`, `queries` learned
    weighted means side by side, each costing one width x 1 product a token. `attention` answers
    earliest on bodies that were not trained to gather the row in their first token. With `tokens`
    nothing is pooled, and there are logits for each token, [T, C].
    """

    def __init__(
        self, width: int, n_labels: int, *, pooler: str, queries: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.pooler = pooler
        self.query = nn.Linear(width, queries, bias=False) if pooler == "attention" else None
        self.dense = nn.Linear(width * (queries if pooler == "attention" else 1), hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, n_labels)

    @property
    def pools_one(self) -> bool:
        """Whether it reads one token of a row, and not the others."""
        return self.pooler in ("first", "last")

    def tokens(self, layout: Packed) -> Tensor:
        """The token that it reads of each row, [R] on the host, where it `pools_one`."""
        starts_R = layout.starts_R
        return starts_R if self.pooler == "first" else starts_R + layout.lengths_R - 1

    def pool(self, flow: Flow) -> Tensor:
        """The pooled rows, [R, D] or [R, queries x D]; with `tokens` the hidden states, [T, D]."""
        if self.pooler == TOKENS:
            return flow.hidden
        if self.query is not None:
            return pool_attention(flow.hidden, self.query.weight, flow.layout)
        return _POOLS[self.pooler](flow.hidden, flow.layout)

    def answer(self, pooled: Tensor) -> Tensor:
        """The logits [R, C] of pooled rows, which may come from several flows."""
        logits_RC: Tensor = self.classifier(self.dropout(activated(self.dense, pooled, F.tanh)))
        return logits_RC
