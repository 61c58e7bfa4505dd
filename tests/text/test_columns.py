"""Rows in memory: dicts of columns, and the datasets of the package `datasets`."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from offramp.errors import DataError
from offramp.text.tables import Table
from offramp.text.tagged import TaggedTable

TEXTS, LABELS = ["a good film", "bad", "it was quite good"], ["pos", "neg", "pos"]


@pytest.fixture
def datasets() -> Any:
    return pytest.importorskip("datasets")


# ---------------------------------------------------------------------------------------------
# Dicts.


def test_a_dict_is_a_table() -> None:
    table = Table.of({"text": TEXTS, "label": LABELS, "more": [1, 2, 3]})
    assert table == Table("the dict of columns", TEXTS, LABELS)
    assert Table.of(table) is table
    pairs = Table.of({"a": TEXTS, "b": tuple(LABELS)}, text="a", pair="b", label=None, source="x")
    assert pairs == Table("x", list(zip(TEXTS, LABELS, strict=True)), None)


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 0], (0, 1, 0), np.array([0, 1, 0]), torch.tensor([0, 1, 0]), [np.int8(0), 1, "0"],
     range(0, 2)],
)  # fmt: skip
def test_numbers_of_any_kind_are_labels(labels: Any) -> None:
    table = Table.of({"text": np.array(TEXTS[: len(labels)]), "label": labels})
    assert table.labels == ["0", "1", "0"][: len(labels)]
    assert all(type(text) is str for text in table.texts)


def test_floats_and_truths() -> None:
    assert Table.of({"text": TEXTS, "label": [0.5, 2, np.float32(0.25)]}).labels == [
        "0.5", "2", "0.25",
    ]  # fmt: skip
    assert Table.of({"text": TEXTS, "label": [True, False, True]}).labels == [
        "true", "false", "true",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"text": TEXTS}, r"no column 'label'\. It has 'text'\. Name the columns: offramp\.Table"),
        ({"text": TEXTS, "label": ["a"]}, r"different lengths: \{'text': 3, 'label': 1\}"),
        ({"text": "abc", "label": ["a"]}, r"the column 'text' is a str; expected a list"),
        ({"text": 3, "label": ["a"]}, r"the column 'text' is a int; expected a list"),
        ({"text": [], "label": []}, r"the dict of columns has no rows"),
        ({"text": ["a", ""], "label": ["a", "b"]}, r"row 2: 'text' has no text"),
        ({"text": ["a", 3], "label": ["a", "b"]}, r"row 2: 'text' is a int; expected text"),
        ({"text": ["a", "b"], "label": ["a", None]}, r"row 2: the label None is neither"),
        ([("a", "b")], r"A list is no table; expected a dict of columns"),
    ],
)
def test_what_cannot_be_used(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Table.of(data)


def test_words_with_tags() -> None:
    words, tags = [["anna", "went"], ["rome"]], [["B-PER", "O"], ["B-LOC"]]
    table = TaggedTable.of({"tokens": words, "label": [np.array(tags[0]), tuple(tags[1])]})
    assert table == TaggedTable("the dict of columns", words, tags)
    assert TaggedTable.of(table) is table
    assert TaggedTable.of({"w": words}, tokens="w", label=None).tags is None
    for data, message in (
        ({"tokens": words, "label": [["O"], ["O"]]}, "row 1: 2 words in 'tokens', and 1 tags"),
        ({"tokens": ["anna"], "label": [["O"]]}, "row 1: 'tokens' is a str; expected a list"),
        (words, "A list is no table"),
    ):
        with pytest.raises(DataError, match=message):
            TaggedTable.of(data)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------
# datasets.


def test_a_dataset_is_a_table(datasets: Any) -> None:
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS, "n": [1, 2, 3]})
    assert Table.of(data) == Table("the Dataset", TEXTS, LABELS)
    numbers = Table.of(data, label="n")
    assert numbers.labels == ["1", "2", "3"]
    shuffled = data.select([2, 0])
    assert Table.of(shuffled).texts == [TEXTS[2], TEXTS[0]]
    pairs = Table.of(data, text="text", pair="label", label=None)
    assert pairs.texts[1] == ("bad", "neg")
    for kind in ("numpy", "torch"):
        assert Table.of(data.with_format(kind), label="n").labels == ["1", "2", "3"]
        assert Table.of(data.with_format(kind)).texts == TEXTS


def test_class_labels_are_their_names(datasets: Any) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": [1, 0, 1]}, features=features)
    assert Table.of(data) == Table("the Dataset", TEXTS, LABELS)
    hidden = datasets.Dataset.from_dict({"text": TEXTS, "label": [1, 0, -1]}, features=features)
    with pytest.raises(DataError, match=r"row 3: 'label' is -1, which is no class \(0 to 1\)"):
        Table.of(hidden)
    assert Table.of(hidden, label=None).labels is None


def test_tags_are_their_names(datasets: Any) -> None:
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    words = [["anna", "went"], ["rome"]]
    data = datasets.Dataset.from_dict({"tokens": words, "ner_tags": [[1, 0], [0]]}, features)
    table = TaggedTable.of(data, label="ner_tags")
    assert table == TaggedTable("the Dataset", words, [["B-PER", "O"], ["O"]])


def test_splits_and_streams_are_refused_with_a_way_out(datasets: Any) -> None:
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS})
    with pytest.raises(DataError, match=r"holds datasets, 'train', 'test'; .* data\['train'\]"):
        Table.of(datasets.DatasetDict(train=data, test=data))
    stream = data.to_iterable_dataset()
    with pytest.raises(DataError, match=r"read row by row.*Dataset\.from_list"):
        Table.of(stream)
    assert Table.of(datasets.Dataset.from_list(list(stream))).texts == TEXTS
    # Columns of a dataset in a dict are columns.
    assert Table.of({"text": data["text"], "label": data["label"]}).labels == LABELS


def test_datasets_is_not_imported() -> None:
    code = (
        "import sys, offramp; offramp.Table.of({'text': ['a'], 'label': [1]});"
        "assert not {'datasets', 'torch', 'pyarrow'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
