"""What a body's output is made into: the tasks that every family shares.

A task is a mixin that builds a body and a head under the names of most checkpoints, runs the layers
and says what the head makes of them. A family's class takes the task, and overrides what its
checkpoints have otherwise:

    class BertForTokenClassification(TokenClassification, BertPreTrainedModel): ...

Most tasks have one kind of labels and share a `forward` (`LabelledTask`). Those with other
arguments write theirs out, because trainers read the names of labels in its signature.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from offramp.errors import ConfigError, InputError
from offramp.models.base import PretrainedModel
from offramp.models.checks import check_tensor
from offramp.models.config import PretrainedConfig
from offramp.models.flow import ExitableModel, Flow, LayerStack, reads_first
from offramp.models.losses import classification_loss, span_loss, token_loss
from offramp.models.modules import ClassificationHead
from offramp.models.outputs import (
    ModelOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from offramp.models.passing import Options, Passed, pass_layers

Output = TypeVar("Output", bound=ModelOutput)


class Task(PretrainedModel):
    """A body, and a head that answers."""

    reads_pooler: ClassVar[bool] = False
    """Whether the head reads the body's pooler, where the family has one."""
    dropout: nn.Module
    classifier: nn.Module

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        family = cast(Any, self.base_model_class)
        without = "pooler" in self.optional_modules and not self.reads_pooler
        body = family(config, add_pooling_layer=False) if without else family(config)
        setattr(self, self.base_model_prefix, body)
        self.build_head(config)
        self.init_weights()

    def build_head(self, config: Any) -> None:
        """Make the head's modules, under the names of the family's checkpoints."""

    @property
    def stack(self) -> LayerStack:
        """The body."""
        return cast(LayerStack, self.base_model)

    @property
    def reads_first_alone(self) -> bool:
        """Whether the answer needs the last layer for the first token of each row alone."""
        return False


class LabelledTask(Task, Generic[Output]):
    """A task whose answer and loss are one output of one kind of `labels`."""

    @abc.abstractmethod
    def answer(self, passed: Passed, labels: Tensor | None) -> Output:
        """What `forward` returns for a batch that has passed the layers."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        task_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Output | tuple[Any, ...]:
        """The task's output for a padded batch, with the loss where `labels` are given.

        The class says what logits and labels are; the body's `forward` what the other arguments
        are. What is said of masked positions is 0. With `return_dict=False` the result is a tuple
        of what is not None. Early exits are `offramp.Runner`'s.
        """
        passed = pass_layers(
            self.stack,
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            Options.asked(
                self.config, output_hidden_states, output_attentions, head_mask, return_dict
            ),
            task_type_ids,
            self.reads_first_alone,
        )
        return passed.options.result(self.answer(passed, labels))


class SequenceClassification(LabelledTask[SequenceClassifierOutput]):
    """A classifier over the pooled row: logits [B, C], at full depth.

    `labels` [B] are class numbers (int64), or targets for regression (C = 1) and multi-label
    ([B, C], floating); `config.problem_type` decides, or else their type.
    """

    reads_pooler = True
    reads_first = True  # what it reads is the body's pooled row; the body says what that is of

    def build_head(self, config: Any) -> None:
        """The head's modules, under the names of most families' checkpoints."""
        self.dropout = head_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    @property
    def reads_first_alone(self) -> bool:
        """So it is where the body and the head say that they read nothing else."""
        return reads_first(self) and reads_first(self, "answer")

    def logits(self, flow: Flow) -> Tensor:
        """[R, C] for a finished flow, in the flow's row order."""
        return self.score(self.stack.pool(flow))

    def score(self, pooled_RD: Tensor) -> Tensor:
        """[R, C] from pooled rows."""
        logits_RC: Tensor = self.classifier(self.dropout(pooled_RD))
        return logits_RC

    def answer(self, passed: Passed, labels: Tensor | None) -> SequenceClassifierOutput:
        """Logits [B, C] and, where there are labels, `classification_loss`."""
        logits_BC = passed.rows(self.logits(passed.flow))
        loss = None
        if labels is not None:
            loss = classification_loss(logits_BC, labels, self.config.problem_type)
        return SequenceClassifierOutput(loss, logits_BC, passed.hidden_states, passed.attentions)


class TwoLayerClassification(SequenceClassification):
    """`SequenceClassification` with a layer of its own between the first token and the logits.

    There is no pooler.
    """

    reads_pooler = False
    head_act: ClassVar[str] = "tanh"
    """The activation between the two."""

    def build_head(self, config: Any) -> None:
        """The head's modules, as RoBERTa's checkpoints name them."""
        width, dropout = config.hidden_size, head_dropout(config).p
        self.classifier = ClassificationHead(width, config.num_labels, dropout, self.head_act)

    def score(self, pooled_RD: Tensor) -> Tensor:
        """[R, C] from first tokens."""
        logits_RC: Tensor = self.classifier(pooled_RD)
        return logits_RC


class TokenClassification(LabelledTask[TokenClassifierOutput]):
    """A linear classifier over each token: logits [B, L, C]. There is no pooler.

    `labels` [B, L] are class numbers, -100 where there is none (a word's second subword, say).
    """

    answers_tokens: ClassVar[bool] = True

    def build_head(self, config: Any) -> None:
        """The head's modules, under the names of most families' checkpoints."""
        self.dropout = head_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def token_logits(self, hidden: Tensor) -> Tensor:
        """[.., C] from hidden states [.., D]."""
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits

    def logits(self, flow: Flow) -> Tensor:
        """[T, C] for a finished flow, in the flow's order of tokens."""
        return self.token_logits(flow.hidden)

    def answer(self, passed: Passed, labels: Tensor | None) -> TokenClassifierOutput:
        """Logits [B, L, C] and, where there are labels, the mean loss over those but -100."""
        logits_BLC = passed.tokens(self.token_logits(passed.flow.hidden))
        loss = None if labels is None else token_loss(logits_BLC, labels, passed.real_mask)
        return TokenClassifierOutput(loss, logits_BLC, passed.hidden_states, passed.attentions)


class MultipleChoice(Task):
    """A linear score over each choice's pooled row: logits [B, choices].

    All arguments have the choices as their second dimension, [B, choices, L]. `labels` [B] are the
    numbers of the right ones. Hidden states come back as [B x choices, L, D].
    """

    reads_pooler = True
    reads_first = True  # of `score`, as a classifier of rows says it of its `logits`

    def build_head(self, config: Any) -> None:
        """The head's modules, under the names of most families' checkpoints."""
        self.dropout = head_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, 1)

    @property
    def reads_first_alone(self) -> bool:
        """So it is where the body and the head say that they read nothing else."""
        return reads_first(cast(ExitableModel, self), "score")

    def score(self, flow: Flow) -> Tensor:
        """[R, 1] for a finished flow."""
        logits_R1: Tensor = self.classifier(self.dropout(self.stack.pool(flow)))
        return logits_R1

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        task_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MultipleChoiceModelOutput | tuple[Any, ...]:
        """As the other tasks' `forward`, with [B, choices, L] in place of [B, L]."""
        check_tensor("input_ids", input_ids)
        check_tensor("inputs_embeds", inputs_embeds)
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or given.dim() != (3 if inputs_embeds is None else 4):
            raise InputError(
                "Multiple choice takes input_ids [batch, choices, length], or inputs_embeds "
                f"[batch, choices, length, width]; got {None if given is None else [*given.shape]}."
            )

        def flat(name: str, x: Tensor | None) -> Tensor | None:
            check_tensor(name, x)
            if x is not None and (x.dim() < 3 or x.shape[:2] != given.shape[:2]):
                rows, choices, length = given.shape[:3]
                raise InputError(
                    f"{name} must be [{rows}, {choices}, {length}] beside these inputs, with the "
                    f"choices as the second dimension; got {list(x.shape)}."
                )
            return None if x is None else x.flatten(0, 1)

        passed = pass_layers(
            self.stack,
            flat("input_ids", input_ids),
            flat("attention_mask", attention_mask),
            flat("token_type_ids", token_type_ids),
            flat("position_ids", position_ids),
            flat("inputs_embeds", inputs_embeds),
            Options.asked(
                self.config, output_hidden_states, output_attentions, head_mask, return_dict
            ),
            flat("task_type_ids", task_type_ids),
            self.reads_first_alone,
        )
        logits_BC = passed.rows(self.score(passed.flow)).view(given.shape[:2])
        loss = None
        if labels is not None:
            loss = classification_loss(logits_BC, labels, "single_label_classification")
        output = MultipleChoiceModelOutput(loss, logits_BC, passed.hidden_states, passed.attentions)
        return passed.options.result(output)


class QuestionAnswering(Task):
    """A linear layer that finds the first and last token of an answer: logits [B, L] of each.

    At masked positions they are the type's lowest number: no answer is there. The configuration has
    num_labels=2. There is no pooler.
    """

    qa_outputs: nn.Module

    def build_head(self, config: Any) -> None:
        """The head's modules, under the names of most families' checkpoints."""
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels)

    def span_logits(self, hidden: Tensor) -> Tensor:
        """[.., 2] from hidden states [.., D]: an answer begins here, and ends here."""
        both: Tensor = self.qa_outputs(hidden)
        if both.shape[-1] != 2:
            raise ConfigError(
                "Question answering has two outputs a token, first and last; this configuration "
                f"has num_labels={both.shape[-1]}. Load the model with num_labels=2."
            )
        return both

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        *,
        task_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """As the other tasks' `forward`; `start_positions` and `end_positions` are the labels.

        They are [B], places in the row; one outside it (an answer that was cut off) is left out of
        the loss, which is there where both are given.
        """
        passed = pass_layers(
            self.stack,
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
        both_BL2 = passed.tokens(self.span_logits(passed.flow.hidden))
        lowest = torch.finfo(both_BL2.dtype).min
        start_BL, end_BL = both_BL2.masked_fill(~passed.real_mask[..., None], lowest).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start_BL, end_BL, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(
            loss, start_BL, end_BL, passed.hidden_states, passed.attentions
        )
        return passed.options.result(output)


def head_dropout(config: PretrainedConfig) -> nn.Dropout:
    """The dropout before a classifier: `classifier_dropout`, or else `hidden_dropout_prob`."""
    own = getattr(config, "classifier_dropout", None)
    return nn.Dropout(config.hidden_dropout_prob if own is None else own)
