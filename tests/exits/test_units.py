"""Rows of several labels, and of tokens: a row leaves when its least sure one may."""

from __future__ import annotations

import math

import pytest
import torch
from every_criterion import CLASSES, ask_all, exits_by_hand
from hypothesis import given, settings, strategies as st

from offramp.errors import ConfigError
from offramp.exits.criteria import (
    Answer,
    Criterion,
    EachLabel,
    Entropy,
    JensenShannonPatience,
    Margin,
    MaxProbability,
    MinDepth,
    Patience,
    RandomExit,
    Task,
    Voting,
    by_unit,
)
from offramp.exits.decisions import Memory, Units, decide

MULTI = Task("multi_label_classification", 3)


def odds(*rows: list[float]) -> torch.Tensor:
    """Logits [R, C] of labels that have these probabilities."""
    return torch.tensor(rows, dtype=torch.float64).logit()


# Labels.


def test_all_labels_have_to_be_sure_by_hand() -> None:
    # The least sure labels have .7, .6 and .9 for what they say.
    logits_RC = odds([0.9, 0.3, 0.95], [0.99, 0.01, 0.6], [0.1, 0.95, 0.9])
    for threshold, expected in (
        (0.59, [1, 1, 1]),
        (0.65, [1, 0, 1]),
        (0.8, [0, 0, 1]),
        (0.91, [0] * 3),
    ):
        criterion = MaxProbability(threshold).for_task(MULTI)
        said = criterion.update(criterion.start(3, 3), 1, logits_RC)
        assert said.leave_R.tolist() == [bool(x) for x in expected]
    # Entropies of .7, .6 and .9: .611, .673, .325.
    criterion = Entropy(0.65).for_task(MULTI)
    said = criterion.update(criterion.start(3, 3), 1, logits_RC)
    assert said.leave_R.tolist() == [True, False, True]


def test_the_least_sure_label_s_slack_by_hand() -> None:
    # A margin of two classes is p - (1 - p), and artanh of that half the logit.
    logits_RC = torch.tensor([[3.0, -1.0, 2.0], [3.0, -0.5, 0.25]], dtype=torch.float64)
    leaves = Margin(math.tanh(0.3)).for_task(MULTI)  # from logits of .6 on
    said = leaves.update(leaves.start(2, 3), 1, logits_RC)
    assert said.leave_R.tolist() == [True, False]
    # The first row's least sure label is .5 - .3 away; the second's firmest of those that keep
    # it (.25 and .125) is .3 - .125 away.
    assert said.slack_R.tolist() == pytest.approx([0.2, 0.175])


def test_each_label_has_its_own_memory() -> None:
    # One row of two labels, yes (+) or no (-): the second changes its mind at ramp 3.
    logits_ERC = torch.tensor(
        [[[1.0, -1.0]], [[2.0, -2.0]], [[1.0, 1.0]], [[2.0, 1.0]], [[2.0, 1.0]]]
    )
    assert exits_by_hand(Patience(1).for_task(MULTI), logits_ERC) == [2]
    assert exits_by_hand(Patience(2).for_task(MULTI), logits_ERC) == [5]
    assert exits_by_hand(Patience(3).for_task(MULTI), logits_ERC) == [None]
    _, slack_ER, states = ask_all(Patience(2).for_task(MULTI), logits_ERC)
    assert states[0].shape == (1, 4)
    assert states[-1].tolist() == [[1, 4, 1, 2]]  # class 1 four times more, class 1 twice more
    assert slack_ER[:, 0].tolist() == [0.5, 1, 0.5, 0.5, 0.5]  # half a logit's way to 0 of each
    assert Voting(0.5).for_task(MULTI).start(4, 3).shape == (4, 6)


def test_a_label_s_size_is_the_row_s() -> None:
    # A label of logit 1 beside one of 100 is kept with the error of 100; now the largest is 40.
    criterion = JensenShannonPatience(1, 0.1)
    small = torch.tensor([[[1.0]], [[0.5]]])
    both = torch.tensor([[[1.0, 100.0]], [[0.5, 40.0]]])
    alone = ask_all(criterion.for_task(MULTI), small)[1][1].item()
    beside = ask_all(criterion.for_task(MULTI), both)[1][1].item()
    assert beside == pytest.approx(alone * math.sqrt(2) / math.sqrt(1 + 2.5**2))


def test_what_is_of_the_row_stays_of_the_row() -> None:
    chance, depth = RandomExit(0.5), MinDepth(2)
    assert chance.for_task(MULTI) is chance
    assert depth.for_task(MULTI) is depth
    assert Entropy(0.1).for_task(MULTI) == EachLabel(Entropy(0.1))
    # Labels are asked together where that is possible: each may be sure, or settled.
    either = Entropy(0.1) | Patience(2)
    assert either.for_task(MULTI) == EachLabel(either)
    assert (either & depth).for_task(MULTI) == EachLabel(either) & depth
    assert (Entropy(0.1) & chance).for_task(MULTI) == EachLabel(Entropy(0.1)) & chance


def test_of_each_label_one_of_two_by_hand() -> None:
    # The first label is sure (.99), the second says the same as before (.6).
    logits_ERC = odds([0.99, 0.6])[None].repeat(2, 1, 1)
    sure, settled = MaxProbability(0.9), Patience(1)
    assert exits_by_hand(sure.for_task(MULTI), logits_ERC) == [None]
    assert exits_by_hand((sure | settled).for_task(MULTI), logits_ERC) == [2]
    assert exits_by_hand((sure & settled).for_task(MULTI), logits_ERC) == [None]
    logits_ERC = odds([0.99, 0.6], [0.99, 0.4])[:, None]
    assert exits_by_hand((sure | settled).for_task(MULTI), logits_ERC) == [None]


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "energy"])
def test_one_label_is_a_question_of_two_classes(name: str) -> None:
    torch.manual_seed(0)
    logits_ER1 = torch.randn(5, 40, 1) * 3
    of_label, of_classes = CLASSES[name].for_task(MULTI), CLASSES[name]
    found = exits_by_hand(of_label, logits_ER1)
    if name != "chance":  # which hashes the row's logits
        logits_ER2 = torch.cat([torch.zeros_like(logits_ER1), logits_ER1], -1)
        assert found == exits_by_hand(of_classes, logits_ER2)


def test_it_is_not_saved() -> None:
    with pytest.raises(ConfigError, match="EachLabel is: the class needs a `name`"):
        EachLabel(Entropy(0.1)).to_dict()


@pytest.mark.parametrize("n_rows", [0, 1])
@pytest.mark.parametrize("criterion", [Entropy(0.1), Patience(2)], ids=str)
def test_few_rows(criterion: Criterion, n_rows: int) -> None:
    leave_ER, _, states = ask_all(criterion.for_task(MULTI), torch.zeros(2, n_rows, 3))
    assert leave_ER.shape == (2, n_rows)
    assert len(states[-1]) == n_rows


# Tokens: any number a row.


def tokens(*probabilities: float) -> Answer:
    """Units of two classes with these probabilities of the second."""
    logits_U = odds(list(probabilities))[0]
    return Answer(torch.stack([torch.zeros_like(logits_U), logits_U], -1))


def test_ragged_rows_by_hand() -> None:
    # Rows of 3, 1, 0 and 2 tokens; the least sure have .8, .6, none, and .95.
    answer = tokens(0.9, 0.2, 0.99, 0.6, 0.95, 0.02)
    row_U = torch.tensor([0, 0, 0, 1, 3, 3])
    for threshold, expected in ((0.9, [0, 0, 1, 1]), (0.7, [1, 0, 1, 1]), (0.5, [1, 1, 1, 1])):
        said = by_unit(MaxProbability(threshold), torch.zeros(6, 0), 1, answer, row_U, 4)
        assert said.leave_R.tolist() == [bool(x) for x in expected]
        assert said.state_RS.shape == (6, 0)
    # Log-odds: of .9 2.197, .8 1.386, .6 .405, .95 2.944; half the distance. Of the first row
    # .9 is not above .9, and .8, which is farther away, keeps the row more firmly.
    said = by_unit(MaxProbability(0.9), torch.zeros(6, 0), 1, answer, row_U, 4)
    expected_slacks = [
        (2.197225 - 1.386294) / 2,
        (2.197225 - 0.405465) / 2,
        math.inf,
        (2.944439 - 2.197225) / 2,
    ]
    assert said.slack_R.tolist() == pytest.approx(expected_slacks, rel=1e-5)


def test_ragged_rows_with_a_memory_by_hand() -> None:
    row_U, state_US = torch.tensor([1, 0, 1]), Patience(1).start(3, 2)  # in any order
    said = by_unit(Patience(1), state_US, 1, tokens(0.9, 0.9, 0.1), row_U, 2)
    assert said.leave_R.tolist() == [False, False]
    assert said.state_RS.tolist() == [[1, 0], [1, 0], [0, 0]]
    said = by_unit(Patience(1), said.state_RS, 2, tokens(0.8, 0.6, 0.7), row_U, 2)
    assert said.leave_R.tolist() == [True, False]  # the last token, of row 1, says another
    assert said.state_RS.tolist() == [[1, 1], [1, 1], [1, 0]]
    # What each token counts has to stay: half the logit of .6 and of .7.
    assert said.slack_R.tolist() == pytest.approx([0.405465 / 2, 0.847298 / 2], rel=1e-5)


def test_what_is_not_counted_has_no_part_in_a_memory_by_hand() -> None:
    # A row of three tokens, the middle one not counted: it changes its mind, and holds nobody.
    units = Units(1, torch.tensor([3]), torch.tensor([True, False, True]))
    criterion = Patience(1).for_task(Task("single_label_classification", 2, tokens=True))
    memory, leaves = Memory.blank(criterion, units, 2), []
    for depth, middle in ((1, 0.9), (2, 0.1), (3, 0.9)):
        said = tokens(0.9, middle, 0.2 if depth == 1 else 0.7)
        answer = units.asked(Answer(said.logits_RC))
        decided = decide(criterion, answer, units, memory, depth)
        memory = decided.memory
        leaves.append(decided.leave_R.tolist())
    assert leaves == [[False], [False], [True]]  # the last token agreed with itself at 3 only


@settings(deadline=None, max_examples=100)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    threshold=st.floats(0.5, 1),
    seed=st.integers(0, 9),
)
def test_ragged_rows_are_those_of_one_at_a_time(
    lengths: list[int], threshold: float, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    criterion = MaxProbability(threshold) | Patience(1)
    row_U = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    row_U = row_U[torch.randperm(len(row_U), generator=rng)]
    logits_EUC = torch.randn(3, len(row_U), 3, generator=rng) * 2
    state_US, parts = criterion.start(len(row_U), 3), {}
    for depth, logits_UC in enumerate(logits_EUC, start=1):
        said = by_unit(criterion, state_US, depth, Answer(logits_UC), row_U, len(lengths))
        state_US = said.state_RS
        for row in range(len(lengths)):
            own = row_U == row
            before_US = parts.get(row, criterion.start(int(own.sum()), 3))
            one = by_unit(
                criterion,
                before_US,
                depth,
                Answer(logits_UC[own]),
                torch.zeros(int(own.sum()), dtype=torch.int64),
                1,
            )
            parts[row] = one.state_RS
            assert one.leave_R[0] == said.leave_R[row]
            assert one.slack_R[0] == said.slack_R[row]
            assert torch.equal(one.state_RS, state_US[own])
