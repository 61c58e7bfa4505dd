"""Exits of token classifiers: a ramp a token, saved with the model; each token is asked."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from every_criterion import CLASSES, ask_all
from parity_families import FAMILIES
from safetensors.torch import load_file
from token_models import small_rows, token_model

import offramp
from offramp.errors import ConfigError
from offramp.exits.attach import add_exits, exits_of, logits_by_depth, task_of
from offramp.exits.criteria import (
    Answer,
    EachToken,
    Entropy,
    JensenShannonPatience,
    MaxProbability,
    MinDepth,
    Patience,
    RandomExit,
    RowsOf,
    Task,
)
from offramp.models.inputs import Inputs

TOKENS = Task("single_label_classification", 3, tokens=True)


def odds(*probabilities: float) -> torch.Tensor:
    """Logits of two classes that have these probabilities of the second."""
    logits_U = torch.tensor(probabilities, dtype=torch.float64).logit()
    return torch.stack([torch.zeros_like(logits_U), logits_U], -1)


def test_the_least_sure_token_by_hand() -> None:
    # Rows of 3, 1, 0 and 2 tokens; the least sure have .8, .6, none, and .95.
    answer = Answer(odds(0.9, 0.2, 0.99, 0.6, 0.95, 0.02))
    answer = answer._replace(rows=RowsOf(torch.tensor([0, 0, 0, 1, 3, 3]), 4))
    for threshold, expected in ((0.9, [0, 0, 1, 1]), (0.7, [1, 0, 1, 1]), (0.5, [1, 1, 1, 1])):
        criterion = MaxProbability(threshold).for_task(TOKENS)
        said = criterion.ask(criterion.start(6, 2), 1, answer)
        assert said.leave_R.tolist() == [bool(x) for x in expected]
    # Of log-odds: ln 99 = 4.6 is the largest of the first row, ln 49 = 3.9 of the last.
    assert answer.size().tolist() == pytest.approx([math.log(99), 1, 1, math.log(49)])
    nan = answer._replace(logits_RC=answer.logits_RC.index_fill(0, torch.tensor(3), torch.nan))
    assert nan.is_nan().tolist() == [False, True, False, False]


def test_each_token_has_its_own_memory() -> None:
    # The second token of the first row changes its mind at ramp 3, all others never.
    rows = RowsOf(torch.tensor([0, 0, 1]), 2)
    criterion = Patience(2).for_task(TOKENS)
    state_US, leaves = criterion.start(3, 2), []
    for depth, p in enumerate([0.2, 0.2, 0.8, 0.8, 0.8], start=1):
        answer = Answer(odds(0.9, p, 0.7), rows=rows)
        leave_R, slack_R, state_US = criterion.ask(state_US, depth, answer)
        leaves.append(leave_R.tolist())
        assert slack_R.tolist() == pytest.approx([math.log(4) / 2, math.log(7 / 3) / 2])
    assert leaves == [[False] * 2, [False] * 2, [False, True], [False, True], [True, True]]


def test_what_is_of_the_row_stays_of_the_row() -> None:
    chance = RandomExit(0.5, seed=3)
    either = Entropy(0.1) | Patience(2)
    assert either.for_task(TOKENS) == EachToken(either)
    assert (Entropy(0.1) & MinDepth(2)).for_task(TOKENS) == EachToken(Entropy(0.1) & MinDepth(2))
    mixed = (Entropy(9.0) & chance).for_task(TOKENS)
    logits_UC = torch.randn(50, 3, dtype=torch.float64)
    row_U = torch.arange(25).repeat_interleave(2)
    answer = Answer(logits_UC, rows=RowsOf(row_U, 26))  # the last one has no token
    said = mixed.ask(mixed.start(50, 3), 1, answer)
    alone = chance.update(torch.zeros(25, 0), 1, logits_UC[::2])
    assert said.leave_R.tolist() == [*alone.leave_R.tolist(), True]
    assert 0 < int(alone.leave_R.sum()) < 25


@pytest.mark.parametrize("name", CLASSES)
def test_rows_of_one_token_are_rows(name: str) -> None:
    torch.manual_seed(0)
    logits_ERC = torch.randn(5, 40, 3) * 3
    for one, other in zip(
        ask_all(CLASSES[name], logits_ERC),
        ask_all(CLASSES[name].for_task(TOKENS), logits_ERC),
        strict=True,
    ):
        for x, y in zip(one, other, strict=True):
            assert torch.equal(x.double(), y.double())


def test_a_token_s_size_is_the_row_s() -> None:
    # As of labels: a row is decided again as a whole.
    criterion = JensenShannonPatience(1, 0.1).for_task(TOKENS)
    slacks = []
    for rows in (RowsOf(torch.tensor([0, 1]), 2), RowsOf(torch.tensor([0, 0]), 1)):
        state_US = criterion.start(2, 2)
        for small, large in ((1.0, 100.0), (0.5, 40.0)):
            logits_UC = torch.tensor([[0.0, small], [0.0, large]])
            _, slack_R, state_US = criterion.ask(state_US, 2, Answer(logits_UC, rows=rows))
        slacks.append(slack_R[0].item())
    assert slacks[1] == pytest.approx(slacks[0] * math.sqrt(2) / math.sqrt(1 + 2.5**2))


def test_it_is_not_saved() -> None:
    with pytest.raises(ConfigError, match="EachToken is: the class needs a `name`"):
        EachToken(Entropy(0.1)).to_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded(family: str, tmp_path: Path) -> None:
    model = token_model(family, exits={"criterion": MaxProbability(0.9), "certainty": True})
    model.save_pretrained(tmp_path / "model")
    section = json.loads((tmp_path / "model" / "config.json").read_text())["exits"]
    assert section["pooler"] == "tokens"
    assert section["hidden"] == max(1, model.config.hidden_size // 6)
    again = type(model).from_pretrained(tmp_path / "model")
    assert exits_of(again).criterion == MaxProbability(0.9)
    assert task_of(again) == Task("single_label_classification", 4, certainty=True, tokens=True)
    row = small_rows(1)[0]
    inputs = Inputs.from_rows([row.ids], [row.types])
    with torch.inference_mode():
        ours, theirs = (logits_by_depth(one, inputs) for one in (model, again))
    assert list(ours) == [*exits_of(model).depths, model.config.num_hidden_layers]
    assert all(torch.equal(ours[depth], theirs[depth]) for depth in ours)
    assert all(logits_TC.shape == (len(row.ids), 4) for logits_TC in ours.values())


def test_transformers_opens_what_is_saved(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = token_model()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {name for name in saved if name.startswith("exits.1.")} == {
        "exits.1.dense.weight", "exits.1.dense.bias",
        "exits.1.classifier.weight", "exits.1.classifier.bias",
    }  # fmt: skip
    theirs = transformers.BertForTokenClassification.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_a_ramp_is_a_classifier_of_each_token_by_hand() -> None:
    model = token_model(exits={"hidden": 5, "depths": [1]})
    ramp, row = exits_of(model).ramp(1), small_rows(1)[0]
    with torch.inference_mode():
        flow = model.stack.start(Inputs.from_rows([row.ids], [row.types]))
        hidden_TD = model.stack.step(flow, 0).hidden
        expected_TC = ramp.classifier(torch.tanh(ramp.dense(hidden_TD)))
        found = logits_by_depth(model, Inputs.from_rows([row.ids], [row.types]))
    torch.testing.assert_close(found[1], expected_TC)


def test_num_labels_one_is_a_number() -> None:
    model = add_exits(offramp.BertForTokenClassification(token_model(n_labels=1).config))
    assert task_of(model).kind == "regression"
    assert model.exits.criterion == offramp.RegressionPatience()  # type: ignore[union-attr]
