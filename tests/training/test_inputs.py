"""Rows in memory, wherever a table goes: the same run as with the table."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tagged_data import tagged_table
from task_models import write_model

import offramp
from offramp.errors import DataError
from offramp.models.bert import BertModel
from offramp.text.tables import Table
from offramp.training.options import TrainingOptions
from offramp.training.train import TrainingReport

Make = Callable[[Table], Any]


def as_dict(table: Table) -> Any:
    return {"text": table.texts, "label": table.labels}


def as_dataset(table: Table) -> Any:
    datasets = pytest.importorskip("datasets")
    names = ["pos", "neg"]  # numbers in another order than that of the classes here
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    labels = [names.index(label) for label in table.labels or []]
    return datasets.Dataset.from_dict({"text": table.texts, "label": labels}, features=features)


@pytest.mark.parametrize("make", [as_dict, as_dataset])
def test_training_gives_the_same_weights(
    make: Make,
    toy_body: Path,
    toy_data: dict[str, Table],
    toy_options: TrainingOptions,
    tmp_path: Path,
) -> None:
    options = replace(toy_options, epochs=1)
    train, dev = toy_data["train"], toy_data["dev"]
    for name, rows, held in (("table", train, dev), ("memory", make(train), make(dev))):
        classifier, _ = offramp.train(toy_body, rows, tmp_path / name, dev=held, options=options)
        assert classifier.labels == ["neg", "pos"]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("table", "memory"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    offramp.train(toy_body, make(train), tmp_path / "held-out", options=options)


@pytest.mark.parametrize("make", [as_dict, as_dataset])
def test_measuring_gives_the_same_figures(
    make: Make, toy_trained: tuple[Path, TrainingReport], toy_data: dict[str, Table]
) -> None:
    test, dev = toy_data["test"], toy_data["dev"]
    few: dict[str, Any] = {"rounds": 1, "timing_rows": 5, "transformers": False}
    table = offramp.evaluate(toy_trained[0], test, dev=dev, **few)
    memory = offramp.evaluate(toy_trained[0], make(test), dev=make(dev), **few)
    assert [line.scores for line in table.lines] == [line.scores for line in memory.lines]
    assert table.choice == memory.choice
    classifier = offramp.load(toy_trained[0])
    assert offramp.recalibrate(classifier, make(dev)) == offramp.recalibrate(classifier, dev)


def test_words_with_tags(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    body = write_model(tmp_path / "body", BertModel, initializer_range=0.1)
    table, dev = tagged_table(40, 1), tagged_table(20, 2)
    options = TrainingOptions(epochs=1, batch_size=16)
    columns = {"tokens": table.words, "label": table.tags}
    for name, rows in (
        ("table", table),
        ("dict", columns),
        ("dataset", datasets.Dataset.from_dict(columns)),
    ):
        offramp.train_tagger(body, rows, tmp_path / name, dev=dev, options=options)
    weights = [
        load_file(tmp_path / name / "model.safetensors") for name in ("table", "dict", "dataset")
    ]
    for other in weights[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in weights[0].items())
    few: dict[str, Any] = {"rounds": 1, "timing_rows": 5, "transformers": False}
    found = [
        offramp.evaluate_tagger(tmp_path / "table", rows, **few).entities
        for rows in (dev, {"tokens": dev.words, "label": dev.tags})
    ]
    assert found[0] == found[1]


def test_what_is_no_table_is_refused(toy_body: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected a Table, .* a dict of columns or a datasets"):
        offramp.train(toy_body, [("a", "b")], tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"no column 'label'\. It has 'text', 'y'"):
        offramp.train(toy_body, {"text": ["a"], "y": [1]}, tmp_path / "out")
    with pytest.raises(DataError, match=r"got a Table\. .*train_tagger words with tags"):
        offramp.train_tagger(toy_body, Table("t", ["a"], ["b"]), tmp_path / "out")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
