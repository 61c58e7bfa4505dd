"""Poolers: the tokens of each row to one vector a row, on either layout.

A pooler is made of per-block work on [rows, length, ...] views, so packed rows need no mask.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from offramp.nn.layout import Layout, Padded


def pool_first(hidden: Tensor, layout: Layout) -> Tensor:
    """The first token of each row, [R, D]."""
    if isinstance(layout, Padded):
        return hidden[:, 0]
    return hidden.index_select(0, layout.starts_R.to(hidden.device, non_blocking=True))


def pool_last(hidden: Tensor, layout: Layout) -> Tensor:
    """The last of each row's own tokens, [R, D]; the first position of a row that has none."""
    if isinstance(layout, Padded):
        keys = layout.keys
        if keys is None:
            return hidden[:, -1]
        keys_RL = keys.any(1) if keys.dim() == 3 else keys
        places_L = torch.arange(keys_RL.shape[1], device=keys_RL.device)
        last_R = (keys_RL * places_L).amax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last_R]
    ends_R = layout.starts_R + layout.lengths_R - 1
    return hidden.index_select(0, ends_R.to(hidden.device, non_blocking=True))


def pool_mean(hidden: Tensor, layout: Layout) -> Tensor:
    """The mean over each row's own tokens, [R, D]; zeros for a row that has none."""
    means = []
    for hidden_RLD, keys_RL in _views(hidden, layout):
        if keys_RL is None:
            means.append(hidden_RLD.mean(1))
        else:
            weights_RL = keys_RL.to(hidden.dtype)
            total_RD = torch.einsum("rld,rl->rd", hidden_RLD, weights_RL)
            means.append(total_RD / weights_RL.sum(1, keepdim=True).clamp(min=1))
    return _join(means, hidden)


def pool_max(hidden: Tensor, layout: Layout) -> Tensor:
    """The largest of each feature over each row's own tokens, [R, D]; zeros for a row of none."""
    largest = []
    for hidden_RLD, keys_RL in _views(hidden, layout):
        if keys_RL is None:
            largest.append(hidden_RLD.amax(1))
        else:
            filled_RLD = hidden_RLD.masked_fill(~keys_RL[..., None], -torch.inf)
            largest.append(filled_RLD.amax(1).masked_fill(~keys_RL.any(1, keepdim=True), 0))
    return _join(largest, hidden)


def pool_attention(hidden: Tensor, queries_QD: Tensor, layout: Layout) -> Tensor:
    """Q weighted means of each row's tokens, [R, Q * D].

    The weights are a softmax of the products of each query and the row's own tokens.
    """
    pooled = []
    for hidden_RLD, keys_RL in _views(hidden, layout):
        # Row by row, while a row's tokens are in the cache: half the time of one product for all.
        queries_RQD = queries_QD.expand(len(hidden_RLD), -1, -1)
        scores_RQL = torch.bmm(queries_RQD, hidden_RLD.transpose(1, 2))
        if keys_RL is not None:
            # The lowest finite value, not -inf: a row without keys stays finite.
            scores_RQL = scores_RQL.masked_fill(~keys_RL[:, None], torch.finfo(hidden.dtype).min)
        pooled.append(torch.bmm(scores_RQL.softmax(-1), hidden_RLD).flatten(1))
    return _join(pooled, hidden, width=hidden.shape[-1] * len(queries_QD))


def _views(x: Tensor, layout: Layout) -> Iterator[tuple[Tensor, Tensor | None]]:
    """`x` as [rows, length, ...] pieces, each with its [rows, length] mask or None."""
    if isinstance(layout, Padded):
        keys = layout.keys
        if keys is not None and keys.dim() == 3:  # any query's key is a token of the row
            keys = keys.any(1)
        yield x, keys
    else:
        blocks = layout.blocks
        # One call: slicing block by block costs as much as the pooling.
        parts = torch.split(x, [block.stop - block.start for block in blocks])
        for block, part in zip(blocks, parts, strict=True):
            yield part.view(block.rows, block.length, -1), None


def _join(pieces: list[Tensor], hidden: Tensor, width: int | None = None) -> Tensor:
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat(pieces) if pieces else hidden.new_zeros(0, width or hidden.shape[-1])
