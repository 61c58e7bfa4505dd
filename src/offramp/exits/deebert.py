"""DeeBERT and DeeRoBERTa, by the names of their research code.

Xin et al. 2020, "DeeBERT: Dynamic Early Exiting for Accelerating BERT Inference",
https://arxiv.org/abs/2004.12993. After every layer a highway (a pooler and a classifier of its own)
answers, and a row leaves at the first whose entropy is strictly below that layer's threshold. Their
checkpoints open as they are, and `model.exits` shows the highways to everything else here: the
runner, calibration, training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from offramp.errors import ConfigError, InputError, UnsupportedError
from offramp.exits.asking import Asking, Batch, Departures, ask_along, kept_settings, plain_number
from offramp.exits.container import OwnedExits, owned_exits
from offramp.exits.criteria import (
    Criterion,
    Entropy,
    LayerEntropy,
    RegressionPatience,
    Task,
    logits_entropy,
)
from offramp.exits.criteria.task import LARGEST, REGRESSION
from offramp.exits.ramps import FirstTokenRamp
from offramp.models.bert import BertPreTrainedModel
from offramp.models.config import PretrainedConfig
from offramp.models.encoder import EncoderBody
from offramp.models.flow import Flow
from offramp.models.heads import SequenceClassification
from offramp.models.losses import classification_loss
from offramp.models.modules import Embeddings, Encoder, Pooler
from offramp.models.roberta import RobertaConfig
from offramp.nn.pooling import pool_first

NEVER = -1.0
"""The threshold at which the research code starts: no entropy is below it."""


class HighwayException(Exception):  # noqa: N818 (its name in the research code)
    """Every row of a batch left before the last layer.

    `message` is what the body would have returned, the last highway's logits in the place of the
    hidden states; `exit_layer` the layer, counted from 1, or [B] for several rows.
    """

    def __init__(self, message: tuple[Any, ...], exit_layer: int | Tensor) -> None:
        super().__init__(f"left after layer {exit_layer}")
        self.message = message
        self.exit_layer = exit_layer


def entropy(x: Tensor) -> Tensor:
    """Entropy of softmax(`x`) over the last dimension of [B, C], in nats, [B].

    The research code divided by a sum of exponentials, and gave NaN for the surest rows: from
    logits of 89 on in float32, and of 12 in float16.
    """
    return logits_entropy(x).to(x.dtype)


class Highway(FirstTokenRamp):
    """A ramp of DeeBERT's: a pooler over the first token, and a classifier."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.pooler = Pooler(config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def pool(self, flow: Flow) -> Tensor:
        """The pooled first tokens, [R, D]."""
        pooled_RD: Tensor = self.pooler(pool_first(flow.hidden, flow.layout))
        return pooled_RD

    def answer(self, pooled: Tensor) -> Tensor:
        """The logits [R, C] of pooled rows."""
        logits_RC: Tensor = self.classifier(self.dropout(pooled))
        return logits_RC


class DeeBertEncoder(Encoder):
    """BERT's layers, a highway after each, and the thresholds of their entropies in nats."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        n_layers = config.num_hidden_layers
        self.highway = nn.ModuleList(Highway(config) for _ in range(n_layers))
        self._thresholds = [NEVER] * n_layers
        self._config = config
        self._entropy: Entropy | None = None  # what the thresholds were made of, if they were

    @property
    def early_exit_entropy(self) -> list[float]:
        """The thresholds, in nats, one a layer; setting it is `set_early_exit_entropy`."""
        return self._thresholds

    @early_exit_entropy.setter
    def early_exit_entropy(self, x: float | Sequence[float]) -> None:
        self.set_early_exit_entropy(x)

    def set_early_exit_entropy(self, x: float | Sequence[float]) -> None:
        """The entropy, in nats, below which a row leaves: of every layer, or a list of all.

        Raises ConfigError for one output, which has no entropy (the research code let every row
        leave after the first layer).
        """
        n_layers = len(self._thresholds)
        one = plain_number(x)
        values = [one] * n_layers if one is not None else _numbers(x)
        if values is None or len(values) != n_layers:
            raise ConfigError(
                f"set_early_exit_entropy takes a number of nats, or one for each of {n_layers} "
                f"layers; got {x!r}."
            )
        self._set(LayerEntropy(tuple(values)))

    @property
    def criterion(self) -> Criterion:
        """The thresholds as a criterion; one that is set must be of entropies.

        Where answers are numbers, which have no entropy, it is `RegressionPatience(0)`: no row
        leaves.
        """
        if Task.of(self._config).kind == REGRESSION:
            return RegressionPatience(0)
        if self._entropy is not None and self._thresholds == self._each(self._entropy):
            return self._entropy
        return LayerEntropy(tuple(self._thresholds))

    @criterion.setter
    def criterion(self, value: Criterion) -> None:
        if value != self.criterion:
            self._set(value)

    def _set(self, value: Criterion) -> None:
        n_layers = len(self._thresholds)
        thresholds: list[float] = []
        if isinstance(value, Entropy):
            thresholds = self._each(value)
        elif isinstance(value, LayerEntropy):
            thresholds = list(value.thresholds)
        regresses = Task.of(self._config).kind == REGRESSION
        if regresses and max(thresholds, default=1.0) > 0:
            raise ConfigError(
                "DeeBERT's rows leave by their entropy, and this model's answers are numbers, "
                f"which have none; got {value!r}. Leave it at -1, and give a run another "
                "criterion: Runner(model, criterion=RegressionPatience(2, threshold))."
            )
        if len(thresholds) != n_layers:
            raise ConfigError(
                f"DeeBERT's rows leave by their entropy: set an Entropy, or a LayerEntropy of "
                f"{n_layers} thresholds; got {value!r}. A run takes any other: "
                "Runner(model, criterion=...)."
            )
        self._thresholds = thresholds
        self._entropy = value if isinstance(value, Entropy) else None

    def _each(self, value: Entropy) -> list[float]:
        """The threshold of each layer."""
        layers = range(len(self._thresholds))
        return [min(value.threshold * value.growth**layer, LARGEST) for layer in layers]

    def init_highway_pooler(self, pooler: nn.Module) -> None:
        """Give every highway's pooler the weights of `pooler`."""
        for highway in self.highway:
            cast(Highway, highway).pooler.load_state_dict(pooler.state_dict())


class DeeBertModel(EncoderBody, BertPreTrainedModel):
    """BERT's body with a highway after every layer."""

    owns_exits = True
    optional_modules = ("pooler", "encoder.highway")
    encoder: DeeBertEncoder
    pooler: nn.Module

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = self._embeddings(config)
        self.encoder = DeeBertEncoder(config)
        self.pooler = Pooler(config.hidden_size)
        self.init_weights()

    def _embeddings(self, config: Any) -> nn.Module:
        return Embeddings(config)

    def exit_settings(self) -> dict[str, Any]:
        """The thresholds."""
        return {"deebert": {"early_exit_entropy": list(self.encoder.early_exit_entropy)}}

    def take_exit_settings(self, values: Mapping[str, Any]) -> None:
        """The thresholds that were saved, if any were."""
        thresholds = kept_settings(values, "deebert").get("early_exit_entropy")
        if thresholds is not None:
            self.encoder.set_early_exit_entropy(thresholds)

    def init_highway_pooler(self) -> None:
        """Start every highway's pooler with the weights of the model's own."""
        self.encoder.init_highway_pooler(self.pooler)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """(hidden states [B, L, D], pooled [B, D], .., highways), for a padded batch.

        A highway is (logits [B, C], pooled [B, D]), and in eval mode its entropy [B] beside; before
        them are hidden states and attentions where the configuration asks for these. In eval
        mode rows that left are zeros from there on (NaN in later highways), and a batch that
        left as a whole raises `HighwayException`. The arguments are those of `BertModel.forward`;
        an encoder has no other's hidden states to look at.
        """
        if encoder_hidden_states is not None or encoder_attention_mask is not None:
            raise UnsupportedError(
                "DeeBERT is an encoder: leave encoder_hidden_states and encoder_attention_mask out."
            )
        n_classes = self.config.num_labels
        batch = Batch(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, head_mask
        )
        left = self._passed(
            batch, lambda flow: flow.hidden.new_zeros(len(flow.row_ids_R), n_classes)
        )
        more = self._more_of(left)
        if left.flow is None:
            raise HighwayException((left.logits_BC, *more), exit_layer(left))
        flow = left.flow
        n_rows, length = batch.shape
        pooled_BD = flow.hidden.new_zeros(n_rows, flow.hidden.shape[-1])
        pooled_BD = pooled_BD.index_copy(0, flow.row_ids_R.to(pooled_BD.device), self.pool(flow))
        return (flow.to_padded(flow.hidden, n_rows, length), pooled_BD, *more)

    def _passed(
        self, batch: Batch, last: Callable[[Flow], Tensor], frozen: bool = False
    ) -> Departures:
        """A batch through the layers, asked by every highway; in training mode no row leaves.

        A `frozen` body has no dropout and gets no gradient.
        """
        highways = {i + 1: cast(Highway, one) for i, one in enumerate(self.encoder.highway)}
        task = Task.of(self.config)
        rule = None if self.training else self.encoder.criterion.for_task(task)
        return ask_along(self, batch, Asking(highways, last, task, rule, frozen))

    def _more_of(self, left: Departures) -> tuple[Any, ...]:
        """Hidden states and attentions where asked for, and the highways."""
        highways = tuple(
            (logits_BC, pooled_BD, *(() if self.training else (entropy(logits_BC),)))
            for _, logits_BC, pooled_BD, _ in left.asked
        )
        attentions = left.probe.probabilities if left.probe is not None else ()
        return (
            *(() if left.trace is None else (left.trace,)),
            *((tuple(attentions),) if self.config.output_attentions else ()),
            highways,
        )


def _numbers(x: object) -> list[float] | None:
    """What is a list of numbers, or a tensor or an array of them, as plain ones."""
    try:
        values = [plain_number(one) for one in cast("Sequence[object]", x)]
    except TypeError:
        return None
    return None if None in values else cast("list[float]", values)


def exit_layer(left: Departures) -> int | Tensor:
    """The layer, from 1, after which a batch of one row left; [B] of several."""
    return int(left.layers_B) if len(left.layers_B) == 1 else left.layers_B


class DeeRobertaModel(DeeBertModel):
    """RoBERTa's body with a highway after every layer."""

    config_class: ClassVar[Any] = RobertaConfig
    base_model_prefix = "roberta"

    def _embeddings(self, config: Any) -> nn.Module:
        self.padding_id = config.pad_token_id
        return Embeddings(config, padding_id=config.pad_token_id)


class DeeBertForSequenceClassification(SequenceClassification, BertPreTrainedModel):
    """BERT with a classifier over the pooled row, and DeeBERT's highways.

    `labels` [B] are as of `BertForSequenceClassification`.
    """

    owns_exits = True
    base_model_class: ClassVar[Any] = DeeBertModel
    optional_modules = DeeBertModel.optional_modules

    @property
    def exits(self) -> OwnedExits:
        """The highways, as `offramp.Runner` and training take exits.

        The last is after all layers: rows that it lets go have its answer and not the head's.
        """
        *early, last = (cast(Highway, one) for one in self._encoder.highway)
        dropout = self.config.hidden_dropout_prob
        return owned_exits(
            self,
            (*early, last, dropout),
            lambda: OwnedExits(self, dict(enumerate(early, start=1)), dropout, last),
        )

    @property
    def num_layers(self) -> int:
        """N, which the research code's scripts ask the classifier for."""
        return self.stack.n_layers

    @property
    def owned_criterion(self) -> Criterion:
        """The thresholds as a criterion; one that is set must be of entropies."""
        return self._encoder.criterion

    @owned_criterion.setter
    def owned_criterion(self, value: Criterion) -> None:
        self._encoder.criterion = value

    def exit_settings(self) -> dict[str, Any]:
        """The body's."""
        return cast(DeeBertModel, self.base_model).exit_settings()

    def take_exit_settings(self, values: Mapping[str, Any]) -> None:
        """The body's."""
        cast(DeeBertModel, self.base_model).take_exit_settings(values)

    @property
    def _encoder(self) -> DeeBertEncoder:
        return cast(DeeBertModel, self.base_model).encoder

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_layer: int = -1,
        train_highway: bool = False,
    ) -> tuple[Any, ...]:
        """(loss, logits [B, C], .., highways) and, in eval mode, entropies and the exit layer.

        The loss, where there are `labels`, is that of the logits or, with `train_highway`, the sum
        of those of all highways but the last; the body is frozen then. The entropies are
        that of the logits and a list of the highways'; the exit layer, from 1, is [B] for several
        rows. With `output_layer`, from 0, the logits are that highway's. The rest is said of
        `DeeBertModel.forward`.
        """
        self._check_layer(output_layer)
        body = cast(DeeBertModel, self.base_model)
        batch = Batch(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, head_mask
        )
        left = body._passed(batch, self.logits, frozen=train_highway)
        more = body._more_of(left)
        loss: tuple[Tensor, ...] = ()
        if labels is not None:
            batch.check_labels(labels)
            loss = (self._loss(left, labels, train_highway),)
        if self.training:
            return (*loss, left.logits_BC, *more)
        highways = more[-1]
        logits_BC = left.logits_BC if output_layer < 0 else _of_layer(highways, output_layer)
        entropies = (entropy(left.logits_BC), [said for _, _, said in highways])
        return (*loss, logits_BC, *more, entropies, exit_layer(left))

    def _check_layer(self, output_layer: object) -> None:
        """InputError unless there is such a highway, or it is -1."""
        n_layers = self.stack.n_layers
        whole = isinstance(output_layer, Integral) and not isinstance(output_layer, bool)
        if not whole or not -1 <= cast(int, output_layer) < n_layers:
            raise InputError(
                f"output_layer is a highway from 0 to {n_layers - 1}, or -1 for the row's own "
                f"answer; got {output_layer!r}."
            )

    def _loss(self, left: Departures, labels: Tensor, of_highways: bool) -> Tensor:
        """The loss of the logits, or the sum of those of the highways but the last asked."""
        kind = self.config.problem_type
        if not of_highways:
            return classification_loss(left.logits_BC, labels, kind)
        losses = [
            classification_loss(one.logits_BC[one.asked_B], labels[one.asked_B], kind)
            for one in left.asked[:-1]
        ]
        return sum(losses, left.logits_BC.new_zeros(()))


def _of_layer(highways: Sequence[tuple[Tensor, ...]], layer: int) -> Tensor:
    """The logits of a highway, from 0; InputError where no row came so far."""
    if layer >= len(highways):
        raise InputError(
            f"output_layer={layer}: all rows had left before that highway. Let them pass all "
            "layers: set_early_exit_entropy(-1)."
        )
    return highways[layer][0]


class DeeRobertaForSequenceClassification(DeeBertForSequenceClassification):
    """RoBERTa with a classifier over the pooled row, and DeeBERT's highways."""

    config_class: ClassVar[Any] = RobertaConfig
    base_model_prefix = "roberta"
    base_model_class = DeeRobertaModel
