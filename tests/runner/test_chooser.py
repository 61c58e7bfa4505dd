"""`load(...).predict` of a multiple-choice model: prompts with choices in, the best out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from task_models import some_texts, write_model

import offramp
from offramp.errors import ConfigError, DataError
from offramp.models.bert import BertForMultipleChoice
from offramp.runner.chooser import Choice, Chooser
from offramp.runner.loading import load


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("choice") / "model", BertForMultipleChoice)


@pytest.fixture(scope="module")
def chooser(directory: Path) -> Chooser:
    return load(directory, task="choose")


def some_prompts(n: int, seed: int = 0) -> list[tuple[str, list[str]]]:
    rng = random.Random(seed)
    return [
        (text, some_texts(rng.randint(1, 5), seed=rng.randrange(10**6)))
        for text in some_texts(n, seed)
    ]


def assert_same(found: list[Choice], expected: list[Choice]) -> None:
    assert [(c.index, c.text) for c in found] == [(c.index, c.text) for c in expected]
    for one, two in zip(found, expected, strict=True):
        assert one.probabilities == pytest.approx(two.probabilities, abs=1e-5)


def test_choices_are_those_of_transformers(directory: Path, chooser: Chooser) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.BertForMultipleChoice.from_pretrained(directory).eval()
    tokenizer = transformers.BertTokenizerFast(str(directory / "vocab.txt"))
    prompts = some_prompts(30)
    for (text, choices), found in zip(prompts, chooser.predict(prompts), strict=True):
        batch = tokenizer([text] * len(choices), choices, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**{name: values[None] for name, values in batch.items()}).logits[0]
        assert found.index == int(logits.argmax())
        assert found.text == choices[found.index]
        assert found.probabilities == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)


def test_together_as_alone_and_in_order(chooser: Chooser) -> None:
    prompts = some_prompts(60, seed=1)
    found = chooser.predict(prompts)
    assert_same(found, [chooser.predict([prompt])[0] for prompt in prompts])
    assert_same(found[::-1], chooser.predict(prompts[::-1]))
    assert_same(found, list(chooser.stream(iter(prompts))))


def test_of_equal_choices_it_is_the_first(chooser: Chooser) -> None:
    (found,) = chooser.predict([("who", ["oslo", "oslo"])])
    assert found == Choice(0, "oslo", (0.5, 0.5))
    assert chooser.predict([]) == []
    assert chooser.predict([("who", ("oslo",))]) == [Choice(0, "oslo", (1.0,))]


@pytest.mark.parametrize("bad", ["who", ("who",), ("who", []), ("who", "oslo"), ("who", [3]), 3])
def test_what_is_refused(chooser: Chooser, bad: object) -> None:
    with pytest.raises(DataError, match="Row 1 is .*a prompt and its choices"):
        chooser.predict([("who", ["oslo"]), bad])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="threads"):
        chooser.predict([("who", ["oslo"])], threads=0)


def test_save_and_load(chooser: Chooser, tmp_path: Path) -> None:
    chooser.save(tmp_path / "saved")
    again = offramp.load(tmp_path / "saved")
    assert isinstance(again, Chooser)
    prompts = some_prompts(9)
    assert_same(again.predict(prompts), chooser.predict(prompts))
