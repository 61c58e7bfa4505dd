"""What a strict type checker says of offramp in a user's file; `make types` checks it.

mypy fails where a stated type is not the one that it finds. The last part is wrong on purpose: mypy
also fails where a mistake that has to be found is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import offramp
from offramp import (
    AutoConfig,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertPreTrainedModel,
    LoadingReport,
    PretrainedConfig,
    PreTrainedModel,
    PretrainedModel,
    Source,
)


class Ranker(BertPreTrainedModel):
    """A user's own class."""

    pretrained_resource_files_map = {"model_state": {"ranker": Source("owner/ranker")}}

    def __init__(self, config: BertConfig, scores: int, scale: float = 1.0) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.head = nn.Linear(config.hidden_size, scores)
        self.init_weights()

    def forward(self, input_ids: Tensor) -> Tensor:
        return torch.sigmoid(self.head(self.bert(input_ids).pooler_output))


def loading(directory: Path) -> None:
    assert_type(BertModel.from_pretrained(directory), BertModel)
    assert_type(Ranker.from_pretrained("x", False, None, 3, scale=0.5), Ranker)
    assert_type(
        BertModel.from_pretrained(directory, output_loading_info=True),
        tuple[BertModel, LoadingReport],
    )
    assert_type(BertModel.from_config(BertConfig()), BertModel)
    assert_type(BertConfig.from_pretrained(directory), BertConfig)
    assert_type(AutoConfig.from_pretrained(directory), PretrainedConfig)
    assert_type(offramp.load(directory), Any)
    assert_type(offramp.load(directory, task="classify"), offramp.Classifier)
    assert_type(offramp.load(directory, task="regress"), offramp.Regressor)
    assert_type(offramp.load(directory, task="embed"), offramp.Embedder)
    assert_type(offramp.load(directory, task="rerank"), offramp.Reranker)
    assert_type(offramp.load(directory, task="tag"), offramp.Tagger)
    assert_type(offramp.load(directory, task="answer"), offramp.Answerer)
    assert_type(offramp.load(directory, task="choose"), offramp.Chooser)


def parts(model: BertForSequenceClassification) -> None:
    assert_type(model.config, BertConfig)
    assert_type(model.config.hidden_size, int)
    assert_type(model.config.labels, list[str])
    assert_type(model.base_model, nn.Module)
    assert_type(model.get_input_embeddings(), nn.Module)
    assert_type(model.get_output_embeddings(), nn.Module | None)
    assert_type(model.resize_token_embeddings(7, pad_to_multiple_of=8), nn.Module)
    assert_type(model.num_parameters(only_trainable=True), int)
    assert_type(model.get_memory_footprint(), int)
    assert_type(model.can_generate(), bool)
    assert_type(model.model_name_list, list[str])
    assert_type(BertModel.model_name_list, list[str])
    assert_type(BertModel.resource_files_names, Mapping[str, str])
    assert_type(BertModel.base_model_class, type[PretrainedModel] | None)
    assert_type(offramp.add_exits(model), BertForSequenceClassification)
    alias: type[PretrainedModel] = PreTrainedModel
    print(alias)


def predicting(classifier: offramp.Classifier) -> None:
    for prediction in classifier.predict(["a text", ("a", "pair")], threshold=0.1):
        assert_type(prediction.label, str)
        assert_type(prediction.probability, float)
        assert_type(prediction.exit_layer, int)
    table = offramp.stream_table("rows.parquet", pair="other")
    for prediction in classifier.stream(table, progress=lambda now: print(now.mean_layers)):
        assert_type(prediction, offramp.Prediction)
    for index, prediction in classifier.stream(table, ordered=False):
        assert_type(index, int)
        assert_type(prediction, offramp.Prediction)


def mistakes(model: BertModel) -> None:
    BertConfig(hidden_size="768")  # type: ignore[arg-type]
    BertConfig(hiden_size=768)  # type: ignore[call-arg]
    model.resize_token_embeddings(init="zeros")  # type: ignore[arg-type]
    model.save_pretrained()  # type: ignore[call-arg]
    model.prune_heads([1])  # type: ignore[arg-type]
    model.forward("a text")  # type: ignore[arg-type]
    Ranker(BertConfig())  # type: ignore[call-arg]
    Source(hub_id=3)  # type: ignore[arg-type]
