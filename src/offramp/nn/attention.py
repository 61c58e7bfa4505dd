"""Scaled dot-product self-attention on either layout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.nn.layout import Layout, Padded


def self_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, n_heads: int, dropout: float = 0.0
) -> Tensor:
    """Each token attends to the tokens of its own row.

    query, key, value and the result are [B, L, D] or [T, D] as `layout` says; D is heads x width.
    A packed query may be [R, D] in place of [T, D]: one token a row. A padded row without a single
    key gets zeros (torch's rule for an all-False mask).
    """
    if isinstance(layout, Padded):
        return _attend(query, key, value, n_heads, dropout, layout.attention_mask)
    outputs, row = [], 0
    one_a_row = len(query) == layout.n_rows  # and if all rows are one token long, it is the same
    for block in layout.blocks:
        tokens = slice(block.start, block.stop)
        asking = slice(row, row + block.rows) if one_a_row else tokens
        row += block.rows
        q, k, v = (
            x[part].view(block.rows, -1, x.shape[-1])
            for x, part in ((query, asking), (key, tokens), (value, tokens))
        )
        outputs.append(_attend(q, k, v, n_heads, dropout).flatten(0, 1))
    if len(outputs) == 1:
        return outputs[0]
    return torch.cat(outputs) if outputs else torch.zeros_like(query)


def _attend(
    q_BLD: Tensor,
    k_BLD: Tensor,
    v_BLD: Tensor,
    n_heads: int,
    dropout: float,
    mask: Tensor | None = None,
) -> Tensor:
    q, k, v = (
        x.view(*x.shape[:2], n_heads, x.shape[2] // n_heads).transpose(1, 2)
        for x in (q_BLD, k_BLD, v_BLD)
    )
    mixed_BHLK = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return mixed_BHLK.transpose(1, 2).flatten(2)
