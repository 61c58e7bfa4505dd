"""MPNet: Song et al. 2020, "MPNet: Masked and Permuted Pre-training for Language Understanding",
https://arxiv.org/abs/2004.09297: BERT's arithmetic without token types. Attention adds to a score
for how far apart two tokens are, by one table that all layers share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Tensor, nn

from offramp.models.base import register_base_model
from offramp.models.builtin import MPNET
from offramp.models.config import configuration, setting, whole
from offramp.models.encoder import EncoderBody, EncoderConfig, EncoderPreTrainedModel
from offramp.models.flow import Flow
from offramp.models.heads import (
    MultipleChoice,
    QuestionAnswering,
    TokenClassification,
    TwoLayerClassification,
)
from offramp.models.inputs import Inputs
from offramp.models.modules import Embeddings, Pooler, encoder_layer
from offramp.models.word_heads import RobertaMaskedLM, tied_words
from offramp.nn.blocks import Attention, Heads, repeated
from offramp.nn.prepared import added
from offramp.nn.relative import BUCKETS, DistanceBias

PADDING = 1
"""The token from which positions are numbered, whatever `pad_token_id` is."""


@configuration
class MPNetConfig(EncoderConfig):
    """The numbers of an MPNet.

    Defaults are transformers', which are not mpnet-base's: that has 514 positions and
    layer_norm_eps 1e-5.
    """

    model_type = "mpnet"
    pretrained_init_configuration = MPNET.configurations

    vocab_size: int = setting(default=30527, check=whole(PADDING + 1), structural=True)
    max_position_embeddings: int = setting(default=512, check=whole(PADDING + 2), structural=True)
    pad_token_id: int | None = 1
    relative_attention_num_buckets: int = setting(
        default=BUCKETS, check=whole(BUCKETS, 2**20), structural=True
    )
    """The rows of the table of distances, of which 32 are read."""
    type_vocab_size: ClassVar[int] = 0  # whatever further keys a file has


class MPNetPreTrainedModel(EncoderPreTrainedModel):
    """Base of every MPNet: the family's names and its initial weights."""

    config_class = MPNetConfig
    pretrained_init_configuration = MPNET.configurations
    pretrained_resource_files_map = {"model_state": MPNET.sources}
    base_model_prefix = "mpnet"
    known_heads = ("lm_head", "classifier", "qa_outputs")
    config: MPNetConfig


@register_base_model
class MPNetModel(EncoderBody, MPNetPreTrainedModel):
    """MPNet's body, with or without the pooler over the first token.

    Distances are counted in places of the row, holes of the mask included.
    """

    padding_id = PADDING
    packs_holes = False
    encoder: MPNetEncoder

    def __init__(self, config: MPNetConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config, padding_id=PADDING)
        self.encoder = MPNetEncoder(config)
        self.pooler = Pooler(config.hidden_size) if add_pooling_layer else None
        self.init_weights()

    def start(self, inputs: Inputs) -> Flow:
        flow = super().start(inputs)
        distances = self.encoder.relative_attention_bias
        return replace(flow, bias_HLL=distances.for_length(flow.layout.length))


class MPNetEncoder(nn.Module):
    """The layers, and the table of distances."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.layer = repeated(
            config.num_hidden_layers, lambda: encoder_layer(config, MPNetAttention(config))
        )
        self.relative_attention_bias = DistanceBias(
            config.relative_attention_num_buckets, config.num_attention_heads
        )


class MPNetAttention(Attention):
    """BERT's attention under other names."""

    out_name = "attn.o"

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.attn = MPNetHeads(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    @property
    def core(self) -> Heads:
        return self.attn

    def added(self, mixed: Tensor, asking: Tensor) -> Tensor:
        output: Tensor = self.LayerNorm(added(self.attn.o, mixed, asking, self.dropout))
        return output


class MPNetHeads(Heads):
    """The heads, and the layer that takes what they found together."""

    projections = ("q", "k", "v")

    def __init__(self, config: MPNetConfig) -> None:
        width = config.hidden_size
        super().__init__(width, config.num_attention_heads, config.attention_probs_dropout_prob)
        self.o = nn.Linear(width, width)


class MPNetForSequenceClassification(TwoLayerClassification, MPNetPreTrainedModel):
    """MPNet with a classifier of two layers over the first token: logits [B, C].

    What labels and losses are is said in `offramp.models.heads`, for this class and the next.
    """


class MPNetForTokenClassification(TokenClassification, MPNetPreTrainedModel):
    """MPNet with a linear classifier over each token: logits [B, L, C]."""


class MPNetForMultipleChoice(MultipleChoice, MPNetPreTrainedModel):
    """MPNet with a linear score over each choice's pooled row: logits [B, choices]."""


class MPNetForQuestionAnswering(QuestionAnswering, MPNetPreTrainedModel):
    """MPNet with a linear layer that finds an answer's first and last token: logits [B, L]."""


class MPNetForMaskedLM(RobertaMaskedLM, MPNetPreTrainedModel):
    """MPNet with the head that guesses masked words, tied to the embedding: logits [B, L, V]."""

    tied_weights = tied_words("lm_head", "mpnet")


__all__ = [
    "MPNetConfig",
    "MPNetForMaskedLM",
    "MPNetForMultipleChoice",
    "MPNetForQuestionAnswering",
    "MPNetForSequenceClassification",
    "MPNetForTokenClassification",
    "MPNetModel",
    "MPNetPreTrainedModel",
]
