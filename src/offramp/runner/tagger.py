"""Texts in, the named parts of each out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

from offramp.errors import DataError
from offramp.models.base import PretrainedModel
from offramp.runner.groups import Group, answers, lead
from offramp.runner.head_calls import body, token_logits
from offramp.runner.iob import OUTSIDE, spans
from offramp.runner.prepare import prepared
from offramp.runner.progress import OnProgress
from offramp.runner.rows import read_tokens
from offramp.runner.text_model import TextModel, check_call, chunks
from offramp.runner.windows import Word, stripped, words_of
from offramp.text.tokenizer import Tokenizer, Tokens

T = TypeVar("T")

_CHUNK = 1024  # texts tokenised at a time


@dataclass(frozen=True, slots=True)
class Entity:
    """A part of a text, `text[start:end]`, and what it is.

    `probability` is the mean over its words of the probability of each word's tag.
    """

    label: str
    text: str
    start: int
    end: int
    probability: float


class Tagger(TextModel):
    """A token-classification model and its tokenizer. Safe to call from several threads.

    A word's tag is that of its first token. A text that is too long is read in windows that share
    `stride` tokens (by default a quarter of `max_length`, and 64 at most); a word is decided by the
    window that shows most of what is around it. A text's tags do not depend on the texts beside it.
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        token_logits(model)  # or a ConfigError

    @property
    def labels(self) -> list[str]:
        """The tags, in the order of the logits."""
        return self.model.config.labels

    def predict(
        self, texts: Iterable[str], *, stride: int | None = None, threads: int | None = None
    ) -> list[list[Entity]]:
        """The entities of each text, in their order.

        Tags `B-X` and `I-X` make spans of X: a span goes on with `I-X` after `B-X` or `I-X`, and
        what is not `O` begins one otherwise, as seqeval reads tags by default. Labels that are no
        such tags are each word's own entity. Words are those that the tokenizer parts a text into.
        """
        return list(self.stream(texts, stride=stride, threads=threads))

    def stream(
        self,
        texts: Iterable[str],
        *,
        stride: int | None = None,
        threads: int | None = None,
        progress: OnProgress | None = None,
    ) -> Iterator[list[Entity]]:
        """`predict` for any number of texts in bounded memory.

        `progress` is called after each window.
        """
        check_call(texts, threads)

        def groups(some: Iterator[str]) -> Iterator[Group[str, Tokens]]:
            return self._groups(some, _check_text, self.tokenizer.tokenize, stride)

        return answers(self, texts, groups, self._read, self._entities, threads, progress)

    def predict_words(
        self,
        rows: Iterable[Sequence[str]],
        *,
        stride: int | None = None,
        threads: int | None = None,
    ) -> list[list[str]]:
        """A tag for each word of texts that are split into words already.

        A word of which the tokenizer keeps nothing (a control character) has the tag `O`.
        """
        check_call(rows, threads)
        groups = partial(self.word_windows, stride=stride)
        return list(answers(self, rows, groups, self._read, self._tags, threads))

    def word_windows(
        self, rows: Iterable[Sequence[str]], *, stride: int | None = None
    ) -> Iterator[Group[Sequence[str], Tokens]]:
        """Each list of words with its tokens, in one window or several, as they are read."""
        return self._groups(rows, _check_words, self._encode_words, stride)

    def _groups(
        self,
        texts: Iterable[T],
        check: Callable[[object, int], None],
        tokenize: Callable[..., list[Tokens]],
        stride: int | None,
    ) -> Iterator[Group[T, Tokens]]:
        """Each text with its windows."""
        stride = min(64, self.tokenizer.max_length // 4) if stride is None else stride
        for number, chunk in enumerate(chunks(texts, _CHUNK)):
            first = number * _CHUNK
            for row, text in enumerate(chunk, start=first):
                check(text, row)
            windows = tokenize(chunk, stride=stride, first_row=first)
            for row, own in groupby(windows, key=lambda window: window.row):
                yield Group(chunk[row - first], list(own))

    def _encode_words(
        self, rows: Sequence[Sequence[str]], *, stride: int, first_row: int
    ) -> list[Tokens]:
        some = [list(words) or [""] for words in rows]  # of no words there are no tokens either
        return self.tokenizer.encode_words(some, stride=stride, first_row=first_row)

    def _read(self, rows: Sequence[Tokens]) -> list[Tensor]:
        model = prepared(self.model)
        return read_tokens(body(model), rows, token_logits(model), model.device)

    def _entities(
        self, group: Group[str, Tokens], values: Sequence[Tensor]
    ) -> tuple[list[Entity], float]:
        words, tags, probabilities, slack = self._decide(group, values)
        places = list(words.values())
        found = []
        for label, first, stop in spans(tags):
            start, end = places[first].start, max(word.end for word in places[first:stop])
            start, end = stripped(group.asked, start, end)
            if start == end:  # white space has tokens of its own in byte-level vocabularies
                continue
            mean = sum(probabilities[first:stop]) / (stop - first)
            found.append(Entity(label, group.asked[start:end], start, end, mean))
        return found, slack

    def _tags(
        self, group: Group[Sequence[str], Tokens], values: Sequence[Tensor]
    ) -> tuple[list[str], float]:
        words, found, _, slack = self._decide(group, values)
        tags = [OUTSIDE] * len(group.asked)
        for number, tag in zip(words, found, strict=True):
            tags[number] = tag
        return tags, slack

    def _decide(
        self, group: Group[T, Tokens], values: Sequence[Tensor]
    ) -> tuple[dict[int, Word], list[str], list[float], float]:
        """The words, beside each its tag and the tag's probability; and their slack."""
        words = words_of(group.rows)
        if not words:
            return words, [], [], math.inf
        logits_WC = torch.stack([values[word.window][word.token] for word in words.values()])
        best = logits_WC.float().softmax(-1).max(-1)
        labels = self.labels
        tags = [labels[number] for number in best.indices.tolist()]
        return words, tags, best.values.tolist(), lead(logits_WC)


def _check_text(text: object, row: int) -> None:
    if not isinstance(text, str):
        raise DataError(f"Row {row} is a {type(text).__name__}; expected a text.")


def _check_words(words: object, row: int) -> None:
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise DataError(f"Row {row} is a {type(words).__name__}; expected a list of words.")
