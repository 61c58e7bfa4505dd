"""What `freeze_backbone` keeps of a directory that has exits already."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exit_models import tiny_config, write_tokenizer
from safetensors.torch import load_file
from tagged_data import tagged_table

import offramp
from offramp.exits.attach import exits_of
from offramp.runner.classifier import Classifier
from offramp.text.tables import Table
from offramp.training.options import TrainingOptions
from offramp.training.tagger import train_tagger
from offramp.training.train import TrainingReport, train

Trained = tuple[Path, TrainingReport]
TrainToy = Callable[..., tuple[Classifier, TrainingReport]]
STILL: dict[str, Any] = {"freeze_backbone": True, "ramp_learning_rate": 0.0}
"""Ramps alone, and those stay what they are."""


@pytest.mark.parametrize("certainty", [False, True])
def test_ramps_of_the_same_form_go_on(certainty: bool, train_toy: TrainToy, tmp_path: Path) -> None:
    ramps = {"depths": (2,), "pooler": "mean", "certainty": certainty}
    train_toy("start", **ramps)
    train_toy("again", start=tmp_path / "start", **STILL, **ramps)
    before, after = (
        load_file(tmp_path / name / "model.safetensors") for name in ("start", "again")
    )
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert {n for n in before if not n.startswith("exits.certainty")} <= kept
    assert before.keys() == after.keys()


def test_ramps_that_go_on_begin_with_what_they_know(
    toy_trained: Trained, train_toy: TrainToy
) -> None:
    _, report = train_toy(start=toy_trained[0], **STILL)
    assert report.best["dev_accuracy_by_depth"] == toy_trained[1].best["dev_accuracy_by_depth"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depths": (2,)}, r"after layers 1, 2 \(pooler attention.*after layers 2 \(pooler att"),
        ({"pooler": "first"}, r"pooler attention, queries 4, hidden 10.*pooler first"),
        ({"queries": 2}, "queries 4.*queries 2"),
        ({"certainty": True}, "certainty False.*certainty True"),
    ],
    ids=str,
)
def test_others_are_replaced_with_a_warning(
    options: dict[str, Any], said: str, toy_trained: Trained, train_toy: TrainToy
) -> None:
    with pytest.warns(offramp.ReplacedExitsWarning, match=f"The exits that .*{said}"):
        train_toy(start=toy_trained[0], freeze_backbone=True, **options)


def test_no_warning_where_there_is_nothing_to_keep(
    toy_trained: Trained, train_toy: TrainToy, tmp_path: Path
) -> None:
    model = offramp.BertForSequenceClassification.from_pretrained(toy_trained[0])
    del model.exits
    model.save_pretrained(tmp_path / "plain")
    write_tokenizer(tmp_path / "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_toy("one", start=tmp_path / "plain", freeze_backbone=True)
        train_toy("two", start=toy_trained[0], depths=(1,))  # the body learns too


@pytest.mark.parametrize(
    "name", ["DeeBertForSequenceClassification", "BertForSequenceClassificationWithPabee"]
)
def test_research_exits_are_replaced_with_a_warning(
    name: str, toy_data: dict[str, Table], toy_options: TrainingOptions, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    getattr(offramp, name)(tiny_config(num_labels=2)).save_pretrained(tmp_path / "research")
    write_tokenizer(tmp_path / "research")
    options = replace(toy_options, epochs=1, pooler="first", **STILL)
    start, data, dev = tmp_path / "research", toy_data["train"], toy_data["dev"]
    said = "hidden 32.*by new ones.*hidden 10"
    with pytest.warns(offramp.ReplacedExitsWarning, match=said) as caught:
        train(start, data, tmp_path / "out", dev=dev, options=options)
    assert __file__ in {warning.filename for warning in caught}


def test_a_tagger_s_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    table = tagged_table(30, 1)
    tags = sorted({tag for row in table.tags or [] for tag in row})
    config = tiny_config(id2label=dict(enumerate(tags)))
    model = offramp.add_exits(offramp.BertForTokenClassification(config), [1])
    model.save_pretrained(tmp_path / "start")
    write_tokenizer(tmp_path / "start")
    options = TrainingOptions(epochs=1, depths=(1,), **STILL)
    tagger, _ = train_tagger(
        tmp_path / "start", table, tmp_path / "out", dev=tagged_table(20, 2), options=options
    )
    for name, tensor in exits_of(model).state_dict().items():
        assert torch.equal(exits_of(tagger.model).state_dict()[name], tensor), name
    with pytest.warns(
        offramp.ReplacedExitsWarning, match=r"layers 1 .*by new ones, after layers 2 "
    ) as caught:
        train_tagger(
            tmp_path / "start",
            table,
            tmp_path / "other",
            dev=tagged_table(20, 2),
            options=replace(options, depths=(2,)),
        )
    assert __file__ in {warning.filename for warning in caught}
