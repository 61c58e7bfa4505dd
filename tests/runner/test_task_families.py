"""Every family's tokenizer and model, through `offramp.load`: places in texts, and batches."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import offramp
from offramp.models.registry import FAMILIES as REGISTERED, find_class, find_config_class

pytest.importorskip("transformers")
from family_kit import FAMILIES, PAIRS, TEXTS, family_directory  # it imports transformers

LONG = [" ".join(random.Random(i).choices(" ".join(TEXTS).split(), k=60)) for i in range(4)]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
    "id2label": {0: "O", 1: "B-A", 2: "I-A"},
}


def opened(family: str, task: str, directory: Path, **changes: Any) -> Any:
    """A random model of a family, saved beside its tokenizer and loaded again."""
    family_directory(family, directory)
    positions = json.loads((directory / "config.json").read_text())["max_position_embeddings"]
    tokenizer = offramp.Tokenizer.from_pretrained(directory)
    values = {**SIZES, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": positions}
    torch.manual_seed(0)
    find_class(family, task)(find_config_class(family)(**{**values, **changes})).save_pretrained(
        directory
    )
    return offramp.load(directory)


families = pytest.mark.parametrize("family", [name for name in FAMILIES if name in REGISTERED])


@families
def test_vectors(family: str, tmp_path: Path) -> None:
    embedder = opened(family, "Model", tmp_path / family)
    found = embedder.embed([*TEXTS, *LONG])
    for text, vector in zip([*TEXTS, *LONG], found, strict=True):
        assert embedder.embed([text])[0] == pytest.approx(vector, abs=1e-4)


@families
def test_entities(family: str, tmp_path: Path) -> None:
    tagger = opened(family, "ForTokenClassification", tmp_path / family)
    texts = [*TEXTS, *LONG]
    found = tagger.predict(texts)
    for text, entities in zip(texts, found, strict=True):
        places = [(e.label, e.start, e.end) for e in entities]
        assert places == [(e.label, e.start, e.end) for e in tagger.predict([text])[0]]
        for entity in entities:
            assert entity.text == text[entity.start : entity.end]
            assert entity.text == entity.text.strip() != ""
        assert sorted(places, key=lambda place: place[1:]) == places
    rows = [text.split() for text in texts]
    assert [len(tags) for tags in tagger.predict_words(rows)] == [len(row) for row in rows]


@families
def test_answers(family: str, tmp_path: Path) -> None:
    answerer = opened(family, "ForQuestionAnswering", tmp_path / family, id2label={0: "a", 1: "b"})
    pairs = [*(("the fox?", text) for text in [*TEXTS, *LONG]), *(PAIRS[i] for i in (0, 1, 2, 4))]
    for pair, found in zip(pairs, answerer.predict(pairs), strict=True):
        assert found.text == pair[1][found.start : found.end]
        alone = answerer.answer(*pair)
        assert (alone.start, alone.end) == (found.start, found.end)
        assert bool(found.text) == bool(pair[1].strip())


@families
def test_answers_of_a_long_context(family: str, tmp_path: Path) -> None:
    """Its windows have the types that the model has, and the best of all is the answer."""
    answerer = opened(
        family,
        "ForQuestionAnswering",
        tmp_path / family,
        id2label={0: "a", 1: "b"},
        **({"type_vocab_size": 1} if family in ("roberta", "xlm-roberta", "camembert") else {}),
    )
    context = " ".join(LONG)
    pair = ("the fox?", context)
    cut = answerer.tokenizer.tokenize([pair], truncation="only_second", stride=4)
    assert len(cut) > 1
    found = answerer.answer(*pair)
    assert found.text == context[found.start : found.end] != ""


@families
def test_choices_and_scores(family: str, tmp_path: Path) -> None:
    chooser = opened(family, "ForMultipleChoice", tmp_path / family)
    prompts = [(text, TEXTS[:3]) for text in [*TEXTS, *LONG]]
    found = chooser.predict(prompts)
    assert [c.index for c in found] == [chooser.predict([prompt])[0].index for prompt in prompts]
    reranker = opened(
        family, "ForSequenceClassification", tmp_path / "ranker", id2label={0: "score"}
    )
    assert isinstance(reranker, offramp.Reranker)
    assert len(reranker.rerank("the fox", TEXTS)) == len(TEXTS)
