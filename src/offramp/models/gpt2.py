"""GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". A decoder:
each token attends to those before it, norms come before what they normalise, one more after the
last layer, and linear layers keep their matrices as [in, out]. Parameters are named as transformers
names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from offramp.models.base import register_base_model
from offramp.models.builtin import GPT2
from offramp.models.causal import CausalLM
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
from offramp.models.heads import SequenceClassification, TokenClassification
from offramp.models.inputs import Inputs
from offramp.nn.activations import ACTIVATIONS
from offramp.nn.attention import Probe
from offramp.nn.blocks import CheckpointedLayer, FlatAttention, KeysValues
from offramp.nn.layout import Layout
from offramp.nn.pooling import pool_last


@configuration
class GPT2Config(PretrainedConfig):
    """The numbers of a GPT-2, under its own names; defaults are gpt2's.

    Four of them have `EncoderConfig`'s names too, which are not written.
    """

    model_type = "gpt2"
    pretrained_init_configuration = GPT2.configurations
    attribute_map = {
        **PretrainedConfig.attribute_map,
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    }

    vocab_size: int = setting(default=50257, check=whole(1), structural=True)
    """V: the rows of the word embedding."""
    n_positions: int = setting(default=1024, check=whole(1), structural=True)
    """The most tokens that a row may have."""
    n_embd: int = setting(default=768, check=whole(1, 2**20), structural=True)
    """D: the width of a hidden state; a multiple of `n_head`."""
    n_layer: int = setting(default=12, check=whole(1, 10_000), structural=True)
    """N: how many layers there are."""
    n_head: int = setting(default=12, check=whole(1, 2**20), structural=True)
    """H: the heads of each layer's attention, those that were pruned counted."""
    n_inner: int | None = setting(default=None, check=optional(whole(1, 2**24)), structural=True)
    """The width of the perceptron's middle; 4 D where it is None."""
    activation_function: str = setting(
        default="gelu_new", check=one_of(*ACTIVATIONS), structural=True
    )
    """The activation in the perceptron."""
    resid_pdrop: float = setting(default=0.1, check=number(0, 1))
    """Dropout after attention and after the perceptron, in training."""
    embd_pdrop: float = setting(default=0.1, check=number(0, 1))
    """Dropout after the embeddings, in training."""
    attn_pdrop: float = setting(default=0.1, check=number(0, 1))
    """Dropout of attention probabilities, in training."""
    classifier_dropout: float | None = setting(default=None, check=optional(number(0, 1)))
    """Dropout before a classifier of tokens, in training; 0.1 where it is None."""
    layer_norm_epsilon: float = setting(default=1e-5, check=number(0, 1), structural=True)
    """What the norms add to the variance."""
    initializer_range: float = setting(default=0.02, check=number(0, 10))
    """Standard deviation of new weights."""
    scale_attn_weights: bool = setting(default=True, check=one_of(True, False), structural=True)
    """Whether attention's scores are divided by the square root of a head's width."""
    scale_attn_by_inverse_layer_idx: bool = setting(
        default=False, check=one_of(True, False), structural=True
    )
    """Whether they are divided by the layer's number, from 1, too."""
    bos_token_id: int | None = setting(default=50256, check=optional(whole(0)))
    """The token that a text begins with."""
    eos_token_id: int | list[int] | None = 50256
    """The token that a text ends with, or several."""
    pad_token_id: int | None = setting(default=None, check=optional(whole(0)))
    """The token of padding, where there is one."""
    add_cross_attention: bool = setting(default=False, check=one_of(False))
    """False: there is no second sequence to look at."""
    type_vocab_size: ClassVar[int] = 0  # whatever further keys a file has

    def validate(self) -> None:
        """ConfigError unless the heads share the width evenly and `pad_token_id` is a word."""
        check_numbers(self)


class GPT2PreTrainedModel(EncoderPreTrainedModel):
    """Base of every GPT-2: the family's names and its initial weights."""

    config_class = GPT2Config
    pretrained_init_configuration = GPT2.configurations
    pretrained_resource_files_map = {"model_state": GPT2.sources}
    base_model_prefix = "transformer"
    input_embeddings_name = "wte"
    position_embeddings_name = "wpe"
    optional_modules = ()
    known_heads = ("lm_head", "score", "classifier", "multiple_choice_head")
    config: GPT2Config

    def _init_weights(self, module: nn.Module) -> None:
        """As other families', but that what is added to a hidden state has a smaller spread.

        It is divided by the square root of how many such there are, two a layer.
        """
        super()._init_weights(module)
        if isinstance(module, TransposedLinear) and not module.weight.is_meta:
            spread = self.config.initializer_range
            if module.is_added:
                spread /= (2 * self.config.n_layer) ** 0.5
            nn.init.normal_(module.weight, std=spread)


@register_base_model
class GPT2Model(EncoderBody, GPT2PreTrainedModel):
    """GPT-2's body. `pool` reads a row's last token, which alone has seen all of it.

    Token types that `forward` is given are ids of words, whose embeddings are added; the runner's
    rows have none.
    """

    causal = True
    types_are_words = True
    pooler = None

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(GPT2Layer(config, number) for number in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.init_weights()

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers, in their order."""
        return cast("Sequence[nn.Module]", self.h)

    def embed(self, inputs: Inputs) -> Tensor:
        """Words and positions, added."""
        words = self.wte(inputs.ids) if inputs.embeds is None else inputs.embeds
        places = inputs.positions if inputs.position_ids is None else inputs.position_ids
        embedded: Tensor = self.drop(words + self.wpe(places))
        return embedded

    def keys_values(self, flow: Flow, i: int) -> KeysValues:
        """What layer i, from 0, attends to; it may be given to `step`."""
        return cast(GPT2Layer, self.h[i]).keys_values(flow.hidden)

    def finish(self, flow: Flow) -> Flow:
        """The flow through the last norm, which the trace of hidden states has in the end too."""
        flow = flow.bare()
        hidden = self.ln_f(flow.hidden)
        trace = None if flow.trace is None else (*flow.trace[:-1], hidden)
        return replace(flow, hidden=hidden, trace=trace)

    pools_first = False

    def pool(self, flow: Flow) -> Tensor:
        """The last token of each row, [R, D]."""
        return pool_last(flow.hidden, flow.layout)


class GPT2Layer(CheckpointedLayer):
    """Self-attention and a two-layer perceptron, each of what was normalised before, and added."""

    def __init__(self, config: GPT2Config, number: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, number)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2Perceptron(config)

    def keys_values(self, hidden: Tensor) -> KeysValues:
        """The tokens' keys and values."""
        return self.attn.keys_values(self.ln_1(hidden))

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        queries: Tensor | None = None,
        probe: Probe | None = None,
        bias: Tensor | None = None,
        known: KeysValues | None = None,
    ) -> Tensor:
        residual = hidden if queries is None else hidden.index_select(0, queries)
        residual = residual + self.attn(self.ln_1(hidden), layout, queries, probe, bias, known)
        output: Tensor = residual + self.mlp(self.ln_2(residual))
        return output


class TransposedLinear(nn.Module):
    """A linear layer whose matrix is [in, out], as GPT-2's checkpoints have it.

    `is_added` is of one whose result is added to a hidden state.
    """

    def __init__(self, width_in: int, width: int, *, is_added: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_in, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.is_added = is_added

    def forward(self, hidden: Tensor) -> Tensor:
        return self.part(hidden, slice(None))

    def part(self, hidden: Tensor, outputs: slice) -> Tensor:
        """Some of the outputs alone."""
        return nn.functional.linear(hidden, self.weight[:, outputs].t(), self.bias[outputs])


class GPT2Attention(FlatAttention):
    """Self-attention, projected. Queries, keys and values are one product's."""

    projections = ()  # type: ignore[assignment]
    out_name = "c_proj"

    def __init__(self, config: GPT2Config, number: int) -> None:
        width = config.n_embd
        super().__init__(width, config.n_head, config.attn_pdrop)
        self.c_attn = TransposedLinear(width, 3 * width)
        self.c_proj = TransposedLinear(width, width, is_added=True)
        self.dropout = nn.Dropout(config.resid_pdrop)
        # Of the query, beside the scale that attention has by itself.
        self.scale = 1.0 if config.scale_attn_weights else (width // config.n_head) ** 0.5
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= number + 1

    @property
    def width(self) -> int:
        """Of the heads that there are, together."""
        return self.c_proj.weight.shape[0]

    def keys_values(self, hidden: Tensor) -> KeysValues:
        return KeysValues(*self.c_attn.part(hidden, slice(self.width, None)).chunk(2, -1))

    def query_of(self, asking: Tensor) -> Tensor:
        return self._scaled(self.c_attn.part(asking, slice(self.width)))

    def projected(self, hidden: Tensor) -> tuple[Tensor, ...]:
        query, key, value = self.c_attn(hidden).chunk(3, -1)
        return self._scaled(query), key, value

    def _scaled(self, query: Tensor) -> Tensor:
        return query if self.scale == 1 else query * self.scale

    def added(self, mixed: Tensor, asking: Tensor) -> Tensor:
        """What the heads found, projected; the layer adds it."""
        output: Tensor = self.dropout(self.c_proj(mixed))
        return output

    def prune(self, heads: Iterable[int]) -> None:
        """Take heads out, by their numbers in the whole layer. Those that are out stay out."""
        out = [head for head in self.heads if head in set(heads)]
        if not out:
            return
        each = self.width // len(self.heads)
        kept = [place for place, head in enumerate(self.heads) if head not in out]
        one = torch.tensor([place * each + n for place in kept for n in range(each)])
        all_three = torch.cat([part * self.width + one for part in range(3)])
        self.c_attn.weight = _part(self.c_attn.weight, 1, all_three)
        self.c_attn.bias = _part(self.c_attn.bias, 0, all_three)
        self.c_proj.weight = _part(self.c_proj.weight, 0, one)
        self.heads = [self.heads[place] for place in kept]


def _part(parameter: nn.Parameter, dim: int, index: Tensor) -> nn.Parameter:
    values = parameter.detach().index_select(dim, index.to(parameter.device))
    return nn.Parameter(values, parameter.requires_grad)


class GPT2Perceptron(nn.Module):
    """Widen, activate, narrow, drop out."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        inner = 4 * config.n_embd if config.n_inner is None else config.n_inner
        self.c_fc = TransposedLinear(config.n_embd, inner)
        self.c_proj = TransposedLinear(inner, config.n_embd, is_added=True)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.dropout(self.c_proj(self.activation(self.c_fc(hidden))))
        return output


class GPT2LMHeadModel(CausalLM, GPT2PreTrainedModel):
    """GPT-2 with the head that says the next word, tied to the embedding: logits [B, L, V]."""

    output_embeddings_name = "lm_head"
    tied_weights = {"lm_head.weight": "transformer.wte.weight"}

    def build_head(self, config: Any) -> None:
        """The head's module."""
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""
        logits: Tensor = self.lm_head(hidden)
        return logits


class GPT2ForSequenceClassification(SequenceClassification, GPT2PreTrainedModel):
    """GPT-2 with a linear classifier over each row's last token: logits [B, C].

    The last token is the last that is not masked. Without an attention mask padding at the end of a
    row, `config.pad_token_id`, is left out, as in transformers. What labels and losses are is said
    in `offramp.models.heads`, for this class and the next.
    """

    def build_head(self, config: Any) -> None:
        """The head's module."""
        self.score = nn.Linear(config.n_embd, config.num_labels, bias=False)

    def default_mask(self, input_ids: Tensor | None) -> Tensor | None:
        """What leaves out padding at the ends of rows, [B, L]."""
        pad = self.config.pad_token_id
        if input_ids is None or pad is None or input_ids.dim() != 2:
            return None
        behind_BL = (input_ids != pad).flip(1).cumsum(1).flip(1) > 0
        behind_BL[:, :1] = True  # a row of padding alone has a token all the same
        return behind_BL

    def row_logits(self, pooled_RD: Tensor) -> Tensor:
        """[R, C] from last tokens."""
        logits_RC: Tensor = self.score(pooled_RD)
        return logits_RC


class GPT2ForTokenClassification(TokenClassification, GPT2PreTrainedModel):
    """GPT-2 with a linear classifier over each token: logits [B, L, C]."""

    def build_head(self, config: Any) -> None:
        """The head's modules."""
        probability = config.classifier_dropout
        self.dropout = nn.Dropout(0.1 if probability is None else probability)
        self.classifier = nn.Linear(config.n_embd, config.num_labels)


__all__ = [
    "GPT2Config",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2PreTrainedModel",
]
