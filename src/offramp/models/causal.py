"""The task of saying the next word."""

from __future__ import annotations

import abc

from torch import Tensor

from offramp.models.heads import LabelledTask
from offramp.models.losses import token_loss
from offramp.models.outputs import CausalLMOutput
from offramp.models.passing import Passed


class CausalLM(LabelledTask[CausalLMOutput]):
    """The head that says each token's next word: logits [B, L, V].

    `labels` [B, L] are the words' ids themselves, -100 where none is asked for: a token's logits
    are held against the label behind it, and those of the last against none.
    """

    @abc.abstractmethod
    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""

    def answer(self, passed: Passed, labels: Tensor | None) -> CausalLMOutput:
        """Logits [B, L, V] and, where there are labels, the mean loss over those but -100."""
        logits_BLV = passed.tokens(self.words(passed.flow.hidden))
        loss = None
        if labels is not None:
            real_BL = passed.real_mask.clone()
            real_BL[:, 1:] &= passed.real_mask[:, :-1]
            real_BL[:, 0] = False
            loss = token_loss(logits_BLV.roll(1, 1), labels, real_BL)
        return CausalLMOutput(loss, logits_BLV, passed.hidden_states, passed.attentions)
