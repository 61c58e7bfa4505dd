"""`offramp.load`: what a directory is opened as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from task_models import write_model

import offramp
from offramp.errors import CheckpointError, ConfigError, ModelNotFoundError
from offramp.models import bert
from offramp.models.base import PretrainedModel
from offramp.runner.loading import TASKS

FOUND: dict[type[PretrainedModel], str] = {
    bert.BertForSequenceClassification: "Classifier",
    bert.BertForTokenClassification: "Tagger",
    bert.BertForQuestionAnswering: "Answerer",
    bert.BertForMultipleChoice: "Chooser",
    bert.BertModel: "Embedder",
}


@pytest.mark.parametrize("cls", FOUND)
def test_the_class_that_config_names(tmp_path: Path, cls: type[PretrainedModel]) -> None:
    directory = write_model(tmp_path / "model", cls)
    assert type(offramp.load(directory)).__name__ == FOUND[cls]
    assert type(offramp.load(str(directory), task="embed")).__name__ == "Embedder"


def test_one_output_is_a_reranker_where_no_task_is_asked_for(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", bert.BertForSequenceClassification, num_labels=1)
    assert isinstance(offramp.load(directory), offramp.Reranker)
    with pytest.raises(ConfigError, match="one of two labels or more"):
        offramp.load(directory, task="classify")


def test_without_architectures_a_classifier(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", bert.BertForSequenceClassification)
    config = json.loads((directory / "config.json").read_text())
    del config["architectures"]
    (directory / "config.json").write_text(json.dumps(config))
    assert isinstance(offramp.load(directory), offramp.Classifier)


@pytest.mark.parametrize("task", ["classify", "rerank", "tag", "answer", "choose"])
def test_a_body_is_no_trained_model_of_a_task(tmp_path: Path, task: Any) -> None:
    directory = write_model(tmp_path / "model", bert.BertModel)
    with pytest.raises(CheckpointError, match=rf"is not a trained {TASKS[task].noun}: it lacks"):
        offramp.load(directory, task=task)


def test_a_word_model_is_no_classifier_and_can_embed(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", bert.BertForMaskedLM)
    with pytest.raises(CheckpointError, match="not a trained classifier"):
        offramp.load(directory)
    assert offramp.load(directory, task="embed").embed(["oslo"]).shape == (1, 32)


def test_a_task_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task is one of classify, multilabel, regress"):
        offramp.load(tmp_path, task="sing")  # type: ignore[call-overload]


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", bert.BertModel)
    with pytest.raises(ModelNotFoundError, match="is a file; pass the model's directory"):
        offramp.load(directory / "model.safetensors")


def test_device(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", bert.BertModel)
    with pytest.raises(ConfigError, match="device='nowhere'"):
        offramp.load(directory, device="nowhere")
