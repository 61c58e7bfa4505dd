"""What benchmarks/exits.py reckons: speeds between those measured, and scores of rows drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from offramp.exits.criteria import Entropy, Patience, Task
from offramp.runner.sweep import EveryExit
from offramp.text.tables import Table
from offramp.training.entities import entity_f1
from offramp.training.problems import PROBLEMS
from offramp.training.thresholds import default_growth

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from exiting.clock import depth_at, interpolated, share_of
from exiting.families import DEFAULTS, FAMILIES, paths
from exiting.models import Answers
from exiting.points import choose, either
from exiting.scoring import METRICS, interval, scored
from exiting.sets import evenly

TIMES = {"1": 0.2, "2": 0.4, "3": 0.7}  # of a model of four layers


@pytest.mark.parametrize(
    ("time", "depth", "share"),
    [(0.1, 1, 1.0), (0.2, 1, 1.0), (0.25, 1, 0.75), (0.4, 1, 0.0), (0.85, 3, 0.5), (1.2, 3, 0.0)],
)
def test_a_time_between_two_depths_is_a_draw_between_them(
    time: float, depth: int, share: float
) -> None:
    assert depth_at(TIMES, 4, time) == (depth, pytest.approx(share))


def test_lines_go_through_their_points_and_on() -> None:
    line = [(0.25, 0.3), (0.5, 0.5), (0.75, 0.8)]
    assert [interpolated(line, x) for x in (0.25, 0.375, 0.75, 1.0, 0.0)] == pytest.approx(
        [0.3, 0.4, 0.8, 1.1, 0.1]
    )
    assert interpolated([(0.5, 0.6)], 0.75) == pytest.approx(0.8)


def test_layers_count_by_tokens() -> None:
    """A row of 30 tokens leaves at the first of two exits, one of 10 goes to the end."""
    logits_ERC = torch.tensor([[[9.0, 0.0], [0.1, 0.0]], [[9.0, 0.0], [9.0, 0.0]]])
    exits = EveryExit((1, 2), logits_ERC)
    answers = Answers(exits, torch.tensor([0, 0]), torch.tensor([30, 10]))
    assert share_of(answers, exits.apply(Entropy(0.5))) == pytest.approx((30 + 20) / 80)


def test_a_draw_between_two_ways_scores_their_mean() -> None:
    labels_R = torch.tensor([0, 1, 1, 0])
    one = scored("classification", torch.eye(2)[torch.tensor([0, 1, 1, 0])], labels_R)
    other = scored("classification", torch.eye(2)[torch.tensor([1, 1, 0, 1])], labels_R)
    assert one.score() == 100 and other.score() == 25
    assert either([one, other], 1, 0.2).score() == pytest.approx(20 + 20)
    assert either([one, other], 2, 1.0).score() == 25


def test_correlation_is_made_of_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    x_R, y_R = torch.randn(2, 50, generator=generator)
    found = scored("regression", x_R[:, None], y_R).score()
    assert found == pytest.approx(100 * np.corrcoef(x_R, y_R)[0, 1])
    assert set(METRICS) >= {"classification", "regression"}


def test_entities_are_counted_by_sentence() -> None:
    """Two of three spans are found and two said that are not there; the third sentence has none."""
    names = ["O", "B-a", "I-a"]
    true_RL = torch.tensor([[1, 2, 0, 1], [1, 0, -100, -100], [0, 0, 0, 0]])
    said_RL = torch.tensor([[1, 2, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]])
    way = scored("tokens", torch.eye(3)[said_RL], true_RL, names)
    assert way.parts_RK.tolist() == [[1, 1, 2], [1, 2, 1], [0, 1, 0]]
    gold = [["B-a", "I-a", "O", "B-a"], ["B-a", "O"], ["O"] * 4]
    said = [["B-a", "I-a", "O", "O"], ["B-a", "B-a"], ["O", "O", "B-a", "O"]]
    assert way.score() == pytest.approx(100 * entity_f1(gold, said).f1)


def test_drawn_rows_give_the_interval_of_a_mean() -> None:
    right_R = torch.arange(400) % 4 > 0  # three quarters
    logits_RC = torch.stack([~right_R, right_R], -1).float()
    way = scored("classification", logits_RC, torch.ones(400, dtype=torch.long))
    low, high = interval(way.drawn())
    half = 196 * (0.75 * 0.25 / 400) ** 0.5
    assert (low, high) == pytest.approx((75 - half, 75 + half), abs=0.5)


def some_exits(kind: str) -> EveryExit:
    generator = torch.Generator().manual_seed(1)
    n_outputs = 1 if kind == "regression" else 3
    return EveryExit((1, 2, 3, 4, 5), 3 * torch.randn(5, 60, n_outputs, generator=generator))


@pytest.mark.parametrize("kind", FAMILIES)
def test_paths_begin_where_nobody_leaves(kind: str) -> None:
    """And the further they go, the fewer layers are taken."""
    exits = some_exits(kind)
    for family in FAMILIES[kind]:  # type: ignore[index]
        found = paths(kind, family, exits)  # type: ignore[arg-type]
        assert bool(found) == (family != "learned to exit")  # these do not say how sure they are
        for criteria in found:
            layers = [exits.apply(criterion).mean_layers for criterion in criteria]
            assert layers[0] > layers[-1]
            if family not in ("voting", "random"):
                assert layers == sorted(layers, reverse=True)


def test_the_default_of_numbers_is_what_the_library_chooses_from() -> None:
    exits = some_exits("regression")
    found = paths("regression", DEFAULTS["regression"], exits)
    assert found == PROBLEMS["regression"].criteria(exits, 1.0)
    assert [str(one[-1]).count("MinDepth(layers=") for one in found] == [0, 1, 1]


def test_of_several_paths_the_better_one_is_chosen_for_each_speed() -> None:
    """Ramps 1 to 3 know nothing and agree about it; 4 and 5 are right."""
    labels_R = torch.arange(60.0)
    noise_ER = torch.randn(5, 60, generator=torch.Generator().manual_seed(0)) / 100
    said_ER = labels_R * torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])[:, None] + noise_ER
    exits = EveryExit((1, 2, 3, 4, 5), said_ER[..., None], Task("regression", 1))
    model: Any = SimpleNamespace(
        dev=Answers(exits, labels_R, torch.ones(60), "regression"),
        data=SimpleNamespace(recipe=SimpleNamespace(kind="regression")),
    )
    clock: Any = SimpleNamespace(time=lambda family, share, model: share * 0.8)
    one, several = (
        choose(model, clock, family) for family in ("regression patience 1", DEFAULTS["regression"])
    )
    assert several[1.5].dev_score > 99 > one[1.5].dev_score
    assert "MinDepth(layers=4)" in str(several[1.5].criterion)


def test_a_combination_is_a_family() -> None:
    (criteria,) = paths("classification", "entropy, growing & patience 1", some_exits("classes"))
    assert {one.of[1] for one in criteria} == {Patience(1)}  # type: ignore[attr-defined]
    assert {one.of[0].growth for one in criteria} == {default_growth(5)}  # type: ignore[attr-defined]


def test_rows_are_drawn_evenly() -> None:
    table = Table("rows", [str(i) for i in range(10)], ["x"] * 10)
    assert evenly(table, 3).texts == ["0", "3", "6"]
    assert evenly(table, None) is table and evenly(table, 10) is table
