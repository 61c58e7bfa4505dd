"""PABEE, by the names of its research code.

Zhou et al. 2020, "BERT Loses Patience: Fast and Robust Inference with Early Exit",
https://arxiv.org/abs/2006.04152. A classifier after every layer, all over the model's one pooler;
a row leaves when `patience` successive ones agree with the one before them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from offramp.errors import ConfigError, UnsupportedError
from offramp.exits.asking import Asking, Batch, ask_along, kept_settings, plain_number
from offramp.exits.container import OwnedExits, owned_exits
from offramp.exits.criteria import Criterion, Patience, RegressionPatience, Task
from offramp.exits.losses import depth_weighted_loss
from offramp.exits.ramps import FirstTokenRamp
from offramp.models.albert import AlbertModel, AlbertPreTrainedModel
from offramp.models.bert import BertModel, BertPreTrainedModel
from offramp.models.encoder import EncoderBody
from offramp.models.flow import Flow
from offramp.models.heads import SequenceClassification, head_dropout

Call = Callable[[Tensor], Tensor]


class PabeeRamp(FirstTokenRamp):
    """One of the classifiers, over the body's pooler."""

    def __init__(self, body: EncoderBody, dropout: Call | None, classifier: Call) -> None:
        super().__init__()
        self._shared = (body, dropout or nn.Identity())  # none of this module's own
        self.classifier = classifier

    def pool(self, flow: Flow) -> Tensor:
        """The pooled first tokens, [R, D]."""
        return self._shared[0].pool(flow)

    def answer(self, pooled: Tensor) -> Tensor:
        """The logits [R, C] of pooled rows."""
        return self.classifier(self._shared[1](pooled))


class PabeeBody(EncoderBody):
    """A body that passes rows until its classifiers agree, and counts the layers that it passed.

    `patience` is how many successive classifiers must agree with the one before; 0 means all
    layers. For regression two agree that are closer than `regression_threshold`. The counts
    are of rows that were run with patience: `inference_layers_num` layers,
    `inference_instances_num` rows.
    """

    owns_exits = True
    patience = 0
    regression_threshold = 0.0
    inference_instances_num = 0
    inference_layers_num = 0

    @property
    def steps_a_layer(self) -> int:
        """The steps of one layer: a pass of ALBERT's whole group, where that has several layers."""
        return int(getattr(self.config, "inner_group_num", 1))

    def set_patience(self, patience: int) -> None:
        """How many successive classifiers must agree with the one before them; 0: all layers."""
        self.patience = Patience(_plain(patience)).patience

    def set_regression_threshold(self, threshold: float) -> None:
        """How close two answers must be to agree, for regression."""
        self.regression_threshold = RegressionPatience(1, _plain(threshold)).threshold

    def exit_settings(self) -> dict[str, Any]:
        """Patience, and the distance of regression."""
        kept = {"patience": self.patience, "regression_threshold": self.regression_threshold}
        return {"pabee": kept}

    def take_exit_settings(self, values: Mapping[str, Any]) -> None:
        """Those that were saved, if any were."""
        kept = kept_settings(values, "pabee")
        self.set_patience(kept.get("patience", self.patience))
        self.set_regression_threshold(kept.get("regression_threshold", self.regression_threshold))

    def reset_stats(self) -> None:
        """Count from zero."""
        self.inference_instances_num = self.inference_layers_num = 0

    def log_stats(self) -> None:
        """Print the mean number of layers, and the share of all layers that was not run."""
        rows = self.inference_instances_num
        layers = self.inference_layers_num / rows if rows else 0.0
        saved = 1 - layers / self.config.num_hidden_layers if rows else 0.0
        print(
            f"patience {self.patience}: {rows} rows, {layers:.2f} layers a row, "
            f"{saved:.2f} of all layers saved"
        )

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
        output_dropout: Call | None = None,
        output_layers: Sequence[Call] = (),
        regression: bool = False,
    ) -> list[Tensor]:
        """Logits [B, C]: of every classifier in training mode, and otherwise of each row's last.

        `output_layers` are the classifiers, one a layer, and `output_dropout` comes before each.
        The other arguments are those of `BertModel.forward`; this is an encoder, and has no other's
        hidden states to look at.
        """
        if encoder_hidden_states is not None or encoder_attention_mask is not None:
            raise UnsupportedError(
                "PABEE is an encoder: leave encoder_hidden_states and encoder_attention_mask out."
            )
        n_layers = self.config.num_hidden_layers
        if len(output_layers) != n_layers:
            raise ConfigError(
                f"output_layers are {n_layers} classifiers, one a layer; got {len(output_layers)}."
            )
        batch = Batch(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, head_mask
        )
        dropout = output_dropout if self.training else None
        ramps = {
            layer * self.steps_a_layer: PabeeRamp(self, dropout, classifier)
            for layer, classifier in enumerate(output_layers, start=1)
        }
        last = ramps.pop(self.n_layers)
        task, rule = Task.of(self.config), None
        if regression:
            task = replace(task, kind="regression")
        if self.patience and not self.training:
            rule = waiting(self.patience, self.regression_threshold if regression else None)
        asked = ramps if self.training or rule is not None else {}
        left = ask_along(self, batch, Asking(asked, last, task, rule and rule.for_task(task)))
        if self.training:
            return [*(asked.logits_BC for asked in left.asked), left.logits_BC]
        if rule is not None:
            self.inference_layers_num += int(left.layers_B.sum()) // self.steps_a_layer
            self.inference_instances_num += len(left.layers_B)
        return [left.logits_BC]


def _plain(x: Any) -> Any:
    """A number of numpy's or of a tensor as Python's, and what is none as it is."""
    number = plain_number(x)
    return x if number is None else number


def waiting(patience: int, regression_threshold: float | None) -> Criterion:
    """Patience, by distance for regression."""
    if regression_threshold is None:
        return Patience(patience)
    return RegressionPatience(patience, regression_threshold)


class BertModelWithPabee(PabeeBody, BertModel):
    """BERT's body with PABEE's patience."""

    known_heads: ClassVar[Any] = (*BertModel.known_heads, "classifiers")


class AlbertModelWithPabee(PabeeBody, AlbertModel):
    """ALBERT's body with PABEE's patience."""

    known_heads: ClassVar[Any] = (*AlbertModel.known_heads, "classifiers")


class PabeeClassification(SequenceClassification):
    """A classifier after every layer, all over one pooler.

    `labels` [B] are class numbers, or targets of regression where there is one label.
    """

    owns_exits = True
    dropout: nn.Dropout
    classifiers: nn.ModuleList

    def build_head(self, config: Any) -> None:
        """The classifiers, the last of which is the model's own head."""
        self.dropout = head_dropout(config)
        self.classifiers = nn.ModuleList(
            nn.Linear(config.hidden_size, config.num_labels)
            for _ in range(config.num_hidden_layers)
        )

    @property
    def regresses(self) -> bool:
        """Whether answers are numbers: two agree that are close."""
        return Task.of(self.config).kind == "regression"

    @property
    def exits(self) -> OwnedExits:
        """The classifiers but the last, which is the model's own head, as others take exits.

        Depths are steps, of which a layer may have several (`AlbertModel`).
        """
        body, dropout = cast(PabeeBody, self.base_model), self.dropout
        *early, _ = (cast(Call, classifier) for classifier in self.classifiers)

        def view() -> OwnedExits:
            ramps = {
                layer * body.steps_a_layer: PabeeRamp(body, dropout, classifier)
                for layer, classifier in enumerate(early, start=1)
            }
            return OwnedExits(self, ramps, dropout.p)

        return owned_exits(self, (body, dropout, dropout.p, *early), view)

    @property
    def owned_criterion(self) -> Criterion:
        """The body's patience; what is set must be of the same kind."""
        body = cast(PabeeBody, self.base_model)
        return waiting(body.patience, body.regression_threshold if self.regresses else None)

    @owned_criterion.setter
    def owned_criterion(self, value: Criterion) -> None:
        body, wanted = cast(PabeeBody, self.base_model), type(self.owned_criterion)
        if not isinstance(value, (Patience, RegressionPatience)) or type(value) is not wanted:
            raise ConfigError(
                f"PABEE's rows leave by patience: set a {wanted.__name__}; got {value!r}. For "
                f"other criteria open it as {type(self).__name__.removesuffix('WithPabee')}."
            )
        body.patience = value.patience
        if isinstance(value, RegressionPatience):
            body.regression_threshold = value.threshold

    def exit_settings(self) -> dict[str, Any]:
        """The body's."""
        return cast(PabeeBody, self.base_model).exit_settings()

    def take_exit_settings(self, values: Mapping[str, Any]) -> None:
        """The body's."""
        cast(PabeeBody, self.base_model).take_exit_settings(values)

    def row_logits(self, pooled_RD: Tensor) -> Tensor:
        """[R, C] from pooled rows, by the last classifier."""
        logits_RC: Tensor = self.classifiers[-1](self.dropout(pooled_RD))
        return logits_RC

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """(loss, logits [B, C]) for a padded batch; the loss where there are `labels`.

        It is the mean of the classifiers' losses, weighted by their layer's number, from 1; in eval
        mode that of the logits. The other arguments are those of `BertModel.forward`.
        """
        said = self.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_dropout=self.dropout,
            output_layers=list(self.classifiers),
            regression=self.regresses,
        )
        if labels is None:
            return (said[-1],)
        logits = dict(enumerate(said, start=1))
        return (depth_weighted_loss(logits, labels, self.config.problem_type), said[-1])


class BertForSequenceClassificationWithPabee(PabeeClassification, BertPreTrainedModel):
    """BERT with PABEE's classifiers."""

    base_model_class: ClassVar[Any] = BertModelWithPabee


class AlbertForSequenceClassificationWithPabee(PabeeClassification, AlbertPreTrainedModel):
    """ALBERT with PABEE's classifiers."""

    base_model_class: ClassVar[Any] = AlbertModelWithPabee
