"""The tasks that families are pretrained with: words, the order of sentences, replaced tokens."""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor

from offramp.models.heads import LabelledTask, Task
from offramp.models.losses import classification_loss, replaced_loss, token_loss
from offramp.models.outputs import (
    MaskedLMOutput,
    NextSentencePredictorOutput,
    PreTrainingOutput,
    ReplacedTokensOutput,
    WordsAndOrderOutput,
)
from offramp.models.passing import Options, Passed, pass_layers


class MaskedLM(LabelledTask[MaskedLMOutput]):
    """The head that guesses masked words, tied to the word embedding: logits [B, L, V].

    `labels` [B, L] are the words' ids, -100 where none is asked for. There is no pooler.
    """

    @abc.abstractmethod
    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""

    def answer(self, passed: Passed, labels: Tensor | None) -> MaskedLMOutput:
        """Logits [B, L, V] and, where there are labels, the mean loss over those but -100."""
        logits_BLV = passed.tokens(self.words(passed.flow.hidden))
        loss = None if labels is None else token_loss(logits_BLV, labels, passed.real_mask)
        return MaskedLMOutput(loss, logits_BLV, passed.hidden_states, passed.attentions)


class NextSentence(LabelledTask[NextSentencePredictorOutput]):
    """Whether a pair's second sentence follows the first (0) or was drawn at random (1).

    Logits are [B, 2] and `labels` [B].
    """

    reads_pooler = True

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
    """Both heads of BERT's pretraining, masked words and next sentence.

    `prediction_logits` are [B, L, V], `seq_relationship_logits` [B, 2].
    """

    reads_pooler = True

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
        task_type_ids: Tensor | None = None,
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
            task_type_ids,
        )
        words_BLV = passed.tokens(self.words(passed.flow.hidden))
        next_B2 = passed.rows(self.next_sentence(self.stack.pool(passed.flow)))
        loss = _of_both(passed, words_BLV, labels, next_B2, next_sentence_label)
        return passed.options.result(
            PreTrainingOutput(loss, words_BLV, next_B2, passed.hidden_states, passed.attentions)
        )


class WordsAndOrder(Task):
    """Both heads of ALBERT's pretraining, masked words and the order of two sentences.

    `prediction_logits` are [B, L, V], `sop_logits` [B, 2]: in order (0), or the other way (1).
    """

    reads_pooler = True

    @abc.abstractmethod
    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""

    @abc.abstractmethod
    def order(self, pooled_RD: Tensor) -> Tensor:
        """[R, 2] from pooled rows."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        sentence_order_label: Tensor | None = None,
        *,
        task_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> WordsAndOrderOutput | tuple[Any, ...]:
        """As the other tasks' `forward`; `labels` [B, L] are ids, `sentence_order_label` [B].

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
            task_type_ids,
        )
        words_BLV = passed.tokens(self.words(passed.flow.hidden))
        order_B2 = passed.rows(self.order(self.stack.pool(passed.flow)))
        loss = _of_both(passed, words_BLV, labels, order_B2, sentence_order_label)
        return passed.options.result(
            WordsAndOrderOutput(loss, words_BLV, order_B2, passed.hidden_states, passed.attentions)
        )


class ReplacedTokens(LabelledTask[ReplacedTokensOutput]):
    """How surely each token was replaced by a generator's: logits [B, L], above 0 if so.

    `labels` [B, L] are 1 for tokens that were, 0 for others, -100 for those that do not count.
    """

    @abc.abstractmethod
    def replaced(self, hidden: Tensor) -> Tensor:
        """[.., 1] from hidden states [.., D]."""

    def answer(self, passed: Passed, labels: Tensor | None) -> ReplacedTokensOutput:
        """Logits [B, L] and, where there are labels, the mean loss over those but -100."""
        logits_BL = passed.tokens(self.replaced(passed.flow.hidden))[..., 0]
        loss = None if labels is None else replaced_loss(logits_BL, labels, passed.real_mask)
        return ReplacedTokensOutput(loss, logits_BL, passed.hidden_states, passed.attentions)


def _of_both(
    passed: Passed,
    words_BLV: Tensor,
    labels: Tensor | None,
    pair_B2: Tensor,
    pair_label: Tensor | None,
) -> Tensor | None:
    """The sum of the losses of two heads, where both have labels."""
    if labels is None or pair_label is None:
        return None
    of_words = token_loss(words_BLV, labels, passed.real_mask)
    return of_words + classification_loss(pair_B2, pair_label, "single_label_classification")
