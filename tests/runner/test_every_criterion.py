"""Every criterion in the runner: batched equals one by one, near its threshold too, and NaN."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from functools import cache

import pytest
import torch
from every_criterion import CLASSES, EVERY, NUMBERS
from exit_models import random_rows, tiny_model
from test_run import by_depth_alone, decide_alone, labels_and_layers, random_settings
from torch import Tensor

import offramp
from offramp.exits.attach import exits_of
from offramp.exits.criteria import (
    ConfidentPatience,
    Criterion,
    Energy,
    Entropy,
    JensenShannonPatience,
    Margin,
    MaxProbability,
    MinDepth,
    NormalizedEntropy,
    Patience,
    RandomExit,
    RegressionPatience,
    Task,
    Voting,
    logits_entropy,
)
from offramp.exits.criteria.patience import jensen_shannon
from offramp.models.base import PretrainedModel
from offramp.runner import peeks, window as windows
from offramp.runner.peeks import LeaveRates
from offramp.runner.run import Results, Runner
from offramp.runner.sweep import every_exit
from offramp.text.tokenizer import Encoded

ROWS = 40


@cache
def model_of(pooler: str, n_labels: int) -> PretrainedModel:
    """Six layers, whose ramps say much the same as the ones before, so that patience is met."""
    model = tiny_model(4, n_labels=n_labels, pooler=pooler, num_hidden_layers=6)
    with torch.no_grad():
        for depth in range(2, 6):
            for name, parameter in exits_of(model).ramp(depth).named_parameters():
                first = exits_of(model).ramp(1).get_parameter(name)
                parameter.copy_(first + (0.1 if pooler == "mean" else 0.2) * parameter)
        scale = {"mean": 0.8}.get(pooler, 0.6) if n_labels > 1 else {"mean": 0.3}.get(pooler, 0.5)
        for depth in range(1, 6):
            exits_of(model).ramp(depth).classifier.weight.mul_(scale)
    return as_it_is(model) if pooler == "mean" else model


def as_it_is(model: PretrainedModel) -> PretrainedModel:
    """With a hook, for which it is not prepared: its products differ with the batch's shape."""
    model.register_forward_hook(lambda module, inputs, output: None)
    return model


@cache
def alone(pooler: str, n_labels: int) -> tuple[list[Encoded], list[dict[int, Tensor]]]:
    rows = random_rows(ROWS, seed=1)
    return rows, by_depth_alone(model_of(pooler, n_labels), rows)


@pytest.fixture(params=["attention", "mean", "first", "first, without a bound"])
def pooler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ramps that read all tokens, such as are run as they are, and such as are peeked at."""
    found: str = request.param.partition(",")[0]
    if found == "first":
        monkeypatch.setattr(peeks, "worth_a_peek", lambda n_rows, n_tokens: 0.0)
        monkeypatch.setattr(LeaveRates, "expected", lambda self, depth, unknown: 1.0)
        if found != request.param:
            monkeypatch.setattr(windows, "sums_alike", lambda model: False)
    return found


def n_outputs(name: str) -> int:
    return 1 if name in NUMBERS else 3


@pytest.mark.parametrize("name", EVERY)
def test_batched_equals_one_by_one(name: str, pooler: str) -> None:
    criterion, rng = EVERY[name], random.Random(f"{name} {pooler}")
    model = model_of(pooler, n_outputs(name))
    rows, answers = alone(pooler, n_outputs(name))
    expected = [decide_alone(answer, criterion) for answer in answers]
    if criterion != MinDepth(3):
        assert len({layer for _, layer in expected}) > 1, "all leave together: it shows little"
    for _ in range(4):
        order = rng.sample(range(ROWS), rng.randint(2, ROWS))
        runner = Runner(model, criterion=criterion, **random_settings(rng))
        found = labels_and_layers(runner.run([rows[i] for i in order]))
        assert found == [expected[i] for i in order]
    # As they leave, and with a limit that cuts.
    runner = Runner(model, criterion=criterion)
    for index, result in runner.stream(rows, ordered=False):
        assert result.exit_layer == expected[index][1]
    limited = runner.run(rows, max_depth=4)
    assert limited.exit_layers_R.tolist() == [min(layer, 4) for _, layer in expected]
    meant = [layer > 4 for _, layer in expected]
    assert limited.forced_R.tolist() == meant


@pytest.mark.parametrize("name", EVERY)
def test_a_sweep_says_the_same(name: str) -> None:
    rows, answers = alone("attention", n_outputs(name))
    found = every_exit(model_of("attention", n_outputs(name)), rows).apply(EVERY[name])
    expected = [decide_alone(answer, EVERY[name]) for answer in answers]
    # The sweep decides no row again, so that one whose draw changes in between may differ.
    same = sum(a == b for a, b in zip(labels_and_layers(found), expected, strict=True))
    assert same >= ROWS - 1


def before(answer: dict[int, Tensor], depth: int) -> Tensor:
    return answer[depth - 1][None]


SCORES: dict[
    str, tuple[Callable[[float], Criterion], Callable[[dict[int, Tensor], int], Tensor]]
] = {
    "normalised entropy": (
        NormalizedEntropy,
        lambda answer, depth: logits_entropy(answer[depth][None]) / math.log(3),
    ),
    "best probability": (
        MaxProbability,
        lambda answer, depth: answer[depth].double().softmax(-1).max(),
    ),
    "margin": (
        Margin,
        lambda answer, depth: -answer[depth].double().softmax(-1).topk(2).values.diff(),
    ),
    "energy": (Energy, lambda answer, depth: -answer[depth].double().logsumexp(-1)),
    "confident patience": (
        lambda threshold: ConfidentPatience(2, threshold),
        lambda answer, depth: logits_entropy(answer[depth][None]),
    ),
    "jensen-shannon": (
        lambda threshold: JensenShannonPatience(1, threshold),
        lambda answer, depth: jensen_shannon(before(answer, depth), answer[depth][None]),
    ),
    "jensen-shannon or sure": (
        lambda threshold: JensenShannonPatience(2, threshold) | MaxProbability(0.99),
        lambda answer, depth: jensen_shannon(before(answer, depth), answer[depth][None]),
    ),
    "regression": (
        lambda threshold: RegressionPatience(1, threshold),
        lambda answer, depth: (answer[depth] - answer[depth - 1]).double().abs(),
    ),
}
"""A criterion by its threshold, and a row's score at a depth."""


@pytest.mark.parametrize("shift", [0.0, 1e-7, -1e-7])
@pytest.mark.parametrize("name", SCORES)
def test_a_score_at_the_threshold_is_decided_as_alone(name: str, shift: float, pooler: str) -> None:
    make, score = SCORES[name]
    n_labels = 1 if name == "regression" else 3
    model, rng = model_of(pooler, n_labels), random.Random(f"{name} {shift}")
    rows, answers = alone(pooler, n_labels)
    for row in rng.sample(range(ROWS), 4):
        for depth in (2, 4):
            criterion = make(float(score(answers[row], depth)) + shift)
            runner = Runner(model, criterion=criterion, **random_settings(rng))
            expected = [decide_alone(answer, criterion) for answer in answers]
            assert labels_and_layers(runner.run(rows)) == expected, (row, depth)


@pytest.mark.parametrize("name", ["jensen-shannon", "regression"])
def test_a_window_of_rows_at_the_threshold(name: str, pooler: str) -> None:
    """More of them than the runner decides again; what is remembered is the row's own too."""
    make, score = SCORES[name]
    n_labels = 1 if name == "regression" else 3
    model = model_of(pooler, n_labels)
    rows, answers = alone(pooler, n_labels)
    met = set()
    for row in range(0, ROWS, 7):
        for depth in (2, 3, 4, 5):
            criterion = make(float(score(answers[row], depth)))
            expected = decide_alone(answers[row], criterion)
            found = labels_and_layers(Runner(model, criterion=criterion).run([rows[row]] * 60))
            assert set(found) == {expected}, (row, depth)
            met.add(expected[1])
    assert len(met) > 1


@pytest.mark.parametrize("criterion", [Patience(2), Voting(1.3, 0.5), RandomExit(0.4)], ids=str)
def test_many_rows_in_doubt(criterion: Criterion, pooler: str) -> None:
    """Copies of one row whose classes are nearly tied at every ramp."""
    model = tiny_model(7, n_labels=2, pooler=pooler, num_hidden_layers=5)
    with torch.no_grad():
        for depth in exits_of(model).depths:
            linear = exits_of(model).ramp(depth).classifier
            linear.weight[1] = linear.weight[0] * (1 + 1e-7 * torch.randn(linear.weight[0].shape))
            linear.bias.zero_()
    rows = random_rows(60, seed=2)
    runner = Runner(model, criterion=criterion)
    expected = [labels_and_layers(runner.run([row]))[0] for row in rows]
    assert labels_and_layers(runner.run(rows)) == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["jensen-shannon", "patience", "both", "margin", "energy", "nested"]
)
def test_other_types(name: str, dtype: torch.dtype) -> None:
    model = tiny_model(2, num_hidden_layers=4).to(dtype)
    rows = random_rows(20, seed=6)
    runner = Runner(model, criterion=CLASSES[name])
    expected = [labels_and_layers(runner.run([row]))[0] for row in rows]
    assert labels_and_layers(runner.run(rows)) == expected


# Rows that may have several labels.


@cache
def labels_model(pooler: str) -> PretrainedModel:
    """Four labels a row, three layers' exits that agree often."""
    torch.manual_seed(0)
    model = tiny_model(
        4, n_labels=4, pooler=pooler, num_hidden_layers=5, problem_type="multi_label_classification"
    )
    with torch.no_grad():
        for depth in range(2, 5):
            for name, parameter in exits_of(model).ramp(depth).named_parameters():
                first = exits_of(model).ramp(1).get_parameter(name)
                parameter.copy_(first + (0.05 if pooler == "mean" else 0.2) * parameter)
    return as_it_is(model) if pooler == "mean" else model


SEVERAL: dict[str, Criterion] = {
    "patience": Patience(1),
    "jensen-shannon": JensenShannonPatience(1, 0.2),
    "votes": Voting(1.3, 0.6),
    "depth": MinDepth(3),
    "chance": RandomExit(0.3),
    "entropy": Entropy(0.6),
    "best probability": MaxProbability(0.6),
    "margin": Margin(0.3),
    "sure or settled": MaxProbability(0.8) | Patience(1),
    "and not before": (MaxProbability(0.7) | Patience(1)) & MinDepth(2),
}


def said_of(results: Results) -> list[tuple[list[bool], int]]:
    """Labels and exit layers."""
    labels_RC = results.logits_RC > 0
    return list(zip(labels_RC.tolist(), results.exit_layers_R.tolist(), strict=True))


@pytest.mark.parametrize("name", SEVERAL)
def test_rows_of_several_labels_batched_equal_one_by_one(name: str, pooler: str) -> None:
    model, criterion = labels_model(pooler), SEVERAL[name]
    rows, rng = random_rows(ROWS, seed=5), random.Random(name)
    answers = by_depth_alone(model, rows)
    asked = criterion.for_task(Task("multi_label_classification", 4))
    layers = [decide_alone(answer, asked)[1] for answer in answers]
    expected = [
        ((answer[layer] > 0).tolist(), layer) for answer, layer in zip(answers, layers, strict=True)
    ]
    assert len(set(layers)) > 1 or name == "depth"
    for _ in range(4):
        order = rng.sample(range(ROWS), rng.randint(2, ROWS))
        runner = Runner(model, criterion=criterion, **random_settings(rng))
        assert said_of(runner.run([rows[i] for i in order])) == [expected[i] for i in order]
    assert said_of(every_exit(model, rows).apply(criterion)) == expected or name == "chance"


def test_nearly_undecided_labels_are_those_that_rows_have_alone() -> None:
    model = tiny_model(
        9, n_labels=3, num_hidden_layers=4, problem_type="multi_label_classification"
    )
    rows = random_rows(100, seed=4)
    heads = model.classifier, exits_of(model).ramp(1).classifier
    for head, depth in zip(heads, (4, 1), strict=True):
        with torch.no_grad():  # a second label that is half an answer of every row
            head.weight[1].mul_(1e-6)
            head.bias[1] = 0
            head.bias[1] = -Runner(model, depth=depth).run(rows).logits_RC[:, 1].median()
    # Not prepared: products of prepared layers are equal to the bit in any batch.
    for options in ({"criterion": MinDepth(1)}, {"exits": False}):
        runner = Runner(model, prepare=False, **options)  # type: ignore[arg-type]
        expected = [said_of(runner.run([row]))[0] for row in rows]
        assert len({labels[1] for labels, _ in expected}) == 2
        assert said_of(runner.run(rows)) == expected


# NaN.


def with_nan(depth: int, rows: list[Encoded], n_labels: int = 3) -> PretrainedModel:
    """The ramp at `depth` says NaN of about half of the rows, and the same ones each time."""
    model = tiny_model(4, n_labels=n_labels, pooler="mean", num_hidden_layers=6)
    ramp = exits_of(model).ramp(depth)
    own, seen = ramp.answer, list[Tensor]()

    def watch(pooled: Tensor) -> Tensor:
        seen.append(pooled[:, 0])
        return own(pooled)

    def answer(pooled: Tensor) -> Tensor:
        return own(pooled).masked_fill(pooled[:, :1] > border, math.nan)

    ramp.answer = watch  # type: ignore[method-assign]
    Runner(model, exits=False, depth=depth, prepare=False).run(rows)
    lower, upper = torch.cat(seen).unique()[len(rows) // 3 :][:2]
    border = (lower + upper) / 2
    ramp.answer = answer  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("name", EVERY)
def test_rows_of_nan_go_on_to_the_end(name: str) -> None:
    rows = random_rows(40, seed=3)
    model = with_nan(2, rows, n_outputs(name))
    runner = Runner(model, criterion=EVERY[name], prepare=False, window_rows=15)
    logits_ERC = every_exit(model, rows).logits_ERC
    bad_R = logits_ERC[1].isnan().any(-1)
    assert 5 < int(bad_R.sum()) < 35
    with pytest.warns(offramp.NaNLogitsWarning) as caught:
        results = runner.run(rows)
    assert len(caught) == 1  # of three windows
    assert "ramps' weights" in str(caught[0].message)
    left_R = results.exit_layers_R
    # Those that left before did not meet it, of the others none leaves before the end.
    assert not ((left_R > 1) & (left_R < 6) & bad_R).any()
    assert not results.logits_RC.isnan().any()
    sweep = every_exit(model, rows).apply(EVERY[name])
    assert torch.equal(sweep.exit_layers_R, left_R)


def test_the_warning_counts_the_rows_of_its_window() -> None:
    rows = random_rows(40, seed=3)
    model = with_nan(1, rows)
    bad_R = every_exit(model, rows).logits_ERC[0].isnan().any(-1)
    runner = Runner(model, criterion=MinDepth(1), prepare=False)
    route = runner.route()
    with pytest.warns(offramp.NaNLogitsWarning, match=f"NaN for {int(bad_R.sum())} rows of 40 "):
        results = runner.run_window(rows, route)
    assert torch.equal(results.exit_layers_R == 6, bad_R)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runner.run_window(rows, route)  # once a run
        plain = Runner(model, exits=False, prepare=False).run(rows)  # no exit is asked
    assert route.nan_rows.count == 2 * int(bad_R.sum())
    assert not plain.logits_RC.isnan().any()


def test_rows_of_nan_are_forced_where_a_run_is_cut() -> None:
    rows = random_rows(40, seed=3)
    model = with_nan(3, rows)
    bad_R = every_exit(model, rows).logits_ERC[2].isnan().any(-1)
    runner = Runner(model, criterion=MinDepth(3), prepare=False)
    with pytest.warns(offramp.NaNLogitsWarning):
        results = runner.run(rows, max_depth=3)
    assert torch.equal(results.forced_R, bad_R)


def test_a_broken_ramp_keeps_all_rows() -> None:
    model = tiny_model(2)
    exits_of(model).criterion = Patience(1)
    with torch.no_grad():
        exits_of(model).ramp(1).classifier.bias.fill_(math.nan)
    with pytest.warns(offramp.NaNLogitsWarning, match="NaN for 9 rows of 9"):
        results = Runner(model).run(random_rows(9))
    assert results.exit_layers_R.tolist() == [3] * 9
