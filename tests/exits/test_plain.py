"""A fixed depth, and chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import offramp
from offramp.errors import ConfigError
from offramp.exits.criteria import FixedDepth, MinDepth, RandomExit


def test_a_fixed_depth() -> None:
    state_RS = FixedDepth(3).start(2, 5)
    found = [FixedDepth(3).update(state_RS, depth, torch.zeros(2, 5)) for depth in (1, 2, 3, 7)]
    assert [decision.leave_R.tolist() for decision in found] == [[x] * 2 for x in (0, 0, 1, 1)]
    assert all(bool((decision.slack_R == math.inf).all()) for decision in found)
    assert FixedDepth is MinDepth is offramp.FixedDepth
    assert repr(FixedDepth(3)) == "MinDepth(layers=3)"


@pytest.mark.parametrize("bad", [0, -1, 1.0, "2", None, True])
def test_a_depth_is_at_least_1(bad: object) -> None:
    with pytest.raises(ConfigError, match="depth is a number of layers.*at least 1; got"):
        MinDepth(bad)  # type: ignore[arg-type]


def draws(criterion: RandomExit, logits_RC: torch.Tensor, depth: int = 1) -> torch.Tensor:
    return criterion.update(criterion.start(len(logits_RC), 2), depth, logits_RC).leave_R


@pytest.mark.parametrize("n_classes", [1, 2, 5])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_as_many_leave_as_the_rate_says(n_classes: int, rate: float) -> None:
    logits_RC = torch.from_numpy(np.random.default_rng(0).normal(0, 30, (20_000, n_classes)))
    chosen = [
        draws(RandomExit(rate, seed), logits_RC, depth) for seed in (0, 1) for depth in (1, 2)
    ]
    for leave_R in chosen:
        assert leave_R.double().mean().item() == pytest.approx(rate, abs=0.03)
    # Draws of other seeds and depths have nothing to do with one another.
    correlations = np.corrcoef(torch.stack(chosen).numpy())
    assert np.abs(correlations - np.eye(4)).max() < 0.06


def test_nobody_and_all() -> None:
    logits_RC = torch.randn(100, 3)
    assert not draws(RandomExit(0), logits_RC).any()
    assert draws(RandomExit(1), logits_RC).all()


def test_a_row_s_draw_is_its_own() -> None:
    logits_RC = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 4
    together = draws(RandomExit(0.5), logits_RC)
    alone = torch.cat([draws(RandomExit(0.5), row_C[None]) for row_C in logits_RC])
    assert torch.equal(together, alone)
    assert 10 < int(together.sum()) < 40
    # Each logit counts, and its place.
    assert not torch.equal(together, draws(RandomExit(0.5), logits_RC.flip(1)))
    other_RC = logits_RC + torch.tensor([0.0, 0.0, 1.0])
    assert not torch.equal(together, draws(RandomExit(0.5), other_RC))


def test_the_draw_changes_where_rounding_does() -> None:
    # In thirty-seconds 10.3 and 3.75: rounding changes at 10.5, .2 away, and at 3.5, .25 away.
    logits_RC = torch.tensor([[10.3 / 32, 3.75 / 32]], dtype=torch.float64)
    decision = RandomExit(0.5).update(torch.zeros(1, 0), 1, logits_RC)
    assert float(decision.slack_R) == pytest.approx(0.2 / 32)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, "0.5", None, True])
def test_a_rate_is_a_probability(bad: object) -> None:
    with pytest.raises(ConfigError, match="rate is the probability.*from 0 to 1; got"):
        RandomExit(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [-1, 0.5, "1", None, True, 2**31])
def test_a_seed_is_a_whole_number(bad: object) -> None:
    with pytest.raises(ConfigError, match="seed is a whole number.*; got"):
        RandomExit(0.5, bad)  # type: ignore[arg-type]
