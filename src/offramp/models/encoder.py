"""What the families of BERT share: settings, initial weights, and a body of a start and N steps.

A family's file derives from these what is peculiar to it; docs/add-a-family.md tells how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.errors import ConfigError, InputError
from offramp.models.base import PretrainedModel
from offramp.models.config import (
    PretrainedConfig,
    configuration,
    number,
    one_of,
    optional,
    setting,
    whole,
)
from offramp.models.flow import Flow
from offramp.models.inputs import Inputs, is_traced
from offramp.models.outputs import BaseModelOutputWithPooling
from offramp.models.passing import Options, pass_layers
from offramp.nn.activations import ACTIVATIONS
from offramp.nn.blocks import Attention, KeysValues
from offramp.nn.cache import Continued
from offramp.nn.layout import Layout, Packed, round_size
from offramp.nn.pooling import pool_first


@configuration
class EncoderConfig(PretrainedConfig):
    """The numbers that every encoder has; defaults are bert-base-uncased's.

    The names are those of transformers' config.json. A `structural` setting is part of the network
    and cannot change under a live model.
    """

    vocab_size: int = setting(default=30522, check=whole(1), structural=True)
    """V: the rows of the word embedding."""
    hidden_size: int = setting(default=768, check=whole(1, 2**20), structural=True)
    """D: the width of a hidden state; a multiple of `num_attention_heads`."""
    num_hidden_layers: int = setting(default=12, check=whole(1, 10_000), structural=True)
    """N: how many layers there are."""
    num_attention_heads: int = setting(default=12, check=whole(1, 2**20), structural=True)
    """H: the heads of each layer's attention, those that were pruned counted."""
    intermediate_size: int = setting(default=3072, check=whole(1, 2**24), structural=True)
    """The width of the perceptron's middle."""
    hidden_act: str = setting(default="gelu", check=one_of(*ACTIVATIONS), structural=True)
    """The activation in the perceptron and before the words."""
    hidden_dropout_prob: float = setting(default=0.1, check=number(0, 1))
    """Dropout after the embeddings, after attention and after the perceptron, in training."""
    attention_probs_dropout_prob: float = setting(default=0.1, check=number(0, 1))
    """Dropout of attention probabilities, in training."""
    max_position_embeddings: int = setting(default=512, check=whole(1), structural=True)
    """The rows of the position embedding."""
    initializer_range: float = setting(default=0.02, check=number(0, 10))
    """Standard deviation of new weights."""
    layer_norm_eps: float = setting(default=1e-12, check=number(0, 1), structural=True)
    """What the norms add to the variance."""
    pad_token_id: int | None = setting(default=0, check=optional(whole(0)))
    """The token of padding, whose embedding starts as zeros; the mask says where padding is."""
    mask_padding: bool = setting(default=False, check=one_of(True, False))
    """Whether that token is masked where no mask is given, as in models that PaddleNLP saved."""
    # A file that says otherwise describes a network that these classes would silently not be.
    position_embedding_type: str = setting(default="absolute", check=one_of("absolute"))
    """Learned positions; no other kind."""
    is_decoder: bool = setting(default=False, check=one_of(False))
    """False: each token sees the whole row."""
    add_cross_attention: bool = setting(default=False, check=one_of(False))
    """False: there is no second sequence to look at."""

    def validate(self) -> None:
        """ConfigError unless the heads share the width evenly and `pad_token_id` is a word."""
        check_numbers(self)


def check_numbers(config: PretrainedConfig) -> None:
    """ConfigError unless the heads share the width evenly and `pad_token_id` is a word."""
    if config.hidden_size % config.num_attention_heads:
        raise ConfigError(
            f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads "
            f"{config.num_attention_heads}; each head has hidden_size / heads numbers a token."
        )
    if config.pad_token_id is not None and config.pad_token_id >= config.vocab_size:
        raise ConfigError(
            f"pad_token_id {config.pad_token_id} is not in a vocabulary of {config.vocab_size}."
        )


@configuration
class PairEncoderConfig(EncoderConfig):
    """The numbers of an encoder that knows the two texts of a pair apart."""

    type_vocab_size: int = setting(default=2, check=whole(1, 2**20), structural=True)
    """How many token types there are: the first text and the second, of a pair."""
    classifier_dropout: float | None = setting(default=None, check=optional(number(0, 1)))
    """Dropout before a classifier, in training; `hidden_dropout_prob` where it is None."""
    pool_act: str = setting(default="tanh", check=one_of("tanh"))
    """The pooler's activation, which PaddleNLP's files name."""


class EncoderPreTrainedModel(PretrainedModel):
    """Base of the families' bases: initial weights, and where the embeddings are."""

    optional_modules: ClassVar[tuple[str, ...]] = ("pooler",)
    input_embeddings_name = "embeddings.word_embeddings"
    position_embeddings_name = "embeddings.position_embeddings"

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights with spread `initializer_range`, zero biases, unit norms."""
        if any(own is not None and own.is_meta for own in module._parameters.values()):
            return  # there are no values to give
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx].detach())
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            nn.init.zeros_(cast(Tensor, module.bias))


class EncoderBody(EncoderPreTrainedModel):
    """A body of embeddings, layers and, if the family has one, a pooler over the first token.

    `__init__` of a family's body builds `embeddings`, which take `Inputs` and give hidden states,
    and `pooler` (or None); `layers` says where the layers are. It meets `LayerStack`.
    """

    pools_first = True
    """`pool` reads the first token of a row and nothing else."""
    padding_id: int | None = None
    packs_holes = True
    fills = False
    """Whether packed rows are filled up to round numbers of tokens, as a prepared copy's are."""
    takes_task_types = False
    causal = False
    """Whether no token attends to one behind it, as where text is written."""
    embeddings: nn.Module
    encoder: nn.Module
    pooler: nn.Module | None

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers, in their order."""
        return cast("Sequence[nn.Module]", self.encoder.layer)

    @property
    def n_layers(self) -> int:
        """N, the number of steps."""
        return len(self.layers)

    @property
    def max_length(self) -> int:
        """The most tokens that a row may have."""
        positions: int = self.config.max_position_embeddings
        return positions if self.padding_id is None else positions - self.padding_id - 1

    def start(self, inputs: Inputs) -> Flow:
        """The embedded tokens.

        Raises InputError for a row that is too long, an id that has no row in its table, or
        `inputs_embeds` of another width or type.
        """
        self.check(inputs)
        hidden = self.embed(inputs)
        layout = replace(inputs.layout, causal=True) if self.causal else inputs.layout
        flow = Flow(hidden, layout, inputs.row_ids_R, positions=inputs.positions)
        # A row alone is as it is: what is filled up would cost it more than it spares.
        filled = self.fills and isinstance(inputs.layout, Packed) and inputs.layout.n_rows > 1
        return flow.fill() if filled else flow

    def embed(self, inputs: Inputs) -> Tensor:
        """What the first layer takes, [T, D] or [B, L, D]."""
        hidden: Tensor = self.embeddings(inputs)
        return hidden

    def keys_values(self, flow: Flow, i: int) -> KeysValues:
        """What layer i, from 0, attends to; it may be given to `step`."""
        attention = cast(Attention, self.layers[i].attention)
        return attention.core.keys_values(flow.hidden)

    def step(
        self, flow: Flow, i: int, queries: Tensor | None = None, known: KeysValues | None = None
    ) -> Flow:
        """Pass layer i, from 0; with `queries`, one packed token a row [R], for those alone.

        `known` are this flow's `keys_values`, where they were made before.
        """
        bias: tuple[Tensor, ...] = ()
        if flow.bias_HLL is not None:
            bias = (_of_queries(flow.bias_HLL, flow.layout, queries),)
        elif self.causal and queries is not None:
            bias = (_up_to(flow.hidden, cast(Packed, flow.layout), queries),)
        layer, asking, layout = self.layers[i], queries, flow.layout
        if isinstance(layout, Continued):
            layout = layout.at(i)
        if queries is not None and flow.filled:
            asking = F.pad(queries, (0, round_size(len(queries)) - len(queries)))
        hidden = layer(flow.hidden, layout, asking, flow.probe, *bias, known=known)
        return flow.advanced(hidden) if queries is None else flow.narrowed(hidden, queries)

    def finish(self, flow: Flow) -> Flow:
        """The flow without what fills it: there is nothing between the last layer and a pooler."""
        return flow.bare()

    def pool(self, flow: Flow) -> Tensor:
        """The pooled first token of each row, [R, D]; its hidden state where there is no pooler."""
        first_RD = pool_first(flow.hidden, flow.layout)
        return first_RD if self.pooler is None else self.pooler(first_RD)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        task_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Hidden states of a padded batch.

        `input_ids`, `token_type_ids`, `position_ids`, `task_type_ids` [B, L] int64; `inputs_embeds`
        [B, L, D] in place of the ids; `attention_mask` [B, L] (1 real, 0 not; any pattern) or
        [B, L, L] (query, key). Masked positions come back as zeros. `head_mask` [H] or [N, H]
        multiplies the attention of each head. A family without token types does not read theirs;
        task types are ERNIE's alone.
        """
        passed = pass_layers(
            self,
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            Options.asked(
                self.config, output_hidden_states, output_attentions, head_mask, return_dict
            ),
            task_type_ids,
        )
        output = BaseModelOutputWithPooling(
            last_hidden_state=passed.tokens(passed.flow.hidden),
            pooler_output=None if self.pooler is None else passed.rows(self.pool(passed.flow)),
            hidden_states=passed.hidden_states,
            attentions=passed.attentions,
        )
        return passed.options.result(output)

    def check(self, inputs: Inputs) -> None:
        """InputError for what the embeddings have no rows for."""
        config = self.config
        if inputs.position_ids is None:
            self._check_length(inputs)
        inputs.check_range("input_ids", inputs.ids, config.vocab_size)
        inputs.check_range("position_ids", inputs.position_ids, config.max_position_embeddings)
        if config.type_vocab_size:
            inputs.check_range("token_type_ids", inputs.token_types, config.type_vocab_size)
        if inputs.task_types is not None:
            if not self.takes_task_types:
                raise InputError(
                    f"This {type(self).__name__} has no task types: task_type_ids are for an ERNIE "
                    "with use_task_id=True. Leave them out."
                )
            inputs.check_range("task_type_ids", inputs.task_types, config.task_type_vocab_size)
        if inputs.embeds is not None:
            words = cast(nn.Embedding, self.get_input_embeddings()).weight
            if inputs.embeds.shape[-1] != words.shape[1] or inputs.embeds.dtype != words.dtype:
                raise InputError(
                    f"inputs_embeds has width {inputs.embeds.shape[-1]} and is "
                    f"{inputs.embeds.dtype}; this model's is {words.shape[1]}, {words.dtype}."
                )

    def _check_length(self, inputs: Inputs) -> None:
        longest, layout = self.max_length, inputs.layout
        counted = inputs.positions + 1 if inputs.ordinals is None else inputs.ordinals
        if counted.device.type == "cpu" and counted.numel() and not is_traced():
            length = int(counted.max())  # a row's last place, where padding and holes are left out
        else:
            length = layout.length
        if length > longest:
            raise InputError(
                f"A row of {length} tokens; this model has positions for {longest}. Truncate the "
                f"row (max_length={longest}), or extend the model: resize_position_embeddings."
            )


def _up_to(hidden: Tensor, layout: Packed, queries: Tensor) -> Tensor:
    """What keeps one token of each row from those behind it: [R, 1, 1, L], 0 or -inf."""
    place_R = queries - layout.starts_R.to(queries.device)
    behind_RL = torch.arange(layout.length, device=queries.device) > place_R[:, None]
    zeros_RL = hidden.new_zeros(behind_RL.shape)
    return zeros_RL.masked_fill(behind_RL, -torch.inf)[:, None, None]


def _of_queries(bias_HLL: Tensor, layout: Layout, queries: Tensor | None) -> Tensor:
    """The bias for all tokens, or [R, H, 1, L] for one of each row."""
    if queries is None:
        return bias_HLL
    place_R = queries - cast(Packed, layout).starts_R.to(queries.device)
    return bias_HLL[:, place_R].transpose(0, 1)[:, :, None]
