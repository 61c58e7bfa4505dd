"""`load(...).predict` of a token classifier: texts in, entities out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from task_models import TAGS, WORDS, some_texts, write_model
from torch import Tensor

import offramp
from offramp.errors import ConfigError, DataError
from offramp.models.bert import BertForSequenceClassification, BertForTokenClassification
from offramp.runner.iob import spans
from offramp.runner.loading import load
from offramp.runner.tagger import Entity, Tagger

LABELS = dict(enumerate(TAGS))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random one whose tags are all said, because no logit is higher than another on average."""
    place = tmp_path_factory.mktemp("tagger") / "model"
    write_model(place, BertForTokenClassification, id2label=LABELS)
    tagger = load(place, task="tag")
    rows = tagger.tokenizer.encode(some_texts(30, seed=9))
    mean_C = torch.cat([logits_of(tagger, row.ids.tolist()) for row in rows]).mean(0)
    with torch.no_grad():
        tagger.model.classifier.bias.sub_(mean_C)  # type: ignore[union-attr, operator]
    tagger.save(place)
    return place


@pytest.fixture(scope="module")
def tagger(directory: Path) -> Tagger:
    return load(directory, task="tag")


def logits_of(tagger: Tagger, ids: Sequence[int]) -> Tensor:
    """[L, C] from the ordinary forward."""
    with torch.inference_mode():
        logits_LC: Tensor = tagger.model(torch.tensor([list(ids)])).logits[0]
    return logits_LC


def flat(found: list[list[Entity]]) -> list[tuple[int, str, str, int, int]]:
    return [(i, e.label, e.text, e.start, e.end) for i, row in enumerate(found) for e in row]


def assert_same(found: list[list[Entity]], expected: list[list[Entity]]) -> None:
    assert flat(found) == flat(expected)
    assert [e.probability for row in found for e in row] == pytest.approx(
        [e.probability for row in expected for e in row], abs=1e-5
    )


def test_entities_are_those_of_transformers_pipeline(directory: Path, tagger: Tagger) -> None:
    transformers = pytest.importorskip("transformers")
    pipeline = transformers.pipeline(
        "token-classification",
        model=transformers.BertForTokenClassification.from_pretrained(directory),
        tokenizer=transformers.AutoTokenizer.from_pretrained(directory),
        aggregation_strategy="first",
        device="cpu",
    )
    texts = [*some_texts(60), "Anna, Bob-by  and\tbobbys.", "cités of  Oslo"]
    found = tagger.predict(texts)
    seen = 0
    for text, row in zip(texts, found, strict=True):
        theirs = pipeline(text)
        seen += len(theirs)
        assert [(e.label, e.start, e.end) for e in row] == [
            (entity["entity_group"], entity["start"], entity["end"]) for entity in theirs
        ]
        assert [e.probability for e in row] == pytest.approx(
            [float(entity["score"]) for entity in theirs], abs=1e-5
        )
    assert seen > 60
    assert {e.label for row in found for e in row} == {"PER", "LOC"}


def test_a_words_tag_is_that_of_its_first_token(tagger: Tagger) -> None:
    rows = [text.split() for text in some_texts(40, seed=1)]
    found = tagger.predict_words(rows)
    for words, tags in zip(rows, found, strict=True):
        (row,) = tagger.tokenizer.encode_words([words])
        logits_LC = logits_of(tagger, row.ids.tolist())
        firsts = [row.words.tolist().index(number) for number in range(len(words))]
        assert tags == [TAGS[int(logits_LC[first].argmax())] for first in firsts]
    assert {tag for tags in found for tag in tags} == set(TAGS)


def test_words_of_a_text_are_the_tokenizers(tagger: Tagger) -> None:
    text = "Bobby, annaing to new york-rome."
    (entities,) = tagger.predict([text])
    words = ["Bobby", ",", "annaing", "to", "new", "york", "-", "rome", "."]
    (tags,) = tagger.predict_words([words])
    starts = [text.index(word) for word in words]
    expected = [
        (label, starts[first], starts[stop - 1] + len(words[stop - 1]))
        for label, first, stop in spans(tags)
    ]
    assert [(e.label, e.start, e.end) for e in entities] == expected
    assert all(e.text == text[e.start : e.end] for e in entities)


def test_plain_labels_are_each_words_own(tmp_path: Path) -> None:
    labels = {0: "NOUN", 1: "VERB"}
    tagger = load(
        write_model(tmp_path / "model", BertForTokenClassification, id2label=labels), task="tag"
    )
    text = "Anna lives in the city"
    (entities,) = tagger.predict([text])
    assert [e.text for e in entities] == text.split()
    assert [e.label for e in entities] == tagger.predict_words([text.split()])[0]


def by_hand(tagger: Tagger, words: list[str], room: int, shared: int) -> list[str]:
    """Tags from windows of whole words: each word's from the window with most around it."""
    best: dict[int, tuple[int, str]] = {}
    starts = [0]
    while starts[-1] + room < len(words):
        starts.append(starts[-1] + room - shared)
    for start in starts:
        part = words[start : start + room]
        (row,) = tagger.tokenizer.encode_words([part])
        logits_LC = logits_of(tagger, row.ids.tolist())
        for place in range(len(part)):
            before = place if start else 10**6
            after = len(part) - 1 - place if start + room < len(words) else 10**6
            tag = TAGS[int(logits_LC[1 + place].argmax())]
            known = best.get(start + place)
            if known is None or min(before, after) > known[0]:
                best[start + place] = min(before, after), tag
    return [tag for _, (_, tag) in sorted(best.items())]


@pytest.mark.parametrize("stride", [0, 2, 5, None])
def test_long_texts_are_read_in_windows(directory: Path, stride: int | None) -> None:
    tagger = load(directory, task="tag", max_length=12)  # ten tokens, and two special ones
    whole = [word for word in WORDS if word.lower() in ("anna", "oslo", "rome", "to", "york")]
    words = (whole * 9)[:41]
    expected = by_hand(tagger, words, 10, 3 if stride is None else stride)
    assert tagger.predict_words([words], stride=stride) == [expected]
    text = " ".join(words)
    (entities,) = tagger.predict([text], stride=stride)
    assert [(e.label, e.start) for e in entities] == [
        (label, len(" ".join([*words[:first], ""]))) for label, first, _ in spans(expected)
    ]
    with pytest.raises(DataError, match="stride"):
        tagger.predict([text], stride=10)


def test_windows_of_words_with_several_tokens(directory: Path) -> None:
    tagger = load(directory, task="tag", max_length=9)
    words = ["walking", "bobbys", "annaing", "oslos", "walked"] * 6
    (tags,) = tagger.predict_words([words])
    assert len(tags) == 30
    (entities,) = tagger.predict([" ".join(words)])
    starts = {len(" ".join([*words[:i], ""])) for i in range(30)}
    ends = {start + len(words[i]) for i, start in enumerate(sorted(starts))}
    assert {e.start for e in entities} <= starts  # no entity begins or ends inside of a word
    assert {e.end for e in entities} <= ends


def test_together_as_alone_and_in_order(directory: Path) -> None:
    tagger = load(directory, task="tag", max_length=10)
    texts = some_texts(80, seed=2, longest=20)
    found = tagger.predict(texts)
    assert_same(found, [tagger.predict([text])[0] for text in texts])
    assert_same(found[::-1], tagger.predict(texts[::-1]))
    assert_same(found, list(tagger.stream(iter(texts))))
    rows = [text.split() for text in texts]
    assert tagger.predict_words(rows) == [tagger.predict_words([row])[0] for row in rows]


def test_nothing_to_tag(tagger: Tagger) -> None:
    assert tagger.predict([]) == []
    assert tagger.predict(["", "  "]) == [[], []]
    assert tagger.predict_words([]) == []
    (tags, none, odd) = tagger.predict_words([["oslo"], [], ["\u200d", "oslo", ""]])
    assert none == []
    assert odd == ["O", *tags, "O"]


def test_what_is_refused(tagger: Tagger, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pass \[text\]"):
        tagger.predict("oslo")
    with pytest.raises(DataError, match="Row 1 is a tuple"):
        tagger.predict(["oslo", ("a", "b")])  # type: ignore[list-item]
    with pytest.raises(DataError, match="Row 1 is a str"):
        tagger.predict_words([["oslo"], "oslo"])
    with pytest.raises(DataError, match="Row 0 has the word 3"):
        tagger.predict_words([[3]])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="threads"):
        tagger.predict(["oslo"], threads=0)
    other = offramp.load(write_model(tmp_path / "model", BertForSequenceClassification))
    with pytest.raises(ConfigError, match="TokenClassification; got BertForSequence"):
        Tagger(other.model, other.tokenizer)


def test_save_and_load(tagger: Tagger, tmp_path: Path) -> None:
    tagger.save(tmp_path / "saved")
    again = offramp.load(tmp_path / "saved")
    assert isinstance(again, Tagger)
    assert again.labels == list(TAGS)
    texts = some_texts(20)
    assert_same(again.predict(texts), tagger.predict(texts))
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == [
        "BertForTokenClassification"
    ]
