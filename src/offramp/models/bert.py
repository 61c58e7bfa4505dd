"""BERT: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", https://arxiv.org/abs/1810.04805. Parameters are named as transformers names them.
"""

from __future__ import annotations

from offramp.checkpoints import tables
from offramp.models.base import register_base_model
from offramp.models.builtin import BERT
from offramp.models.config import PretrainedConfig, configuration
from offramp.models.encoder import EncoderBody, EncoderPreTrainedModel, PairEncoderConfig
from offramp.models.heads import (
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from offramp.models.modules import Embeddings, Encoder, Pooler
from offramp.models.word_heads import (
    BertMaskedLM,
    BertNextSentence,
    BertPreTraining,
    tied_words,
)


@configuration
class BertConfig(PairEncoderConfig):
    """The numbers of a BERT; defaults are bert-base-uncased's."""

    model_type = "bert"
    pretrained_init_configuration = BERT.configurations
    attribute_map = {**PretrainedConfig.attribute_map, "dropout": "classifier_dropout"}


class BertPreTrainedModel(EncoderPreTrainedModel):
    """Base of every BERT variant: the family's names and its initial weights.

    A class of one's own derives from it, builds a `BertModel` as `self.bert` and its heads beside
    it, and ends `__init__` with `self.init_weights()`.
    """

    config_class = BertConfig
    pretrained_init_configuration = BERT.configurations
    pretrained_resource_files_map = {"model_state": BERT.sources}
    base_model_prefix = "bert"
    paddle_names = tables.paddle_rows("bert")
    paddle_defaults = tables.FAMILIES["bert"].paddle_defaults
    known_heads = (
        "cls.predictions",
        "cls.seq_relationship",
        "classifier",
        "qa_outputs",
        "bert.encoder.highway",  # DeeBERT's exits, of which the last is not ours
    )
    config: BertConfig


@register_base_model
class BertModel(EncoderBody, BertPreTrainedModel):
    """BERT's body, with or without the pooler over the first token."""

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config.hidden_size) if add_pooling_layer else None
        self.init_weights()


class BertForSequenceClassification(SequenceClassification, BertPreTrainedModel):
    """BERT with a linear classifier over the pooled row: logits [B, C].

    What labels and losses are is said in `offramp.models.heads`, for this class and the next.
    """


class BertForTokenClassification(TokenClassification, BertPreTrainedModel):
    """BERT with a linear classifier over each token: logits [B, L, C]."""


class BertForMultipleChoice(MultipleChoice, BertPreTrainedModel):
    """BERT with a linear score over each choice's pooled row: logits [B, choices]."""


class BertForQuestionAnswering(QuestionAnswering, BertPreTrainedModel):
    """BERT with a linear layer that finds an answer's first and last token: logits [B, L]."""

    paddle_names = tables.paddle_rows("bert", "BertForQuestionAnswering")


class BertForMaskedLM(BertMaskedLM, BertPreTrainedModel):
    """BERT with the head that guesses masked words, tied to the embedding: logits [B, L, V]."""

    tied_weights = tied_words("cls.predictions", "bert")


class BertForNextSentencePrediction(BertNextSentence, BertPreTrainedModel):
    """BERT with the head that says whether a pair's second sentence follows: logits [B, 2]."""


class BertForPreTraining(BertPreTraining, BertPreTrainedModel):
    """BERT with both heads of its pretraining: masked words, and next sentence."""

    tied_weights = tied_words("cls.predictions", "bert")


__all__ = [
    "BertConfig",
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "BertPreTrainedModel",
]


BertPretrainedModel = BertPreTrainedModel
"""PaddleNLP's spelling."""
BertForPretraining = BertForPreTraining
"""PaddleNLP's spelling."""
