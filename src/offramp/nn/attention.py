"""Scaled dot-product self-attention on either layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.nn.cache import Continued
from offramp.nn.layout import Layout, Packed, Padded

SHORT = 96
"""Tokens of the longest rows whose attention is computed by plain products where they are quick."""


@dataclass
class Probe:
    """Looks into attention, on padded batches.

    `head_mask_NH`, where given, multiplies each head's probabilities, layer by layer. With `keeps`
    `probabilities` collects them, [B, H, L, L] a layer, as they weighed the values.
    """

    head_mask_NH: Tensor | None = None
    keeps: bool = True
    probabilities: list[Tensor] = field(default_factory=list)
    layers_seen: int = 0

    def see(self, weights_BHLL: Tensor, heads: list[int] | None) -> Tensor:
        """The next layer's probabilities as they shall weigh the values."""
        if self.head_mask_NH is not None:
            of_layer_H = self.head_mask_NH[self.layers_seen].to(weights_BHLL)
            kept_H = of_layer_H if heads is None else of_layer_H[heads]
            weights_BHLL = weights_BHLL * kept_H[:, None, None]
        if self.keeps:
            self.probabilities.append(weights_BHLL)
        self.layers_seen += 1
        return weights_BHLL


def self_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    n_heads: int,
    dropout: float = 0.0,
    heads: list[int] | None = None,
    probe: Probe | None = None,
    bias_HLL: Tensor | None = None,
    *,
    one_a_row: bool = False,
) -> Tensor:
    """Each token attends to the tokens of its own row.

    query, key, value and the result are [B, L, D] or [T, D] as `layout` says; D is heads x width.
    With `one_a_row` a packed query is [R, D], of one token a row. A padded row without a single
    key gets zeros (torch's rule for an all-False mask). With a `probe` the probabilities are
    computed openly; `heads` are the heads' numbers in its mask. `bias_HLL` (query, key) is added to
    the scores; L is that of the longest row, and a shorter row has its upper left corner. It is
    [R, H, 1, L] where the query is one token a row: of a causal layout it must then say whom that
    token does not attend to. Packed queries behind those of the last row are of no row, and get
    zeros.
    """
    if isinstance(layout, Continued):
        return _attend_to_cache(query, key, value, layout, n_heads)
    if isinstance(layout, Padded):
        if probe is None and bias_HLL is None:
            alone = layout.causal and layout.keys is None
            mask = None if alone else layout.attention_mask
            return _attend(query, key, value, n_heads, dropout, mask, causal=alone)
        return _attend_openly(query, key, value, n_heads, dropout, layout, heads, probe, bias_HLL)
    if dropout == 0 and bias_HLL is None and _has_kernel(query, n_heads):
        return _attend_at_once(query, key, value, layout, n_heads, one_a_row)
    outputs, row = [], 0
    quick = dropout == 0 and _products_are_quick(query, n_heads)
    for block in layout.blocks:
        tokens, rows = slice(block.start, block.stop), slice(row, row + block.rows)
        row += block.rows
        q, k, v = (
            x[part].view(block.rows, -1, x.shape[-1])
            for x, part in ((query, rows if one_a_row else tokens), (key, tokens), (value, tokens))
        )
        bias = None
        if bias_HLL is not None:
            bias = bias_HLL[rows] if bias_HLL.dim() == 4 else bias_HLL[None, :, : block.length]
            bias = bias[..., : block.length]
        causal = layout.causal and not one_a_row
        if quick and bias is None and 1 < q.shape[1] <= SHORT and not causal:
            mixed = _attend_by_products(q, k, v, n_heads)
        else:
            mixed = _attend(q, k, v, n_heads, dropout, bias, causal=causal)
        outputs.append(mixed.flatten(0, 1))
    rest = len(query) - (layout.n_rows if one_a_row else layout.n_tokens)
    if rest:
        outputs.append(query.new_zeros(rest, query.shape[1]))
    if len(outputs) == 1:
        return outputs[0]
    return torch.cat(outputs) if outputs else torch.zeros_like(query)


def _attend_to_cache(
    query: Tensor, key: Tensor, value: Tensor, layout: Continued, n_heads: int
) -> Tensor:
    """New tokens, which are put into the cache, to all that there are then."""
    q, k, v = (_by_head(x, n_heads) for x in (query, key, value))
    alone = layout.length > 1 and not bool(layout.cache.lengths_R.any())
    k, v = layout.cache.put(layout.layer, k, v)
    mask = None if alone else layout.mask(q.device)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=alone)
    return mixed.transpose(1, 2).flatten(2)


def _has_kernel(query: Tensor, n_heads: int) -> bool:
    """Whether torch has a kernel for rows of different lengths: FlashAttention's, on CUDA."""
    width = query.shape[-1] // n_heads
    half = query.dtype in (torch.float16, torch.bfloat16)
    fits = query.is_cuda and half and width % 8 == 0 and width <= 256
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _attend_at_once(
    query: Tensor, key: Tensor, value: Tensor, layout: Packed, n_heads: int, one_a_row: bool
) -> Tensor:
    """All packed rows in one call."""
    from torch.nn.attention.varlen import varlen_attn  # here: it imports torch's compiler

    bounds = layout.bounds(query.device)
    if one_a_row:
        asking, longest = torch.arange(len(query) + 1, device=bounds.device, dtype=bounds.dtype), 1
    else:
        asking, longest = bounds, layout.length
    q, k, v = (x.view(len(x), n_heads, -1) for x in (query, key, value))
    seen = (-1, 0) if layout.causal else (-1, -1)  # so many before it, and so many behind
    mixed = varlen_attn(
        q, k, v, asking, bounds, longest, layout.length, window_size=(-1, -1) if one_a_row else seen
    )
    return cast(Tensor, mixed).flatten(1)


def _products_are_quick(query: Tensor, n_heads: int) -> bool:
    """Whether plain products are faster than torch's kernel for rows that are short.

    They take half its time where a head has 32 features, as in MiniLM, and as long where it has 64.
    """
    plain = query.device.type == "cpu" and query.dtype == torch.float32
    narrow = n_heads > 1 and query.shape[-1] <= 32 * n_heads
    return plain and narrow and not torch.is_grad_enabled()


def _attend_by_products(q_BLD: Tensor, k_BLD: Tensor, v_BLD: Tensor, n_heads: int) -> Tensor:
    q, k, v = (_by_head(x, n_heads) for x in (q_BLD, k_BLD, v_BLD))
    # As they would lie if there were more rows: the last digits depend on it.
    q = torch.mul(q, q.shape[-1] ** -0.5, out=q.new_empty(q.shape))
    weights_BHLL = (q @ k.contiguous().transpose(2, 3)).softmax(-1)
    return (weights_BHLL @ v.contiguous()).transpose(1, 2).flatten(2)


def _attend(
    q_BLD: Tensor,
    k_BLD: Tensor,
    v_BLD: Tensor,
    n_heads: int,
    dropout: float,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
) -> Tensor:
    q, k, v = (_by_head(x, n_heads) for x in (q_BLD, k_BLD, v_BLD))
    mixed_BHLK = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal
    )
    return mixed_BHLK.transpose(1, 2).flatten(2)


def _attend_openly(
    q_BLD: Tensor,
    k_BLD: Tensor,
    v_BLD: Tensor,
    n_heads: int,
    dropout: float,
    layout: Padded,
    heads: list[int] | None,
    probe: Probe | None,
    bias: Tensor | None,
) -> Tensor:
    q, k, v = (_by_head(x, n_heads) for x in (q_BLD, k_BLD, v_BLD))
    scores_BHLL = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    if bias is not None:
        scores_BHLL = scores_BHLL + bias
    mask = layout.attention_mask
    if mask is not None:  # the lowest finite value: a row without keys stays finite, and then is 0
        scores_BHLL = scores_BHLL.masked_fill(~mask, torch.finfo(scores_BHLL.dtype).min)
    weights_BHLL = scores_BHLL.softmax(-1)
    if mask is not None:
        weights_BHLL = weights_BHLL * mask
    weights_BHLL = F.dropout(weights_BHLL, dropout, training=dropout > 0)
    if probe is not None:
        weights_BHLL = probe.see(weights_BHLL, heads)
    return (weights_BHLL @ v).transpose(1, 2).flatten(2)


def _by_head(x_BLD: Tensor, n_heads: int) -> Tensor:
    return x_BLD.view(*x_BLD.shape[:2], n_heads, x_BLD.shape[2] // n_heads).transpose(1, 2)
