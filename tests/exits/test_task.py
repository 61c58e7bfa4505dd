"""What a model is asked, and the criteria that do not fit it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from every_criterion import CLASSES, NUMBERS
from exit_models import random_rows, tiny_config, tiny_model
from torch import Tensor

import offramp
from offramp.errors import ConfigError
from offramp.exits.attach import add_exits, exits_of, task_of
from offramp.exits.criteria import (
    Criterion,
    Decision,
    Energy,
    Entropy,
    FixedDepth,
    Margin,
    MinDepth,
    Patience,
    RandomExit,
    RegressionPatience,
    Task,
)
from offramp.models.bert import BertForSequenceClassification
from offramp.runner.run import Runner
from offramp.runner.sweep import every_exit

REGRESSION, SINGLE, MULTI = (
    "regression",
    "single_label_classification",
    "multi_label_classification",
)


def plain(n_labels: int, problem_type: str | None) -> BertForSequenceClassification:
    config = tiny_config(num_labels=n_labels, problem_type=problem_type)
    return BertForSequenceClassification(config).eval()


@pytest.mark.parametrize(
    ("problem_type", "n_labels", "kind"),
    [
        (None, 1, REGRESSION),
        (None, 2, SINGLE),
        (None, 5, SINGLE),
        (REGRESSION, 1, REGRESSION),
        (REGRESSION, 3, REGRESSION),
        (SINGLE, 1, REGRESSION),
        (SINGLE, 2, SINGLE),
        (MULTI, 1, MULTI),
        (MULTI, 4, MULTI),
    ],
)
def test_what_a_configuration_asks(problem_type: str | None, n_labels: int, kind: str) -> None:
    found = task_of(plain(n_labels, problem_type))
    assert (found.kind, found.n_outputs) == (kind, n_labels)


def test_how_far_labels_are_from_another_by_hand() -> None:
    logits_RC = torch.tensor([[3.0, 1.0, -2.0], [0.5, 0.25, 4.0]])
    assert Task(SINGLE, 3).lead(logits_RC).tolist() == [1, 1.75]
    assert Task(MULTI, 3).lead(logits_RC).tolist() == [1, 0.25]
    assert Task(REGRESSION, 3).lead(logits_RC).tolist() == [math.inf] * 2
    assert Task(REGRESSION, 1).lead(logits_RC[:, :1]).tolist() == [math.inf] * 2
    assert Task(MULTI, 1).lead(logits_RC[:, :1]).tolist() == [3, 0.5]


ANYTHING = (MinDepth(2), RandomExit(0.5))


@pytest.mark.parametrize("criterion", [*CLASSES.values(), *ANYTHING], ids=str)
def test_classes(criterion: Criterion) -> None:
    criterion.check(Task(SINGLE, 2))
    if "Energy" not in str(criterion):
        criterion.check(Task(MULTI, 1))
    if criterion not in (*ANYTHING, MinDepth(3), RandomExit(0.3, seed=5)):
        for task, said in (
            (Task(REGRESSION, 1), r"says numbers \(num_labels 1, regression\). Take Regress"),
            (Task(REGRESSION, 3), r"says numbers \(num_labels 3, regression\)"),
        ):
            with pytest.raises(ConfigError, match=rf"is for models that say .*; this one {said}"):
                criterion.check(task)


@pytest.mark.parametrize("criterion", NUMBERS.values(), ids=str)
def test_numbers(criterion: Criterion) -> None:
    criterion.check(Task(REGRESSION, 1))
    criterion.check(Task(REGRESSION, 3))
    for kind in (SINGLE, MULTI):
        with pytest.raises(ConfigError, match="RegressionPatience.* say numbers; this one says"):
            criterion.check(Task(kind, 2))


def test_an_energy_is_of_one_class() -> None:
    with pytest.raises(ConfigError, match="any number of labels .* Take MaxProbability"):
        Energy(-1.0).check(Task(MULTI, 3))


def test_the_sentence() -> None:
    with pytest.raises(ConfigError) as caught:
        Entropy(0.2).check(Task(REGRESSION, 1))
    assert str(caught.value) == (
        "Entropy(threshold=0.2, growth=1.0) is for models that say one class of several or any "
        "number of labels; this one says numbers (num_labels 1, regression). Take "
        "RegressionPatience(2, threshold), for one, or MinDepth(layers)."
    )


@pytest.mark.parametrize(
    ("criterion", "model"),
    [
        (Entropy(0.2), plain(1, None)),
        (Patience(2), plain(3, REGRESSION)),
        (MinDepth(2) & Margin(0.5), plain(1, None)),
        (RegressionPatience(2, 0.1), plain(2, None)),
        (RegressionPatience(2, 0.1) | MinDepth(2), plain(2, None)),
        (Entropy(0.2), plain(1, SINGLE)),
    ],
    ids=["entropy", "patience", "and", "regression", "or", "one class"],
)
def test_it_is_refused_where_it_is_set_and_where_a_run_begins(
    criterion: Criterion, model: BertForSequenceClassification
) -> None:
    with pytest.raises(ConfigError, match="is for models that say"):
        add_exits(model, criterion=criterion)
    assert not hasattr(model, "exits")
    add_exits(model).eval()
    rows = random_rows(3)
    for use in (
        Runner(model, criterion=criterion).run,
        Runner(model, criterion=criterion).stream,
        lambda rows: every_exit(model, rows).apply(criterion),
    ):
        with pytest.raises(ConfigError, match="is for models that say"):
            use(rows)
    exits_of(model).criterion = criterion
    with pytest.raises(ConfigError, match="is for models that say"):
        Runner(model).run(rows)
    Runner(model, exits=False).run(rows)
    Runner(model, criterion=FixedDepth(1)).run(rows)
    del model.exits


def test_a_file_s_criterion_may_be_replaced_before_a_run(tmp_path: Path) -> None:
    add_exits(plain(1, None)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    assert values["exits"]["criterion"] == RegressionPatience(0, 0.0).to_dict()
    values["exits"]["criterion"] = Entropy(0.1).to_dict()
    path.write_text(json.dumps(values))
    model = BertForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is for models that say"):
        Runner(model).run(random_rows(3))
    exits_of(model).criterion = RegressionPatience(1, 9.0)
    assert Runner(model).run(random_rows(3)).exit_layers_R.tolist() == [2] * 3


@pytest.mark.parametrize("n_labels", [1, 3])
def test_by_default_no_number_leaves(n_labels: int) -> None:
    model = add_exits(plain(n_labels, REGRESSION)).eval()
    assert exits_of(model).criterion == RegressionPatience(0)
    assert Runner(model).run(random_rows(5)).exit_layers_R.tolist() == [3] * 5


def test_a_classifier_refuses_what_does_not_fit(tmp_path: Path) -> None:
    from exit_models import write_tokenizer

    tiny_model().save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    classifier = offramp.load(tmp_path, task="classify")
    with pytest.raises(ConfigError, match="is for models that say numbers"):
        classifier.criterion = RegressionPatience(2, 0.1)
    assert classifier.criterion == Entropy()


def test_one_s_own_says_what_it_fits() -> None:
    class Rising(Criterion):
        name = "rising-numbers"
        fits: ClassVar = ("regression",)

        def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
            raise NotImplementedError

    Rising().check(Task(REGRESSION, 1))
    with pytest.raises(ConfigError, match="say numbers; this one says one class of several"):
        Rising().check(Task(SINGLE, 2))


def test_several_numbers_a_row_batched_equal_one_by_one() -> None:
    model = tiny_model(4, n_labels=3, num_hidden_layers=5, problem_type=REGRESSION)
    rows = random_rows(40, seed=1)
    runner = Runner(model, criterion=RegressionPatience(1, 9.0))
    found = runner.run(rows)
    alone = [runner.run([row]) for row in rows]
    assert torch.equal(found.exit_layers_R, torch.cat([one.exit_layers_R for one in alone]))
    assert len(set(found.exit_layers_R.tolist())) > 1
