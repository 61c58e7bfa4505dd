"""Checkpoints that other libraries wrote give those libraries' own answers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import offramp
from offramp import BertForQuestionAnswering, BertForSequenceClassification, BertModel
from offramp.checkpoints.torch_file import read_torch
from offramp.models.tensors import as_tensor

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "samples"
pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/samples is absent")


def given(name: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The row ids and the writer's outputs."""
    with np.load(SAMPLES / name / "_ref_outputs.npz") as found:
        outputs = [torch.from_numpy(found[key]) for key in sorted(found) if key.startswith("o")]
        return torch.from_numpy(found["input_ids"]), outputs


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hf_bert_tiny_sharded", BertModel),
        ("hf_bert_mlm_bin_tiny", offramp.BertForMaskedLM),
        ("paddle_bert_tiny", BertModel),
        ("paddle_bert_tiny_sharded", BertModel),
        ("paddle_bert_seqcls_tiny", BertForSequenceClassification),
        ("paddle_legacy_bert_seqcls_tiny", BertForSequenceClassification),
        ("hf_roberta_seqcls_tiny", offramp.RobertaForSequenceClassification),
        ("hf_albert_mlm_tiny", offramp.AlbertForMaskedLM),
        ("paddle_ernie_tiny", offramp.ErnieModel),
    ],
)
def test_the_writer_s_answers(name: str, kind: Any) -> None:
    model, report = kind.from_pretrained(SAMPLES / name, output_loading_info=True)
    assert report.initialised == ()
    assert set(report.dropped) == set(report.twins)  # tied tensors that the file holds twice
    ids, expected = given(name)
    for one, two in zip(model(ids).to_tuple(), expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_one_file_by_name_and_by_auto(tmp_path: Path) -> None:
    ids, (expected,) = given("paddle_bert_seqcls_tiny")
    directory = SAMPLES / "paddle_bert_seqcls_tiny"
    by_file = BertForSequenceClassification.from_pretrained(directory / "model_state.pdparams")
    by_auto = offramp.AutoModelForSequenceClassification.from_pretrained(directory)
    for model in (by_file, by_auto):
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
    by_auto.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_paddle_s_defaults_are_its_own(tmp_path: Path) -> None:
    """Its config.json leaves type_vocab_size out where it is 16; ours is 2."""
    shutil.copytree(SAMPLES / "paddle_bert_tiny", tmp_path / "x")
    path = tmp_path / "x" / "config.json"
    path.chmod(0o644)
    text = path.read_text()
    assert '"type_vocab_size": 16' in text
    path.write_text(text.replace('"type_vocab_size": 16', '"kept": 1'))
    model = BertModel.from_pretrained(tmp_path / "x")
    assert model.config.type_vocab_size == 16


def test_settings_of_the_nested_layout_survive() -> None:
    """dropout 0.0 and three classes stand outside, the body's numbers inside."""
    config = offramp.BertConfig.from_pretrained(SAMPLES / "paddle_legacy_bert_seqcls_tiny")
    assert (config.classifier_dropout, config.num_labels, config.hidden_size) == (0.0, 3, 32)
    assert config.architectures == ["BertForSequenceClassification"]


def test_safetensors_alone_if_asked_for() -> None:
    with pytest.raises(offramp.ModelNotFoundError, match="model.safetensors"):
        BertModel.from_pretrained(SAMPLES / "paddle_bert_tiny", use_safetensors=True)


def test_a_head_of_question_answering_is_called_otherwise(tmp_path: Path) -> None:
    """PaddleNLP calls it `classifier`, as it does the head of rows."""
    directory = SAMPLES / "paddle_bert_seqcls_tiny"
    with pytest.raises(offramp.CheckpointError, match=r"qa_outputs.weight has shape \[3, 32\]"):
        BertForQuestionAnswering.from_pretrained(directory, num_labels=2)


def test_integers_are_no_weights(tmp_path: Path) -> None:
    """bfloat16 lies there as bare uint16, which is never guessed at."""
    config = offramp.BertConfig.from_pretrained(SAMPLES / "paddle_bert_tiny")
    with pytest.raises(offramp.CheckpointError, match=r"unknown tensor w"):
        BertModel.from_pretrained(SAMPLES / "paddle_bf16_tiny.pdparams", config=config)


@pytest.mark.parametrize("name", ["hf_bert_mlm_bin_tiny", "deebert_tiny", "pabee_bert_tiny"])
def test_tensors_of_a_bin_are_torch_s_own(name: str) -> None:
    path = SAMPLES / name / "pytorch_model.bin"
    found, expected = read_torch(path), torch.load(path, weights_only=True)
    assert list(found) == list(expected)
    assert all(torch.equal(as_tensor(found[key]), expected[key]) for key in expected)
