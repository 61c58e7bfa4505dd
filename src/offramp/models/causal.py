"""The task of saying the next word."""

from __future__ import annotations

import abc
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from offramp.models.encoder import EncoderBody
from offramp.models.heads import LabelledTask
from offramp.models.inputs import Inputs
from offramp.models.losses import token_loss
from offramp.models.outputs import CausalLMOutput
from offramp.models.passing import Passed
from offramp.nn.cache import Cache, Continued


class CausalLM(LabelledTask[CausalLMOutput]):
    """The head that says each token's next word: logits [B, L, V].

    `labels` [B, L] are the words' ids themselves, -100 where none is asked for: a token's logits
    are held against the label behind it, and those of the last against none.
    """

    @abc.abstractmethod
    def words(self, hidden: Tensor) -> Tensor:
        """[.., V] from hidden states [.., D]."""

    def decoder(self, n_rows: int, capacity: int) -> CachedDecoder:
        """What `generate` writes with, for so many rows of so many tokens at most."""
        return CachedDecoder(self, n_rows, capacity)

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


class CachedDecoder:
    """Rows of a causal model, and the keys and values of what it read of them."""

    def __init__(self, model: CausalLM, n_rows: int, capacity: int) -> None:
        self._model, self._stack = model, cast(EncoderBody, model.stack)
        self._cache = Cache(self._stack.n_layers, n_rows, capacity)

    def feed(self, ids_RL: Tensor, counts_R: Tensor) -> Tensor:
        """Read more tokens of each row; the logits [R, V] of what comes behind the last of them."""
        stack, cache = self._stack, self._cache
        n_rows, length = ids_RL.shape
        positions_RL = cache.lengths_R[:, None] + torch.arange(length)
        inputs = Inputs(
            layout=Continued(n_rows, length, cache=cache),
            row_ids_R=torch.arange(n_rows),
            positions=positions_RL.clamp(max=stack.max_length - 1),  # padding may be behind them
            ids=ids_RL,
        )
        flow = stack.start(inputs)
        for i in range(stack.n_layers):
            flow = stack.step(flow, i)
        if length > 1:
            last_RD = flow.hidden[torch.arange(n_rows), counts_R - 1]
            flow = replace(flow, hidden=last_RD)
        cache.advance(counts_R)
        hidden = stack.finish(flow).hidden
        return self._model.words(hidden if length > 1 else hidden[:, 0])

    def take(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be there more than once."""
        self._cache.take(rows)
