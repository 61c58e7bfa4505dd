"""Modules that several families are built of, under the names that their checkpoints share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from offramp.models.config import PretrainedConfig
from offramp.models.inputs import Inputs
from offramp.nn.activations import ACTIVATIONS
from offramp.nn.blocks import EncoderLayer, repeated
from offramp.nn.layout import ordinals
from offramp.nn.prepared import activated


class Embeddings(nn.Module):
    """Words, positions and, where the family has them, token types: added and normalised.

    `padding_id` is that of a family whose positions count from it, as RoBERTa's do: padding has
    that position, and a row's first token the next.
    """

    def __init__(
        self, config: PretrainedConfig, width: int | None = None, padding_id: int | None = None
    ) -> None:
        super().__init__()
        width = config.hidden_size if width is None else width
        pad = config.pad_token_id if padding_id is None else padding_id
        self.padding_id = padding_id
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=pad)
        self.position_embeddings = nn.Embedding(
            config.max_position_embeddings, width, padding_idx=padding_id
        )
        n_types = config.type_vocab_size
        self.token_type_embeddings = nn.Embedding(n_types, width) if n_types else None
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, inputs: Inputs) -> Tensor:
        """[T, D] or [B, L, D], as the inputs lie."""
        hidden: Tensor = self.dropout(self.LayerNorm(self.total(inputs)))
        return hidden

    def total(self, inputs: Inputs) -> Tensor:
        """What is normalised."""
        words = self.word_embeddings(inputs.ids) if inputs.embeds is None else inputs.embeds
        if self.token_type_embeddings is not None and inputs.token_types is None:
            words = words + self.token_type_embeddings.weight[0]
        elif self.token_type_embeddings is not None:
            words = words + self.token_type_embeddings(inputs.token_types)
        total: Tensor = words + self.position_embeddings(self.places(inputs))
        return total

    def places(self, inputs: Inputs) -> Tensor:
        """Each token's row in the embedding of positions."""
        if inputs.position_ids is not None:
            return inputs.position_ids
        if self.padding_id is None:
            return inputs.positions
        if inputs.ids is None:
            return inputs.positions + self.padding_id + 1
        count = inputs.ordinals
        if count is None:
            count = ordinals(inputs.ids, inputs.layout, self.padding_id)
        return count + self.padding_id


class Encoder(nn.Module):
    """BERT's layers, under `encoder.layer`."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.layer = repeated(config.num_hidden_layers, lambda: encoder_layer(config))


def encoder_layer(config: PretrainedConfig, attention: nn.Module | None = None) -> EncoderLayer:
    """A layer of BERT's; `attention` is one of other names."""
    return EncoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        activation=config.hidden_act,
        norm_eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        attention=attention,
    )


class Pooler(nn.Module):
    """A linear layer and tanh over the first token's hidden state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, first_RD: Tensor) -> Tensor:
        return activated(self.dense, first_RD, F.tanh)


class ClassificationHead(nn.Module):
    """The first token's hidden state to logits, with a layer between, as in RoBERTa's family."""

    def __init__(self, width: int, n_labels: int, dropout: float, activation: str = "tanh") -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(width, n_labels)

    def forward(self, first_RD: Tensor) -> Tensor:
        hidden_RD = activated(self.dense, self.dropout(first_RD), self.activation)
        logits_RC: Tensor = self.out_proj(self.dropout(hidden_RD))
        return logits_RC
