"""Tagged sentences to examples: which token has a word's label, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tagged_data import TOY_TAGS, tagged_table
from task_models import PIECES, TAGS, write_model

from offramp.errors import DataError
from offramp.models.bert import BertForTokenClassification
from offramp.runner.loading import load
from offramp.runner.tagger import Tagger
from offramp.text.tables import Table
from offramp.text.tagged import TaggedTable
from offramp.training.tagged import (
    NO_LABEL,
    hold_out_sentences,
    known_tags,
    tag_names,
    to_tagged_examples,
)

LABEL2ID = {tag: number for number, tag in enumerate(TAGS)}
VANISHES = "\u200b"  # a mark without width, which BERT's normaliser drops


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    place = tmp_path_factory.mktemp("tagged") / "model"
    labels = dict(enumerate(TAGS))
    return load(write_model(place, BertForTokenClassification, id2label=labels), task="tag")


def table(*rows: str) -> TaggedTable:
    """Rows such as `Anna/B-PER lives/O`."""
    pairs = [[part.rsplit("/", 1) for part in row.split(" ")] for row in rows]
    return TaggedTable(
        "file.jsonl", [[w for w, _ in row] for row in pairs], [[t for _, t in row] for row in pairs]
    )


def test_labels_are_beside_first_subwords(tagger: Tagger) -> None:
    rows = table("Bobby/B-PER walking/O in/O new/B-LOC york,/I-LOC", "rome/B-LOC")
    examples = to_tagged_examples(rows, tagger, LABEL2ID)
    pieces = [[PIECES[i] for i in row.ids] for row in examples.rows]
    assert pieces == [
        ["[CLS]", "bob", "##by", "walk", "##ing", "in", "new", "york", ",", "[SEP]"],
        ["[CLS]", "rome", "[SEP]"],
    ]
    no = NO_LABEL
    assert [labels.tolist() for labels in examples.labels] == [
        [no, 1, no, 0, no, 0, 3, 4, no, no],
        [no, 3, no],
    ]
    assert no == torch.nn.CrossEntropyLoss().ignore_index
    assert Counter(examples.class_numbers().tolist()) == {0: 2, 1: 1, 3: 2, 4: 1}
    inputs = examples.inputs([0, 1])  # packed in order of length
    assert inputs.row_ids_R.tolist() == [1, 0]
    assert examples.beside(inputs.row_ids_R).tolist() == [no, 3, no, *examples.labels[0]]


def test_words_that_vanish_have_no_label(tagger: Tagger) -> None:
    rows = table(f"{VANISHES}/B-PER Anna/B-PER", f"{VANISHES}/O", "in/O")
    examples = to_tagged_examples(rows, tagger, LABEL2ID)
    assert [row.row for row in examples.rows] == [0, 2]
    assert [labels.tolist() for labels in examples.labels] == [[-100, 1, -100], [-100, 0, -100]]
    with pytest.raises(DataError, match=r"keeps no word of file\.jsonl"):
        to_tagged_examples(table(f"{VANISHES}/O"), tagger, LABEL2ID)


@pytest.mark.parametrize("max_length", [4, 5, 8])
def test_each_word_of_a_long_sentence_is_learnt_once(tagger: Tagger, max_length: int) -> None:
    data = tagged_table(30, seed=1)
    assert data.tags is not None
    short = Tagger(tagger.model, load(tagger.model.name_or_path, task="tag").tokenizer)
    short.tokenizer.max_length = max_length
    examples = to_tagged_examples(data, short, LABEL2ID)
    seen = []
    for row, labels in zip(examples.rows, examples.labels, strict=True):
        assert len(row.ids) <= max_length
        for token in range(len(row.ids)):
            if labels[token] != NO_LABEL:
                assert row.offsets[token, 0] == 0, "a word's first token"
                word = int(row.words[token])
                assert TAGS[labels[token]] == data.tags[row.row][word]
                seen.append((row.row, word))
    assert sorted(seen) == [(i, j) for i, words in enumerate(data.words) for j in range(len(words))]
    assert len(examples) > 30


def test_names_of_tags() -> None:
    assert tag_names(tagged_table(100)) == TOY_TAGS
    assert tag_names(table("a/I-b-c b/B-b-c c/O d/B-a e/S-a")) == [
        "O", "B-a", "S-a", "B-b-c", "I-b-c",
    ]  # fmt: skip
    assert tag_names(table("a/NOUN b/VERB c/ADJ")) == ["ADJ", "NOUN", "VERB"]
    with pytest.raises(DataError, match=r"file\.jsonl has only the tags \['O'\]"):
        tag_names(table("a/O b/O"))


def test_what_is_no_tagged_table_is_refused() -> None:
    with pytest.raises(DataError, match="sentence 2: 1 words and 2 tags"):
        tag_names(TaggedTable("x", [["a"], ["b"]], [["O"], ["O", "B-A"]]))
    with pytest.raises(DataError, match="words of 2 sentences and the tags of 1"):
        tag_names(TaggedTable("x", [["a"], ["b"]], [["O"]]))
    with pytest.raises(DataError, match="x was read without tags"):
        tag_names(TaggedTable("x", [["a"]], None))
    with pytest.raises(DataError, match=r"Expected a TaggedTable.*got a Table"):
        tag_names(Table("x", ["a"], ["O"]))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"sentence 2: the tag 'B-LOG' was not seen.*'B-LOC'"):
        known_tags(table("a/O", "b/B-LOG"), TAGS)


def test_equal_sentences_are_held_out_together() -> None:
    words = [["word", str(i % 150)] for i in range(600)]
    data = TaggedTable("x", words, [["O", f"B-{i % 150}"] for i in range(600)])
    train, dev = hold_out_sentences(data)
    texts = [{tuple(row) for row in side.words} for side in (train, dev)]
    assert not texts[0] & texts[1]
    assert len(train) + len(dev) == 600
    assert 0.04 < len(dev) / 600 < 0.18
    for side in (train, dev):
        assert side.tags is not None
        assert all(f"B-{w}" == t for (_, w), (_, t) in zip(side.words, side.tags, strict=True))
    turned = TaggedTable("x", words[::-1], [["O", "O"]] * 600)
    assert {tuple(row) for row in hold_out_sentences(turned)[1].words} == texts[1]
    with pytest.raises(DataError, match="x has 2 rows, too few"):
        hold_out_sentences(TaggedTable("x", words[:2], [["O", "O"]] * 2))
