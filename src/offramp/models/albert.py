"""ALBERT: Lan et al. 2019, "ALBERT: A Lite BERT for Self-supervised Learning of Language
Representations", https://arxiv.org/abs/1909.11942: one layer, or a few, passed again and again, and
a narrow embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.checkpoints import tables
from offramp.models.base import register_base_model
from offramp.models.builtin import ALBERT
from offramp.models.config import (
    PretrainedConfig,
    configuration,
    number,
    one_of,
    optional,
    setting,
    whole,
)
from offramp.models.encoder import EncoderBody, EncoderConfig, EncoderPreTrainedModel
from offramp.models.flow import Flow
from offramp.models.heads import (
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from offramp.models.inputs import Inputs
from offramp.models.modules import Embeddings
from offramp.models.pretraining import MaskedLM, WordsAndOrder
from offramp.models.word_heads import tied_words
from offramp.nn.activations import ACTIVATIONS
from offramp.nn.attention import Probe
from offramp.nn.blocks import CheckpointedLayer, FlatAttention, KeysValues
from offramp.nn.layout import Layout
from offramp.nn.prepared import activated, added


@configuration
class AlbertConfig(EncoderConfig):
    """The numbers of an ALBERT; defaults are albert-xxlarge's."""

    model_type = "albert"
    pretrained_init_configuration = ALBERT.configurations
    attribute_map = {
        **PretrainedConfig.attribute_map,
        "classifier_dropout": "classifier_dropout_prob",
    }

    vocab_size: int = 30000
    hidden_size: int = 4096
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    embedding_size: int = setting(default=128, check=whole(1, 2**20), structural=True)
    """E: the width of the embeddings."""
    num_hidden_groups: int = setting(default=1, check=whole(1, 10_000), structural=True)
    """How many groups of layers there are; each is passed several times in turn."""
    inner_group_num: int = setting(default=1, check=whole(1, 10_000), structural=True)
    """The layers of a group, all of which one of `num_hidden_layers` passes."""
    type_vocab_size: int = setting(default=2, check=whole(1, 2**20), structural=True)
    """How many token types there are: the first text and the second, of a pair."""
    classifier_dropout_prob: float = setting(default=0.1, check=number(0, 1))
    """Dropout before a classifier, in training."""
    words_norm_eps: float | None = setting(
        default=None, check=optional(number(0, 1)), structural=True
    )
    """What the norm before the words adds; `layer_norm_eps` where it is None. 1e-5 in PaddleNLP."""
    pool_act: str = setting(default="tanh", check=one_of("tanh"))
    """The pooler's activation, which PaddleNLP's files name."""


class AlbertPreTrainedModel(EncoderPreTrainedModel):
    """Base of every ALBERT: the family's names and its initial weights."""

    config_class = AlbertConfig
    pretrained_init_configuration = ALBERT.configurations
    pretrained_resource_files_map = {"model_state": ALBERT.sources}
    base_model_prefix = "albert"
    paddle_names = tables.paddle_rows("albert")
    paddle_defaults = tables.FAMILIES["albert"].paddle_defaults
    known_heads = ("predictions", "sop_classifier", "classifier", "qa_outputs")
    config: AlbertConfig


@register_base_model
class AlbertModel(EncoderBody, AlbertPreTrainedModel):
    """ALBERT's body, with or without the pooler over the first token.

    A step is one pass of one inner layer: `num_hidden_layers` x `inner_group_num` steps. Of a
    `head_mask` [N, H] a pass takes the row that transformers 4.38 took: that of the first pass of
    its group, or one further for each inner layer, since a group's passes share their heads.
    """

    def __init__(self, config: AlbertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config, config.embedding_size)
        self.encoder = AlbertEncoder(config)
        width = config.hidden_size
        self.pooler = nn.Linear(width, width) if add_pooling_layer else None
        self.init_weights()

    encoder: AlbertEncoder

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layer of each step; the same ones come again."""
        return self.encoder.steps()

    @property
    def head_mask_rows(self) -> list[int]:
        """For each step the row of a mask of heads."""
        config, inner = self.config, range(self.config.inner_group_num)
        first = config.num_hidden_layers // config.num_hidden_groups
        rows = [group * first + j for group in self.encoder.order for j in inner]
        return [min(row, config.num_hidden_layers - 1) for row in rows]

    def embed(self, inputs: Inputs) -> Tensor:
        widened: Tensor = self.encoder.embedding_hidden_mapping_in(self.embeddings(inputs))
        return widened

    pools_first = True

    def pool(self, flow: Flow) -> Tensor:
        """As every body's; the pooler's tanh is no part of the module."""
        pooled_RD = super().pool(flow)
        return pooled_RD if self.pooler is None else F.tanh(pooled_RD)


class AlbertEncoder(nn.Module):
    """The groups of layers, and what widens the embeddings."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.embedding_hidden_mapping_in = nn.Linear(config.embedding_size, config.hidden_size)
        self.albert_layer_groups = nn.ModuleList(
            AlbertGroup(config) for _ in range(config.num_hidden_groups)
        )
        per_group = config.num_hidden_layers / config.num_hidden_groups
        self.order = [int(i / per_group) for i in range(config.num_hidden_layers)]

    def steps(self) -> list[nn.Module]:
        groups = [cast(AlbertGroup, self.albert_layer_groups[group]) for group in self.order]
        return [layer for group in groups for layer in group.albert_layers]


class AlbertGroup(nn.Module):
    """Layers that are passed one after the other."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.albert_layers = nn.ModuleList(
            AlbertLayer(config) for _ in range(config.inner_group_num)
        )


class AlbertLayer(CheckpointedLayer):
    """BERT's layer under other names, without the dropout after the perceptron."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.full_layer_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = AlbertAttention(config)
        self.ffn = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        queries: Tensor | None = None,
        probe: Probe | None = None,
        *,
        known: KeysValues | None = None,
    ) -> Tensor:
        attended = self.attention(hidden, layout, queries, probe, None, known)
        widened = activated(self.ffn, attended, self.activation)
        output: Tensor = self.full_layer_layer_norm(added(self.ffn_output, widened, attended))
        return output


class AlbertAttention(FlatAttention):
    """Self-attention, projected, added to its input and normalised."""

    out_name = "dense"

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(
            config.hidden_size, config.num_attention_heads, config.attention_probs_dropout_prob
        )
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.output_dropout = nn.Dropout(config.hidden_dropout_prob)

    def added(self, mixed: Tensor, asking: Tensor) -> Tensor:
        total = added(self.dense, mixed, asking, self.output_dropout)
        output: Tensor = self.LayerNorm(total)
        return output


class AlbertForSequenceClassification(SequenceClassification, AlbertPreTrainedModel):
    """ALBERT with a linear classifier over the pooled row: logits [B, C].

    What labels and losses are is said in `offramp.models.heads`, for this class and the next.
    """


class AlbertForTokenClassification(TokenClassification, AlbertPreTrainedModel):
    """ALBERT with a linear classifier over each token: logits [B, L, C]."""


class AlbertForMultipleChoice(MultipleChoice, AlbertPreTrainedModel):
    """ALBERT with a linear score over each choice's pooled row: logits [B, choices]."""


class AlbertForQuestionAnswering(QuestionAnswering, AlbertPreTrainedModel):
    """ALBERT with a linear layer that finds an answer's first and last token: logits [B, L]."""


class AlbertForMaskedLM(MaskedLM, AlbertPreTrainedModel):
    """ALBERT with the head that guesses masked words, tied to the embedding: logits [B, L, V]."""

    output_embeddings_name = "predictions.decoder"
    tied_weights = tied_words("predictions", "albert")

    def build_head(self, config: Any) -> None:
        self.predictions = AlbertWordHead(config)

    def words(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.predictions(hidden)
        return logits


class AlbertForPreTraining(WordsAndOrder, AlbertPreTrainedModel):
    """ALBERT with both heads of its pretraining: masked words, and the order of two sentences."""

    output_embeddings_name = "predictions.decoder"
    tied_weights = tied_words("predictions", "albert")

    def build_head(self, config: Any) -> None:
        self.predictions = AlbertWordHead(config)
        self.sop_classifier = AlbertOrderHead(config)

    def words(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.predictions(hidden)
        return logits

    def order(self, pooled_RD: Tensor) -> Tensor:
        logits_R2: Tensor = self.sop_classifier(pooled_RD)
        return logits_R2


class AlbertWordHead(nn.Module):
    """A hidden state to the vocabulary. `bias` is the decoder's own while the two are tied."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        eps = config.layer_norm_eps if config.words_norm_eps is None else config.words_norm_eps
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=eps)
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.decoder(
            self.LayerNorm(activated(self.dense, hidden, self.activation))
        )
        return logits


class AlbertOrderHead(nn.Module):
    """A pooled row to logits: the two sentences are in order, or not."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pooled_RD: Tensor) -> Tensor:
        logits_RC: Tensor = self.classifier(self.dropout(pooled_RD))
        return logits_RC


__all__ = [
    "AlbertConfig",
    "AlbertForMaskedLM",
    "AlbertForMultipleChoice",
    "AlbertForPreTraining",
    "AlbertForQuestionAnswering",
    "AlbertForSequenceClassification",
    "AlbertForTokenClassification",
    "AlbertModel",
    "AlbertPreTrainedModel",
]
