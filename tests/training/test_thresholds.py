"""The threshold rule against a search through the whole grid."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from offramp.exits.criteria import Entropy
from offramp.runner.sweep import EveryExit
from offramp.training.problems import grid
from offramp.training.thresholds import choose_threshold, default_growth, isotonic


@pytest.mark.parametrize("n_classes", [2, 3, 77])
def test_grid(n_classes: int) -> None:
    found = grid(math.log(n_classes))
    assert len(found) == 101
    assert found[0] == 0
    assert found[1] == pytest.approx(math.log(n_classes) / 1000, rel=1e-3)
    assert found[-1] == pytest.approx(math.log(n_classes), rel=1e-3)
    ratios = [high / low for low, high in itertools.pairwise(found[1:])]
    assert ratios == pytest.approx([10 ** (3 / 99)] * 99, rel=2e-3)  # four digits are kept


def accuracy_and_layers(
    answers: EveryExit, labels_R: torch.Tensor, thresholds: list[float], growth: float
) -> list[tuple[float, float]]:
    """At each threshold, row by row in Python."""
    p_ERC = answers.logits_ERC.double().softmax(-1)
    entropies = (-(p_ERC * p_ERC.log()).sum(-1)).T.tolist()
    labels = answers.logits_ERC.argmax(-1).T.tolist()
    found = []
    for threshold in thresholds:
        right, layers = 0, 0
        for entropy, label, true in zip(entropies, labels, labels_R.tolist(), strict=True):
            exits = range(len(answers.depths) - 1)
            at = [threshold * growth ** (depth - 1) for depth in answers.depths]
            place = next((e for e in exits if entropy[e] < at[e]), -1)
            right += label[place] == true
            layers += answers.depths[place]
        found.append((right / len(labels), layers / len(labels)))
    return found


def nearest_rising(values: list[float]) -> list[float]:
    """Isotonic regression by its min-max formula (Barlow et al. 1972), slow and plain."""
    n, sums = len(values), [0.0, *itertools.accumulate(values)]
    return [
        max(min((sums[k] - sums[j]) / (k - j) for k in range(i + 1, n + 1)) for j in range(i + 1))
        for i in range(n)
    ]


def test_isotonic_by_hand() -> None:
    assert isotonic([]) == []
    assert isotonic([1.0, 2.0, 2.0, 5.0]) == [1.0, 2.0, 2.0, 5.0]
    assert isotonic([3.0, 1.0]) == [2.0, 2.0]
    assert isotonic([0.0, 4.0, 2.0, 3.0, 9.0, 6.0]) == [0.0, 3.0, 3.0, 3.0, 7.5, 7.5]
    assert isotonic([5.0, 4.0, 3.0, 2.0]) == [3.5] * 4


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(-5, 5, width=16), min_size=1, max_size=12))
def test_isotonic_is_the_min_max_formula(values: list[float]) -> None:
    assert isotonic(values) == pytest.approx(nearest_rising(values), abs=1e-9)


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    n_classes=st.integers(2, 4),
    skill=st.sampled_from([0.0, 0.5, 3.0]),
    max_loss=st.sampled_from([0.0, 2.6, 5.3, 100.0]),
    growth=st.sampled_from([0.5, 1.0, 1.5, 3.0]),
)
def test_the_highest_threshold_whose_smoothed_loss_is_allowed(
    seed: int, n_classes: int, skill: float, max_loss: float, growth: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels_R = torch.randint(n_classes, (40,), generator=generator)
    logits_ERC = torch.randn(3, 40, n_classes, generator=generator) * 2
    depths = torch.tensor([1.0, 2.0, 3.0])[:, None]
    logits_ERC[:, torch.arange(40), labels_R] += skill * depths
    answers = EveryExit((1, 2, 4), logits_ERC)

    thresholds = grid(math.log(n_classes))
    gave = accuracy_and_layers(answers, labels_R, thresholds, growth)
    full, _ = gave[0]
    tried = [(t, *what) for t, what in zip(thresholds, gave, strict=True)]
    losses = nearest_rising([(full - kept) * 100 for _, kept, _ in tried])
    best = max(row for row, loss in zip(tried, losses, strict=True) if loss <= max_loss + 1e-9)

    choice = choose_threshold(answers, labels_R, max_loss, growth)
    assert (choice.criterion.threshold, choice.score, choice.mean_layers) == pytest.approx(best)
    assert choice.full_score == pytest.approx(full)
    assert choice.criterion.growth == growth
    applied = answers.apply(choice.criterion)
    assert applied.mean_layers == pytest.approx(choice.mean_layers)


def test_ramps_that_know_nothing_are_not_left_at() -> None:
    labels_R = torch.tensor([0, 1] * 20)
    right = torch.nn.functional.one_hot(labels_R, 2).float() * 8
    choice = choose_threshold(EveryExit((1, 2), torch.stack([-right, right])), labels_R, 0.25)
    assert (choice.mean_layers, choice.score) == (2.0, 1.0)
    entropy = math.log1p(math.exp(-8)) + 8 / (1 + math.exp(8))
    assert choice.criterion.threshold <= entropy


def test_ramps_that_know_all_are_left_at() -> None:
    labels_R = torch.tensor([0, 1] * 20)
    right = torch.nn.functional.one_hot(labels_R, 2).float() * 8
    choice = choose_threshold(EveryExit((1, 2), torch.stack([right, right])), labels_R, 0.25)
    assert (choice.mean_layers, choice.score) == (1.0, 1.0)


def test_growth_comes_to_as_much_at_any_depth() -> None:
    assert default_growth(6) == 1.5
    for n_layers in (3, 12, 24):
        assert default_growth(n_layers) ** n_layers == pytest.approx(1.5**6, rel=0.01)
    assert Entropy(0.1, default_growth(1)).growth == 10
