"""What a class of one's own calls its tensors is its own affair: no name is taken for another
library's where the model knows it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import IDS, TINY
from torch import nn

import offramp
from offramp import BertConfig, BertForSequenceClassification, BertModel, BertPreTrainedModel
from offramp.storage.manifest import MANIFEST_FILE


class Scale(nn.Module):
    """A norm's numbers as TensorFlow calls them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))


class Own(BertPreTrainedModel):
    """Names as PABEE's, PaddleNLP's and TensorFlow's code has them, and none of it is meant."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.classifiers = nn.ModuleList(nn.Linear(config.hidden_size, 2) for _ in range(2))
        self.scale = Scale(config.hidden_size)
        layer = nn.TransformerEncoderLayer(config.hidden_size, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.init_weights()


@pytest.mark.parametrize("layers", [1, 2])
def test_a_class_s_own_names_stay(layers: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Own(BertConfig(**{**TINY, "num_hidden_layers": layers}))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    again, report = Own.from_pretrained(tmp_path, output_loading_info=True)
    assert (report.renamed, report.initialised, report.dropped) == ({}, (), ())
    assert getattr(again, "exits", None) is None
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_paddle_s_file_with_transformers_names_is_refused(tmp_path: Path) -> None:
    """`pooler.dense.weight` is the name of both, and lies the other way round in one."""
    model = BertModel(BertConfig(**TINY))
    model.config.save_pretrained(tmp_path)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    (tmp_path / "model_state.pdparams").write_bytes(pickle.dumps(arrays))
    with pytest.raises(offramp.CheckpointError, match="with transformers' names") as caught:
        BertModel.from_pretrained(tmp_path)
    assert caught.value.kind == "unsupported"


def test_two_saves_that_differ_in_one_matrix_are_two(tmp_path: Path) -> None:
    """As after LoRA is merged, which changes no bias and no norm."""
    model = BertForSequenceClassification(BertConfig(**TINY))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert BertForSequenceClassification.from_pretrained(tmp_path)
    tensors["bert.encoder.layer.0.attention.self.query.weight"][0, 0] += 1
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(offramp.CheckpointError, match="two saves") as caught:
        BertForSequenceClassification.from_pretrained(tmp_path)
    assert caught.value.kind == "ambiguous"
    assert BertForSequenceClassification.from_pretrained(tmp_path, use_safetensors=True)


def test_one_shard_is_not_a_model(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path, max_shard_size="2KB")
    shard = next(tmp_path.glob("model-00001-of-*.safetensors"))
    with pytest.raises(offramp.ConfigError, match="one file of several"):
        BertModel.from_pretrained(shard)
    whole: Any = BertModel.from_pretrained(tmp_path / "model.safetensors.index.json")
    assert torch.equal(whole(IDS)[0], BertModel.from_pretrained(tmp_path)(IDS)[0])


def test_there_and_back_a_model_answers_as_before(tmp_path: Path) -> None:
    """PaddleNLP masks padding where no mask is given; what never did does not begin to."""
    model = BertModel(BertConfig(**TINY)).eval()
    model.save_pretrained(tmp_path / "own")
    offramp.convert(tmp_path / "own", tmp_path / "paddle", "paddle")
    offramp.convert(tmp_path / "paddle", tmp_path / "again")
    ids = IDS.clone()
    ids[0, -2:] = model.config.pad_token_id
    again = BertModel.from_pretrained(tmp_path / "again")
    np.testing.assert_array_equal(again(ids)[0].detach(), model(ids)[0].detach())


def test_as_many_research_exits_as_layers(tmp_path: Path) -> None:
    model = BertForSequenceClassification(BertConfig(**TINY))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    head = {part: tensors.pop(f"classifier.{part}") for part in ("weight", "bias")}
    layers = model.config.num_hidden_layers
    for count, good in ((layers, True), (layers + 1, False)):
        ramps = {f"classifiers.{n}.{p}": t.clone() for n in range(count) for p, t in head.items()}
        save_file({**tensors, **ramps}, tmp_path / "model.safetensors", {"format": "pt"})
        (tmp_path / MANIFEST_FILE).unlink(missing_ok=True)
        if good:
            opened: Any = BertForSequenceClassification.from_pretrained(tmp_path)
            assert opened.exits.depths == tuple(range(1, layers))
        else:
            with pytest.raises(offramp.CheckpointError, match="research exits numbered"):
                BertForSequenceClassification.from_pretrained(tmp_path)
