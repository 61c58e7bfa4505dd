"""What a body's output is made into: the tasks that every family shares.

A task is a mixin that runs the layers and says what the head makes of them. A family's class builds
the modules, under the names of its checkpoints, and takes the task:

    class BertForTokenClassification(TokenClassification, BertPreTrainedModel): ...

Most tasks have one kind of labels and share a `forward` (`LabelledTask`). Those with other
arguments write theirs out, because trainers read the names of labels in its signature.
"""

from __future__ import annotations

import abc
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from offramp.errors import ConfigError, InputError
from offramp.models.base import PretrainedModel
from offramp.models.config import PretrainedConfig
from offramp.models.flow import Flow, LayerStack
from offramp.models.losses import classification_loss, span_loss, token_loss
from offramp.models.outputs import (
    MaskedLMOutput,
    ModelOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    PreTrainingOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from offramp.models.passing import Options, Passed, pass_layers

Output = TypeVar("Output", bound=ModelOutput)


class Task(PretrainedModel):
    """A body, and a head that answers."""

    dropout: nn.Module
    classifier: nn.Module

    @property
    def stack(self) -> LayerStack:
        """The body."""
        return cast(LayerStack, self.base_model)


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
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Output | tuple[Any, ...]:
        """The task's output for a padded batch, with the loss where `labels` are given.

        The class says what logits and labels are. `input_ids`, `token_type_ids` and `position_ids`
        are [B, L] int64, `inputs_embeds` [B, L, D] in place of the ids; `attention_mask` is [B, L]
        (1 real, 0 not; any pattern) or [B, L, L] (query, key). What is said of masked positions is
        0. `head_mask` [H] or [N, H] multiplies the attention of each head. With `return_dict=False`
        the result is a tuple of what is not None. Early exits are `offramp.Runner`'s.
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
        )
        return passed.options.result(self.answer(passed, labels))


class SequenceClassification(LabelledTask[SequenceClassifierOutput]):
    """Logits [B, C] of a row at full depth.

    Labels [B] are class numbers (int64), or targets for regression (C = 1) and multi-label ([B, C],
    floating); `config.problem_type` decides, or else their type.
    """

    reads_first = True  # what it reads is the body's pooled row; the body says what that is of

    def logits(self, flow: Flow) -> Tensor:
        """[R, C] for a finished flow, in the flow's row order."""
        logits_RC: Tensor = self.classifier(self.dropout(self.stack.pool(flow)))
        return logits_RC

    def answer(self, passed: Passed, labels: Tensor | None) -> SequenceClassifierOutput:
        """Logits [B, C] and, where there are labels, `classification_loss`."""
        logits_BC = passed.rows(self.logits(passed.flow))
        loss = None
        if labels is not None:
            loss = classification_loss(logits_BC, labels, self.config.problem_type)
        return SequenceClassifierOutput(loss, logits_BC, passed.hidden_states, passed.attentions)


class TokenClassification(LabelledTask[TokenClassifierOutput]):
    """Logits [B, L, C] of each token.

    Labels [B, L] are class numbers, -100 where there is none (a word's second subword, say).
    """

    def answer(self, passed: Passed, labels: Tensor | None) -> TokenClassifierOutput:
        """Logits [B, L, C] and, where there are labels, the mean loss over those but -100."""
        logits_BLC = passed.tokens(self.classifier(self.dropout(passed.flow.hidden)))
        loss = None if labels is None else token_loss(logits_BLC, labels, passed.real_mask)
        return TokenClassifierOutput(loss, logits_BLC, passed.hidden_states, passed.attentions)


class MultipleChoice(Task):
    """Logits [B, choices]: a score for each choice, from its pooled row.

    All arguments have the choices as their second dimension, [B, choices, L]. Labels [B] are the
    numbers of the right ones. Hidden states come back as [B x choices, L, D].
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MultipleChoiceModelOutput | tuple[Any, ...]:
        """As the other tasks' `forward`, with [B, choices, L] in place of [B, L]."""
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or given.dim() != (3 if inputs_embeds is None else 4):
            raise InputError(
                "Multiple choice takes input_ids [batch, choices, length], or inputs_embeds "
                f"[batch, choices, length, width]; got {None if given is None else [*given.shape]}."
            )

        def flat(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.flatten(0, 1)

        passed = pass_layers(
            self.stack,
            flat(input_ids),
            flat(attention_mask),
            flat(token_type_ids),
            flat(position_ids),
            flat(inputs_embeds),
            Options.asked(
                self.config, output_hidden_states, output_attentions, head_mask, return_dict
            ),
        )
        logits_RC = self.classifier(self.dropout(self.stack.pool(passed.flow)))
        logits_BC = passed.rows(logits_RC).view(given.shape[:2])
        loss = None
        if labels is not None:
            loss = classification_loss(logits_BC, labels, "single_label_classification")
        output = MultipleChoiceModelOutput(loss, logits_BC, passed.hidden_states, passed.attentions)
        return passed.options.result(output)


class QuestionAnswering(Task):
    """Logits of an answer's first and last token, [B, L] each.

    At masked positions they are the type's lowest number: no answer is there.
    """

    qa_outputs: nn.Module

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
        )
        both_BL2 = passed.tokens(self.qa_outputs(passed.flow.hidden))
        if both_BL2.shape[-1] != 2:
            raise ConfigError(
                "Question answering has two outputs a token, first and last; this configuration "
                f"has num_labels={both_BL2.shape[-1]}. Load the model with num_labels=2."
            )
        lowest = torch.finfo(both_BL2.dtype).min
        start_BL, end_BL = both_BL2.masked_fill(~passed.real_mask[..., None], lowest).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start_BL, end_BL, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(
            loss, start_BL, end_BL, passed.hidden_states, passed.attentions
        )
        return passed.options.result(output)


class MaskedLM(LabelledTask[MaskedLMOutput]):
    """Logits [B, L, V]: a word for each position. Labels [B, L] are words' ids, or -100."""

    @abc.abstractmethod
    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""

    def answer(self, passed: Passed, labels: Tensor | None) -> MaskedLMOutput:
        """Logits [B, L, V] and, where there are labels, the mean loss over those but -100."""
        logits_BLV = passed.tokens(self.words(passed.flow.hidden))
        loss = None if labels is None else token_loss(logits_BLV, labels, passed.real_mask)
        return MaskedLMOutput(loss, logits_BLV, passed.hidden_states, passed.attentions)


class NextSentence(LabelledTask[NextSentencePredictorOutput]):
    """Logits [B, 2]: a pair's second sentence follows (0), or was drawn at random (1)."""

    @abc.abstractmethod
    def next_sentence(self, pooled_RD: Tensor) -> Tensor:
        """[R, 2] from pooled rows."""

    def answer(self, passed: Passed, labels: Tensor | None) -> NextSentencePredictorOutput:
        """Logits [B, 2] and, where there are labels, the mean cross-entropy."""
        logits_B2 = passed.rows(self.next_sentence(self.stack.pool(passed.flow)))
        loss = None
        if labels is not None:
            loss = classification_loss(logits_B2, labels, "single_label_classification")
        return NextSentencePredictorOutput(loss, logits_B2, passed.hidden_states, passed.attentions)


class WordsAndNextSentence(Task):
    """Both heads of BERT's pretraining: logits [B, L, V] and [B, 2]."""

    @abc.abstractmethod
    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""

    @abc.abstractmethod
    def next_sentence(self, pooled_RD: Tensor) -> Tensor:
        """[R, 2] from pooled rows."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        *,
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> PreTrainingOutput | tuple[Any, ...]:
        """As the other tasks' `forward`; `labels` [B, L] are ids, `next_sentence_label` [B] 0 or 1.

        The loss is the sum of the two heads', and is there where both are given.
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
        )
        words_BLV = passed.tokens(self.words(passed.flow.hidden))
        next_B2 = passed.rows(self.next_sentence(self.stack.pool(passed.flow)))
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = token_loss(words_BLV, labels, passed.real_mask) + classification_loss(
                next_B2, next_sentence_label, "single_label_classification"
            )
        output = PreTrainingOutput(
            loss, words_BLV, next_B2, passed.hidden_states, passed.attentions
        )
        return passed.options.result(output)


def head_dropout(config: PretrainedConfig) -> nn.Dropout:
    """The dropout before a classifier: `classifier_dropout`, or else `hidden_dropout_prob`."""
    own = getattr(config, "classifier_dropout", None)
    return nn.Dropout(config.hidden_dropout_prob if own is None else own)
