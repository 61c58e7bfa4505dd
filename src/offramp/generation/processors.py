"""What is done to logits before a token is chosen: each a function of rows and their logits.

Rows are the texts so far without padding, so that none depends on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.errors import InputError
from offramp.generation.config import GenerationConfig


@dataclass(frozen=True)
class Texts:
    """R texts so far: `ids_RL` [R, L], -1 behind a row's `lengths_R`.

    `prompts_R` of its tokens were given, and it is full with `most_R`.
    """

    ids_RL: Tensor
    lengths_R: Tensor
    prompts_R: Tensor
    most_R: Tensor

    @property
    def real(self) -> Tensor:
        """Which places are tokens."""
        return self.ids_RL >= 0

    @property
    def written(self) -> Tensor:
        """Which places are tokens that were written."""
        places_L = torch.arange(self.ids_RL.shape[1], device=self.ids_RL.device)
        return self.real & (places_L >= self.prompts_R[:, None])

    def ends_with(self, count: int) -> Tensor:
        """The last so many tokens of each row, [R, count]; -1 before its first."""
        at_RC = self.lengths_R[:, None] - count + torch.arange(count, device=self.ids_RL.device)
        found_RC = self.ids_RL.gather(1, at_RC.clamp(min=0))
        return found_RC.masked_fill(at_RC < 0, -1)

    def take(self, rows: Tensor) -> Texts:
        """These rows, in this order."""
        return Texts(
            self.ids_RL[rows], self.lengths_R[rows], self.prompts_R[rows], self.most_R[rows]
        )

    def with_next(self, tokens_R: Tensor) -> Texts:
        """The texts with a token more each."""
        ids_RL = self.ids_RL
        if int(self.lengths_R.max()) == ids_RL.shape[1]:
            ids_RL = F.pad(ids_RL, (0, 32), value=-1)
        ids_RL = ids_RL.scatter(1, self.lengths_R[:, None], tokens_R[:, None])
        return Texts(ids_RL, self.lengths_R + 1, self.prompts_R, self.most_R)

    def counts_of(self, places_RL: Tensor, size: int) -> Tensor:
        """How often each of so many tokens is at these places of a row, [R, size]."""
        counts = torch.zeros(len(self.ids_RL), size + 1, device=self.ids_RL.device)
        where = torch.where(places_RL, self.ids_RL, size)
        return counts.scatter_add_(1, where, torch.ones_like(where, dtype=counts.dtype))[:, :size]


Processor: TypeAlias = Callable[[Texts, Tensor], Tensor]


def processors_of(config: GenerationConfig) -> list[Processor]:
    """What a configuration asks for, in transformers' order."""
    found: list[Processor] = []
    if config.repetition_penalty != 1:
        found.append(_repetition(config.repetition_penalty))
    if config.presence_penalty or config.frequency_penalty:
        found.append(_presence(config.presence_penalty, config.frequency_penalty))
    if config.no_repeat_ngram_size:
        found.append(_no_repeats(config.no_repeat_ngram_size))
    if config.bad_words_ids:
        found.append(_bad_words(config.bad_words_ids, config.ends))
    if config.ends and config.min_length:
        found.append(_not_yet(config.ends, lambda texts: texts.lengths_R < config.min_length))
    if config.ends and config.min_new_tokens:
        least = config.min_new_tokens
        found.append(_not_yet(config.ends, lambda texts: texts.lengths_R - texts.prompts_R < least))
    if config.forced_eos_token_id is not None:
        last = config.forced_eos_token_id
        found.append(_forced_at_the_end([last] if isinstance(last, int) else last))
    if config.suppress_tokens:
        found.append(_not_yet(config.suppress_tokens, lambda texts: texts.lengths_R >= 0))
    if config.begin_suppress_tokens:
        found.append(
            _not_yet(config.begin_suppress_tokens, lambda texts: texts.lengths_R == texts.prompts_R)
        )
    return found


def warpers_of(config: GenerationConfig) -> list[Callable[[Tensor], Tensor]]:
    """What is left to draw from, in transformers' order."""
    least = 1 if config.num_beams == 1 else max(2, len(config.ends) + 1)
    found: list[Callable[[Tensor], Tensor]] = []
    if config.temperature != 1:
        found.append(lambda logits_RV: logits_RV / config.temperature)
    if config.top_k:
        found.append(lambda logits_RV: top_k(logits_RV, max(config.top_k, least)))
    if config.top_p < 1:
        found.append(lambda logits_RV: top_p(logits_RV, config.top_p, least))
    if config.min_p is not None:
        share = config.min_p
        found.append(lambda logits_RV: min_p(logits_RV, share, least))
    if config.typical_p < 1:
        found.append(lambda logits_RV: typical(logits_RV, config.typical_p, least))
    return found


def top_k(logits_RV: Tensor, count: int) -> Tensor:
    """The likeliest so many; those as likely as the last of them too."""
    last_R1 = logits_RV.topk(min(count, logits_RV.shape[1])).values[:, -1:]
    return logits_RV.masked_fill(logits_RV < last_R1, -torch.inf)


def top_p(logits_RV: Tensor, share: float, least: int = 1) -> Tensor:
    """The likeliest that have this share of the probability together: Holtzman et al. 2020."""
    sorted_RV, order_RV = logits_RV.sort()
    out_RV = sorted_RV.softmax(-1).cumsum(-1) <= 1 - share
    out_RV[:, -least:] = False
    return logits_RV.masked_fill(out_RV.scatter(1, order_RV, out_RV), -torch.inf)


def min_p(logits_RV: Tensor, share: float, least: int = 1) -> Tensor:
    """Those with this share of the likeliest one's probability: Nguyen et al. 2024."""
    probabilities_RV = logits_RV.softmax(-1)
    out_RV = probabilities_RV < share * probabilities_RV.amax(-1, keepdim=True)
    kept = probabilities_RV.topk(min(least, logits_RV.shape[1])).indices
    return logits_RV.masked_fill(out_RV.scatter(1, kept, False), -torch.inf)


def typical(logits_RV: Tensor, share: float, least: int = 1) -> Tensor:
    """The most typical that have this share of the probability together."""
    log_RV = logits_RV.log_softmax(-1)
    entropy_R1 = -(log_RV.exp() * log_RV).nansum(-1, keepdim=True)
    order_RV = (-log_RV - entropy_R1).abs().sort().indices
    together_RV = logits_RV.gather(1, order_RV).softmax(-1).cumsum(-1)
    last_R1 = (together_RV < share).sum(1, keepdim=True).clamp(max=logits_RV.shape[1] - 1)
    out_RV = torch.arange(logits_RV.shape[1], device=logits_RV.device) > last_R1
    out_RV[:, :least] = False
    return logits_RV.masked_fill(out_RV.scatter(1, order_RV, out_RV), -torch.inf)


def check_numbers(logits_RV: Tensor, mend: bool) -> Tensor:
    """InputError where logits are NaN, or with `mend` 0 in their place."""
    if not bool(torch.isnan(logits_RV).any()):
        return logits_RV
    if not mend:
        row = int(torch.isnan(logits_RV).any(1).nonzero()[0])
        raise InputError(
            f"The model gave NaN for the next token of text {row}: its weights or its type of "
            "numbers are at fault. remove_invalid_values=True counts NaN as 0."
        )
    return logits_RV.nan_to_num(nan=0.0)


def _repetition(penalty: float) -> Processor:
    def process(texts: Texts, logits_RV: Tensor) -> Tensor:
        there_RV = texts.counts_of(texts.real, logits_RV.shape[1]) > 0
        less_RV = torch.where(logits_RV < 0, logits_RV * penalty, logits_RV / penalty)
        return torch.where(there_RV, less_RV, logits_RV)

    return process


def _presence(presence: float, frequency: float) -> Processor:
    def process(texts: Texts, logits_RV: Tensor) -> Tensor:
        counts_RV = texts.counts_of(texts.written, logits_RV.shape[1])
        return logits_RV - presence * (counts_RV > 0) - frequency * counts_RV

    return process


def _no_repeats(size: int) -> Processor:
    def process(texts: Texts, logits_RV: Tensor) -> Tensor:
        if texts.ids_RL.shape[1] < size:
            return logits_RV
        windows_RWN = texts.ids_RL.unfold(1, size, 1)
        begun_RN = texts.ends_with(size - 1)
        again_RW = (windows_RWN[..., :-1] == begun_RN[:, None]).all(-1)
        again_RW &= windows_RWN[..., -1] >= 0
        again_RW &= texts.lengths_R[:, None] + 1 >= size
        ends_RW = torch.where(again_RW, windows_RWN[..., -1], logits_RV.shape[1])
        out_RV = torch.zeros(len(logits_RV), logits_RV.shape[1] + 1, dtype=torch.bool)
        out_RV = out_RV.to(logits_RV.device).scatter(1, ends_RW, True)[:, :-1]
        return logits_RV.masked_fill(out_RV, -torch.inf)

    return process


def _bad_words(words: Sequence[Sequence[int]], ends: Sequence[int]) -> Processor:
    """A text's end is never a bad word."""
    kept = [word for word in words if not (len(word) == 1 and word[0] in ends)]

    def process(texts: Texts, logits_RV: Tensor) -> Tensor:
        out_RV = torch.zeros_like(logits_RV, dtype=torch.bool)
        for word in kept:
            begun = torch.tensor(word[:-1], device=logits_RV.device)
            out_RV[:, word[-1]] |= (texts.ends_with(len(word) - 1) == begun).all(1)
        return logits_RV.masked_fill(out_RV, -torch.inf)

    return process


def _not_yet(tokens: Sequence[int], when: Callable[[Texts], Tensor]) -> Processor:
    def process(texts: Texts, logits_RV: Tensor) -> Tensor:
        out_RV = torch.zeros_like(logits_RV, dtype=torch.bool)
        out_RV[:, list(tokens)] = True
        return logits_RV.masked_fill(out_RV & when(texts)[:, None], -torch.inf)

    return process


def _forced_at_the_end(tokens: Sequence[int]) -> Processor:
    def process(texts: Texts, logits_RV: Tensor) -> Tensor:
        forced_RV = torch.full_like(logits_RV, -torch.inf)
        forced_RV[:, list(tokens)] = 0
        at_the_end_R = texts.lengths_R == texts.most_R - 1
        return torch.where(at_the_end_R[:, None], forced_RV, logits_RV)

    return process
