"""What every criterion has: a name, settings that are saved, operators; and one of a user's own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from every_criterion import EVERY, exits_by_hand
from exit_models import random_rows, tiny_model
from torch import Tensor
from typing_extensions import Self

import offramp
from offramp.errors import ConfigError
from offramp.exits import criteria
from offramp.exits.attach import exits_of
from offramp.exits.criteria import (
    AllOf,
    AnyOf,
    Criterion,
    Decision,
    Entropy,
    Margin,
    MinDepth,
    Patience,
    RegressionPatience,
    criterion_from_dict,
)

# Saved equals loaded.


@pytest.mark.parametrize("name", EVERY)
def test_a_criterion_is_what_its_dictionary_says(name: str) -> None:
    criterion = EVERY[name]
    values = json.loads(json.dumps(criterion.to_dict(), allow_nan=False))
    again = criterion_from_dict(values)
    assert again == criterion
    assert type(again) is type(criterion)
    assert again.to_dict() == values


@pytest.mark.parametrize("threshold", [0, 0.0, 0.25, 3])
@pytest.mark.parametrize("growth", [1, 1.5])
def test_a_dictionary_by_hand(threshold: float, growth: float) -> None:
    expected = {"name": "entropy", "threshold": threshold, "growth": growth}
    assert Entropy(threshold, growth).to_dict() == expected
    found = (Entropy(threshold, growth) & MinDepth(2)).to_dict()
    assert found == {"name": "all", "of": [expected, {"name": "min_depth", "layers": 2}]}


@pytest.mark.parametrize("name", [name for name in EVERY if "regression" not in name])
def test_a_model_keeps_its_criterion(name: str, tmp_path: Path) -> None:
    model = tiny_model(n_labels=3)
    exits_of(model).criterion = EVERY[name]
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert exits_of(again).criterion == EVERY[name]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "entropie", "threshold": 0.1}, "Did you mean 'entropy'"),
        ({"threshold": 0.1}, "None"),
        ({"name": ["entropy"]}, r"\['entropy'\]"),
        ("entropy", "None"),
        ({"name": "entropy"}, "lacks 'threshold'"),
        ({"name": "entropy", "threshold": -1}, "entropy threshold"),
        ({"name": "entropy", "threshold": "low"}, "entropy threshold"),
        ({"name": "margin"}, "'margin' in the config lacks 'threshold'"),
        ({"name": "margin", "threshold": 0.1, "treshold": 0.2}, "no setting 'treshold'. Did you"),
        ({"name": "patience", "patience": 1.5}, "patience is how many"),
        ({"name": "all"}, "lacks 'of'"),
        ({"name": "all", "of": {}}, "is a list"),
        ({"name": "any", "of": "ab"}, "is a list"),
        ({"name": "any", "of": []}, "two criteria or more"),
        ({"name": "any", "of": [{"name": "margin", "threshold": 0.1}]}, "two criteria or more"),
        ({"name": "any", "of": [{"name": "luck"}, 3]}, "'luck'"),
        ({"name": "any", "of": [3, 3]}, "No exit criterion is named None"),
    ],
)
def test_a_malformed_criterion(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        criterion_from_dict(values)


def test_an_unknown_name_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="import.*newer offramp"):
        criterion_from_dict({"name": "my-own"})


def test_criteria_inside_criteria_without_end(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    inner = '{"name": "margin", "threshold": 0.1}'
    nested = '{"name": "all", "of": [' * 400 + f"{inner}, {inner}" + "]}" * 400
    values["exits"]["criterion"] = json.loads(nested)
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError):
        offramp.BertForSequenceClassification.from_pretrained(tmp_path)


# Operators.


def test_operators_make_criteria() -> None:
    a, b, c = Entropy(0.2), MinDepth(2), Margin(0.5)
    assert a & b == AllOf((a, b))
    assert a | b == AnyOf((a, b))
    # One list of three; another operator is a part of its own.
    assert a & b & c == a & (b & c) == AllOf((a, b, c))
    assert a | b | c == AnyOf((a, b, c))
    assert (a & b) | c == AnyOf((AllOf((a, b)), c))
    assert a & b | c == (a & b) | c


def test_all_and_any_by_hand() -> None:
    named = torch.tensor([[0.0, 2.0], [0.0, 3.0], [0.0, 4.0], [5.0, 0.0]])[:, None]
    # Patience(1) leaves at 2; a margin above .95 (1 - 2 / (e^z + 1)) comes at 3, .96, first.
    assert exits_by_hand(Patience(1), named) == [2]
    assert exits_by_hand(Margin(0.95), named) == [3]
    assert exits_by_hand(Patience(1) & Margin(0.95), named) == [3]
    assert exits_by_hand(Patience(1) | Margin(0.95), named) == [2]
    assert exits_by_hand(Patience(2) & Margin(0.95), named) == [3]
    assert exits_by_hand(Patience(3) & Margin(0.95), named) == [None]  # at 4 another is named
    assert exits_by_hand(Patience(3) | Margin(0.98), named) == [4]
    assert exits_by_hand(Margin(0.7) & MinDepth(2), named) == [2]
    assert exits_by_hand(Margin(0.99) | MinDepth(3), named) == [3]
    # Each has its own state.
    both = Patience(1) & Patience(2)
    assert both.start(5, 2).shape == (5, 4)
    assert exits_by_hand(both, named) == [3]


@pytest.mark.parametrize("other", [3, "entropy", None, Entropy])
def test_only_criteria_combine(other: Any) -> None:
    for use in (lambda: Entropy(0.1) & other, lambda: Entropy(0.1) | other):
        with pytest.raises(ConfigError, match="takes a tuple of two criteria or more; got"):
            use()


# Names.


def test_every_name_is_importable() -> None:
    for name in criteria.__all__:
        assert hasattr(criteria, name)
    public = {name for name, thing in vars(criteria).items() if isinstance(thing, type)}
    assert public - {"Answer", "EachLabel", "EachToken", "RowsOf", "Task"} <= set(offramp.__all__)


def test_a_criterion_cannot_be_changed_and_may_be_shared() -> None:
    for criterion in EVERY.values():
        field = dataclasses.fields(criterion)[0].name  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            setattr(criterion, field, 3)
        assert hash(criterion) == hash(criterion_from_dict(criterion.to_dict()))
    with pytest.raises(TypeError):
        Criterion()  # type: ignore[abstract]


# A user's own.


@dataclass(frozen=True)
class WellAhead(Criterion):
    """The best logit is far ahead of the others."""

    name: ClassVar[str] = "well-ahead"
    by: float = 2.0

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        best_R2 = logits_RC.double().topk(2).values
        lead_R = best_R2[:, 0] - best_R2[:, 1]
        return Decision(lead_R > self.by, (lead_R - self.by).abs() / 2, state_RS)


def test_a_criterion_of_one_s_own(tmp_path: Path) -> None:
    model, rows = tiny_model(2), random_rows(40)
    exits_of(model).criterion = WellAhead(3.0) | MinDepth(2)
    results = offramp.Runner(model).run(rows)
    assert set(results.exit_layers_R.tolist()) == {1, 2}
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert exits_of(again).criterion == WellAhead(3.0) | MinDepth(2)
    one = torch.stack([offramp.Runner(model).run([row]).exit_layers_R[0] for row in rows])
    assert torch.equal(one, results.exit_layers_R)


def test_two_of_one_name() -> None:
    with pytest.raises(
        ConfigError, match=r"Two criteria are named 'margin', offramp\..*Margin and"
    ):

        class Mine(Criterion):
            name = "margin"

    # The same class again, as a notebook's cell that is run twice makes it, takes the place.
    def cell() -> type[Criterion]:
        class Again(Criterion):
            name = "again"

        return Again

    cell()
    last = cell()
    assert criteria.base._CRITERIA["again"] is last


def test_what_cannot_be_saved_says_so() -> None:
    class Unnamed(Entropy):
        pass

    with pytest.raises(ConfigError, match="Unnamed is: the class needs a `name` of its own"):
        Unnamed(0.1).to_dict()

    class Plain(Criterion):
        name = "plain-class"

        def __init__(self, by: float) -> None:
            self.by = by

        def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
            raise NotImplementedError

    with pytest.raises(ConfigError, match="Plain is no dataclass"):
        Plain(3.0).to_dict()
    with pytest.raises(ConfigError, match="Plain is no dataclass"):
        criterion_from_dict({"name": "plain-class"})


def test_a_from_dict_of_one_s_own_may_raise_key_errors() -> None:
    class Careless(Criterion):
        name = "careless"

        def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
            raise NotImplementedError

        @classmethod
        def from_dict(cls, values: Mapping[str, Any]) -> Self:
            return cls(values["by"])  # type: ignore[call-arg]

    with pytest.raises(ConfigError, match="'careless' in the config lacks 'by'"):
        criterion_from_dict({"name": "careless"})


def test_defaults_that_are_not_in_a_file() -> None:
    assert criterion_from_dict({"name": "well-ahead"}) == WellAhead(2.0)
    assert criterion_from_dict({"name": "regression_patience"}) == RegressionPatience()
