"""Ramps: each pooler against the same sums written out row by row, on either layout."""

import pytest
import torch
from torch import Tensor, nn

from offramp.exits.ramps import POOLERS, Ramp
from offramp.models.flow import Flow
from offramp.nn.layout import Packed, Padded

WIDTH, QUERIES, HIDDEN, CLASSES = 6, 3, 5, 4
LENGTHS = [1, 2, 2, 5, 3, 5, 5]  # in no order, so that a block is not a length


@pytest.fixture(params=POOLERS)
def ramp(request: pytest.FixtureRequest) -> Ramp:
    torch.manual_seed(1)
    ramp = Ramp(
        WIDTH, CLASSES, pooler=request.param, queries=QUERIES, hidden=HIDDEN, dropout=0.5
    ).eval()
    with torch.no_grad():
        for parameter in ramp.parameters():
            parameter.normal_()
    return ramp


def rows() -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.randn(length, WIDTH) for length in LENGTHS]


def packed(hidden: list[Tensor]) -> Flow:
    lengths_R = torch.tensor([len(row) for row in hidden])
    positions = torch.cat([torch.arange(len(row)) for row in hidden])
    return Flow(torch.cat(hidden), Packed.of(lengths_R), torch.arange(len(hidden)), positions)


def by_hand(ramp: Ramp, hidden_LD: Tensor) -> Tensor:
    """One row's logits [C], from the ramp's weights."""
    if ramp.pooler == "first":
        pooled = hidden_LD[0]
    elif ramp.pooler == "last":
        pooled = hidden_LD[-1]
    elif ramp.pooler == "mean":
        pooled = sum(hidden_LD, torch.zeros(WIDTH)) / len(hidden_LD)
    else:
        assert ramp.query is not None
        parts = []
        for query_D in ramp.query.weight:
            weights_L = torch.exp(hidden_LD @ query_D)
            weights_L = weights_L / weights_L.sum()
            parts.append(
                sum((w * h for w, h in zip(weights_L, hidden_LD, strict=True)), torch.zeros(WIDTH))
            )
        pooled = torch.cat(parts)
    hidden_H = torch.tanh(ramp.dense.weight @ pooled + ramp.dense.bias)
    return ramp.classifier.weight @ hidden_H + ramp.classifier.bias


def test_packed_rows_by_hand(ramp: Ramp) -> None:
    hidden = rows()
    logits_RC = ramp(packed(hidden))
    assert logits_RC.shape == (len(LENGTHS), CLASSES)
    for row, logits_C in zip(hidden, logits_RC, strict=True):
        torch.testing.assert_close(logits_C, by_hand(ramp, row), rtol=1e-5, atol=1e-5)


def test_padding_is_not_read(ramp: Ramp) -> None:
    hidden = rows()
    padded = torch.full((len(hidden), max(LENGTHS), WIDTH), 1e6)
    keys = torch.zeros(len(hidden), max(LENGTHS), dtype=torch.bool)
    for r, row in enumerate(hidden):
        padded[r, : len(row)], keys[r, : len(row)] = row, True
    layout = Padded(len(hidden), max(LENGTHS), keys)
    positions = torch.arange(max(LENGTHS)).expand(len(hidden), -1)
    logits_RC = ramp(Flow(padded, layout, torch.arange(len(hidden)), positions))
    expected = torch.stack([by_hand(ramp, row) for row in hidden])
    torch.testing.assert_close(logits_RC, expected, rtol=1e-5, atol=1e-5)


def test_a_row_does_not_read_its_neighbours(ramp: Ramp) -> None:
    hidden = rows()
    together = ramp(packed(hidden))
    others = [row if r == 3 else row + 100 for r, row in enumerate(hidden)]
    torch.testing.assert_close(ramp(packed(others))[3], together[3])


def test_dropout_acts_in_training_only(ramp: Ramp) -> None:
    flow = packed(rows())
    assert torch.equal(ramp(flow), ramp(flow))
    ramp.train()
    assert not torch.equal(ramp(flow), ramp(flow))


def test_only_attention_has_queries(ramp: Ramp) -> None:
    if ramp.pooler == "attention":
        assert isinstance(ramp.query, nn.Linear)
        assert ramp.query.weight.shape == (QUERIES, WIDTH)
        assert ramp.dense.weight.shape == (HIDDEN, QUERIES * WIDTH)
    else:
        assert ramp.query is None
        assert ramp.dense.weight.shape == (HIDDEN, WIDTH)
    assert ramp.classifier.weight.shape == (CLASSES, HIDDEN)
