"""Writing token by token: the likeliest next one, or one that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offramp.generation.config import GenerationConfig
from offramp.generation.decoder import Decoder
from offramp.generation.processors import (
    Processor,
    Texts,
    check_numbers,
    processors_of,
    warpers_of,
)

Stop = Callable[[Texts], Tensor]
"""Which texts end here, [R] bool."""


@dataclass(frozen=True)
class Written:
    """Texts that were written: `texts`, and of each new token the scores it was chosen by.

    `scores` are, a step, [R, V] beside the rows' numbers; kept where they were asked for.
    """

    texts: Texts
    scores: tuple[Tensor, ...] = ()


def prompts_as_texts(prompts: Sequence[Tensor], most_R: Tensor) -> Texts:
    """Prompts of one token at least as texts with room behind them."""
    lengths_R = torch.tensor([len(prompt) for prompt in prompts])
    ids_RL = torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True, padding_value=-1)
    return Texts(ids_RL, lengths_R, lengths_R.clone(), most_R)


def write(
    decoder: Decoder,
    texts: Texts,
    config: GenerationConfig,
    *,
    seeds: Sequence[int] = (),
    more_processors: Sequence[Processor] = (),
    stops: Sequence[Stop] = (),
    keep_scores: bool = False,
    told: Callable[[Tensor, Tensor], None] | None = None,
) -> Written:
    """Write behind prompts that the decoder has not read yet, the likeliest token or one drawn.

    `seeds` are one a text of those that are written, where tokens are drawn. A row that ends leaves
    the decoder. `told` hears of each step's rows and tokens.
    """
    processors = [*processors_of(config), *more_processors]
    warpers = warpers_of(config) if config.do_sample else []
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    logits_RV = decoder.feed(texts.ids_RL.clamp(min=0), texts.lengths_R)
    if config.num_return_sequences > 1:
        each = torch.arange(len(texts.lengths_R)).repeat_interleave(config.num_return_sequences)
        decoder.take(each)
        texts, logits_RV = texts.take(each), logits_RV[each]
    here = torch.arange(len(texts.lengths_R))
    ends = torch.tensor(config.ends, dtype=torch.int64)
    all_texts, scores = texts, []
    while len(here):
        logits_RV = check_numbers(logits_RV.float(), config.remove_invalid_values)
        for process in processors:
            logits_RV = process(texts, logits_RV)
        for warp in warpers:
            logits_RV = warp(logits_RV)
        if keep_scores:
            scores.append(_placed(logits_RV, here, len(all_texts.lengths_R)))
        if config.do_sample:
            tokens_R = drawn(logits_RV, [draws[row] for row in here.tolist()])
        else:
            tokens_R = logits_RV.argmax(-1)
        texts = texts.with_next(tokens_R)
        if told is not None:
            told(here, tokens_R)
        over_R = (texts.lengths_R >= texts.most_R) | torch.isin(tokens_R, ends)
        for stop in stops:
            over_R = over_R | stop(texts)
        if bool(over_R.any()):
            all_texts = _put(all_texts, here[over_R], texts.take(over_R.nonzero()[:, 0]))
            stay = (~over_R).nonzero()[:, 0]
            here, texts, tokens_R = here[stay], texts.take(stay), tokens_R[stay]
            decoder.take(stay)
        if len(here):
            logits_RV = decoder.feed(tokens_R[:, None], torch.ones_like(here))
    return Written(all_texts, tuple(scores))


def drawn(logits_RV: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """A token of each row, by a generator of its own: no other row has a part in it."""
    chances_RV = logits_RV.double().softmax(-1).cumsum(-1)
    at_R = torch.cat([torch.rand(1, generator=draw, dtype=torch.float64) for draw in draws])
    at_R1 = (at_R * chances_RV[:, -1])[:, None]
    return torch.searchsorted(chances_RV, at_R1, right=True)[:, 0].clamp(max=logits_RV.shape[1] - 1)


def _put(into: Texts, rows: Tensor, texts: Texts) -> Texts:
    """Some of the rows as they are now."""
    length = max(into.ids_RL.shape[1], texts.ids_RL.shape[1])
    ids_RL = into.ids_RL.new_full((len(into.lengths_R), length), -1)
    ids_RL[:, : into.ids_RL.shape[1]] = into.ids_RL
    ids_RL[rows, : texts.ids_RL.shape[1]] = texts.ids_RL
    ids_RL[rows, texts.ids_RL.shape[1] :] = -1
    lengths_R = into.lengths_R.index_copy(0, rows, texts.lengths_R)
    return Texts(ids_RL, lengths_R, into.prompts_R, into.most_R)


def _placed(values_RV: Tensor, rows: Tensor, count: int) -> Tensor:
    """Values of some rows among all, NaN for the others."""
    placed = values_RV.new_full((count, values_RV.shape[1]), torch.nan)
    return placed.index_copy(0, rows, values_RV)
