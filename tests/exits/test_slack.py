"""What the runner relies on: logits that change by less than the slack decide the same.

Of every criterion, and of what the state counts. A batch's logits differ from a row's own in the
last digits, by a part of the row's largest logit; so do those that a state keeps.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from every_criterion import CLASSES, EVERY, ask_all
from hypothesis import given, settings, strategies as st
from torch import Tensor

from offramp.exits.criteria import (
    Answer,
    Criterion,
    EachLabel,
    Energy,
    Entropy,
    JensenShannonPatience,
    LearnedToExit,
    Margin,
    MaxProbability,
    MinDepth,
    NormalizedEntropy,
    Patience,
    RegressionPatience,
    Task,
    Voting,
    criterion_from_dict,
)
from offramp.exits.criteria.combined import AllOf, AnyOf
from offramp.exits.criteria.patience import _NearBefore, jensen_shannon


def counted(criterion: Criterion, state_RS: Tensor, n_classes: int) -> Tensor:
    """The part of a state that is counted, and not a copy of logits."""
    if isinstance(criterion, _NearBefore):
        return state_RS[:, :1]
    if isinstance(criterion, EachLabel):
        state_US = state_RS.reshape(len(state_RS) * n_classes, -1)
        return counted(criterion.of, state_US, 2).reshape(len(state_RS), -1)
    if isinstance(criterion, (AllOf, AnyOf)):
        widths = [part.start(0, n_classes).shape[1] for part in criterion.of]
        states = torch.split(state_RS, widths, -1)
        parts = zip(criterion.of, states, strict=True)
        return torch.cat([counted(part, own, n_classes).double() for part, own in parts], -1)
    return state_RS


def assert_slack_holds(criterion: Criterion, logits_EC: Tensor, seed: int) -> None:
    """Every sequence of ramps, from the first to each, perturbed by nearly the slack."""
    n_ramps, n_classes = logits_EC.shape
    leave_E1, slack_E1, states = ask_all(criterion, logits_EC[:, None])
    sizes_E = torch.stack([Answer(logits_C[None]).size()[0] for logits_C in logits_EC])
    signs_NC = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n_classes)))
    rng = torch.Generator().manual_seed(seed)
    for last in range(1, n_ramps + 1):
        part = float((slack_E1[:last, 0] / sizes_E[:last]).min())
        part = max(0.0, min(part, 2.0) - 1e-12) * 0.9999  # the digits of float64 are not exact
        shape = last, 4 * len(signs_NC), n_classes
        shift_ENC = torch.rand(shape, generator=rng, dtype=torch.float64) * 2 - 1
        shift_ENC[:, : shape[1] // 2] = shift_ENC[:, : shape[1] // 2].sign()
        shift_ENC[-1, : len(signs_NC)] = signs_NC
        if last > 1:  # each way of the last ramp with its opposite of the one before
            shift_ENC[-2, : len(signs_NC)] = -signs_NC
        shifted_ENC = logits_EC[:last, None] + shift_ENC * part * sizes_E[:last, None, None]
        leave_EN, _, shifted_states = ask_all(criterion, shifted_ENC)
        assert (leave_EN == leave_E1[:last]).all()
        for own, other in zip(states[:last], shifted_states, strict=True):
            expected = counted(criterion, own, n_classes)
            assert (counted(criterion, other, n_classes) == expected).all()


RAMPS = st.integers(2, 4).flatmap(
    lambda c: st.lists(
        st.lists(st.floats(-6, 6, width=32), min_size=c, max_size=c), min_size=1, max_size=5
    )
)


@pytest.mark.parametrize("name", EVERY)
@settings(deadline=None, max_examples=60)
@given(
    ramps=RAMPS,
    scales=st.lists(st.sampled_from([0.1, 1.0, 8.0]), min_size=5),
    seed=st.integers(0, 9),
)
def test_less_than_the_slack_changes_nothing(
    name: str, ramps: list[list[float]], scales: list[float], seed: int
) -> None:
    scales_E = torch.tensor(scales[: len(ramps)], dtype=torch.float64)
    assert_slack_holds(EVERY[name], torch.tensor(ramps).double() * scales_E[:, None], seed)


LABELS = {
    name: criterion.for_task(Task("multi_label_classification", 3))
    for name, criterion in CLASSES.items()
    if name != "energy"
}


@pytest.mark.parametrize("name", LABELS)
@settings(deadline=None, max_examples=60)
@given(ramps=RAMPS, seed=st.integers(0, 9))
def test_so_it_is_of_rows_of_labels(name: str, ramps: list[list[float]], seed: int) -> None:
    assert_slack_holds(LABELS[name], torch.tensor(ramps).double(), seed)


SETTINGS = st.floats(0, 1)


@st.composite
def simple(draw: st.DrawFn) -> Criterion:
    """A criterion of classes with settings that may be any."""
    part, patience = draw(SETTINGS), draw(st.integers(0, 3))
    values = draw(
        st.sampled_from(
            [
                {"name": "entropy", "threshold": part * 1.4, "growth": 0.7 + part},
                {"name": "normalized_entropy", "threshold": part},
                {"name": "max_probability", "threshold": part},
                {"name": "margin", "threshold": part},
                {"name": "energy", "threshold": 6 - 12 * part, "temperature": 0.1 + 3 * part},
                {"name": "patience", "patience": patience},
                {"name": "confident_patience", "patience": patience, "threshold": part * 1.4},
                {
                    "name": "jensen_shannon_patience",
                    "patience": patience,
                    "threshold": part * math.log(2),
                },
                {"name": "voting", "threshold": 2 * part, "power": 2 * part},
                {"name": "min_depth", "layers": patience + 1},
                {"name": "random", "rate": part, "seed": patience},
            ]
        )
    )
    return criterion_from_dict(values)


@settings(deadline=None, max_examples=400)
@given(
    criterion=st.recursive(
        simple(),
        lambda inner: st.builds(
            lambda a, b, all_of: a & b if all_of else a | b, inner, inner, st.booleans()
        ),
        max_leaves=4,
    ),
    ramps=RAMPS,
    seed=st.integers(0, 9),
)
def test_so_it_is_of_any_settings_and_combinations(
    criterion: Criterion, ramps: list[list[float]], seed: int
) -> None:
    assert_slack_holds(criterion, torch.tensor(ramps).double(), seed)


@settings(deadline=None, max_examples=300)
@given(
    two=st.lists(st.lists(st.floats(-15, 15), min_size=3, max_size=3), min_size=2, max_size=2),
    near=st.sampled_from([1e-3, 1e-2, 0.1, 0.5]),
    above=st.booleans(),
    scale=st.sampled_from([0.01, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_divergences_near_their_threshold(
    two: list[list[float]], near: float, above: bool, scale: float, seed: int
) -> None:
    before_C, now_C = torch.tensor(two, dtype=torch.float64)
    now_C = before_C + scale * (now_C - before_C)  # large and small divergences
    own = float(jensen_shannon(before_C[None], now_C[None]))
    threshold = min(own * (1 + near if above else 1 - near), math.log(2))
    assert_slack_holds(JensenShannonPatience(1, threshold), torch.stack([before_C, now_C]), seed)


# Not needlessly small: where the worst change is known, a little more than the slack decides
# otherwise.


@pytest.mark.parametrize(
    ("criterion", "worst"),
    [
        (MaxProbability(0.8), [-1.0, 1.0]),
        (Margin(0.6), [-1.0, 1.0]),
        (Energy(-2.0), [-1.0, -1.0]),
        (Energy(-2.0, 3.0), [-1.0, -1.0]),
        (Patience(1), [-1.0, 1.0]),
        (Voting(0.9), [-1.0, 1.0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("logits", [[2.0, 0.5], [9.0, 0.0], [1.0, 0.75]])
def test_the_slack_of_two_classes_is_all_there_is(
    criterion: Criterion, worst: list[float], logits: list[float]
) -> None:
    logits_C, worst_C = (torch.tensor(x, dtype=torch.float64) for x in (logits, worst))
    own = criterion.ask(criterion.start(1, 2), 1, Answer(logits_C[None]))
    if not own.leave_R and not isinstance(criterion, (Patience, Voting)):
        worst_C = -worst_C
    shifted_C = logits_C + float(own.slack_R) * 1.0001 * worst_C
    other = criterion.ask(criterion.start(1, 2), 1, Answer(shifted_C[None]))
    assert not (
        torch.equal(own.leave_R, other.leave_R) and torch.equal(own.state_RS, other.state_RS)
    )


def test_the_slack_of_an_entropy_is_within_a_factor() -> None:
    # Logits (z, 0, .., 0): ln H falls by nearly 2 where z is large and all change against it.
    logits_C = torch.tensor([12.0, 0.0, 0.0], dtype=torch.float64)
    for criterion in (Entropy(0.01), NormalizedEntropy(0.01)):
        own = criterion.update(torch.zeros(1, 0), 1, logits_C[None])
        assert bool(own.leave_R)
        worst_C = torch.tensor([-1.0, 1.0, 1.0]) * float(own.slack_R) * 1.2
        assert not criterion.update(torch.zeros(1, 0), 1, (logits_C + worst_C)[None]).leave_R


def test_what_a_state_keeps_of_a_larger_row_before_is_off_by_more() -> None:
    # Logits of 1000 are kept with an error a thousand times as large as logits of 1 now have.
    criterion = RegressionPatience(1, 10.0)
    for before, now, slack in ((1000.0, 1.0, 989 / 1001), (1.0, 5.0, 6 / 1.2), (0.5, 0.0, 9.5 / 2)):
        logits_E11 = torch.tensor([[[before]], [[now]]])
        _, slack_E1, _ = ask_all(criterion, logits_E11)
        assert slack_E1[0] == math.inf  # nothing is counted at the first ramp
        assert float(slack_E1[1]) == pytest.approx(slack, rel=1e-6)


def test_combined_slacks_are_not_needlessly_small() -> None:
    sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.01, 0.0]])

    def slack(criterion: Criterion, logits_RC: Tensor) -> float:
        return float(criterion.ask(criterion.start(1, 2), 1, Answer(logits_RC)).slack_R)

    near = Entropy(1.25e-3)  # that of logits (9, 0) is 1.234e-3
    alone = slack(near, sure)
    assert alone == pytest.approx(math.log(1.25e-3 / 1.234e-3) / 2, rel=0.1)
    # It may not leave yet, or has to leave, however near the entropy's threshold is.
    assert slack(near & MinDepth(2), sure) == math.inf
    assert slack(near | MinDepth(1), sure) == math.inf
    # Where the depth says nothing, the other decides.
    assert slack(near & MinDepth(1), sure) == slack(near | MinDepth(2), sure) == alone
    # Of two that both keep a row, or both let it go, the firmer holds it.
    firm = slack(Margin(0.9), unsure)
    assert slack(Margin(0.9) & Entropy(0.69), unsure) == firm > slack(Entropy(0.69), unsure)
    firm = slack(Margin(0.1), sure)
    assert slack(Margin(0.1) | near, sure) == firm > alone
    # Where all are needed, all have to stay as they are.
    assert slack(Margin(0.1) & near, sure) == alone
    assert slack(Margin(0.9) | Entropy(0.69), unsure) == slack(Entropy(0.69), unsure)
    # What is counted has to stay as it is, whoever decides.
    assert slack(Patience(1) & MinDepth(2), unsure) == pytest.approx(0.005, rel=1e-5)
    assert slack(Patience(1) | MinDepth(1), unsure) == pytest.approx(0.005, rel=1e-5)


# Whatever the logits.

HUGE = torch.tensor(
    [
        [95.0, 0.0, -95.0],
        [1e4, -1e4, 0.0],
        [3e38, -3e38, 0.0],
        [math.inf, 0.0, -math.inf],
        [math.inf, math.inf, math.inf],
        [-math.inf, -math.inf, -math.inf],
        [0.0, 0.0, 0.0],
        [1e-40, 0.0, 0.0],
    ]
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", EVERY)
def test_huge_logits_have_finite_states(name: str, dtype: torch.dtype) -> None:
    criterion = EVERY[name]
    # Each row, and then another row's logits; each twice.
    logits_ERC = torch.stack([HUGE, HUGE, HUGE.flip(0), HUGE.flip(0), HUGE]).to(dtype)
    leave_ER, slack_ER, states = ask_all(criterion, logits_ERC)
    assert leave_ER.dtype == torch.bool
    assert not slack_ER.isnan().any()
    assert (slack_ER >= 0).all()
    assert all(state_RS.isfinite().all() for state_RS in states)


@pytest.mark.parametrize("name", EVERY)
def test_no_rows(name: str) -> None:
    leave_ER, slack_ER, states = ask_all(EVERY[name], torch.zeros(3, 0, 4))
    assert leave_ER.shape == slack_ER.shape == (3, 0)
    widths = {state_RS.shape[1] for state_RS in states}
    assert widths == {EVERY[name].start(7, 4).shape[1]}  # constant from ramp to ramp


@pytest.mark.parametrize("name", EVERY)
def test_rows_do_not_mix(name: str) -> None:
    criterion, rng = EVERY[name], np.random.default_rng(3)
    logits_ERC = torch.from_numpy(rng.normal(0, 3, (4, 30, 3)))
    leave_ER, slack_ER, _ = ask_all(criterion, logits_ERC)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))[:17]
    leave_EN, slack_EN, _ = ask_all(criterion, logits_ERC[:, order])
    assert torch.equal(leave_EN, leave_ER[:, order])
    torch.testing.assert_close(slack_EN, slack_ER[:, order])


def test_rows_of_logits_beyond_89_are_sure() -> None:
    # In float32 exp(89) is infinite, in float16 exp(12): the originals' NaN kept the surest rows.
    for dtype, logit in ((torch.float32, 95.0), (torch.float16, 12.0), (torch.float16, 95.0)):
        logits_RC = torch.tensor([[logit, 0.0, 0.0]], dtype=dtype)
        for criterion in (
            Entropy(0.1),
            NormalizedEntropy(0.1),
            MaxProbability(0.99),
            Margin(0.99),
            Energy(-9),
        ):
            assert bool(criterion.update(torch.zeros(1, 0), 1, logits_RC).leave_R), criterion


def test_every_criterion_is_in_these_tests() -> None:
    from offramp.exits.criteria import base

    here = {type(criterion) for criterion in EVERY.values()}
    ours = {cls for cls in base._CRITERIA.values() if cls.__module__.startswith("offramp.")}
    assert ours - {LearnedToExit} <= here  # its tests are in test_learned.py
    assert CLASSES.keys() & EVERY.keys()
