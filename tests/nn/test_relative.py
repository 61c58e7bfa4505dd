"""Relative positions: the buckets of the paper, and attention with a bias on either layout."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from offramp.nn.attention import Probe, self_attention
from offramp.nn.blocks import EncoderLayer
from offramp.nn.layout import Packed, Padded
from offramp.nn.relative import BUCKETS, DistanceBias

NEAR = {"rtol": 1e-11, "atol": 1e-11}


def bucket(away: int) -> int:
    """Raffel et al. 2019: half of the buckets a side, half of those exact, the rest logarithmic."""
    side, far = (16, away) if away > 0 else (0, -away)
    if far < 8:
        return side + far
    return side + min(15, 8 + int(math.log(far / 8) / math.log(128 / 8) * 8 + 1e-9))


@pytest.mark.parametrize("length", [0, 1, 2, 9, 300])
@pytest.mark.parametrize("rows", [BUCKETS, 40])
def test_a_bias_is_the_number_of_its_distance(length: int, rows: int) -> None:
    table = DistanceBias(rows, 3)
    bias_HLL = table.for_length(length)
    assert bias_HLL.shape == (3, length, length)
    buckets = [[bucket(key - query) for key in range(length)] for query in range(length)]
    expected = table.weight[torch.tensor(buckets, dtype=torch.int64)].view(length, length, 3)
    assert torch.equal(bias_HLL, expected.permute(2, 0, 1))


def test_every_number_of_the_table_is_learned() -> None:
    table = DistanceBias(BUCKETS, 2)
    table.for_length(93).sum().backward()
    assert table.weight.grad is not None
    unread = [0] * BUCKETS
    unread[BUCKETS // 2] = 1  # to the right, and at no distance
    assert (table.weight.grad == 0).all(1).long().tolist() == unread


def by_hand(q_LD: Tensor, k_LD: Tensor, v_LD: Tensor, bias_HLL: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(width) + bias) V of one row, head after head."""
    n_heads, length = len(bias_HLL), len(k_LD)
    heads = []
    for head, (q, k, v) in enumerate(
        zip(*(x.chunk(n_heads, dim=1) for x in (q_LD, k_LD, v_LD)), strict=True)
    ):
        scores_LL = q @ k.T / math.sqrt(q.shape[1]) + bias_HLL[head, :length, :length]
        exp_LL = (scores_LL - scores_LL.amax(1, keepdim=True)).exp()
        heads.append(exp_LL / exp_LL.sum(1, keepdim=True) @ v)
    return torch.cat(heads, 1)


LENGTHS = [[3, 3, 1, 5, 5, 2], [4], [1, 1, 1], [6, 2, 6], list(range(1, 24))]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention_with_a_bias_is_the_formula_on_both_layouts(lengths: list[int]) -> None:
    torch.manual_seed(0)
    longest = max(lengths)
    q, k, v = 2 * torch.randn(3, sum(lengths), 12, dtype=torch.float64)
    bias_HLL = 3 * torch.randn(3, longest, longest, dtype=torch.float64)
    rows = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    expected = torch.cat([by_hand(*row, bias_HLL) for row in rows])

    layout = Packed.of(torch.tensor(lengths))
    torch.testing.assert_close(
        self_attention(q, k, v, layout, 3, bias_HLL=bias_HLL), expected, **NEAR
    )

    real_BL = torch.arange(longest) < torch.tensor(lengths)[:, None]
    wide = torch.full((3, *real_BL.shape, 12), 100.0, dtype=torch.float64)
    for place, x in enumerate((q, k, v)):
        wide[place][real_BL] = x
    for probe in (None, Probe()):
        padded = self_attention(
            *wide, Padded(*real_BL.shape, real_BL), 3, probe=probe, bias_HLL=bias_HLL
        )
        torch.testing.assert_close(padded[real_BL], expected, **NEAR)


def test_a_bias_gets_the_same_gradient_on_both_layouts() -> None:
    torch.manual_seed(0)
    lengths = [2, 4, 4]
    q, k, v = torch.randn(3, 10, 6, dtype=torch.float64)
    bias_HLL = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    real_BL = torch.arange(4) < torch.tensor(lengths)[:, None]
    wide = torch.zeros(3, 3, 4, 6, dtype=torch.float64)
    for place, x in enumerate((q, k, v)):
        wide[place][real_BL] = x
    packed = self_attention(q, k, v, Packed.of(torch.tensor(lengths)), 2, bias_HLL=bias_HLL)
    padded = self_attention(*wide, Padded(3, 4, real_BL), 2, bias_HLL=bias_HLL)[real_BL]
    towards = torch.randn_like(packed)
    (one,) = torch.autograd.grad(packed, bias_HLL, towards)
    (two,) = torch.autograd.grad(padded, bias_HLL, towards)
    torch.testing.assert_close(one, two, **NEAR)
    assert one.any()


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("pruned", [[], [0, 2]])
def test_one_token_of_each_row_is_what_the_whole_layer_gives(
    lengths: list[int], pruned: list[int]
) -> None:
    torch.manual_seed(0)
    layer: Any = EncoderLayer(16, 4, 20).double().eval()
    layer.attention.prune(pruned)
    layout = Packed.of(torch.tensor(lengths))
    hidden = torch.randn(layout.n_tokens, 16, dtype=torch.float64)
    bias_HLL = 3 * torch.randn(4, layout.length, layout.length, dtype=torch.float64)
    whole = layer(hidden, layout, bias=bias_HLL)
    assert not torch.allclose(whole, layer(hidden, layout)) or layout.length == 1
    for place_R in (layout.starts_R * 0, layout.lengths_R // 2, layout.lengths_R - 1):
        of_queries = bias_HLL[:, place_R].transpose(0, 1)[:, :, None]  # [R, H, 1, L]
        found = layer(hidden, layout, layout.starts_R + place_R, bias=of_queries)
        torch.testing.assert_close(found, whole[layout.starts_R + place_R], **NEAR)


def test_a_pruned_head_takes_its_bias_along() -> None:
    torch.manual_seed(0)
    layer: Any = EncoderLayer(12, 3, 20).double().eval()
    layout = Packed.of(torch.tensor([2, 5, 5]))
    hidden = torch.randn(12, 12, dtype=torch.float64)
    bias_HLL = 3 * torch.randn(3, 5, 5, dtype=torch.float64)
    with torch.no_grad():  # as if head 1 found nothing
        layer.attention.output.dense.weight[:, 4:8] = 0
    expected = layer(hidden, layout, bias=bias_HLL)
    layer.attention.prune([1])
    torch.testing.assert_close(layer(hidden, layout, bias=bias_HLL), expected, **NEAR)
