"""Poolers on both layouts against each row worked out by itself, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from offramp.nn.layout import Packed, Padded
from offramp.nn.pooling import pool_attention, pool_first, pool_max, pool_mean

CASES = [[3, 3, 1, 4], [2], [5, 1, 1, 5, 5]]


def drawn(lengths: list[int], width: int) -> Tensor:
    generator = torch.Generator().manual_seed(len(lengths))
    return 2 * torch.randn(sum(lengths), width, generator=generator, dtype=torch.float64)


def spread(x_TD: Tensor, keys_BL: Tensor) -> Tensor:
    """Packed tokens at the True places of [B, L], with noise elsewhere: no pooler may read it."""
    padded_BLD = 100 * torch.randn(*keys_BL.shape, x_TD.shape[1], dtype=x_TD.dtype)
    padded_BLD[keys_BL] = x_TD
    return padded_BLD


def places(lengths: list[int], holes: bool) -> Tensor:
    """Where the rows' tokens lie in [B, L]: at the front, or with a hole after the first."""
    columns = torch.arange(max(lengths) + 2)
    counts = torch.tensor(lengths)[:, None]
    if not holes:
        return columns < counts
    return (columns == 0) | ((columns > 1) & (columns < counts + 1))


def mean_by_hand(row_LD: Tensor) -> list[float]:
    return [math.fsum(column) / len(row_LD) for column in row_LD.T.tolist()]


def attention_by_hand(row_LD: Tensor, scores_LQ: Tensor) -> list[float]:
    """For each query, the tokens weighted by exp(score) / sum of exp(score)."""
    pooled = []
    for scores in scores_LQ.T.tolist():
        weights = [math.exp(score - max(scores)) for score in scores]
        total = math.fsum(weights)
        for column in row_LD.T.tolist():
            pooled.append(math.fsum(w * x for w, x in zip(weights, column, strict=True)) / total)
    return pooled


def close(found: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("lengths", CASES)
@pytest.mark.parametrize("holes", [False, True])
def test_first(lengths: list[int], holes: bool) -> None:
    hidden_TD = drawn(lengths, 3)
    keys_BL = places(lengths, holes)
    expected = [row[0].tolist() for row in hidden_TD.split(lengths)]
    close(pool_first(hidden_TD, Packed.of(torch.tensor(lengths))), expected)
    close(pool_first(spread(hidden_TD, keys_BL), Padded(*keys_BL.shape, keys_BL)), expected)


@pytest.mark.parametrize("lengths", CASES)
@pytest.mark.parametrize("holes", [False, True])
def test_mean(lengths: list[int], holes: bool) -> None:
    hidden_TD = drawn(lengths, 3)
    keys_BL = places(lengths, holes)
    expected = [mean_by_hand(row) for row in hidden_TD.split(lengths)]
    close(pool_mean(hidden_TD, Packed.of(torch.tensor(lengths))), expected)
    close(pool_mean(spread(hidden_TD, keys_BL), Padded(*keys_BL.shape, keys_BL)), expected)


@pytest.mark.parametrize("lengths", CASES)
@pytest.mark.parametrize("holes", [False, True])
def test_max(lengths: list[int], holes: bool) -> None:
    hidden_TD = drawn(lengths, 3)
    keys_BL = places(lengths, holes)
    expected = [[max(column) for column in row.T.tolist()] for row in hidden_TD.split(lengths)]
    close(pool_max(hidden_TD, Packed.of(torch.tensor(lengths))), expected)
    close(pool_max(spread(hidden_TD, keys_BL), Padded(*keys_BL.shape, keys_BL)), expected)


@pytest.mark.parametrize("lengths", CASES)
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("queries", [1, 3])
def test_attention(lengths: list[int], holes: bool, queries: int) -> None:
    hidden_TD, queries_QD = drawn(lengths, 3), drawn([queries], 3)
    keys_BL = places(lengths, holes)
    expected = [attention_by_hand(row, row @ queries_QD.T) for row in hidden_TD.split(lengths)]
    close(pool_attention(hidden_TD, queries_QD, Packed.of(torch.tensor(lengths))), expected)
    padded = spread(hidden_TD, keys_BL)
    close(pool_attention(padded, queries_QD, Padded(*keys_BL.shape, keys_BL)), expected)


def test_without_a_mask_all_tokens_count() -> None:
    hidden_BLD, queries_QD = drawn([8], 3).view(2, 4, 3), drawn([2], 3)
    layout = Padded(2, 4)
    close(pool_first(hidden_BLD, layout), hidden_BLD[:, 0].tolist())
    close(pool_mean(hidden_BLD, layout), [mean_by_hand(row) for row in hidden_BLD])
    close(pool_max(hidden_BLD, layout), hidden_BLD.max(1).values.tolist())
    close(
        pool_attention(hidden_BLD, queries_QD, layout),
        [attention_by_hand(row, row @ queries_QD.T) for row in hidden_BLD],
    )


def test_under_a_mask_of_query_and_key_a_rows_tokens_are_those_any_query_sees() -> None:
    hidden_BLD, queries_QD = drawn([8], 3).view(2, 4, 3), drawn([2], 3)
    keys_BLL = torch.ones(4, 4, dtype=torch.bool).tril().repeat(2, 1, 1)
    keys_BLL[1, :, 2:] = False  # the second row has two tokens
    layout = Padded(2, 4, keys_BLL)
    rows = [hidden_BLD[0], hidden_BLD[1, :2]]
    close(pool_mean(hidden_BLD, layout), [mean_by_hand(row) for row in rows])
    close(pool_max(hidden_BLD, layout), [row.max(0).values.tolist() for row in rows])
    close(
        pool_attention(hidden_BLD, queries_QD, layout),
        [attention_by_hand(row, row @ queries_QD.T) for row in rows],
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_row_without_tokens_is_finite(dtype: torch.dtype) -> None:
    hidden_BLD, queries_QD = drawn([8], 3).view(2, 4, 3), drawn([2], 3)
    keys_BL = torch.tensor([[False] * 4, [True] * 4])
    layout = Padded(2, 4, keys_BL)
    hidden_BLD, queries_QD = hidden_BLD.to(dtype), queries_QD.to(dtype)
    mean_RD = pool_mean(hidden_BLD, layout)
    max_RD = pool_max(hidden_BLD, layout)
    assert mean_RD[0].tolist() == max_RD[0].tolist() == [0, 0, 0]
    for pooled in (
        mean_RD,
        max_RD,
        pool_first(hidden_BLD, layout),
        pool_attention(hidden_BLD, queries_QD, layout),
    ):
        assert bool(pooled.isfinite().all())
        assert pooled.dtype == dtype


def test_no_packed_rows_give_no_vectors() -> None:
    layout = Packed.of(torch.tensor([], dtype=torch.int64))
    hidden_TD = torch.zeros(0, 3)
    assert pool_first(hidden_TD, layout).shape == (0, 3)
    assert pool_mean(hidden_TD, layout).shape == (0, 3)
    assert pool_max(hidden_TD, layout).shape == (0, 3)
    assert pool_attention(hidden_TD, torch.ones(2, 3), layout).shape == (0, 6)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 25, 31, 64, 127])
def test_a_row_s_attention_does_not_depend_on_how_many_there_are(length: int) -> None:
    rows = torch.randn(33, length, 384)
    queries_QD = torch.randn(4, 384)

    def pooled(rows: torch.Tensor) -> torch.Tensor:
        layout = Packed.of(torch.tensor([length] * len(rows)))
        return pool_attention(rows.flatten(0, 1), queries_QD, layout)

    together = pooled(rows)
    for count in (1, 2, 7, 32):
        assert torch.equal(pooled(rows[1 : 1 + count]), together[1 : 1 + count])
