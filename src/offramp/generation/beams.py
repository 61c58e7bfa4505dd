"""Writing along several ways at once: beam search, as transformers scores it."""

from __future__ import annotations

from collections.abc import Sequence
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
from offramp.generation.search import Stop, Written

WORST = -1e9
"""The score of what is no way."""


@dataclass
class _Whole:
    """The best whole texts of one prompt: scores and new tokens, the best first."""

    scores: list[float]
    news: list[Tensor]

    def add(self, score: float, new: Tensor, most: int) -> None:
        place = next((i for i, other in enumerate(self.scores) if score > other), len(self.scores))
        self.scores.insert(place, score)
        self.news.insert(place, new)
        del self.scores[most:], self.news[most:]


def write_beams(
    decoder: Decoder,
    prompts: Texts,
    config: GenerationConfig,
    *,
    seeds: Sequence[int] = (),
    more_processors: Sequence[Processor] = (),
    stops: Sequence[Stop] = (),
) -> Written:
    """Write behind prompts that the decoder has not read yet: each one's best whole texts.

    A prompt is done when its ways can give nothing better (`early_stopping`), and leaves the
    decoder. `seeds` are one a prompt, where tokens are drawn.
    """
    beams, n_prompts = config.num_beams, len(prompts.lengths_R)
    logits_PV = decoder.feed(prompts.ids_RL.clamp(min=0), prompts.lengths_R)
    each = torch.arange(n_prompts).repeat_interleave(beams)
    decoder.take(each)
    texts, logits_RV = prompts.take(each), logits_PV[each]
    processors = [*processors_of(config), *more_processors]
    processors += [_alone(warp) for warp in (warpers_of(config) if config.do_sample else [])]
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    whole = [_Whole([], []) for _ in range(n_prompts)]
    here = list(range(n_prompts))  # the prompts that are not done
    scores_PB = torch.full((n_prompts, beams), WORST)
    scores_PB[:, 0] = 0.0  # all ways are the same at first
    ends = torch.tensor(config.ends, dtype=torch.int64)
    width = max(2, 1 + len(config.ends)) * beams
    while here:
        logits_RV = check_numbers(logits_RV.float(), config.remove_invalid_values)
        log_RV = logits_RV.log_softmax(-1)
        for process in processors:
            log_RV = process(texts, log_RV)
        n_words = log_RV.shape[1]
        ways_PX = (log_RV.view(len(here), beams, n_words) + scores_PB[..., None]).flatten(1)
        best_PW, at_PW = _best(
            ways_PX, min(width, ways_PX.shape[1]), [draws[p] for p in here] if draws else []
        )
        beam_PW, tokens_PW = at_PW // n_words, at_PW % n_words
        rows_PW = beam_PW + torch.arange(len(here))[:, None] * beams
        longer = texts.take(rows_PW.flatten()).with_next(tokens_PW.flatten())
        over_W = (longer.lengths_R >= longer.most_R) | torch.isin(tokens_PW.flatten(), ends)
        for stop in stops:
            over_W = over_W | stop(longer)
        over_PW = over_W.view(len(here), -1)
        going_PW = best_PW + over_PW * WORST
        scores_PB, places_PB = going_PW.topk(beams)
        done = []
        for place, prompt in enumerate(here):
            of_prompt = slice(place * best_PW.shape[1], (place + 1) * best_PW.shape[1])
            own = longer.take(torch.arange(of_prompt.start, of_prompt.stop))
            _keep(whole[prompt], own, best_PW[place], over_PW[place], config)
            if bool(over_PW[place].all()) or _is_done(
                whole[prompt], float(scores_PB[place, 0]), own, config
            ):
                done.append(place)
        stay = [place for place in range(len(here)) if place not in done]
        here, scores_PB, places_PB = [here[p] for p in stay], scores_PB[stay], places_PB[stay]
        if here:
            chosen = (places_PB + torch.tensor(stay)[:, None] * best_PW.shape[1]).flatten()
            texts = longer.take(chosen)
            decoder.take(rows_PW.flatten()[chosen])
            last_R1 = texts.ends_with(1)
            logits_RV = decoder.feed(last_R1, torch.ones(len(last_R1), dtype=torch.int64))
    return _written(prompts, whole, config.num_return_sequences)


def _best(ways_PX: Tensor, count: int, draws: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """The best ways and their scores; or, where they are drawn, so many without replacement."""
    if not draws:
        return ways_PX.topk(count)
    # The largest after noise of Gumbel's are as drawn one by one: Kool et al. 2019.
    noise = [-torch.empty(ways_PX.shape[1]).exponential_(generator=draw).log() for draw in draws]
    at_PW = (ways_PX + torch.stack(noise)).topk(count).indices
    return ways_PX.gather(1, at_PW), at_PW


def _keep(
    whole: _Whole, own: Texts, scores_W: Tensor, over_W: Tensor, config: GenerationConfig
) -> None:
    """The whole texts among a prompt's best ways; those behind are there to go on with."""
    if config.early_stopping is True and len(whole.scores) == config.num_beams:
        return
    for place in range(config.num_beams):
        if bool(over_W[place]) and scores_W[place] > WORST / 2:
            first, last = int(own.prompts_R[place]), int(own.lengths_R[place])
            score = float(scores_W[place]) / (last - first) ** config.length_penalty
            whole.add(score, own.ids_RL[place, first:last], config.num_beams)


def _is_done(whole: _Whole, best: float, own: Texts, config: GenerationConfig) -> bool:
    """Whether a prompt's ways can give nothing better than its whole texts."""
    if len(whole.scores) < config.num_beams:
        return False
    if config.early_stopping is True:
        return True
    length = int(own.lengths_R[0] - own.prompts_R[0])
    if config.early_stopping == "never" and config.length_penalty > 0:
        length = int(own.most_R[0] - own.prompts_R[0])
    hoped: float = best / length**config.length_penalty
    return hoped <= whole.scores[-1]


def _alone(warp: object) -> Processor:
    """What looks at logits alone, as a processor."""

    def process(texts: Texts, logits_RV: Tensor) -> Tensor:
        warped: Tensor = warp(logits_RV)  # type: ignore[operator]
        return warped

    return process


def _written(prompts: Texts, whole: Sequence[_Whole], count: int) -> Written:
    """Each prompt's best so many texts; where there are fewer, nothing is written in the others."""
    rows, lengths, source = [], [], []
    for prompt, found in enumerate(whole):
        given = prompts.ids_RL[prompt, : int(prompts.lengths_R[prompt])]
        none = [given[:0]] * (count - len(found.news))
        for new in [*found.news[:count], *none]:
            rows.append(torch.cat([given, new]))
            lengths.append(len(rows[-1]))
            source.append(prompt)
    ids_RL = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    at = torch.tensor(source)
    texts = Texts(ids_RL, torch.tensor(lengths), prompts.prompts_R[at], prompts.most_R[at])
    scores = tuple(torch.tensor(found.scores[:count]) for found in whole)
    return Written(texts, scores)
