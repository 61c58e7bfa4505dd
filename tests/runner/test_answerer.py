"""`load(...).answer`: a question and a context in, a part of the context out."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest
import torch
from task_models import WORDS, write_model
from torch import Tensor

import offramp
from offramp.errors import ConfigError, DataError
from offramp.models.bert import BertForQuestionAnswering
from offramp.runner.answerer import Answer, Answerer
from offramp.runner.loading import load
from offramp.text.tokenizer import Tokens

NONE = Answer("", 0, 0, 0.0, 1.0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("qa") / "model", BertForQuestionAnswering)


@pytest.fixture(scope="module")
def answerer(directory: Path) -> Answerer:
    return load(directory, task="answer")


def some_pairs(n: int, seed: int = 0, longest: int = 14) -> list[tuple[str, str]]:
    rng = random.Random(seed)

    def words(most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))

    return [(f"where {words(3)}?", words(longest)) for _ in range(n)]


def logits_of(answerer: Answerer, row: Tokens) -> tuple[Tensor, Tensor]:
    ids, types = (torch.tensor(values.tolist())[None] for values in (row.ids, row.types))
    with torch.inference_mode():
        output = answerer.model(ids, token_type_ids=types)
    return output.start_logits[0], output.end_logits[0]


def by_hand(
    answerer: Answerer,
    pair: tuple[str, str],
    *,
    longest: int = 30,
    stride: int = 128,
    no_answer: bool = False,
) -> list[Answer]:
    """All answers, the best first, by the definition."""
    rows = answerer.tokenizer.tokenize([pair], truncation="only_second", stride=stride)
    scores: dict[tuple[int, int], float] = {}
    null = math.inf
    for row in rows:
        starts, ends = logits_of(answerer, row)
        null = min(null, float(starts[0] + ends[0]))
        places = [place for place, text in enumerate(row.texts) if text == 1]
        for i, j in itertools.product(places, places):
            if i <= j < i + longest:
                key = int(row.offsets[i][0]), int(row.offsets[j][1])
                scores[key] = max(scores.get(key, -math.inf), float(starts[i] + ends[j]))
    if no_answer:
        scores[0, 0] = null
    total = math.fsum(math.exp(score) for score in scores.values())
    return [
        Answer(pair[1][a:b], a, b, score, math.exp(score) / total)
        for (a, b), score in sorted(scores.items(), key=lambda item: -item[1])
    ]


def assert_same(found: list[Answer], expected: list[Answer]) -> None:
    assert [(a.text, a.start, a.end) for a in found] == [(a.text, a.start, a.end) for a in expected]
    for name in ("score", "probability"):
        assert [getattr(a, name) for a in found] == pytest.approx(
            [getattr(a, name) for a in expected], abs=1e-4
        )


@pytest.mark.parametrize("longest", [1, 3, 30])
@pytest.mark.parametrize("no_answer", [False, True])
def test_answers_by_their_definition(answerer: Answerer, longest: int, no_answer: bool) -> None:
    pairs = some_pairs(30)
    found = answerer.predict(pairs, no_answer=no_answer, max_answer_length=longest)
    expected = [by_hand(answerer, p, longest=longest, no_answer=no_answer)[0] for p in pairs]
    assert_same(found, expected)
    assert all(
        a.text == context[a.start : a.end] for a, (_, context) in zip(found, pairs, strict=True)
    )


def test_logits_are_those_of_transformers(directory: Path, answerer: Answerer) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.BertForQuestionAnswering.from_pretrained(directory).eval()
    tokenizer = transformers.BertTokenizerFast(str(directory / "vocab.txt"))
    for question, context in some_pairs(20, seed=1):
        batch = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        offsets = batch.pop("offset_mapping")[0].tolist()
        with torch.inference_mode():
            output = model(**batch)
        inside = [i for i, text in enumerate(batch.sequence_ids(0)) if text == 1]
        best = max(
            ((i, j) for i in inside for j in inside if i <= j < i + 30),
            key=lambda span: float(output.start_logits[0, span[0]] + output.end_logits[0, span[1]]),
        )
        found = answerer.answer(question, context)
        assert (found.start, found.end) == (offsets[best[0]][0], offsets[best[1]][1])


@pytest.mark.parametrize("stride", [0, 4, 9])
def test_long_contexts_are_read_in_windows(directory: Path, stride: int) -> None:
    answerer = load(directory, task="answer", max_length=24)
    pairs = some_pairs(25, seed=2, longest=60)
    for no_answer in (False, True):
        found = answerer.predict(pairs, stride=stride, no_answer=no_answer, max_answer_length=5)
        expected = []
        for pair in pairs:
            room = 24 - len(answerer.tokenizer.encode([pair[0]])[0].ids) - 1
            own = min(stride, (room - 1) // 2)
            asked = {"longest": 5, "stride": own, "no_answer": no_answer}
            expected.append(by_hand(answerer, pair, **asked)[0])  # type: ignore[arg-type]
        assert_same(found, expected)


def test_n_best(answerer: Answerer) -> None:
    pairs = some_pairs(10, seed=3)
    for pair, found in zip(pairs, answerer.n_best(iter(pairs), 4, no_answer=True), strict=True):
        expected = by_hand(answerer, pair, no_answer=True)
        assert_same(found, expected[:4])
        assert math.fsum(a.probability for a in expected) == pytest.approx(1)
    (few,) = answerer.n_best([("who?", "oslo")], 100)
    assert [a.text for a in few] == ["oslo"]


def test_together_as_alone_and_in_order(directory: Path) -> None:
    answerer = load(directory, task="answer", max_length=20)
    pairs = some_pairs(60, seed=4, longest=40)
    found = answerer.predict(pairs)
    assert_same(found, [answerer.answer(*pair) for pair in pairs])
    assert_same(found[::-1], answerer.predict(pairs[::-1]))
    assert_same(found, answerer.predict(iter(pairs)))


def test_a_context_without_tokens_has_no_answer(answerer: Answerer) -> None:
    for context in ("", " \n"):
        found = answerer.answer("who?", context)
        assert (found.text, found.start, found.end, found.probability) == ("", 0, 0, 1.0)
    assert answerer.predict([]) == []


def test_what_is_refused(answerer: Answerer, directory: Path, tmp_path: Path) -> None:
    for bad in ("who?", ["who?", "oslo"], ("who?",), ("who?", 3)):
        with pytest.raises(DataError, match=r"Row 1 is .*\(question, context\)"):
            answerer.predict([("who?", "oslo"), bad])  # type: ignore[list-item]
    with pytest.raises(DataError, match="pass"):
        answerer.predict("who?")  # type: ignore[arg-type]
    for option in ("max_answer_length", "stride", "threads"):
        with pytest.raises(ConfigError, match=option):
            answerer.answer("who?", "oslo", **{option: -1})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="n must be at least 1"):
        answerer.n_best([("who?", "oslo")], 0)
    short = load(directory, task="answer", max_length=8)
    with pytest.raises(DataError, match="Row 1: its first text has"):
        short.predict([("who?", "oslo"), ("who " * 10, "oslo")])
    with pytest.raises(ConfigError, match="num_labels is 3"):
        load(write_model(tmp_path / "three", BertForQuestionAnswering, num_labels=3))


def test_save_and_load(answerer: Answerer, tmp_path: Path) -> None:
    answerer.save(tmp_path / "saved")
    again = offramp.load(tmp_path / "saved")
    assert isinstance(again, Answerer)
    pairs = some_pairs(10)
    assert_same(again.predict(pairs), answerer.predict(pairs))
