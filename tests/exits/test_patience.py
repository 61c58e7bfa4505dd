"""Criteria with a memory, by hand: what they count, and the ramp at which rows leave."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from every_criterion import ask_all, exits_by_hand
from hypothesis import given, settings, strategies as st
from torch import Tensor

from offramp.errors import ConfigError
from offramp.exits.criteria import (
    ConfidentPatience,
    Criterion,
    JensenShannonPatience,
    Patience,
    RegressionPatience,
    Voting,
)
from offramp.exits.criteria.patience import jensen_shannon


def named(*classes: str) -> Tensor:
    """Logits [E, R, 3] of ramps that name these classes, a letter a row: `named("ab", "bb")`."""
    return torch.tensor([[[4.0 * (c == x) for x in "abc"] for c in row] for row in classes])


def probabilities(*rows: list[float]) -> Tensor:
    """Logits [E, 1, C] of ramps with these probabilities."""
    return torch.tensor(rows, dtype=torch.float64).log()[:, None]


def test_patience_by_hand() -> None:
    # Row by row: a a a a a, a b b b b, a b c a b, a a b b b.
    logits_ERC = named("aaaa", "abba", "abcb", "abab", "abbb")
    assert exits_by_hand(Patience(1), logits_ERC) == [2, 3, None, 2]
    assert exits_by_hand(Patience(2), logits_ERC) == [3, 4, None, 5]
    assert exits_by_hand(Patience(3), logits_ERC) == [4, 5, None, None]
    assert exits_by_hand(Patience(4), logits_ERC) == [5, None, None, None]
    assert exits_by_hand(Patience(0), logits_ERC) == [None] * 4
    leave_ER, _, _ = ask_all(Patience(2), logits_ERC)
    assert leave_ER[2:, 0].all()  # and goes on to say so


def test_the_count_begins_anew() -> None:
    _, _, states = ask_all(Patience(9), named("a", "a", "a", "b", "b", "a"))
    assert [state_R2[0].tolist() for state_R2 in states] == [
        [0, 0],
        [0, 1],
        [0, 2],
        [1, 0],
        [1, 1],
        [0, 0],
    ]


def test_confident_patience_by_hand() -> None:
    # Entropies .325 (sure), .693 (unsure), .056 (very sure); which class it is does not matter.
    sure, unsure, very = [0.1, 0.9], [0.5, 0.5], [0.99, 0.01]
    logits_E1C = probabilities(sure, unsure, very, sure, sure, very)
    assert exits_by_hand(ConfidentPatience(1, 0.4), logits_E1C) == [1]
    assert exits_by_hand(ConfidentPatience(2, 0.4), logits_E1C) == [4]
    assert exits_by_hand(ConfidentPatience(4, 0.4), logits_E1C) == [6]
    assert exits_by_hand(ConfidentPatience(5, 0.4), logits_E1C) == [None]
    assert exits_by_hand(ConfidentPatience(1, 0.1), logits_E1C) == [3]
    assert exits_by_hand(ConfidentPatience(2, 0.1), logits_E1C) == [None]
    assert exits_by_hand(ConfidentPatience(1, 0), logits_E1C) == [None]
    assert exits_by_hand(ConfidentPatience(0, 9), logits_E1C) == [None]
    _, _, states = ask_all(ConfidentPatience(9, 0.4), logits_E1C)
    assert [float(state_R1) for state_R1 in states] == [1, 0, 1, 2, 3, 4]


def numpy_divergence(p: list[float], q: list[float]) -> float:
    """Jensen-Shannon from its definition, for probabilities that are not 0."""
    a, b = np.asarray(p), np.asarray(q)
    m = (a + b) / 2
    return float((a * np.log(a / m) + b * np.log(b / m)).sum() / 2)


def test_divergences_by_hand() -> None:
    # (.9, .1) and (.7, .3): m = (.8, .2), KL(p|m) = .9 ln 1.125 + .1 ln .5 = .03669,
    # KL(q|m) = .7 ln .875 + .3 ln 1.5 = .02817; half their sum is .03243.
    found = jensen_shannon(torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.7, 0.3]]).log())
    assert found.tolist() == pytest.approx([0.03243], abs=1e-5)
    far = torch.tensor([[80.0, 0.0], [math.inf, 0.0], [1.0, 1.0], [3e38, -3e38]])
    found = jensen_shannon(far, far.flip(1))
    assert found.tolist() == pytest.approx([math.log(2), math.log(2), 0, math.log(2)], abs=1e-12)
    assert jensen_shannon(far, far).tolist() == [0, 0, 0, 0]


@settings(deadline=None, max_examples=300)
@given(
    two=st.integers(2, 5).flatmap(
        lambda c: st.lists(
            st.lists(st.floats(-9, 9), min_size=c, max_size=c), min_size=2, max_size=2
        )
    ),
    scale=st.sampled_from([1.0, 1e-3]),
)
def test_divergences_are_numpys(two: list[list[float]], scale: float) -> None:
    before_C, now_C = np.asarray(two)
    now_C = before_C + scale * (now_C - before_C)
    p, q = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (before_C, now_C))
    found = float(jensen_shannon(torch.tensor(before_C)[None], torch.tensor(now_C)[None]))
    assert found == pytest.approx(numpy_divergence(list(p), list(q)), rel=1e-9, abs=1e-15)
    assert 0 <= found <= math.log(2) * (1 + 1e-15)


def test_jensen_shannon_patience_by_hand() -> None:
    # Divergences from ramp to ramp: .0324 (by hand above), 0, .2050, .0001.
    rows = [[0.9, 0.1], [0.7, 0.3], [0.7, 0.3], [0.1, 0.9], [0.11, 0.89]]
    found = [numpy_divergence(*pair) for pair in itertools.pairwise(rows)]
    assert found == pytest.approx([0.0324, 0, 0.2050, 0.0001], abs=1e-4)
    logits_E1C = probabilities(*rows)
    assert exits_by_hand(JensenShannonPatience(1, 0.04), logits_E1C) == [2]
    assert exits_by_hand(JensenShannonPatience(1, 0.03), logits_E1C) == [3]
    assert exits_by_hand(JensenShannonPatience(2, 0.04), logits_E1C) == [3]
    assert exits_by_hand(JensenShannonPatience(2, 0.03), logits_E1C) == [None]
    assert exits_by_hand(JensenShannonPatience(4, 0.3), logits_E1C) == [5]
    assert exits_by_hand(JensenShannonPatience(1, 0), logits_E1C) == [None]
    assert exits_by_hand(JensenShannonPatience(0, 0.5), logits_E1C) == [None]


def test_regression_patience_by_hand() -> None:
    logits_ER1 = torch.tensor([[1.0, 5.0], [1.25, 4.0], [1.5, 4.1], [2.5, 4.2], [2.5, 4.3]])[
        ..., None
    ]
    assert exits_by_hand(RegressionPatience(1, 0.3), logits_ER1) == [2, 3]
    assert exits_by_hand(RegressionPatience(2, 0.3), logits_ER1) == [3, 4]
    assert exits_by_hand(RegressionPatience(3, 0.3), logits_ER1) == [None, 5]
    assert exits_by_hand(RegressionPatience(1, 0.25), logits_ER1) == [5, 3]  # strictly less
    assert exits_by_hand(RegressionPatience(1), logits_ER1) == [None, None]
    assert exits_by_hand(RegressionPatience(), logits_ER1) == [None, None]
    # Of several outputs, the one that changed most.
    logits_E12 = torch.tensor([[[0.0, 9.0]], [[0.1, 9.5]], [[0.2, 9.6]]])
    assert exits_by_hand(RegressionPatience(1, 0.2), logits_E12) == [3]


def test_votes_by_hand() -> None:
    logits_ERC = named("aa", "ab", "ba", "aa", "ac")
    # Power 0: the number of votes. Most votes: 1 2 2 3 4 and 1 1 2 3 3.
    assert exits_by_hand(Voting(2.5, power=0), logits_ERC) == [4, 4]
    assert exits_by_hand(Voting(3, power=0), logits_ERC) == [5, None]  # strictly above
    # Power 1: their share, 1 1 .67 .75 .8 and 1 .5 .67 .75 .6.
    assert exits_by_hand(Voting(0.99, power=1), logits_ERC) == [1, 1]
    assert exits_by_hand(Voting(1, power=1), logits_ERC) == [None, None]
    # Power 1/2: over 1, 1.41, 1.73, 2 and 2.24: 1 1.41 1.15 1.5 1.79 and 1 .71 1.15 1.5 1.34.
    assert exits_by_hand(Voting(1.4, power=0.5), logits_ERC) == [2, 4]
    assert exits_by_hand(Voting(1.45, power=0.5), logits_ERC) == [4, 4]
    assert exits_by_hand(Voting(1.6, power=0.5), logits_ERC) == [5, None]
    _, _, states = ask_all(Voting(9), logits_ERC)
    assert states[-1].tolist() == [[4, 1, 0], [3, 1, 1]]


PATIENT = [
    lambda patience: Patience(patience),
    lambda patience: ConfidentPatience(patience, 0.5),
    lambda patience: JensenShannonPatience(patience, 0.5),
    lambda patience: RegressionPatience(patience, 0.5),
]


@pytest.mark.parametrize("make", PATIENT)
@pytest.mark.parametrize("bad", [-1, 1.0, 0.5, "2", None, True, math.nan, 2**31])
def test_patience_is_a_whole_number(make: type[Criterion], bad: object) -> None:
    with pytest.raises(ConfigError, match=r"patience is how many ramps in a row.*; got"):
        make(bad)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ConfidentPatience, "entropy threshold is a number of at least 0, in nats"),
        (JensenShannonPatience, "Jensen-Shannon divergence is in nats, a number from 0 to ln 2"),
        (RegressionPatience, "change is a number of at least 0, in the outputs' units"),
    ],
)
@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, "0.3", None, True])
def test_their_thresholds(kind: type[Criterion], message: str, bad: object) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(2, bad)  # type: ignore[call-arg]


def test_a_divergence_is_at_most_ln_2() -> None:
    JensenShannonPatience(1, math.log(2))
    with pytest.raises(ConfigError, match="ln 2 = .693; got 0.7"):
        JensenShannonPatience(1, 0.7)


@pytest.mark.parametrize(
    ("threshold", "power"), [(-1, 1), (math.nan, 1), (math.inf, 1), (1, -1), (1, 11), (1, "1")]
)
def test_votes_settings(threshold: float, power: float) -> None:
    with pytest.raises(ConfigError, match=r"voting threshold is|power is that of"):
        Voting(threshold, power)
