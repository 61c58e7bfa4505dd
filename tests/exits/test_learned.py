"""Exits that say how sure they are, and the criterion that asks it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exit_models import random_rows, residual_model, tiny_config, tiny_model
from hypothesis import given, settings, strategies as st
from torch import Tensor

import offramp
from offramp.errors import CheckpointError, ConfigError, InputError
from offramp.exits.attach import (
    add_exits,
    answers_by_depth,
    exits_of,
    logits_by_depth,
    task_of,
)
from offramp.exits.criteria import (
    Answer,
    Criterion,
    EachLabel,
    Entropy,
    LearnedToExit,
    MinDepth,
    Patience,
    RegressionPatience,
    Task,
    criterion_from_dict,
)
from offramp.exits.ramps import POOLERS
from offramp.models.bert import BertForSequenceClassification
from offramp.models.inputs import Inputs
from offramp.runner import peeks
from offramp.runner.peeks import LeaveRates
from offramp.runner.run import Runner
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.tokenizer import Encoded


def sure(probability: float) -> float:
    return math.log(probability / (1 - probability))


def answer(*probabilities: float) -> Answer:
    certainty_R = torch.tensor([sure(p) for p in probabilities], dtype=torch.float64)
    return Answer(torch.zeros(len(probabilities), 2), certainty_R)


def test_by_hand() -> None:
    none = torch.zeros(3, 0)
    said = LearnedToExit(0.8).ask(none, 1, answer(0.79, 0.81, 0.99))
    assert said.leave_R.tolist() == [False, True, True]
    assert said.slack_R.tolist() == pytest.approx(
        [abs(sure(p) - sure(0.8)) for p in (0.79, 0.81, 0.99)]
    )
    assert not LearnedToExit(1).ask(none, 1, answer(0.1, 0.9, 1 - 1e-12)).leave_R.any()
    assert LearnedToExit(0).ask(none, 1, answer(0.1, 0.9, 1e-12)).leave_R.all()
    assert LearnedToExit(0.5).ask(none[:1], 1, answer(0.5)).leave_R.tolist() == [False]


def test_a_certainty_that_is_none() -> None:
    answer = Answer(torch.zeros(3, 2), torch.tensor([math.nan, 5.0, -math.inf]))
    assert LearnedToExit(0.5).ask(torch.zeros(3, 0), 1, answer).leave_R.tolist() == [0, 1, 0]
    assert answer.is_nan().tolist() == [True, False, False]
    for use in (
        lambda: LearnedToExit(0.5).update(torch.zeros(1, 0), 1, torch.zeros(1, 2)),
        lambda: LearnedToExit(0.5).ask(torch.zeros(1, 0), 1, Answer(torch.zeros(1, 2))),
    ):
        with pytest.raises(InputError, match="LearnedToExit needs"):
            use()


def test_the_size_of_an_answer() -> None:
    logits_RC = torch.tensor([[1.0, -7.0], [0.1, 0.2], [3.0, 0.0]])
    assert Answer(logits_RC).size().tolist() == [7, 1, 3]
    assert Answer(logits_RC, torch.tensor([-9.0, 0.5, 2.0])).size().tolist() == [9, 1, 3]
    assert Answer(logits_RC, None, torch.tensor([5.0, 5.0, 5.0])).size().tolist() == [5, 5, 5]


@settings(deadline=None, max_examples=200)
@given(
    certainty=st.floats(-9, 9),
    logits=st.lists(st.floats(-9, 9), min_size=2, max_size=2),
    threshold=st.floats(0, 1),
    both=st.sampled_from(["alone", "and", "or"]),
)
def test_less_than_the_slack_changes_nothing(
    certainty: float, logits: list[float], threshold: float, both: str
) -> None:
    criterion: Criterion = LearnedToExit(threshold)
    if both != "alone":
        criterion = criterion & Entropy(0.4) if both == "and" else criterion | Entropy(0.4)
    logits_C = torch.tensor(logits, dtype=torch.float64)
    certainty_1 = torch.tensor([certainty], dtype=torch.float64)
    own = criterion.ask(torch.zeros(1, 0), 1, Answer(logits_C[None], certainty_1))
    slack = min(float(own.slack_R), 3.0) * 0.9999
    signs_NC = torch.cartesian_prod(*[torch.tensor([-1.0, 0.3, 1.0]).double()] * 3)
    shifted = Answer(logits_C + slack * signs_NC[:, :2], certainty_1 + slack * signs_NC[:, 2])
    others = criterion.ask(torch.zeros(27, 0), 1, shifted)
    assert (others.leave_R == own.leave_R).all()


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, "0.5", None, True])
def test_a_threshold_is_a_probability(bad: object) -> None:
    with pytest.raises(ConfigError, match="certainty's threshold is a probability from 0 to 1"):
        LearnedToExit(bad)  # type: ignore[arg-type]


def test_dictionary() -> None:
    criterion = LearnedToExit(0.9) | MinDepth(3)
    assert criterion_from_dict(criterion.to_dict()) == criterion
    assert LearnedToExit(0.9).to_dict() == {"name": "learned_to_exit", "threshold": 0.9}


# Exits with a regressor.


def learned_model(
    pooler: str = "attention", n_layers: int = 5, **changes: Any
) -> BertForSequenceClassification:
    """Random, with certainties that are spread from ramp to ramp and row to row."""
    model = tiny_model(4, pooler=pooler, num_hidden_layers=n_layers, **changes)
    del model.exits
    torch.manual_seed(1)
    add_exits(model, pooler=pooler, certainty=True)
    regressor = exits_of(model).certainty
    assert regressor is not None
    with torch.no_grad():
        regressor.weight.mul_(4)
    rows = random_rows(40)
    found = every_exit(model, rows).certainty_XR
    assert found is not None
    with torch.no_grad():
        regressor.bias.sub_(found.median())
    return model.eval()


@pytest.mark.parametrize("pooler", POOLERS)
def test_keys_and_section(pooler: str, tmp_path: Path) -> None:
    model = learned_model(pooler)
    exits_of(model).criterion = LearnedToExit(0.7)
    assert task_of(model) == Task("single_label_classification", 3, certainty=True)
    width = 32 * (4 if pooler == "attention" else 1)
    assert model.state_dict()["exits.certainty.weight"].shape == (1, width)
    assert model.state_dict()["exits.certainty.bias"].shape == (1,)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["exits"]["certainty"] is True
    again, report = BertForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert report.initialised == report.dropped == ()
    assert exits_of(again).criterion == LearnedToExit(0.7)
    rows = random_rows(30)
    one, two = Runner(model).run(rows), Runner(again).run(rows)
    assert torch.equal(one.exit_layers_R, two.exit_layers_R)
    assert len(set(one.exit_layers_R.tolist())) > 2
    torch.testing.assert_close(one.logits_RC, two.logits_RC, rtol=1e-4, atol=1e-4)


def test_without_it_nothing_is_there() -> None:
    model = tiny_model()
    assert exits_of(model).certainty is None
    assert not any("certainty" in name for name in model.state_dict())
    assert "certainty" not in exits_of(model).section()
    assert every_exit(model, random_rows(3)).certainty_XR is None
    assert exits_of(model).answer(1, torch.zeros(2, 128)).certainty_R is None


def test_new_regressors_follow_the_model() -> None:
    model = BertForSequenceClassification(tiny_config()).to(torch.bfloat16)
    regressor = exits_of(add_exits(model, certainty=True)).certainty
    assert regressor is not None
    assert regressor.weight.dtype == torch.bfloat16
    assert not regressor.bias.any()
    assert regressor.weight.float().std().item() == pytest.approx(0.2, rel=0.2)  # the family's
    without_exits = add_exits(BertForSequenceClassification(tiny_config()), [], certainty=True)
    assert exits_of(without_exits).certainty is not None
    assert every_exit(without_exits.eval(), random_rows(2)).certainty_XR is None


@pytest.mark.parametrize("pooler", POOLERS)
def test_certainties_are_of_what_the_ramp_pooled(pooler: str) -> None:
    model, rows = learned_model(pooler), random_rows(10)
    found = every_exit(model, rows)
    assert found.certainty_XR is not None
    assert found.certainty_XR.shape == (4, 10)
    regressor = exits_of(model).certainty
    assert regressor is not None
    with torch.no_grad():
        for place, row in enumerate(rows):
            ids, types = (torch.from_numpy(x)[None] for x in (row.ids, row.types))
            states = model.bert(ids, token_type_ids=types, output_hidden_states=True).hidden_states
            for depth in (1, 2, 3, 4):
                hidden_LD, ramp = states[depth][0], exits_of(model).ramp(depth)
                pooled = {
                    "first": lambda h=hidden_LD: h[0],
                    "last": lambda h=hidden_LD: h[-1],
                    "mean": lambda h=hidden_LD: h.mean(0),
                    "attention": lambda h=hidden_LD, r=ramp: (
                        torch.softmax(r.query.weight @ h.T, -1) @ h
                    ).flatten(),
                }[pooler]()
                by_hand = regressor.weight[0] @ pooled + regressor.bias[0]
                torch.testing.assert_close(
                    found.certainty_XR[depth - 1, place], by_hand, rtol=1e-4, atol=1e-4
                )


def test_logits_by_depth_are_the_same_beside_it() -> None:
    model, rows = learned_model(), random_rows(5)
    inputs = Inputs.from_rows([r.ids for r in rows], [r.types for r in rows])
    with torch.no_grad():
        logits, answers = logits_by_depth(model, inputs), answers_by_depth(model, inputs)
    assert list(logits) == list(answers) == [1, 2, 3, 4, 5]
    assert all(torch.equal(logits[d], answers[d].logits_RC) for d in logits)
    assert [answers[d].certainty_R is None for d in answers] == [False] * 4 + [True]


def test_a_hook_of_a_ramp_sees_it() -> None:
    model = tiny_model()
    seen: list[object] = []
    exits_of(model).ramp(1).register_forward_hook(lambda *given: seen.append(given))
    logits_by_depth(model, Inputs.from_rows([[5, 6]], [[0, 0]]))
    assert len(seen) == 1


# In the runner.


def one_by_one(model: Any, rows: list[Encoded], criterion: Criterion) -> list[int]:
    runner = Runner(model, criterion=criterion)
    return [int(runner.run([row]).exit_layers_R) for row in rows]


CRITERIA: list[Callable[[float], Criterion]] = [
    LearnedToExit,
    lambda threshold: LearnedToExit(threshold) & MinDepth(2),
    lambda threshold: LearnedToExit(threshold) | Patience(2),
    lambda threshold: (LearnedToExit(threshold) | Entropy(0.1)) & Patience(1),
]


@pytest.mark.parametrize("as_it_is", [False, True])
@pytest.mark.parametrize("pooler", ["attention", "first", "mean"])
def test_batched_equals_one_by_one(
    pooler: str, as_it_is: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peeks, "worth_a_peek", lambda n_rows, n_tokens: 0.0)
    monkeypatch.setattr(LeaveRates, "expected", lambda self, depth, unknown: 1.0)
    model, rows, rng = learned_model(pooler), random_rows(40, seed=2), random.Random(pooler)
    if as_it_is:  # with a hook it is not prepared
        model.register_forward_hook(lambda module, inputs, output: None)
    found = torch.stack([every_exit(model, [row]).certainty_XR[:, 0] for row in rows], 1)  # type: ignore[index]
    met = set()
    for make in CRITERIA:
        for _ in range(3):
            # At the score of one of the rows, where the last digits decide.
            near = float(found[rng.randrange(4), rng.randrange(40)].double())
            criterion = make(1 / (1 + math.exp(-near)))
            expected = one_by_one(model, rows, criterion)
            order = rng.sample(range(40), 40)
            runner = Runner(model, criterion=criterion, microbatch_tokens=rng.choice([20, 300]))
            layers = runner.run([rows[i] for i in order]).exit_layers_R.tolist()
            assert layers == [expected[i] for i in order]
            met |= set(layers)
    assert len(met) > 3


def test_a_sweep_knows_it() -> None:
    model, rows = learned_model(), random_rows(40, seed=2)
    for criterion in (LearnedToExit(0.6), LearnedToExit(0.6) & Patience(1)):
        found = every_exit(model, rows).apply(criterion)
        assert torch.equal(
            found.exit_layers_R, Runner(model, criterion=criterion).run(rows).exit_layers_R
        )
    logits_ERC, certainty_XR = torch.zeros(3, 2, 2), torch.tensor([[-1.0, 1.0], [1.0, 1.0]])
    found = EveryExit((1, 2, 3), logits_ERC, certainty_XR=certainty_XR).apply(LearnedToExit(0.5))
    assert found.exit_layers_R.tolist() == [2, 1]


@pytest.mark.parametrize(
    "criterion", [LearnedToExit(0.5), LearnedToExit(0.5) | MinDepth(2)], ids=str
)
def test_it_is_refused_where_the_exits_have_none(criterion: Criterion) -> None:
    said = "asks how sure the exits are, .* certainty=True"
    model, rows = tiny_model(), random_rows(3)
    with pytest.raises(ConfigError, match=said):
        Runner(model, criterion=criterion).run(rows)
    with pytest.raises(ConfigError, match=said):
        every_exit(model, rows).apply(criterion)
    del model.exits
    with pytest.raises(ConfigError, match=said):
        add_exits(model, criterion=criterion)
    add_exits(model, certainty=True, criterion=criterion)


@pytest.mark.parametrize("bad", [1, "yes", None])
def test_certainty_is_true_or_false(bad: object) -> None:
    with pytest.raises(ConfigError, match="certainty is True or False"):
        add_exits(BertForSequenceClassification(tiny_config()), certainty=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("n_labels", "problem_type"), [(1, None), (3, "multi_label_classification")]
)
def test_other_tasks(n_labels: int, problem_type: str | None) -> None:
    model = learned_model(n_labels=n_labels, problem_type=problem_type)
    rows = random_rows(30, seed=2)
    other = RegressionPatience(1, 3.0) if n_labels == 1 else Patience(1)
    for criterion in (LearnedToExit(0.6), LearnedToExit(0.8) | other):
        found = Runner(model, criterion=criterion).run(rows).exit_layers_R.tolist()
        assert found == one_by_one(model, rows, criterion)
        assert len(set(found)) > 1
    several = Task("multi_label_classification", 3, certainty=True)
    assert LearnedToExit(0.5).for_task(several) == LearnedToExit(0.5)
    expected = LearnedToExit(0.5) | EachLabel(Patience(1))
    assert (LearnedToExit(0.5) | Patience(1)).for_task(several) == expected


def test_another_family_has_it() -> None:
    model = add_exits(residual_model(), pooler="mean", certainty=True).eval()
    found = Runner(model, criterion=LearnedToExit(0.0)).run(random_rows(5))
    assert found.exit_layers_R.tolist() == [1] * 5


def test_a_certainty_of_nan_keeps_the_row() -> None:
    model = learned_model()
    with torch.no_grad():
        exits_of(model).certainty.bias.fill_(math.nan)  # type: ignore[union-attr]
    with pytest.warns(offramp.NaNLogitsWarning, match="9 rows of 9"):
        found = Runner(model, criterion=MinDepth(2)).run(random_rows(9))
    assert found.exit_layers_R.tolist() == [5] * 9


def test_deebert_has_none(tmp_path: Path) -> None:
    model = BertForSequenceClassification(tiny_config())
    add_exits(model, pooler="first", hidden=32, certainty=True).save_pretrained(tmp_path / "own")
    with pytest.raises(CheckpointError, match="no regressor of its exits' certainty"):
        offramp.convert(tmp_path / "own", tmp_path / "research", "research")


def test_a_label_s_answer_has_the_row_s_certainty() -> None:
    """One of a user's own may read it beside each label's logits."""
    seen: list[Answer] = []

    class Reads(Entropy):
        def ask(self, state_RS: Tensor, depth: int, answer: Answer) -> Any:
            seen.append(answer)
            return super().ask(state_RS, depth, answer)

    criterion = EachLabel(Reads(0.1))
    criterion.ask(torch.zeros(2, 0), 1, Answer(torch.zeros(2, 3), torch.tensor([4.0, 5.0])))
    assert seen[0].certainty_R is not None
    assert seen[0].certainty_R.tolist() == [4, 4, 4, 5, 5, 5]
    assert seen[0].size().tolist() == [4, 4, 4, 5, 5, 5]
