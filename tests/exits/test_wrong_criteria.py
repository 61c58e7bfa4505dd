"""What is no criterion, and criteria that decide nothing: errors that name them, nothing bare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from exit_models import random_rows, tiny_config, tiny_model
from token_models import small_rows, token_model
from torch import Tensor, nn

import offramp
from offramp.errors import ConfigError
from offramp.exits.attach import add_exits, exits_of, task_of
from offramp.exits.criteria import Criterion, Decision, Entropy, MinDepth, Task
from offramp.runner.sweep import every_exit

NONE = ["entropy", 0.5, None, Entropy, nn.CrossEntropyLoss(), {"name": "entropy"}]


@pytest.mark.parametrize("value", NONE, ids=str)
def test_what_is_no_criterion(value: Any) -> None:
    model, rows = tiny_model(), random_rows(3)
    before = exits_of(model).criterion

    def setting() -> None:
        exits_of(model).criterion = value

    uses: list[Callable[[], object]] = [
        setting,
        lambda: every_exit(model, rows).apply(value),
        lambda: add_exits(tiny_bare(), criterion=value),
        lambda: offramp.Runner(model, criterion=value),
    ]
    for use in uses[:2] if value is None else uses:  # None: the model's own
        with pytest.raises(ConfigError, match=r"such as offramp\.Entropy\(0\.3\); got "):
            use()
    assert exits_of(model).criterion is before
    assert all("criterion" not in name for name, _ in exits_of(model).named_modules())


def tiny_bare() -> Any:
    model = tiny_model()
    del model.exits
    return model


def test_facades_refuse_it_too() -> None:
    config = tiny_config()
    for cls in (
        offramp.DeeBertForSequenceClassification,
        offramp.BertForSequenceClassificationWithPabee,
    ):
        model = cls(config)
        for value in (0.5, nn.CrossEntropyLoss()):
            with pytest.raises(ConfigError, match=r"such as offramp\.Entropy"):
                model.exits.criterion = value  # type: ignore[assignment]


@dataclass(frozen=True)
class Wrong(Criterion):
    """Says `what` of rows whose first logit is above 0."""

    what: Callable[[Tensor, Tensor], Any]

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        said: Decision = self.what(logits_RC, state_RS)
        return said


@dataclass(frozen=True)
class Together(Criterion):
    """Adds up what the first label has, in a state that begins as numbers of this type."""

    dtype: torch.dtype

    def start(self, n_rows: int, n_classes: int) -> Tensor:
        return torch.zeros(n_rows, 1, dtype=self.dtype)

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        state_RS = state_RS + logits_RC.softmax(-1)[:, :1]
        return Decision(state_RS[:, 0] > 0.5, endless(logits_RC), state_RS)


def test_a_state_that_begins_as_whole_numbers_is_not_cut_off() -> None:
    model, rows = tiny_model(), random_rows(20)
    layers = []
    for dtype in (torch.float32, torch.int64, torch.bool):
        for criterion in (Together(dtype), Together(dtype) | MinDepth(99)):
            layers.append(offramp.Runner(model, criterion=criterion).run(rows).exit_layers_R)
            assert torch.equal(layers[-1], every_exit(model, rows).apply(criterion).exit_layers_R)
    assert all(torch.equal(one, layers[0]) for one in layers)
    assert 2 in layers[0].tolist()  # where no row would leave that began again at each exit


def endless(x_RC: Tensor) -> Tensor:
    return torch.full((len(x_RC),), torch.inf)


WRONG: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "a mask": (lambda x, s: x[:, 0] > 0, r"a tensor \[\d+\] of bool; expected Decision\("),
    "nothing": (lambda x, s: None, r"None \(NoneType\); expected Decision\("),
    "a pair": (lambda x, s: (x[:, 0] > 0, s), "expected Decision"),
    "each class": (
        lambda x, s: Decision(x > 0, endless(x), s),
        r"whose leave_R is a tensor \[\d+, \d\] of bool; expected a tensor \[\d+\], whether each",
    ),
    "floats": (lambda x, s: Decision(x[:, 0], endless(x), s), "leave_R is .* of float"),
    "a number": (lambda x, s: Decision(x[:, 0] > 0, 0.0, s), r"slack_R is 0\.0 \(float\)"),  # type: ignore[arg-type]
    "too few": (lambda x, s: Decision(x[:, 0] > 0, endless(x)[:0], s), r"slack_R is .* \[0\]"),
    "no state": (lambda x, s: Decision(x[:, 0] > 0, endless(x), None), "state_RS is None"),  # type: ignore[arg-type]
    "another state": (
        lambda x, s: Decision(x[:, 0] > 0, endless(x), x[:, :1]),
        r"state_RS is .*; expected a tensor \[\d+, 0\], as the state that it was given",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_decisions_that_are_none(name: str) -> None:
    what, message = WRONG[name]
    rows, wrong = small_rows(8), Wrong(what)
    several = tiny_model(problem_type="multi_label_classification")
    for model in (tiny_model(), several, token_model()):
        for criterion in (wrong, wrong & MinDepth(1), Entropy(0.1) | wrong):
            with pytest.raises(ConfigError, match=f"Wrong answered after layer 1 with .*{message}"):
                offramp.Runner(model, criterion=criterion).run(rows)


@dataclass(frozen=True)
class BeginsWrong(Wrong):
    """`what` is how it begins."""

    def start(self, n_rows: int, n_classes: int) -> Tensor:
        state: Tensor = self.what(torch.zeros(n_rows), torch.zeros(0))
        return state


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda x, s: None, r"the state None \(NoneType\); expected a tensor \[\d+, S\]"),
        (lambda x, s: x, r"the state a tensor \[\d+\] of float32"),
        (lambda x, s: x[:1, None], r"the state a tensor \[1, 1\] of float32"),
    ],
)
def test_states_that_are_none(what: Callable[[Tensor, Tensor], Any], message: str) -> None:
    rows = small_rows(8)
    for model in (tiny_model(), token_model()):
        for criterion in (BeginsWrong(what), BeginsWrong(what) & MinDepth(2)):
            with pytest.raises(ConfigError, match=f"BeginsWrong begins with {message}"):
                offramp.Runner(model, criterion=criterion).run(rows)


@pytest.mark.parametrize("value", [5, None, 0.1, (), []])
def test_thresholds_of_no_layers(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"one for each layer from the first on.*; got"):
        offramp.LayerEntropy(value)


def test_too_few_thresholds_are_refused_before_a_run() -> None:
    model, rows = tiny_model(num_hidden_layers=4), random_rows(3)  # exits after 1, 2 and 3
    few, enough = offramp.LayerEntropy((0.1, 0.2)), offramp.LayerEntropy((0.1, 0.2, 0.3))
    message = "thresholds for 2 layers, and the exit after layer 3 asks"
    for criterion in (few, few & MinDepth(2)):
        for use in (
            lambda criterion=criterion: offramp.Runner(model, criterion=criterion).stream(rows),
            lambda criterion=criterion: every_exit(model, rows).apply(criterion),
            lambda criterion=criterion: criterion.check(task_of(model)),
        ):
            with pytest.raises(ConfigError, match=message):
                use()
    exits_of(model).criterion = few
    with pytest.raises(ConfigError, match=message):
        offramp.Runner(model).run([])
    # Of the exits that are asked, and no others.
    assert len(offramp.Runner(model, depth=3).run(rows).exit_layers_R) == 3
    assert len(offramp.Runner(model).run(rows, max_depth=2).exit_layers_R) == 3
    with pytest.raises(ConfigError, match=message):
        offramp.Runner(model).run(rows, max_depth=3)
    offramp.Runner(model, criterion=enough).run(rows)
    del model.exits
    with pytest.raises(ConfigError, match=message):
        add_exits(model, criterion=few)
    add_exits(model, [2], criterion=few)


def test_one_s_own_check_is_told_the_depths() -> None:
    told = []

    @dataclass(frozen=True)
    class Listening(MinDepth):
        def check(self, task: Task) -> None:
            told.append(task.depths)

    model = tiny_model(num_hidden_layers=5)
    offramp.Runner(model, criterion=Listening(1), depth=4).run(random_rows(2))
    assert told == [(1, 2, 3)]
    Listening(1).check(Task("regression", 1))
    assert told[1:] == [None]
