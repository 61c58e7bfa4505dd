"""Criteria of one ramp's certainty against float64 numpy; entropies finite whatever the logits."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings, strategies as st

from offramp.errors import ConfigError
from offramp.exits.criteria import (
    Criterion,
    Energy,
    Entropy,
    Margin,
    MaxProbability,
    NormalizedEntropy,
    criterion_from_dict,
    logits_entropy,
)

NUMBERS = st.one_of(
    st.floats(-30, 30, width=32),
    st.floats(-1e4, 1e4, width=32),
    st.sampled_from([0.0, -0.0, 95.0, -95.0, 1e4, -1e4, 1e29, -1e29, math.inf, -math.inf]),
)
LOGITS = st.integers(2, 6).flatmap(
    lambda c: st.lists(st.lists(NUMBERS, min_size=c, max_size=c), min_size=1, max_size=5)
)


def reference(logits_RC: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Entropy of softmax in float64: the limit where logits are infinite."""
    x = np.asarray(logits_RC, dtype=np.float64).clip(-1e300, 1e300)
    p = np.exp(x - x.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(p > 0, p * np.log(p), 0.0).sum(-1)


@settings(deadline=None, max_examples=300)
@given(LOGITS)
def test_entropy_is_numpys(logits: list[list[float]]) -> None:
    found = logits_entropy(torch.tensor(logits)).numpy()
    assert np.isfinite(found).all()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, reference(logits), rtol=1e-5, atol=2e-6)
    assert (found >= 0).all()  # else a row could leave at threshold 0
    assert (found <= math.log(len(logits[0])) * (1 + 1e-6)).all()


@settings(deadline=None, max_examples=200)
@given(
    st.integers(2, 6).flatmap(
        lambda c: st.lists(
            st.lists(
                st.floats(width=16, allow_nan=False) | st.sampled_from([12.0, 95.0, 65504.0]),
                min_size=c,
                max_size=c,
            ),
            min_size=1,
            max_size=4,
        )
    ),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float64]),
)
def test_entropy_of_other_types(logits: list[list[float]], dtype: torch.dtype) -> None:
    logits_RC = torch.tensor(logits, dtype=dtype)
    found = logits_entropy(logits_RC).numpy()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, reference(logits_RC.double()), rtol=1e-9, atol=1e-12)


def test_worked_entropies() -> None:
    logits_RC = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [95.0, 0.0], [1e4, -1e4]])
    three_to_one = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = [math.log(2), three_to_one, 0.0, 0.0]
    assert logits_entropy(logits_RC).tolist() == pytest.approx(expected, abs=1e-6)


def test_rows_of_logits_beyond_89_leave() -> None:
    # exp(89) is more than float32 holds; the research code's NaN kept the surest rows in.
    logits_RC = torch.tensor([[100.0, 0.0], [1e4, 0.0], [math.inf, 0.0], [0.0, -math.inf]])
    for dtype in (torch.float32, torch.float16):
        decision = Entropy(0.1).update(torch.zeros(4, 0), 1, logits_RC.to(dtype))
        assert decision.leave_R.tolist() == [True] * 4


def test_a_row_that_is_not_a_number_stays() -> None:
    logits_RC = torch.tensor([[math.nan, 0.0], [50.0, 0.0], [math.nan, math.nan]])
    for threshold in (0.5, 1e30):
        decision = Entropy(threshold).update(torch.zeros(3, 0), 1, logits_RC)
        assert decision.leave_R.tolist() == [False, True, False]


def test_strictly_below_and_slack() -> None:
    logits_RC = torch.tensor([[0.3, 0.1, -1.0], [2.0, 0.0, 0.0]])
    own_R = logits_entropy(logits_RC)
    for row in (0, 1):
        exactly = float(own_R[row])
        above = float(np.nextafter(exactly, 9))
        stays = Entropy(exactly).update(torch.zeros(2, 0), 1, logits_RC)
        leaves = Entropy(above).update(torch.zeros(2, 0), 1, logits_RC)
        assert not stays.leave_R[row]
        assert leaves.leave_R[row]
        assert float(stays.slack_R[row]) < 1e-12


@settings(deadline=None, max_examples=300)
@given(
    logits=st.integers(2, 6).flatmap(
        lambda c: st.lists(st.floats(-15, 15, width=32), min_size=c, max_size=c)
    ),
    near=st.sampled_from([1e-3, 1e-2, 0.1, 1.0]),
    above=st.booleans(),
    seed=st.integers(0, 99),
)
def test_logits_that_change_by_less_than_the_slack_decide_the_same(
    logits: list[float], near: float, above: bool, seed: int
) -> None:
    # What the runner relies on: batched logits differ from a row's own in the last digits.
    logits_C = torch.tensor(logits, dtype=torch.float64)
    threshold = float(reference(logits)) * (1 + near if above else 1 - near)
    own = Entropy(threshold).update(torch.zeros(1, 0), 1, logits_C[None])
    slack = min(float(own.slack_R), 3.0) * 0.9999
    shift_NC = np.random.default_rng(seed).uniform(-slack, slack, (50, len(logits)))
    shift_NC[:25] = np.sign(shift_NC[:25]) * slack
    shifted = reference(np.asarray(logits) + shift_NC)
    assert ((shifted < threshold) == bool(own.leave_R)).all()


def test_at_threshold_0_nobody_leaves() -> None:
    logits_RC = torch.tensor([[1e4, 0.0], [math.inf, -math.inf], [0.0, 0.0]])
    assert not Entropy().update(torch.zeros(3, 0), 1, logits_RC).leave_R.any()


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, -math.inf, "0.3", None, True, [0.1]])
def test_a_threshold_is_a_number_of_at_least_0(bad: object) -> None:
    with pytest.raises(ConfigError, match="entropy threshold"):
        Entropy(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0, 0.09, 11, -1, math.nan, math.inf, "2", None, True])
def test_growth_is_a_modest_factor(bad: object) -> None:
    with pytest.raises(ConfigError, match="growth"):
        Entropy(0.1, bad)  # type: ignore[arg-type]


def test_the_threshold_grows_with_depth_by_hand() -> None:
    # The entropy of (.9, .1) is .325, of (.8, .2) .500; thresholds are .2, .3, .45, .675.
    logits_RC = torch.tensor([[0.9, 0.1], [0.8, 0.2]]).log()
    criterion = Entropy(0.2, growth=1.5)
    found = [
        criterion.update(torch.zeros(2, 0), d, logits_RC).leave_R.tolist() for d in (1, 2, 3, 4)
    ]
    assert found == [[False, False], [False, False], [True, False], [True, True]]
    slack_R = criterion.update(torch.zeros(2, 0), 3, logits_RC).slack_R
    expected = [abs(math.log(entropy / 0.45)) / 2 for entropy in (0.3250830, 0.5004024)]
    assert slack_R.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_file_without_growth_is_deebert_s_criterion() -> None:
    assert criterion_from_dict({"name": "entropy", "threshold": 0.3}) == Entropy(0.3, growth=1)


# The others, by hand: probabilities (.7, .2, .1), (.5, .3, .2), (.9, .05, .05) and (1, 1, 1) / 3.

FOUR = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [1 / 3] * 3]).log()


def leaves(criterion: Criterion, logits_RC: torch.Tensor, depth: int = 1) -> list[bool]:
    found: list[bool] = criterion.update(
        torch.zeros(len(logits_RC), 0), depth, logits_RC
    ).leave_R.tolist()
    return found


def test_normalised_entropy_by_hand() -> None:
    # H is .802, 1.030, .394 and ln 3 = 1.099, so H / ln 3 is .730, .937, .359 and 1.
    assert leaves(NormalizedEntropy(0.3), FOUR) == [False, False, False, False]
    assert leaves(NormalizedEntropy(0.36), FOUR) == [False, False, True, False]
    assert leaves(NormalizedEntropy(0.74), FOUR) == [True, False, True, False]
    assert leaves(NormalizedEntropy(0.94), FOUR) == [True, True, True, False]
    assert leaves(NormalizedEntropy(0), FOUR) == [False] * 4
    # Of two classes (.5, .5) is as far from certainty as (1/3, 1/3, 1/3) of three.
    assert leaves(NormalizedEntropy(0.99), torch.zeros(1, 2)) == [False]


def test_the_best_probability_by_hand() -> None:
    assert leaves(MaxProbability(0.91), FOUR) == [False, False, False, False]
    assert leaves(MaxProbability(0.89), FOUR) == [False, False, True, False]
    assert leaves(MaxProbability(0.51), FOUR) == [True, False, True, False]
    assert leaves(MaxProbability(0.49), FOUR) == [True, True, True, False]
    assert leaves(MaxProbability(0.3), FOUR) == [True] * 4
    assert leaves(MaxProbability(0), FOUR) == [True] * 4
    assert leaves(MaxProbability(1), torch.tensor([[1e30, 0.0], [math.inf, 0.0]])) == [False] * 2
    # Beyond the digits of a probability: 1 - 2e-35 is 1 in float64, and still above what it is not.
    assert leaves(MaxProbability(1 - 2**-53), torch.tensor([[80.0, 0.0], [36.0, 0.0]])) == [
        True,
        False,
    ]
    # Above, strictly: one half of two classes is not above one half.
    assert leaves(MaxProbability(0.5), torch.zeros(1, 2)) == [False]


def test_the_margin_by_hand() -> None:
    # .5, .2, .85 and 0.
    assert leaves(Margin(0.86), FOUR) == [False, False, False, False]
    assert leaves(Margin(0.84), FOUR) == [False, False, True, False]
    assert leaves(Margin(0.49), FOUR) == [True, False, True, False]
    assert leaves(Margin(0.19), FOUR) == [True, True, True, False]
    assert leaves(Margin(0), FOUR) == [True, True, True, False]
    assert leaves(Margin(0), torch.tensor([[3.0, 3.0], [3.0, 2.9]])) == [False, True]
    assert leaves(Margin(1), torch.tensor([[1e30, 0.0], [math.inf, 0.0]])) == [False] * 2


def test_the_energy_by_hand() -> None:
    # -ln(e^1 + e^2 + e^3) = -3.4076; with T = 2, -2 ln(e^.5 + e^1 + e^1.5) = -4.3607.
    logits_RC = torch.tensor([[1.0, 2.0, 3.0]])
    for threshold, leaves_now in ((-3.41, False), (-3.40, True), (5, True)):
        assert leaves(Energy(threshold), logits_RC) == [leaves_now]
    for threshold, leaves_now in ((-4.37, False), (-4.36, True)):
        assert leaves(Energy(threshold, temperature=2), logits_RC) == [leaves_now]
    slack_R = Energy(-3.0).update(torch.zeros(1, 0), 1, logits_RC).slack_R
    assert slack_R.tolist() == pytest.approx([0.40760596], rel=1e-7)
    # The size of the logits counts, not their differences alone.
    assert leaves(Energy(-5), torch.tensor([[1.0, 0.0], [10.0, 9.0]])) == [False, True]
    assert leaves(Energy(-1e299), torch.tensor([[math.inf, 0.0], [-math.inf, -math.inf]])) == [
        True,
        False,
    ]


@settings(deadline=None, max_examples=200)
@given(
    logits=st.integers(2, 5).flatmap(
        lambda c: st.lists(st.floats(-9, 9, width=32), min_size=c, max_size=c)
    ),
    threshold=st.floats(0, 1),
)
def test_they_are_numpys(logits: list[float], threshold: float) -> None:
    x = np.asarray(logits, dtype=np.float64)
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    second, best = np.sort(p)[-2:]
    scores: list[tuple[Criterion, float, float]] = [
        (MaxProbability(threshold), best, threshold),
        (Margin(threshold), best - second, threshold),
        (NormalizedEntropy(threshold), -float(reference(logits)) / math.log(len(x)), -threshold),
        (Energy(9 * threshold, 2), 2 * np.log(np.exp(x / 2).sum()), -9 * threshold),
    ]
    for criterion, score, bound in scores:
        if abs(score - bound) > 1e-9:
            assert leaves(criterion, torch.tensor([logits])) == [score > bound], criterion


@pytest.mark.parametrize("kind", [NormalizedEntropy, MaxProbability, Margin])
@pytest.mark.parametrize("bad", [-0.1, 1.01, math.nan, math.inf, -math.inf, "0.3", None, True])
def test_a_threshold_from_0_to_1(kind: type[Criterion], bad: object) -> None:
    with pytest.raises(ConfigError, match=r"from 0 to 1; got"):
        kind(bad)  # type: ignore[call-arg]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "low", None, True, 10**400])
def test_an_energy_threshold_is_finite(bad: object) -> None:
    with pytest.raises(ConfigError, match="energy threshold is a finite number"):
        Energy(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0, -1, 1e-4, 1e4, math.nan, math.inf, "1", None, True])
def test_a_temperature_is_above_0(bad: object) -> None:
    with pytest.raises(ConfigError, match=r"temperature is a number from 0\.001 to 1000"):
        Energy(0, bad)  # type: ignore[arg-type]


def test_nan_has_no_certainty() -> None:
    logits_RC = torch.tensor([[math.nan, 0.0], [50.0, 0.0], [math.nan, math.nan]])
    for criterion in (NormalizedEntropy(1), MaxProbability(0.1), Margin(0.1), Energy(9)):
        assert leaves(criterion, logits_RC) == [False, True, False]
