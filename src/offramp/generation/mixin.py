"""`generate`: what every model inherits of writing text, and a refusal where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from offramp.errors import ConfigError, InputError, UnsupportedError
from offramp.generation.beams import write_beams
from offramp.generation.config import DEFAULT_LENGTH, GenerationConfig, from_paddle
from offramp.generation.processors import Processor
from offramp.generation.search import Stop, Written, prompts_as_texts, write
from offramp.generation.stopping import Decodes, Hears, Streamer, hearing, stop_at


class GenerationMixin:
    """Base of models that may write text. One that can has a `decoder`."""

    generation_config: GenerationConfig | None = None
    """How it writes where `generate` is not told; `config`'s ids of special tokens where None."""

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the class writes text, token by token."""
        return hasattr(cls, "decoder")

    def generate(
        self,
        input_ids: Tensor | Sequence[Sequence[int]] | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        attention_mask: Tensor | None = None,
        seed: int | Sequence[int] | None = None,
        logits_processor: Sequence[Processor] = (),
        stopping_criteria: Sequence[Stop] = (),
        streamer: Streamer | Hears | None = None,
        tokenizer: Decodes | None = None,
        **options: Any,
    ) -> Tensor:
        """Texts that begin with prompts, [R, L]: ids, padded behind a text that ended.

        `input_ids` are [R, L], padded on either side with an `attention_mask` that says where, or
        lists of ids of any lengths. `options` are those of `GenerationConfig`. A text does not
        depend on those beside it. With `do_sample` and `seed` the same text is drawn again; of
        several rows each has a seed of its own, which may be given one by one.

        `streamer` hears of each token at once: a function of the texts' numbers and their tokens,
        or for one text an object as transformers' are; with beams no token is final until the end,
        and there is none. `tokenizer` is for `stop_strings`. With a `decode_strategy` the options
        are PaddleNLP's, whose `max_length` is of new tokens.

        Raises UnsupportedError (a NotImplementedError) for a model that writes nothing, InputError
        for prompts that are none or leave no room, ConfigError for options.
        """
        if not self.can_generate():
            raise UnsupportedError(
                f"{type(self).__name__} cannot generate text: it reads a whole row at once and has "
                "no head for the next token."
            )
        config = self._how_to_write(generation_config, options)
        prompts = _prompts(input_ids, attention_mask, config, cast(Any, self).config)
        most_R = self._room(prompts, config)
        stops = [*stopping_criteria]
        if config.stop_strings:
            stops.append(stop_at(config.stop_strings, tokenizer))
        with torch.inference_mode():
            written = self._write(prompts, most_R, config, seed, logits_processor, stops, streamer)
        return _laid_out(written, input_ids, prompts, config)

    def _write(
        self,
        prompts: Sequence[Tensor],
        most_R: Tensor,
        config: GenerationConfig,
        seed: int | Sequence[int] | None,
        processors: Sequence[Processor],
        stops: Sequence[Stop],
        streamer: Streamer | Hears | None,
    ) -> Written:
        n_texts = len(prompts) * (config.num_return_sequences if config.num_beams == 1 else 1)
        way = partial(
            write if config.num_beams == 1 else write_beams,
            cast(Any, self).decoder(len(prompts), int(most_R.max())),
            prompts_as_texts(prompts, most_R),
            config,
            seeds=_seeds(seed, n_texts) if config.do_sample else (),
            more_processors=processors,
            stops=stops,
        )
        if streamer is None:
            return way()
        if config.num_beams > 1:
            raise ConfigError(
                f"streamer= with num_beams={config.num_beams}: no token of a beam is final until "
                "the end. Leave one of them out."
            )
        written = way(told=hearing(streamer, prompts, n_texts))
        if hasattr(streamer, "end"):
            streamer.end()
        return written

    def _how_to_write(
        self, given: GenerationConfig | None, options: dict[str, Any]
    ) -> GenerationConfig:
        """What is asked for, and for what is not, what the model's configuration says."""
        config = given or self.generation_config
        if config is None:
            own = cast(Any, self).config
            config = GenerationConfig(
                eos_token_id=getattr(own, "eos_token_id", None),
                pad_token_id=getattr(own, "pad_token_id", None),
                bos_token_id=getattr(own, "bos_token_id", None),
            )
        return config.changed(**from_paddle(options))

    def _room(self, prompts: Sequence[Tensor], config: GenerationConfig) -> Tensor:
        """The tokens of each row when it is full; InputError where a prompt leaves no room."""
        lengths_R = torch.tensor([len(prompt) for prompt in prompts])
        longest = int(cast(Any, self).stack.max_length)
        if config.max_new_tokens is not None:
            most_R = lengths_R + config.max_new_tokens
        else:
            total = DEFAULT_LENGTH if config.max_length is None else config.max_length
            most_R = torch.full_like(lengths_R, total)
        most_R = most_R.clamp(max=longest)
        if bool((most_R <= lengths_R).any()):
            row = int((most_R <= lengths_R).nonzero()[0])
            raise InputError(
                f"Prompt {row} has {int(lengths_R[row])} tokens, and a row has {int(most_R[row])} "
                f"at most: nothing can be written. This model takes {longest}; pass "
                "max_new_tokens, or shorten the prompt."
            )
        return most_R


def _prompts(
    given: Tensor | Sequence[Sequence[int]] | None,
    mask: Tensor | None,
    config: GenerationConfig,
    of_model: Any,
) -> list[Tensor]:
    """Each row's own tokens."""
    if given is None:
        if config.bos_token_id is None:
            raise InputError("generate takes input_ids, or a bos_token_id to begin with.")
        return [torch.tensor([config.bos_token_id])]
    if not isinstance(given, Tensor):
        rows = [torch.as_tensor(row, dtype=torch.int64) for row in given]
    else:
        if given.dim() != 2 or given.is_floating_point():
            raise InputError(
                f"input_ids are whole numbers, [rows, length]; got {list(given.shape)} of "
                f"{given.dtype}."
            )
        if mask is None:
            mask = _mask_of(given, config)
        if mask.shape != given.shape:
            raise InputError(
                f"attention_mask is {list(given.shape)} beside these prompts; got "
                f"{list(mask.shape)}."
            )
        rows = [row[real != 0].long().cpu() for row, real in zip(given, mask, strict=True)]
    for number, row in enumerate(rows):
        if row.dim() != 1 or len(row) == 0:
            raise InputError(
                f"Prompt {number} is empty. Give it a token, such as bos_token_id="
                f"{config.bos_token_id}."
            )
        low, high = (int(x) for x in row.aminmax())
        if low < 0 or high >= of_model.vocab_size:
            raise InputError(
                f"Prompt {number} holds {low if low < 0 else high}; this model takes 0 to "
                f"{of_model.vocab_size - 1}."
            )
    if not rows:
        raise InputError("There is no prompt: input_ids has no rows.")
    return rows


def _mask_of(ids_RL: Tensor, config: GenerationConfig) -> Tensor:
    """Where prompts are no padding: as transformers guesses it where no mask is given."""
    pad = config.pad_token_id
    if pad is None or pad in config.ends:
        return torch.ones_like(ids_RL)
    return ids_RL != pad


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """A seed a text; of one that is given, as many as there are texts."""
    if isinstance(seed, Sequence):
        if len(seed) != count:
            raise ConfigError(f"seed is one number, or one a text ({count}); got {len(seed)}.")
        return [int(one) for one in seed]
    begin = torch.Generator()
    if seed is None:
        begin.manual_seed(int(torch.randint(2**62, ())))
    else:
        begin.manual_seed(seed)
    return cast("list[int]", torch.randint(2**62, (count,), generator=begin).tolist())


def _laid_out(
    written: Written, given: object, prompts: Sequence[Tensor], config: GenerationConfig
) -> Tensor:
    """The prompts as they lay, and behind them what was written."""
    texts = written.texts
    pad = config.pad_token_id
    if pad is None:
        pad = config.ends[0] if config.ends else 0
    news_R = texts.lengths_R - texts.prompts_R
    each = len(news_R) // len(prompts)
    if isinstance(given, Tensor):
        left_RL = given.cpu().repeat_interleave(each, 0)
    else:
        longest = max(map(len, prompts))
        left_RL = torch.full((len(news_R), longest), pad)
        for row in range(len(news_R)):
            prompt = prompts[row // each]
            left_RL[row, longest - len(prompt) :] = prompt
    out_RL = torch.full((len(news_R), left_RL.shape[1] + int(news_R.max())), pad)
    out_RL[:, : left_RL.shape[1]] = left_RL
    for row in range(len(news_R)):
        first = int(texts.prompts_R[row])
        new = texts.ids_RL[row, first : int(texts.lengths_R[row])]
        out_RL[row, left_RL.shape[1] : left_RL.shape[1] + len(new)] = new
    return out_RL
