"""PaddleNLP's names of tensors: BERT's written down a second time from its `_get_name_mappings`,
and those of every family in files that it wrote, tests/golden/paddle.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from paddle_saves import CLASSES, OLD, PADDLE as SAVES, answers, settings, unpickled
from tiny import TINY

import offramp
from offramp.checkpoints.renames import renamed
from offramp.checkpoints.tables import PADDLE_BERT as PADDLE, paddle_rows
from offramp.checkpoints.weights import open_save

TURNED = {
    "pooler.dense",
    "classifier",
    "qa_outputs",
    "cls.predictions.transform.dense",
    "cls.seq_relationship",
    *(f"encoder.layer.{n}.attention.self.{part}" for n in (0, 1) for part in ("query", "key")),
    *(f"encoder.layer.{n}.attention.self.value" for n in (0, 1)),
    *(f"encoder.layer.{n}.attention.output.dense" for n in (0, 1)),
    *(f"encoder.layer.{n}.{part}.dense" for n in (0, 1) for part in ("intermediate", "output")),
}
"""Layers whose matrices lie the other way round: all that are linear but the words' decoder."""
THEIRS = [  # ours, theirs; in this order
    ("attention.self.query", "self_attn.q_proj"),
    ("attention.self.key", "self_attn.k_proj"),
    ("attention.self.value", "self_attn.v_proj"),
    ("attention.output.dense", "self_attn.out_proj"),
    ("attention.output.LayerNorm", "norm1"),
    ("intermediate.dense", "linear1"),
    ("output.LayerNorm", "norm2"),
    ("output.dense", "linear2"),
    ("embeddings.LayerNorm", "embeddings.layer_norm"),
    ("encoder.layer.", "encoder.layers."),
    ("cls.predictions.transform.dense", "cls.predictions.transform"),
    ("cls.predictions.transform.LayerNorm", "cls.predictions.layer_norm"),
    ("cls.predictions.bias", "cls.predictions.decoder_bias"),
    ("qa_outputs", "classifier"),
]


def as_paddle(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    arrays = {}
    for name, tensor in model.state_dict().items():
        if name in model._tied():
            continue
        array = tensor.numpy()
        arrays[theirs(name)] = np.ascontiguousarray(array.T if is_turned(name) else array)
    return arrays


def theirs(name: str) -> str:
    for own, foreign in THEIRS:
        name = name.replace(own, foreign)
    return name


def is_turned(name: str) -> bool:
    module, _, part = name.removeprefix("bert.").rpartition(".")
    return module in TURNED and part == "weight"


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "name",
    [
        "BertModel",
        "BertForPreTraining",
        "BertForMaskedLM",
        "BertForNextSentencePrediction",
        "BertForSequenceClassification",
        "BertForTokenClassification",
        "BertForQuestionAnswering",
        "BertForMultipleChoice",
    ],
)
def test_every_class_opens_what_paddle_calls_otherwise(
    name: str, protocol: int, tmp_path: Path
) -> None:
    """Square matrices: a shape would not tell that one lies the wrong way."""
    torch.manual_seed(0)
    config = offramp.BertConfig(**{**TINY, "intermediate_size": 8, "num_hidden_layers": 2})
    model = getattr(offramp, name)(config).eval()
    values = {key: value for key, value in config.to_dict().items() if key != "model_type"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    arrays = as_paddle(model)
    assert not any("LayerNorm" in key or "encoder.layer." in key for key in arrays)
    (tmp_path / "model_state.pdparams").write_bytes(pickle.dumps(arrays, protocol))
    again = getattr(offramp, name).from_pretrained(tmp_path, strict=True)
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


def test_a_name_of_no_row_is_none() -> None:
    assert renamed("embeddings.layer_norm.weight", PADDLE) == ("embeddings.LayerNorm.weight", False)
    for name in ("embeddings.layer_norm", "encoder.layers.x.norm1.bias", "linear1.weight", ""):
        assert renamed(name, PADDLE) is None


# Files that PaddleNLP wrote


@pytest.mark.parametrize("save", [save for save in CLASSES if save.startswith("bert/")])
def test_paddle_s_own_bert(save: str) -> None:
    """Every tensor of the file is told of: its name, how it lies, what it is for."""
    model, report = load(save, output_loading_info=True)
    assert_paddle_s_answers(model, save)
    file = set(unpickled(SAVES / save / "model_state.pdparams"))
    own = {*model.state_dict(), "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    named = {name: theirs(name) for name in own if theirs(name) in file}
    assert named.keys() >= model.state_dict().keys()
    assert set(named.values()) == file
    assert report.renamed == {theirs(name): name for name in named if theirs(name) != name}
    assert set(report.transposed) == {name for name in named if is_turned(name)}
    twice = {name for name in file if ".decoder." in name}
    poolers = {name for name in named if ".pooler." in name} - model.state_dict().keys()
    assert set(report.dropped) == twice | poolers
    assert report.twins.keys() == report.tied.keys() == twice
    assert report.initialised == report.missing == report.unexpected == ()
    assert report.misshaped == report.mistyped == report.casts == report.copied == {}


def load(save: str, **options: Any) -> Any:
    """The class that the folder is named after, or that stands in its config.json."""
    name = save.partition("/")[2]
    if save.startswith("formats"):
        (name,) = settings(save)["architectures"]
    return getattr(offramp, name).from_pretrained(SAVES / save, **options)


def assert_paddle_s_answers(model: Any, save: str) -> None:
    """Without a mask, on words: PaddleNLP masks padding by itself, and so does what it saved."""
    given, expected = answers(save)
    assert model.config.mask_padding is True
    with torch.no_grad():
        found = model(**given).to_tuple()
    words = given["input_ids"] != model.config.pad_token_id
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        of_words = one.shape[: words.ndim] == words.shape
        one, two = (one[words], two[words]) if of_words else (one, two)
        torch.testing.assert_close(one, two, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("save", [save for save in OLD if "Bert" in save and "/B" in save])
def test_paddle_s_older_bert(save: str) -> None:
    """model_config.json, by position and by keyword; the decoder's older name."""
    model, report = load(save, output_loading_info=True)
    assert_paddle_s_answers(model, save)
    assert report.initialised == ()
    assert set(report.dropped) == set(report.twins)
    config = model.config
    if save == "2.3.4/BertModel":
        assert (config.hidden_act, config.hidden_dropout_prob, config.type_vocab_size) == (
            "relu",
            0.0,
            3,
        )
    if save == "2.3.4/BertForSequenceClassification":
        assert (config.classifier_dropout, config.num_labels) == (0.0, 3)
    if save == "2.3.4/BertForPretraining":
        old, own = "cls.predictions.decoder_weight", "cls.predictions.decoder.weight"
        assert report.renamed[old] == own
        assert report.twins == {own: "bert.embeddings.word_embeddings.weight"}


@pytest.mark.parametrize(
    ("save", "same"),
    [
        ("formats/sharded", "bert/BertForPretraining"),
        ("formats/parts", "bert/BertForSequenceClassification"),
    ],
)
def test_other_files_of_the_same_model(save: str, same: str) -> None:
    one, two = load(save).state_dict(), load(same).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("save", ["formats/bfloat16", "formats/bfloat16_safetensors"])
def test_bare_uint16_is_bfloat16_where_it_is_said(save: str, tmp_path: Path) -> None:
    model = load(save)
    assert model.dtype is torch.bfloat16
    whole = load("bert/BertForSequenceClassification").state_dict()
    for name, tensor in model.state_dict().items():
        cut = (whole[name].view(torch.int32) >> 16).short()  # as Paddle makes bfloat16
        assert torch.equal(tensor.view(torch.int16), cut)
    shutil.copytree(SAVES / save, tmp_path / "x")
    values = {key: value for key, value in settings(save).items() if key != "dtype"}
    (tmp_path / "x/config.json").write_text(json.dumps(values))
    kind = offramp.BertForSequenceClassification
    with pytest.raises(offramp.CheckpointError, match="uint16_is_bfloat16"):
        kind.from_pretrained(tmp_path / "x")
    told = kind.from_pretrained(tmp_path / "x", uint16_is_bfloat16=True)
    assert torch.equal(told.classifier.weight, model.classifier.weight)


def transformers_shapes(save: str) -> dict[str, tuple[int, ...]]:
    """The tensors of transformers' class of that name, poolers aside."""
    name = save.partition("/")[2].replace("Pretraining", "PreTraining")
    kind = getattr(transformers, name)
    values = settings(save)
    del values["architectures"]
    return shapes(kind(kind.config_class(**values)).state_dict())


def shapes(tensors: Any) -> dict[str, tuple[int, ...]]:
    pooler = re.compile(r"(\w+\.)?pooler\.")
    return {name: tuple(t.shape) for name, t in tensors.items() if not pooler.match(name)}


@pytest.mark.parametrize("save", CLASSES)
def test_every_family_s_names_and_shapes_are_transformers(save: str) -> None:
    """PaddleNLP has poolers where transformers has none, and ALBERT's positions as a tensor."""
    found = open_save(
        SAVES / save / "model_state.pdparams",
        paddle_rows(settings(save)["model_type"], save.partition("/")[2]),
    )
    assert found.dialect == "paddle"
    assert shapes(found.tensors) == transformers_shapes(save)
    file = unpickled(SAVES / save / "model_state.pdparams")
    for name, stored in found.tensors.items():
        array = file[found.foreign.get(name, name)]
        same = array.T if name in found.turned else array
        assert np.array_equal(stored.array, same)
