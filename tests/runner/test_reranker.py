"""`rerank`: texts in order of the number that a model gives each beside a query."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from task_models import some_texts, write_model

import offramp
from offramp.errors import ConfigError, DataError
from offramp.exits.attach import add_exits
from offramp.exits.criteria import Entropy
from offramp.models.bert import BertForSequenceClassification
from offramp.runner.classifier import Classifier
from offramp.runner.loading import load
from offramp.runner.reranker import Reranker

QUERY = "who lives in oslo"


@pytest.fixture(scope="module", params=[1, 2])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ranks") / "model"
    return write_model(place, BertForSequenceClassification, num_labels=request.param)


@pytest.fixture(scope="module")
def reranker(directory: Path) -> Reranker:
    return load(directory, task="rerank")


def test_scores_are_those_of_transformers(directory: Path, reranker: Reranker) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.BertForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = transformers.BertTokenizerFast(str(directory / "vocab.txt"))
    texts = some_texts(40)
    batch = tokenizer([QUERY] * 40, texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**batch).logits
    one_output = logits.shape[1] == 1
    scores = logits[:, 0] if one_output else logits.softmax(-1)[:, 1]
    found = reranker.rerank(QUERY, texts)
    assert sorted(found, key=lambda ranked: ranked.index) != found
    assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)
    assert sorted(r.index for r in found) == list(range(40))
    for ranked in found:
        assert ranked.text == texts[ranked.index]
        assert ranked.score == pytest.approx(float(scores[ranked.index]), abs=1e-5)
    pairs = [(QUERY, text) for text in texts]
    assert reranker.predict(pairs) == pytest.approx(scores.tolist(), abs=1e-5)
    as_probability = torch.sigmoid(scores) if one_output else scores
    assert reranker.predict(pairs, sigmoid=True) == pytest.approx(as_probability.tolist(), abs=1e-5)
    assert [r.index for r in reranker.rerank(QUERY, texts, sigmoid=True)] == [
        r.index for r in found
    ]


def test_top_k_ties_and_nothing(reranker: Reranker) -> None:
    texts = some_texts(10)
    whole = reranker.rerank(QUERY, texts)
    assert [r.index for r in reranker.rerank(QUERY, iter(texts), top_k=3)] == [
        r.index for r in whole[:3]
    ]
    same = reranker.rerank(QUERY, ["oslo"] * 3)
    assert sorted(found.index for found in same) == [0, 1, 2]
    # The last digits depend on a row's place in the batch, and so may the order.
    assert [found.score for found in same] == pytest.approx([same[0].score] * 3, abs=1e-5)
    assert reranker.rerank(QUERY, []) == []
    assert reranker.predict([]) == []


def test_what_is_refused(reranker: Reranker) -> None:
    with pytest.raises(DataError, match=r"pass \[text\]"):
        reranker.rerank(QUERY, "oslo")
    with pytest.raises(DataError, match="query is a int"):
        reranker.rerank(3, ["oslo"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="top_k"):
        reranker.rerank(QUERY, ["oslo"], top_k=0)
    with pytest.raises(ConfigError, match="threads"):
        reranker.rerank(QUERY, ["oslo"], threads=0)


def test_three_classes_are_no_score(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", BertForSequenceClassification, num_labels=3)
    assert isinstance(offramp.load(directory), Classifier)
    with pytest.raises(ConfigError, match=r"outputs of this model is 3"):
        load(directory, task="rerank")


def test_all_layers_are_run(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", BertForSequenceClassification, num_labels=2)
    plain = load(directory, task="rerank")
    add_exits(plain.model)
    expected = plain.predict(["oslo"])
    plain.model.exits.criterion = Entropy(9.0)  # type: ignore[union-attr]
    assert plain.predict(["oslo"]) == pytest.approx(expected)


def test_a_regression_model_gives_numbers(tmp_path: Path) -> None:
    directory = write_model(
        tmp_path / "model", BertForSequenceClassification, num_labels=1, problem_type="regression"
    )
    found = offramp.load(directory)
    assert isinstance(found, Reranker)
    numbers = found.predict(["oslo", ("anna", "rome")])
    assert all(isinstance(number, float) for number in json.loads(json.dumps(numbers)))
    found.save(tmp_path / "saved")
    assert offramp.load(tmp_path / "saved").predict(["oslo"]) == pytest.approx(numbers[:1])
