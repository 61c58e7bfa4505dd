"""What ends a text beside a token or its length, and who hears of tokens as they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from offramp.errors import ConfigError
from offramp.generation.processors import Texts


class Decodes(Protocol):
    """A tokenizer: `offramp.Tokenizer`, or one of transformers."""

    def decode(self, ids: Any, *, skip_special_tokens: bool = ...) -> str:
        """The text of a row's ids."""


class Streamer(Protocol):
    """As transformers' streamers are: it hears a prompt, then each new token, then the end."""

    def put(self, value: Tensor) -> None:
        """The prompt [1, L], then a token [1] each time."""

    def end(self) -> None:
        """There is no more."""


Hears: TypeAlias = Callable[[Tensor, Tensor], None]
"""Called at each step with the numbers of texts [R] and the token that each got [R]."""


def stop_at(strings: Sequence[str], tokenizer: Decodes | None) -> Callable[[Texts], Tensor]:
    """Which texts hold one of these strings in what was written; ConfigError without a tokenizer.

    What stands in the prompt, or begins there, does not count.
    """
    if tokenizer is None:
        raise ConfigError(
            f"stop_strings={list(strings)!r} are of text: pass tokenizer=, which makes it of ids."
        )
    if not all(isinstance(one, str) and one for one in strings):
        raise ConfigError(f"stop_strings are texts, none empty; got {list(strings)!r}.")

    def stop(texts: Texts) -> Tensor:
        ends = zip(texts.prompts_R.tolist(), texts.lengths_R.tolist(), strict=True)
        said = [
            tokenizer.decode(texts.ids_RL[row, first:last].tolist(), skip_special_tokens=False)
            for row, (first, last) in enumerate(ends)
        ]
        return torch.tensor([any(string in text for string in strings) for text in said])

    return stop


def hearing(streamer: Streamer | Hears, prompts: Sequence[Tensor], n_texts: int) -> Hears:
    """The streamer as a function of rows and tokens; ConfigError for one of transformers' kind
    where there are several texts, which it could not tell apart.
    """
    if not hasattr(streamer, "put"):
        return streamer
    if n_texts > 1:
        raise ConfigError(
            f"A streamer with put() hears one text, and {n_texts} are written. Pass a function of "
            "rows and tokens, which hears which is whose."
        )
    streamer.put(prompts[0][None])

    def hear(rows: Tensor, tokens: Tensor) -> None:
        streamer.put(tokens)

    return hear
