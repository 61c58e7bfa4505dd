"""ELECTRA: Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than
Generators", https://arxiv.org/abs/2003.10555: BERT's layers on embeddings that may be narrower. The
generator guesses masked words, the discriminator says which words were guessed.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from offramp.models.base import register_base_model
from offramp.models.builtin import ELECTRA
from offramp.models.config import configuration, number, one_of, setting, whole
from offramp.models.encoder import EncoderBody, EncoderPreTrainedModel, PairEncoderConfig
from offramp.models.flow import Flow
from offramp.models.heads import (
    MultipleChoice,
    QuestionAnswering,
    TokenClassification,
    TwoLayerClassification,
)
from offramp.models.inputs import Inputs
from offramp.models.modules import Embeddings, Encoder
from offramp.models.pretraining import MaskedLM, ReplacedTokens
from offramp.nn.activations import ACTIVATIONS
from offramp.nn.pooling import pool_first, pool_last, pool_mean
from offramp.nn.prepared import activated

SUMMARIES = {
    "first": pool_first,
    "last": pool_last,
    "mean": pool_mean,
    "cls_index": pool_last,  # where no index is given, which none of these classes takes
}
"""`summary_type`: the tokens of a row to one vector. Padding is not read."""


@configuration
class ElectraConfig(PairEncoderConfig):
    """The numbers of an ELECTRA; defaults are electra-small-discriminator's."""

    model_type = "electra"
    pretrained_init_configuration = ELECTRA.configurations

    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    embedding_size: int = setting(default=128, check=whole(1, 2**20), structural=True)
    """E: the width of the embeddings; where it is not D they are projected."""
    summary_type: str = setting(default="first", check=one_of(*SUMMARIES))
    """What multiple choice reads of a row: the first token, the last, or the mean."""
    summary_use_proj: bool = setting(default=True, check=one_of(True, False), structural=True)
    """Whether a linear layer follows, in multiple choice; and after it:"""
    summary_activation: str = setting(default="gelu", check=one_of("", *ACTIVATIONS))
    """The activation; none where it is empty."""
    summary_last_dropout: float = setting(default=0.1, check=number(0, 1))
    """Dropout after that, in training."""


class ElectraPreTrainedModel(EncoderPreTrainedModel):
    """Base of every ELECTRA: the family's names and its initial weights."""

    config_class = ElectraConfig
    pretrained_init_configuration = ELECTRA.configurations
    pretrained_resource_files_map = {"model_state": ELECTRA.sources}
    base_model_prefix = "electra"
    optional_modules = ()
    known_heads = (
        "discriminator_predictions",
        "generator_predictions",
        "generator_lm_head",
        "sequence_summary",
        "classifier",
        "qa_outputs",
    )
    config: ElectraConfig


@register_base_model
class ElectraModel(EncoderBody, ElectraPreTrainedModel):
    """ELECTRA's body, of a generator or a discriminator."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config, config.embedding_size)
        self.embeddings_project = None
        if config.embedding_size != config.hidden_size:
            self.embeddings_project = nn.Linear(config.embedding_size, config.hidden_size)
        self.encoder = Encoder(config)
        self.pooler = None
        self.init_weights()

    def embed(self, inputs: Inputs) -> Tensor:
        embedded: Tensor = self.embeddings(inputs)
        return embedded if self.embeddings_project is None else self.embeddings_project(embedded)


class ElectraForSequenceClassification(TwoLayerClassification, ElectraPreTrainedModel):
    """ELECTRA with a classifier of two layers over the first token: logits [B, C].

    What labels and losses are is said in `offramp.models.heads`, for this class and the next.
    """

    head_act = "gelu"


class ElectraForTokenClassification(TokenClassification, ElectraPreTrainedModel):
    """ELECTRA with a linear classifier over each token: logits [B, L, C]."""


class ElectraForMultipleChoice(MultipleChoice, ElectraPreTrainedModel):
    """ELECTRA with a linear score over each choice's summary: logits [B, choices]."""

    def build_head(self, config: Any) -> None:
        self.sequence_summary = ElectraSummary(config)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def score(self, flow: Flow) -> Tensor:
        logits_R1: Tensor = self.classifier(self.sequence_summary(flow))
        return logits_R1


class ElectraForQuestionAnswering(QuestionAnswering, ElectraPreTrainedModel):
    """ELECTRA with a linear layer that finds an answer's first and last token: logits [B, L]."""


class ElectraForMaskedLM(MaskedLM, ElectraPreTrainedModel):
    """The generator: it guesses masked words, and is tied to the embedding: logits [B, L, V]."""

    output_embeddings_name = "generator_lm_head"
    tied_weights = {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}

    def build_head(self, config: Any) -> None:
        self.generator_predictions = ElectraTransform(config)
        self.generator_lm_head = nn.Linear(config.embedding_size, config.vocab_size)

    def words(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.generator_lm_head(self.generator_predictions(hidden))
        return logits


class ElectraForPreTraining(ReplacedTokens, ElectraPreTrainedModel):
    """The discriminator: how surely each token was replaced, logits [B, L]."""

    def build_head(self, config: Any) -> None:
        self.discriminator_predictions = ElectraDiscriminator(config)

    def replaced(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.discriminator_predictions(hidden)
        return logits


class ElectraTransform(nn.Module):
    """A linear layer to the embeddings' width, GELU and a norm, before the words."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(activated(self.dense, hidden, F.gelu))
        return normed


class ElectraDiscriminator(nn.Module):
    """A hidden state to one logit, [.., 1]."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dense_prediction = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.dense_prediction(activated(self.dense, hidden, self.activation))
        return logits


class ElectraSummary(nn.Module):
    """A row to one vector [R, D], as the configuration's `summary_...` say."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.pool = SUMMARIES[config.summary_type]
        self.summary = nn.Linear(width, width) if config.summary_use_proj else nn.Identity()
        self.activation = ACTIVATIONS.get(config.summary_activation, nn.Identity())
        self.dropout = nn.Dropout(config.summary_last_dropout)

    def forward(self, flow: Flow) -> Tensor:
        pooled_RD = self.summary(self.pool(flow.hidden, flow.layout))
        summary_RD: Tensor = self.dropout(self.activation(pooled_RD))
        return summary_RD


__all__ = [
    "ElectraConfig",
    "ElectraForMaskedLM",
    "ElectraForMultipleChoice",
    "ElectraForPreTraining",
    "ElectraForQuestionAnswering",
    "ElectraForSequenceClassification",
    "ElectraForTokenClassification",
    "ElectraModel",
    "ElectraPreTrainedModel",
]
