"""BERT: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", https://arxiv.org/abs/1810.04805. Parameters are named as transformers names them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.checkpoints import tables
from offramp.errors import ConfigError, InputError
from offramp.models.base import PretrainedModel, register_base_model
from offramp.models.builtin import BERT
from offramp.models.config import (
    PretrainedConfig,
    configuration,
    number,
    one_of,
    optional,
    setting,
    whole,
)
from offramp.models.flow import Flow, Inputs
from offramp.models.heads import (
    MaskedLM,
    MultipleChoice,
    NextSentence,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
    WordsAndNextSentence,
    head_dropout,
)
from offramp.models.outputs import BaseModelOutputWithPooling
from offramp.models.passing import Options, pass_layers
from offramp.nn.blocks import ACTIVATIONS, EncoderLayer, repeated
from offramp.nn.layout import Packed
from offramp.nn.pooling import pool_first


@configuration
class BertConfig(PretrainedConfig):
    """The numbers of a BERT; defaults are bert-base-uncased's.

    The names are those of transformers' config.json. A `structural` setting is part of the network
    and cannot change under a live model.
    """

    model_type = "bert"
    pretrained_init_configuration = BERT.configurations
    attribute_map = {
        **PretrainedConfig.attribute_map,
        "dropout": "classifier_dropout",
    }

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
    classifier_dropout: float | None = setting(default=None, check=optional(number(0, 1)))
    """Dropout before a classifier, in training; `hidden_dropout_prob` where it is None."""
    max_position_embeddings: int = setting(default=512, check=whole(1), structural=True)
    """The most tokens that a row may have."""
    type_vocab_size: int = setting(default=2, check=whole(1, 2**20), structural=True)
    """How many token types there are: the first text and the second, of a pair."""
    initializer_range: float = setting(default=0.02, check=number(0, 10))
    """Standard deviation of new weights."""
    layer_norm_eps: float = setting(default=1e-12, check=number(0, 1), structural=True)
    """What the norms add to the variance."""
    pad_token_id: int | None = setting(default=0, check=optional(whole(0)))
    """The token of padding, whose embedding starts as zeros; the mask says where padding is."""
    mask_padding: bool = setting(default=False, check=one_of(True, False))
    """Whether that token is masked where no mask is given, as in models that PaddleNLP saved."""
    # A file that says otherwise describes a network that this class would silently not be.
    position_embedding_type: str = setting(default="absolute", check=one_of("absolute"))
    """Learned positions from 0; no other kind."""
    pool_act: str = setting(default="tanh", check=one_of("tanh"))
    """The pooler's activation, which PaddleNLP's files name."""
    is_decoder: bool = setting(default=False, check=one_of(False))
    """False: each token sees the whole row."""
    add_cross_attention: bool = setting(default=False, check=one_of(False))
    """False: there is no second sequence to look at."""

    def validate(self) -> None:
        """ConfigError unless the heads share the width evenly and `pad_token_id` is a word."""
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; each head has hidden_size / heads numbers a token."
            )
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise ConfigError(
                f"pad_token_id {self.pad_token_id} is not in a vocabulary of {self.vocab_size}."
            )


TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Of the classes that answer with words."""


class BertPreTrainedModel(PretrainedModel):
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
    optional_modules = ("pooler",)
    input_embeddings_name = "embeddings.word_embeddings"
    position_embeddings_name = "embeddings.position_embeddings"
    config: BertConfig

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights with spread `initializer_range`, zero biases, unit norms."""
        if any(own is not None and own.is_meta for own in module._parameters.values()):
            return  # there are no values to give
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx].detach())
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, BertWordHead):
            nn.init.zeros_(module.bias)


@register_base_model
class BertModel(BertPreTrainedModel):
    """BERT's body, with or without the pooler over the first token."""

    pools_first = True
    """`pool` reads the first token of a row and nothing else."""

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config.hidden_size) if add_pooling_layer else None
        self.init_weights()

    @property
    def n_layers(self) -> int:
        """N, the number of steps."""
        return len(self.encoder.layer)

    def start(self, inputs: Inputs) -> Flow:
        """Words, positions and token types, added and normalised.

        Raises InputError for a row that is too long, an id that has no row in its table, or
        `inputs_embeds` of another width.
        """
        longest = self.config.max_position_embeddings
        length = max(
            [block.length for block in inputs.layout.blocks]
            if isinstance(inputs.layout, Packed)
            else [inputs.layout.length],
            default=0,
        )
        if length > longest and inputs.position_ids is None:
            raise InputError(
                f"A row of {length} tokens; this model has positions for {longest}. "
                f"Truncate the row (max_length={longest})."
            )
        inputs.check_range("input_ids", inputs.ids, self.config.vocab_size)
        inputs.check_range("token_type_ids", inputs.token_types, self.config.type_vocab_size)
        if inputs.position_ids is None:
            inputs.check_range("a token's position", inputs.positions, longest)
        inputs.check_range("position_ids", inputs.position_ids, longest)
        if inputs.embeds is not None and inputs.embeds.shape[-1] != self.config.hidden_size:
            raise InputError(
                f"inputs_embeds has width {inputs.embeds.shape[-1]}; this model's is "
                f"{self.config.hidden_size}."
            )
        return Flow(
            self.embeddings(inputs), inputs.layout, inputs.row_ids_R, positions=inputs.positions
        )

    def step(self, flow: Flow, i: int, queries: Tensor | None = None) -> Flow:
        """Pass layer i, from 0; with `queries`, one packed token a row [R], for those alone."""
        hidden = self.encoder.layer[i](flow.hidden, flow.layout, queries, flow.probe)
        return flow.advanced(hidden) if queries is None else flow.narrowed(hidden, queries)

    def finish(self, flow: Flow) -> Flow:
        """The flow as it is: BERT has nothing between its last layer and a pooler."""
        return flow

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
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Hidden states of a padded batch.

        `input_ids`, `token_type_ids`, `position_ids` [B, L] int64; `inputs_embeds` [B, L, D] in
        place of the ids; `attention_mask` [B, L] (1 real, 0 not; any pattern) or [B, L, L]
        (query, key). Masked positions come back as zeros. `head_mask` [H] or [N, H] multiplies
        the attention of each head.
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
        )
        output = BaseModelOutputWithPooling(
            last_hidden_state=passed.tokens(passed.flow.hidden),
            pooler_output=None if self.pooler is None else passed.rows(self.pool(passed.flow)),
            hidden_states=passed.hidden_states,
            attentions=passed.attentions,
        )
        return passed.options.result(output)


class BertForSequenceClassification(SequenceClassification, BertPreTrainedModel):
    """BERT with a linear classifier over the pooled row: logits [B, C].

    `labels` are class numbers [B], or targets for regression (C = 1) and for several labels a row
    ([B, C], floating); `config.problem_type` decides, or else their type.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = BertModel(config)
        self.dropout = head_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()


class BertForTokenClassification(TokenClassification, BertPreTrainedModel):
    """BERT with a linear classifier over each token: logits [B, L, C].

    `labels` are class numbers [B, L], -100 where there is none. There is no pooler.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = head_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()


class BertForMultipleChoice(MultipleChoice, BertPreTrainedModel):
    """BERT with a linear score over the pooled first token of each choice: logits [B, choices].

    All arguments of `forward` have the choices as their second dimension; `labels` [B] are the
    numbers of the right ones.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.dropout = head_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.init_weights()


class BertForQuestionAnswering(QuestionAnswering, BertPreTrainedModel):
    """BERT with a linear layer that finds the first and last token of an answer.

    `start_logits` and `end_logits` are [B, L], at masked positions the type's lowest number: no
    answer is there. The configuration has num_labels=2. There is no pooler.
    """

    paddle_names = tables.paddle_rows("bert", "BertForQuestionAnswering")

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = BertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()


class BertForMaskedLM(MaskedLM, BertPreTrainedModel):
    """BERT with the head that guesses masked words, tied to the word embedding: logits [B, L, V].

    `labels` are the words' ids [B, L], -100 where none is asked for. There is no pooler.
    """

    output_embeddings_name = "cls.predictions.decoder"
    tied_weights = TIED

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.cls = nn.ModuleDict({"predictions": BertWordHead(config)})
        self.init_weights()

    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""
        logits: Tensor = self.cls["predictions"](hidden)
        return logits


class BertForNextSentencePrediction(NextSentence, BertPreTrainedModel):
    """BERT with the head that says whether the second sentence of a pair follows the first.

    Logits are [B, 2] and `labels` [B]: it follows (0), or was drawn at random (1).
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.cls = nn.ModuleDict({"seq_relationship": nn.Linear(config.hidden_size, 2)})
        self.init_weights()

    def next_sentence(self, pooled_RD: Tensor) -> Tensor:
        """[R, 2] from pooled rows: the second sentence follows, or does not."""
        logits_R2: Tensor = self.cls["seq_relationship"](pooled_RD)
        return logits_R2


class BertForPreTraining(WordsAndNextSentence, BertPreTrainedModel):
    """BERT with both heads of its pretraining: masked words and next sentence.

    `prediction_logits` are [B, L, V], `seq_relationship_logits` [B, 2].
    """

    output_embeddings_name = "cls.predictions.decoder"
    tied_weights = TIED

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.cls = nn.ModuleDict(
            {
                "predictions": BertWordHead(config),
                "seq_relationship": nn.Linear(config.hidden_size, 2),
            }
        )
        self.init_weights()

    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""
        logits: Tensor = self.cls["predictions"](hidden)
        return logits

    def next_sentence(self, pooled_RD: Tensor) -> Tensor:
        """[R, 2] from pooled rows: the second sentence follows, or does not."""
        logits_R2: Tensor = self.cls["seq_relationship"](pooled_RD)
        return logits_R2


class BertWordHead(nn.Module):
    """A hidden state to the vocabulary. `bias` is the decoder's own while the two are tied."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = BertTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.transform(hidden))
        return logits


class BertTransform(nn.Module):
    """A linear layer, the activation and a norm, before the words."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.activation(self.dense(hidden)))
        return normed


class BertEmbeddings(nn.Module):
    """Word, position and segment embeddings, added and normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(
            config.vocab_size, width, padding_idx=config.pad_token_id
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, inputs: Inputs) -> Tensor:
        """[T, D] or [B, L, D], as the inputs lie."""
        words = self.word_embeddings(inputs.ids) if inputs.embeds is None else inputs.embeds
        positions = inputs.positions if inputs.position_ids is None else inputs.position_ids
        if inputs.token_types is None:
            kinds = self.token_type_embeddings.weight[0]
        else:
            kinds = self.token_type_embeddings(inputs.token_types)
        total = words + kinds + self.position_embeddings(positions)
        hidden: Tensor = self.dropout(self.LayerNorm(total))
        return hidden


class BertEncoder(nn.Module):
    """The layers, under the names of the checkpoints."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = repeated(
            config.num_hidden_layers,
            lambda: EncoderLayer(
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                activation=config.hidden_act,
                norm_eps=config.layer_norm_eps,
                dropout=config.hidden_dropout_prob,
                attention_dropout=config.attention_probs_dropout_prob,
            ),
        )


class BertPooler(nn.Module):
    """A linear layer and tanh over the first token's hidden state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, first_RD: Tensor) -> Tensor:
        return F.tanh(self.dense(first_RD))


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
