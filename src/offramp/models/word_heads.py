"""Heads of pretraining that two families share: BERT and ERNIE, RoBERTa and MPNet."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.models.encoder import EncoderConfig
from offramp.models.pretraining import MaskedLM, NextSentence, WordsAndNextSentence
from offramp.nn.activations import ACTIVATIONS
from offramp.nn.prepared import activated


def tied_words(head: str, prefix: str) -> dict[str, str]:
    """`tied_weights` of a class that answers with words."""
    return {
        f"{head}.decoder.weight": f"{prefix}.embeddings.word_embeddings.weight",
        f"{head}.decoder.bias": f"{head}.bias",
    }


class BertMaskedLM(MaskedLM):
    """`MaskedLM` under BERT's names, `cls.predictions`."""

    output_embeddings_name = "cls.predictions.decoder"

    def build_head(self, config: Any) -> None:
        """The head's modules."""
        self.cls = nn.ModuleDict({"predictions": WordHead(config)})

    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""
        logits: Tensor = self.cls["predictions"](hidden)
        return logits


class BertNextSentence(NextSentence):
    """`NextSentence` under BERT's names, `cls.seq_relationship`."""

    def build_head(self, config: Any) -> None:
        """The head's modules."""
        self.cls = nn.ModuleDict({"seq_relationship": nn.Linear(config.hidden_size, 2)})

    def next_sentence(self, pooled_RD: Tensor) -> Tensor:
        """[R, 2] from pooled rows."""
        logits_R2: Tensor = self.cls["seq_relationship"](pooled_RD)
        return logits_R2


class BertPreTraining(WordsAndNextSentence):
    """`WordsAndNextSentence` under BERT's names, `cls`."""

    output_embeddings_name = "cls.predictions.decoder"

    def build_head(self, config: Any) -> None:
        """The head's modules."""
        self.cls = nn.ModuleDict(
            {
                "predictions": WordHead(config),
                "seq_relationship": nn.Linear(config.hidden_size, 2),
            }
        )

    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""
        logits: Tensor = self.cls["predictions"](hidden)
        return logits

    def next_sentence(self, pooled_RD: Tensor) -> Tensor:
        """[R, 2] from pooled rows."""
        logits_R2: Tensor = self.cls["seq_relationship"](pooled_RD)
        return logits_R2


class RobertaMaskedLM(MaskedLM):
    """`MaskedLM` under RoBERTa's names, `lm_head`."""

    output_embeddings_name = "lm_head.decoder"

    def build_head(self, config: Any) -> None:
        """The head's modules."""
        self.lm_head = RobertaWordHead(config)

    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""
        logits: Tensor = self.lm_head(hidden)
        return logits


class WordHead(nn.Module):
    """BERT's and ERNIE's hidden state to the vocabulary.

    `bias` is the decoder's own while the two are tied.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.transform(hidden))
        return logits


class Transform(nn.Module):
    """A linear layer, the activation and a norm, before the words."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(activated(self.dense, hidden, self.activation))
        return normed


class RobertaWordHead(nn.Module):
    """RoBERTa's and MPNet's hidden state to the vocabulary: GELU, whatever `hidden_act` is.

    `bias` is the decoder's own while the two are tied.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.layer_norm(F.gelu(self.dense(hidden))))
        return logits
