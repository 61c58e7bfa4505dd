"""ERNIE 1.0 to 3.0: Sun et al. 2019, "ERNIE: Enhanced Representation through Knowledge
Integration", https://arxiv.org/abs/1904.09223, and its successors (https://arxiv.org/abs/1907.12412
and 2107.02137): BERT's network, to whose tokens the later ones add an embedding of the task.
"""

from __future__ import annotations

from torch import Tensor, nn

from offramp.checkpoints import tables
from offramp.errors import ConfigError
from offramp.models.base import register_base_model
from offramp.models.builtin import ERNIE
from offramp.models.config import PretrainedConfig, configuration, one_of, setting, whole
from offramp.models.encoder import EncoderBody, EncoderPreTrainedModel, PairEncoderConfig
from offramp.models.heads import (
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from offramp.models.inputs import Inputs
from offramp.models.modules import Embeddings, Encoder, Pooler
from offramp.models.word_heads import BertMaskedLM, BertNextSentence, BertPreTraining, tied_words


@configuration
class ErnieConfig(PairEncoderConfig):
    """The numbers of an ERNIE; defaults are transformers'."""

    model_type = "ernie"
    pretrained_init_configuration = ERNIE.configurations
    attribute_map = {**PretrainedConfig.attribute_map, "dropout": "classifier_dropout"}

    use_task_id: bool = setting(default=False, check=one_of(True, False), structural=True)
    """Whether tokens have task types, as those of 2.0 and 3.0 do."""
    task_type_vocab_size: int = setting(default=3, check=whole(1, 2**20), structural=True)
    """How many task types there are."""
    default_task_id: int = setting(default=0, check=whole(0), structural=True)
    """The task type where none are given: PaddleNLP's `task_id`. transformers takes 0."""

    def validate(self) -> None:
        """ConfigError too for a default task that there is not."""
        super().validate()
        if self.default_task_id >= self.task_type_vocab_size:
            raise ConfigError(
                f"default_task_id {self.default_task_id} is none of {self.task_type_vocab_size} "
                "task types."
            )


class ErniePreTrainedModel(EncoderPreTrainedModel):
    """Base of every ERNIE: the family's names and its initial weights."""

    config_class = ErnieConfig
    pretrained_init_configuration = ERNIE.configurations
    pretrained_resource_files_map = {"model_state": ERNIE.sources}
    base_model_prefix = "ernie"
    paddle_names = tables.paddle_rows("ernie")
    paddle_defaults = tables.FAMILIES["ernie"].paddle_defaults
    known_heads = ("cls.predictions", "cls.seq_relationship", "classifier", "qa_outputs")
    config: ErnieConfig


@register_base_model
class ErnieModel(EncoderBody, ErniePreTrainedModel):
    """ERNIE's body, with or without the pooler over the first token."""

    def __init__(self, config: ErnieConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.takes_task_types = config.use_task_id
        self.embeddings = ErnieEmbeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config.hidden_size) if add_pooling_layer else None
        self.init_weights()


class ErnieEmbeddings(Embeddings):
    """BERT's, and the task's."""

    def __init__(self, config: ErnieConfig) -> None:
        super().__init__(config)
        self.default_task = config.default_task_id
        tasks, width = config.task_type_vocab_size, config.hidden_size
        self.task_type_embeddings = nn.Embedding(tasks, width) if config.use_task_id else None

    def total(self, inputs: Inputs) -> Tensor:
        total = super().total(inputs)
        if self.task_type_embeddings is None:
            return total
        if inputs.task_types is None:
            return total + self.task_type_embeddings.weight[self.default_task]
        of_task: Tensor = self.task_type_embeddings(inputs.task_types)
        return total + of_task


class ErnieForSequenceClassification(SequenceClassification, ErniePreTrainedModel):
    """ERNIE with a linear classifier over the pooled row: logits [B, C].

    What labels and losses are is said in `offramp.models.heads`, for this class and the next.
    """


class ErnieForTokenClassification(TokenClassification, ErniePreTrainedModel):
    """ERNIE with a linear classifier over each token: logits [B, L, C]."""


class ErnieForMultipleChoice(MultipleChoice, ErniePreTrainedModel):
    """ERNIE with a linear score over each choice's pooled row: logits [B, choices]."""


class ErnieForQuestionAnswering(QuestionAnswering, ErniePreTrainedModel):
    """ERNIE with a linear layer that finds an answer's first and last token: logits [B, L]."""

    paddle_names = tables.paddle_rows("ernie", "ErnieForQuestionAnswering")


class ErnieForMaskedLM(BertMaskedLM, ErniePreTrainedModel):
    """ERNIE with the head that guesses masked words, tied to the embedding: logits [B, L, V]."""

    tied_weights = tied_words("cls.predictions", "ernie")


class ErnieForNextSentencePrediction(BertNextSentence, ErniePreTrainedModel):
    """ERNIE with the head that says whether a pair's second sentence follows: logits [B, 2]."""


class ErnieForPreTraining(BertPreTraining, ErniePreTrainedModel):
    """ERNIE with both heads of its pretraining: masked words, and next sentence."""

    tied_weights = tied_words("cls.predictions", "ernie")


__all__ = [
    "ErnieConfig",
    "ErnieForMaskedLM",
    "ErnieForMultipleChoice",
    "ErnieForNextSentencePrediction",
    "ErnieForPreTraining",
    "ErnieForQuestionAnswering",
    "ErnieForSequenceClassification",
    "ErnieForTokenClassification",
    "ErnieModel",
    "ErniePreTrainedModel",
]
