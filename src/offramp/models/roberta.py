"""RoBERTa: Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach",
https://arxiv.org/abs/1907.11692. XLM-RoBERTa (Conneau et al. 2019, https://arxiv.org/abs/1911.02116)
and CamemBERT (Martin et al. 2019, https://arxiv.org/abs/1911.03894) are the same network under the
same names.

Positions are numbered from `pad_token_id` + 1, and padding is not counted.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from offramp.checkpoints import tables
from offramp.errors import ConfigError
from offramp.models.base import register_base_model
from offramp.models.builtin import CAMEMBERT, ROBERTA, XLM_ROBERTA
from offramp.models.config import configuration
from offramp.models.encoder import EncoderBody, EncoderPreTrainedModel, PairEncoderConfig
from offramp.models.heads import (
    MultipleChoice,
    QuestionAnswering,
    TokenClassification,
    TwoLayerClassification,
)
from offramp.models.modules import Embeddings, Encoder, Pooler
from offramp.models.word_heads import RobertaMaskedLM, tied_words


@configuration
class RobertaConfig(PairEncoderConfig):
    """The numbers of a RoBERTa.

    Defaults are transformers', which are not roberta-base's: that has 514 positions, one token type
    and layer_norm_eps 1e-5.
    """

    model_type = "roberta"
    pretrained_init_configuration = ROBERTA.configurations

    vocab_size: int = 50265
    pad_token_id: int | None = 1
    """The token of padding, from which positions are numbered too."""

    def validate(self) -> None:
        """ConfigError too where positions would not be numbered, or there is none for a token."""
        super().validate()
        if self.pad_token_id is None or self.pad_token_id + 2 > self.max_position_embeddings:
            raise ConfigError(
                f"Positions are numbered from pad_token_id + 1; got pad_token_id "
                f"{self.pad_token_id} and max_position_embeddings {self.max_position_embeddings}."
            )


class RobertaPreTrainedModel(EncoderPreTrainedModel):
    """Base of every RoBERTa: the family's names and its initial weights."""

    config_class = RobertaConfig
    pretrained_init_configuration = ROBERTA.configurations
    pretrained_resource_files_map = {"model_state": ROBERTA.sources}
    base_model_prefix = "roberta"
    paddle_names = tables.paddle_rows("roberta")
    paddle_defaults = tables.FAMILIES["roberta"].paddle_defaults
    known_heads = ("lm_head", "classifier", "qa_outputs", "roberta.encoder.highway")
    config: RobertaConfig


@register_base_model
class RobertaModel(EncoderBody, RobertaPreTrainedModel):
    """RoBERTa's body, with or without the pooler over the first token."""

    def __init__(self, config: RobertaConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.padding_id = config.pad_token_id
        self.embeddings = Embeddings(config, padding_id=config.pad_token_id)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config.hidden_size) if add_pooling_layer else None
        self.init_weights()


class RobertaForSequenceClassification(TwoLayerClassification, RobertaPreTrainedModel):
    """RoBERTa with a classifier of two layers over the first token: logits [B, C].

    What labels and losses are is said in `offramp.models.heads`, for this class and the next.
    """


class RobertaForTokenClassification(TokenClassification, RobertaPreTrainedModel):
    """RoBERTa with a linear classifier over each token: logits [B, L, C]."""


class RobertaForMultipleChoice(MultipleChoice, RobertaPreTrainedModel):
    """RoBERTa with a linear score over each choice's pooled row: logits [B, choices]."""

    def build_head(self, config: Any) -> None:
        super().build_head(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)


class RobertaForQuestionAnswering(QuestionAnswering, RobertaPreTrainedModel):
    """RoBERTa with a linear layer that finds an answer's first and last token: logits [B, L]."""

    paddle_names = tables.paddle_rows("roberta", "RobertaForQuestionAnswering")


class RobertaForMaskedLM(RobertaMaskedLM, RobertaPreTrainedModel):
    """RoBERTa with the head that guesses masked words, tied to the embedding: logits [B, L, V]."""

    tied_weights = tied_words("lm_head", "roberta")


@configuration
class XLMRobertaConfig(RobertaConfig):
    """The numbers of XLM-RoBERTa: RoBERTa's."""

    model_type = "xlm-roberta"
    pretrained_init_configuration = XLM_ROBERTA.configurations

    vocab_size: int = 30522


class XLMRobertaPreTrainedModel(RobertaPreTrainedModel):
    """Base of every XLM-RoBERTa."""

    config_class = XLMRobertaConfig
    pretrained_init_configuration = XLM_ROBERTA.configurations
    pretrained_resource_files_map = {"model_state": XLM_ROBERTA.sources}


@register_base_model
class XLMRobertaModel(XLMRobertaPreTrainedModel, RobertaModel):
    """XLM-RoBERTa's body, which is RoBERTa's."""


class XLMRobertaForSequenceClassification(
    XLMRobertaPreTrainedModel, RobertaForSequenceClassification
):
    """`RobertaForSequenceClassification`."""


class XLMRobertaForTokenClassification(XLMRobertaPreTrainedModel, RobertaForTokenClassification):
    """`RobertaForTokenClassification`."""


class XLMRobertaForMultipleChoice(XLMRobertaPreTrainedModel, RobertaForMultipleChoice):
    """`RobertaForMultipleChoice`."""


class XLMRobertaForQuestionAnswering(XLMRobertaPreTrainedModel, RobertaForQuestionAnswering):
    """`RobertaForQuestionAnswering`."""


class XLMRobertaForMaskedLM(XLMRobertaPreTrainedModel, RobertaForMaskedLM):
    """`RobertaForMaskedLM`."""


@configuration
class CamembertConfig(RobertaConfig):
    """The numbers of CamemBERT: RoBERTa's."""

    model_type = "camembert"
    pretrained_init_configuration = CAMEMBERT.configurations

    vocab_size: int = 30522


class CamembertPreTrainedModel(RobertaPreTrainedModel):
    """Base of every CamemBERT."""

    config_class = CamembertConfig
    pretrained_init_configuration = CAMEMBERT.configurations
    pretrained_resource_files_map = {"model_state": CAMEMBERT.sources}


@register_base_model
class CamembertModel(CamembertPreTrainedModel, RobertaModel):
    """CamemBERT's body, which is RoBERTa's."""


class CamembertForSequenceClassification(
    CamembertPreTrainedModel, RobertaForSequenceClassification
):
    """`RobertaForSequenceClassification`."""


class CamembertForTokenClassification(CamembertPreTrainedModel, RobertaForTokenClassification):
    """`RobertaForTokenClassification`."""


class CamembertForMultipleChoice(CamembertPreTrainedModel, RobertaForMultipleChoice):
    """`RobertaForMultipleChoice`."""


class CamembertForQuestionAnswering(CamembertPreTrainedModel, RobertaForQuestionAnswering):
    """`RobertaForQuestionAnswering`."""


class CamembertForMaskedLM(CamembertPreTrainedModel, RobertaForMaskedLM):
    """`RobertaForMaskedLM`."""


__all__ = [
    "CamembertConfig",
    "CamembertForMaskedLM",
    "CamembertForMultipleChoice",
    "CamembertForQuestionAnswering",
    "CamembertForSequenceClassification",
    "CamembertForTokenClassification",
    "CamembertModel",
    "CamembertPreTrainedModel",
    "RobertaConfig",
    "RobertaForMaskedLM",
    "RobertaForMultipleChoice",
    "RobertaForQuestionAnswering",
    "RobertaForSequenceClassification",
    "RobertaForTokenClassification",
    "RobertaModel",
    "RobertaPreTrainedModel",
    "XLMRobertaConfig",
    "XLMRobertaForMaskedLM",
    "XLMRobertaForMultipleChoice",
    "XLMRobertaForQuestionAnswering",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaForTokenClassification",
    "XLMRobertaModel",
    "XLMRobertaPreTrainedModel",
]
