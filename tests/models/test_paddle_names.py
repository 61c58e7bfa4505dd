"""PaddleNLP's names of BERT's tensors, written down a second time from its `_get_name_mappings`."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY

import offramp
from offramp.checkpoints.renames import renamed
from offramp.models.bert import PADDLE

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
        module = name.rpartition(".")[0].removeprefix("bert.")
        theirs = name
        for own, foreign in THEIRS:
            theirs = theirs.replace(own, foreign)
        array = tensor.numpy()
        turned = module in TURNED and name.endswith(".weight")
        arrays[theirs] = np.ascontiguousarray(array.T if turned else array)
    return arrays


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
