"""Attention on both layouts against the formula, written out for one row and one head at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.nn import attention
from offramp.nn.attention import SHORT, self_attention
from offramp.nn.blocks import EncoderLayer
from offramp.nn.layout import Packed, Padded


def by_hand(
    q_LD: Tensor, k_LD: Tensor, v_LD: Tensor, n_heads: int, allowed_LL: Tensor | None = None
) -> Tensor:
    """softmax(Q K^T / sqrt(width)) V of one row, head after head, in float64."""
    heads = []
    parts = (x.double().chunk(n_heads, dim=1) for x in (q_LD, k_LD, v_LD))
    for q, k, v in zip(*parts, strict=True):
        scores_LL = q @ k.T / math.sqrt(q.shape[1])
        if allowed_LL is not None:
            scores_LL = scores_LL.masked_fill(~allowed_LL, -math.inf)
        exp_LL = (scores_LL - scores_LL.amax(1, keepdim=True)).exp()
        heads.append(exp_LL / exp_LL.sum(1, keepdim=True) @ v)
    return torch.cat(heads, 1)


def drawn(lengths: list[int], width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of packed rows, with scores far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(3 * torch.randn(3, sum(lengths), width, generator=generator, dtype=torch.float64))


def pad(x_TD: Tensor, lengths: list[int]) -> Tensor:
    """Packed rows as [B, L, D], with noise in place of padding: nothing may read it."""
    padded_BLD = 100 * torch.randn(len(lengths), max(lengths), x_TD.shape[1], dtype=x_TD.dtype)
    for row, tokens_LD in enumerate(x_TD.split(lengths)):
        padded_BLD[row, : len(tokens_LD)] = tokens_LD
    return padded_BLD


CASES = [([3, 3, 1, 5, 5, 5, 2], 1), ([4], 2), ([1, 1, 2], 4), ([6, 2, 6], 3)]


@pytest.mark.parametrize(("lengths", "n_heads"), CASES)
def test_packed_and_padded_are_the_formula(lengths: list[int], n_heads: int) -> None:
    q, k, v = drawn(lengths, 4 * n_heads, seed=len(lengths))
    rows = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    expected = [by_hand(*row, n_heads) for row in rows]

    packed = self_attention(q, k, v, Packed.of(torch.tensor(lengths)), n_heads)
    torch.testing.assert_close(packed, torch.cat(expected), rtol=1e-12, atol=1e-12)

    keys_BL = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    padded = self_attention(
        *(pad(x, lengths) for x in (q, k, v)),
        Padded(len(lengths), max(lengths), keys_BL),
        n_heads,
    )
    for row_LD, expected_LD in zip(padded, expected, strict=True):
        torch.testing.assert_close(row_LD[: len(expected_LD)], expected_LD, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_heads", [1, 2])
def test_padded_without_a_mask_is_the_formula(n_heads: int) -> None:
    q, k, v = drawn([4, 4, 4], 6, seed=n_heads)
    rows = zip(*(x.split(4) for x in (q, k, v)), strict=True)
    expected = torch.stack([by_hand(*row, n_heads) for row in rows])
    padded = self_attention(*(x.view(3, 4, 6) for x in (q, k, v)), Padded(3, 4), n_heads)
    torch.testing.assert_close(padded, expected, rtol=1e-12, atol=1e-12)


def test_a_mask_of_query_and_key_is_the_formula() -> None:
    q, k, v = drawn([5, 5], 4, seed=0)
    allowed_BLL = torch.rand(2, 5, 5) < 0.4
    allowed_BLL |= torch.eye(5, dtype=torch.bool)
    rows = zip(*(x.split(5) for x in (q, k, v)), allowed_BLL, strict=True)
    expected = torch.stack([by_hand(a, b, c, 2, allowed) for a, b, c, allowed in rows])
    layout = Padded(2, 5, allowed_BLL)
    padded = self_attention(*(x.view(2, 5, 4) for x in (q, k, v)), layout, 2)
    torch.testing.assert_close(padded, expected, rtol=1e-12, atol=1e-12)


def test_float32_is_near_the_formula() -> None:
    lengths = [2, 7, 7]
    q, k, v = drawn(lengths, 8, seed=1)
    rows = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    expected = torch.cat([by_hand(*row, 2) for row in rows])
    layout = Packed.of(torch.tensor(lengths))
    packed = self_attention(q.float(), k.float(), v.float(), layout, 2)
    torch.testing.assert_close(packed, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [8, 32, 33, 64])
@pytest.mark.parametrize("longest", [5, SHORT, SHORT + 1])
def test_without_gradients_it_is_the_formula_whichever_way_is_quick(
    width: int, longest: int
) -> None:
    lengths = [1, 1, 2, 5, 5, longest, longest, longest]
    q, k, v = (x.float() for x in drawn(lengths, 3 * width, seed=width))
    rows = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    expected = torch.cat([by_hand(*row, 3) for row in rows])
    with torch.no_grad():
        found = self_attention(q, k, v, Packed.of(torch.tensor(lengths)), 3)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("length", [*range(1, 36), SHORT, SHORT + 1])
def test_a_row_s_attention_does_not_depend_on_how_many_there_are(length: int, width: int) -> None:
    q, k, v = (x.float() for x in drawn([length] * 33, 12 * width, seed=length))
    with torch.no_grad():
        together = self_attention(q, k, v, Packed.of(torch.tensor([length] * 33)), 12)
        for rows in (1, 2, 7, 32):
            own = slice(length, length + rows * length)
            layout = Packed.of(torch.tensor([length] * rows))
            some = self_attention(q[own], k[own], v[own], layout, 12)
            assert torch.equal(some, together[own])


def test_a_row_without_keys_is_zeros_and_leaves_the_others_alone() -> None:
    q, k, v = drawn([3, 3], 4, seed=2)
    keys_BL = torch.tensor([[False] * 3, [True] * 3])
    out = self_attention(*(x.view(2, 3, 4) for x in (q, k, v)), Padded(2, 3, keys_BL), 2)
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    alone = by_hand(q[3:], k[3:], v[3:], 2)
    torch.testing.assert_close(out[1], alone, rtol=1e-12, atol=1e-12)


def test_no_packed_rows_give_no_tokens() -> None:
    nothing = torch.zeros(0, 4)
    layout = Packed.of(torch.tensor([], dtype=torch.int64))
    assert self_attention(nothing, nothing, nothing, layout, 2).shape == (0, 4)


def test_no_padded_rows_give_no_rows() -> None:
    nothing = torch.zeros(0, 3, 4)
    assert self_attention(nothing, nothing, nothing, Padded(0, 3), 2).shape == (0, 3, 4)


def test_gradients_agree_between_the_layouts() -> None:
    lengths = [2, 4, 4]
    q, k, v = (x.requires_grad_() for x in drawn(lengths, 6, seed=3))
    out_TD = self_attention(q, k, v, Packed.of(torch.tensor(lengths)), 3)
    towards_TD = torch.randn_like(out_TD)
    packed = torch.autograd.grad(out_TD, (q, k, v), towards_TD)

    real_BL = torch.arange(4) < torch.tensor(lengths)[:, None]
    out_BLD = self_attention(*(pad(x, lengths) for x in (q, k, v)), Padded(3, 4, real_BL), 3)
    padded = torch.autograd.grad(out_BLD[real_BL], (q, k, v), towards_TD)
    for ours, theirs in zip(packed, padded, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_a_layer_is_blind_to_the_layout() -> None:
    torch.manual_seed(0)
    lengths = [3, 1, 5]
    layer = EncoderLayer(8, 2, 12).double().eval()
    hidden_TD = torch.randn(sum(lengths), 8, dtype=torch.float64)
    real_BL = torch.arange(5) < torch.tensor(lengths)[:, None]
    packed = layer(hidden_TD, Packed.of(torch.tensor(lengths)))
    padded = layer(pad(hidden_TD, lengths), Padded(3, 5, real_BL))
    torch.testing.assert_close(padded[real_BL], packed, rtol=1e-11, atol=1e-11)


# torch's kernel for rows of different lengths


def rows_apart(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn` as its documentation has it, which runs on CUDA."""
    for starts, longest in ((cu_seq_q, max_q), (cu_seq_k, max_k)):
        assert starts.dtype == torch.int32
        assert int(starts.diff().max()) == longest
    rows = []
    for r in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[r] : cu_seq_q[r + 1]]
        k, v = (x[cu_seq_k[r] : cu_seq_k[r + 1]] for x in (key, value))
        if window_size == (-1, -1):
            rows.append(by_hand(q.flatten(1), k.flatten(1), v.flatten(1), q.shape[1]))
            continue
        assert window_size == (-1, 0)  # all that come before, and none behind
        for place in range(len(q)):
            seen = slice(place + 1)
            row = (x.flatten(1) for x in (q[place : place + 1], k[seen], v[seen]))
            rows.append(by_hand(*row, q.shape[1]))
    return torch.cat(rows).view(query.shape)


@pytest.mark.parametrize(("lengths", "n_heads"), CASES)
@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_is_called_as_torch_documents_it(
    lengths: list[int], n_heads: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = drawn(lengths, 8 * n_heads, seed=1)
    layout = Packed.of(torch.tensor(lengths), causal)

    def ways() -> list[Tensor]:
        """All tokens that ask, and the first of each row."""
        first = self_attention(q[layout.starts_R], k, v, layout, n_heads, one_a_row=True)
        return [self_attention(q, k, v, layout, n_heads), first]

    expected = ways()
    monkeypatch.setattr(attention, "_has_kernel", lambda query, n_heads: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", rows_apart)
    torch.testing.assert_close(ways(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel is for CUDA")
@pytest.mark.parametrize(("lengths", "n_heads"), CASES)
def test_the_kernel_answers_as_the_formula(lengths: list[int], n_heads: int) -> None:
    q, k, v = drawn(lengths, 16 * n_heads, seed=2)
    layout = Packed.of(torch.tensor(lengths))
    expected = self_attention(q, k, v, layout, n_heads)
    half = [x.to("cuda", torch.bfloat16) for x in (q, k, v)]
    assert attention._has_kernel(half[0], n_heads)
    found = self_attention(*half, layout, n_heads).cpu().double()
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("one_a_row", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_queries_of_no_row_get_zeros(one_a_row: bool, biased: bool) -> None:
    """Also where so many first tokens and some others are as many as there are tokens."""
    lengths = [1, 1, 3, 2]
    layout = Packed.of(torch.tensor(lengths))
    q, k, v = drawn(lengths, 12, seed=3)
    asking = q[layout.starts_R] if one_a_row else q
    n_asked = len(asking)
    bias = None
    if biased:
        shape = (4, 2, 1, 3) if one_a_row else (2, 3, 3)
        bias = torch.randn(shape, dtype=q.dtype, generator=torch.Generator().manual_seed(4))
    expected = self_attention(asking, k, v, layout, 2, bias_HLL=bias, one_a_row=one_a_row)
    full = F.pad(asking, (0, 0, 0, 3), value=5.0)
    assert len(full) == (7 if one_a_row else 10)
    found = self_attention(full, k, v, layout, 2, bias_HLL=bias, one_a_row=one_a_row)
    assert torch.equal(found[:n_asked], expected)
    assert not found[n_asked:].any()
