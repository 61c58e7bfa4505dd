"""DistilBERT: Sanh et al. 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper
and lighter", https://arxiv.org/abs/1910.01108: BERT's arithmetic under other names, without token
types and pooler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.models.base import register_base_model
from offramp.models.builtin import DISTILBERT
from offramp.models.config import (
    PretrainedConfig,
    configuration,
    number,
    one_of,
    optional,
    setting,
    whole,
)
from offramp.models.encoder import EncoderBody, EncoderPreTrainedModel, check_numbers
from offramp.models.flow import Flow
from offramp.models.heads import (
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from offramp.models.modules import Embeddings
from offramp.models.pretraining import MaskedLM
from offramp.nn.activations import ACTIVATIONS
from offramp.nn.attention import Probe
from offramp.nn.blocks import CheckpointedLayer, FlatAttention, KeysValues, repeated
from offramp.nn.layout import Layout
from offramp.nn.prepared import activated, added


@configuration
class DistilBertConfig(PretrainedConfig):
    """The numbers of a DistilBERT, under its own names; defaults are distilbert-base-uncased's.

    The names of `EncoderConfig` work too, but are not written.
    """

    model_type = "distilbert"
    pretrained_init_configuration = DISTILBERT.configurations
    attribute_map = {
        **PretrainedConfig.attribute_map,
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    }

    vocab_size: int = setting(default=30522, check=whole(1), structural=True)
    """V: the rows of the word embedding."""
    dim: int = setting(default=768, check=whole(1, 2**20), structural=True)
    """D: the width of a hidden state; a multiple of `n_heads`."""
    n_layers: int = setting(default=6, check=whole(1, 10_000), structural=True)
    """N: how many layers there are."""
    n_heads: int = setting(default=12, check=whole(1, 2**20), structural=True)
    """H: the heads of each layer's attention, those that were pruned counted."""
    hidden_dim: int = setting(default=3072, check=whole(1, 2**24), structural=True)
    """The width of the perceptron's middle."""
    activation: str = setting(default="gelu", check=one_of(*ACTIVATIONS), structural=True)
    """The activation in the perceptron and before the words."""
    dropout: float = setting(default=0.1, check=number(0, 1))
    """Dropout after the embeddings and after the perceptron, in training."""
    attention_dropout: float = setting(default=0.1, check=number(0, 1))
    """Dropout of attention probabilities, in training."""
    qa_dropout: float = setting(default=0.1, check=number(0, 1))
    """Dropout before the head of question answering, in training."""
    seq_classif_dropout: float = setting(default=0.2, check=number(0, 1))
    """Dropout before the classifier of rows and of choices, in training."""
    max_position_embeddings: int = setting(default=512, check=whole(1), structural=True)
    """The most tokens that a row may have."""
    sinusoidal_pos_embds: bool = setting(default=False, check=one_of(True, False))
    """Whether new positions are sines and cosines (Vaswani et al. 2017) and not random."""
    initializer_range: float = setting(default=0.02, check=number(0, 10))
    """Standard deviation of new weights."""
    pad_token_id: int | None = setting(default=0, check=optional(whole(0)))
    """The token of padding, whose embedding starts as zeros; the mask says where padding is."""
    layer_norm_eps: ClassVar[float] = 1e-12
    type_vocab_size: ClassVar[int] = 0  # whatever further keys a file has

    def validate(self) -> None:
        """ConfigError unless the heads share the width evenly and `pad_token_id` is a word."""
        check_numbers(self)


class DistilBertPreTrainedModel(EncoderPreTrainedModel):
    """Base of every DistilBERT: the family's names and its initial weights."""

    config_class = DistilBertConfig
    pretrained_init_configuration = DISTILBERT.configurations
    pretrained_resource_files_map = {"model_state": DISTILBERT.sources}
    base_model_prefix = "distilbert"
    optional_modules = ()
    known_heads = (
        "vocab_transform",
        "vocab_layer_norm",
        "vocab_projector",
        "pre_classifier",
        "classifier",
        "qa_outputs",
    )
    config: DistilBertConfig

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Embeddings) and self.config.sinusoidal_pos_embds:
            positions = module.position_embeddings.weight
            if not positions.is_meta:
                positions.data.copy_(sinusoids(*positions.shape))


@register_base_model
class DistilBertModel(EncoderBody, DistilBertPreTrainedModel):
    """DistilBERT's body."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.transformer = DistilBertLayers(config)
        self.pooler = None
        self.init_weights()

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers, in their order."""
        return cast("Sequence[nn.Module]", self.transformer.layer)


class DistilBertLayers(nn.Module):
    """The layers, under the names of the checkpoints."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.layer = repeated(config.n_layers, lambda: DistilBertLayer(config))


class DistilBertLayer(CheckpointedLayer):
    """BERT's layer under other names, without the dropout after attention."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.attention = DistilBertAttention(config)
        self.sa_layer_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.ffn = DistilBertPerceptron(config)
        self.output_layer_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        queries: Tensor | None = None,
        probe: Probe | None = None,
        *,
        known: KeysValues | None = None,
    ) -> Tensor:
        attended = self.sa_layer_norm(self.attention(hidden, layout, queries, probe, None, known))
        output: Tensor = self.output_layer_norm(self.ffn(attended, attended))
        return output


class DistilBertAttention(FlatAttention):
    """Self-attention, projected and added to its input."""

    projections = ("q_lin", "k_lin", "v_lin")
    out_name = "out_lin"

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config.dim, config.n_heads, config.attention_dropout)
        self.out_lin = nn.Linear(config.dim, config.dim)

    def added(self, mixed: Tensor, asking: Tensor) -> Tensor:
        return added(self.out_lin, mixed, asking)


class DistilBertPerceptron(nn.Module):
    """Widen, activate, narrow, drop out, add to the residual."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.lin1 = nn.Linear(config.dim, config.hidden_dim)
        self.activation = ACTIVATIONS[config.activation]
        self.lin2 = nn.Linear(config.hidden_dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return added(
            self.lin2, activated(self.lin1, hidden, self.activation), residual, self.dropout
        )


class DistilBertForSequenceClassification(SequenceClassification, DistilBertPreTrainedModel):
    """DistilBERT with a classifier of two layers over the first token: logits [B, C].

    What labels and losses are is said in `offramp.models.heads`, for this class and the next.
    """

    def build_head(self, config: Any) -> None:
        self.pre_classifier = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.seq_classif_dropout)
        self.classifier = nn.Linear(config.dim, config.num_labels)

    def row_logits(self, pooled_RD: Tensor) -> Tensor:
        return super().row_logits(F.relu(self.pre_classifier(pooled_RD)))


class DistilBertForTokenClassification(TokenClassification, DistilBertPreTrainedModel):
    """DistilBERT with a linear classifier over each token: logits [B, L, C]."""


class DistilBertForMultipleChoice(MultipleChoice, DistilBertPreTrainedModel):
    """DistilBERT with a score of two layers over each choice's first token: logits [B, choices]."""

    def build_head(self, config: Any) -> None:
        self.pre_classifier = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.seq_classif_dropout)
        self.classifier = nn.Linear(config.dim, 1)

    reads_first = True

    def score(self, flow: Flow) -> Tensor:
        first_RD = F.relu(self.pre_classifier(self.stack.pool(flow)))
        logits_R1: Tensor = self.classifier(self.dropout(first_RD))
        return logits_R1


class DistilBertForQuestionAnswering(QuestionAnswering, DistilBertPreTrainedModel):
    """DistilBERT with a linear layer that finds an answer's first and last token: logits [B, L]."""

    def build_head(self, config: Any) -> None:
        super().build_head(config)
        self.dropout = nn.Dropout(config.qa_dropout)

    def span_logits(self, hidden: Tensor) -> Tensor:
        return super().span_logits(self.dropout(hidden))


class DistilBertForMaskedLM(MaskedLM, DistilBertPreTrainedModel):
    """DistilBERT with the head that guesses masked words, tied to the embedding: [B, L, V]."""

    output_embeddings_name = "vocab_projector"
    tied_weights = {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"}

    def build_head(self, config: Any) -> None:
        self.vocab_transform = nn.Linear(config.dim, config.dim)
        self.activation = ACTIVATIONS[config.activation]
        self.vocab_layer_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.vocab_projector = nn.Linear(config.dim, config.vocab_size)

    def words(self, hidden: Tensor) -> Tensor:
        normed = self.vocab_layer_norm(activated(self.vocab_transform, hidden, self.activation))
        logits: Tensor = self.vocab_projector(normed)
        return logits


def sinusoids(count: int, width: int) -> Tensor:
    """Sines in even columns and cosines in odd ones, [count, width]: Vaswani et al. 2017, 3.5."""
    columns = torch.arange(width, dtype=torch.float64)
    angles = torch.arange(count, dtype=torch.float64)[:, None]
    angles = angles / 10000 ** (2 * (columns // 2) / width)
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos())


__all__ = [
    "DistilBertConfig",
    "DistilBertForMaskedLM",
    "DistilBertForMultipleChoice",
    "DistilBertForQuestionAnswering",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "DistilBertModel",
    "DistilBertPreTrainedModel",
]
