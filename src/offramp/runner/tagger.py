"""Texts in, the named parts of each out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import TypeVar

import numpy as np
import torch

from offramp.errors import DataError
from offramp.models.base import PretrainedModel
from offramp.runner.ahead import ahead
from offramp.runner.exiting import ThresholdModel
from offramp.runner.groups import Group, gather_groups
from offramp.runner.head_calls import token_logits
from offramp.runner.iob import OUTSIDE, spans
from offramp.runner.progress import Meter, OnProgress
from offramp.runner.rows import CountedRow, n_tokens
from offramp.runner.run import RowResult
from offramp.runner.text_model import check_call, chunks
from offramp.runner.threads import cpu_threads
from offramp.runner.windows import Word, stripped, words_of
from offramp.text.tokenizer import Tokenizer, Tokens

T = TypeVar("T")
A = TypeVar("A")

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


@dataclass(frozen=True, slots=True)
class Marked(Group[T, CountedRow]):
    """A text's windows, and its words: of each the token that speaks for it, which counts."""

    words: dict[int, Word]

    @classmethod
    def of(cls, group: Group[T, Tokens]) -> Marked[T]:
        """A text's windows, marked."""
        words = words_of(group.rows)
        counted = [np.zeros(len(row.ids), dtype=bool) for row in group.rows]
        for word in words.values():
            counted[word.window][word.token] = True
        each = zip(group.rows, counted, strict=True)
        return cls(group.asked, [CountedRow(row.ids, row.types, own) for row, own in each], words)


class Tagger(ThresholdModel):
    """A token-classification model and its tokenizer. Safe to call from several threads.

    A word's tag is that of its first token. A text that is too long is read in windows that share
    `stride` tokens (by default a quarter of `max_length`, and 64 at most); a word is decided by the
    window that shows most of what is around it. A text's tags do not depend on the texts beside it.

    Of a model with exits a window leaves when the tokens that speak for its words may.
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        token_logits(model)  # or a ConfigError

    @property
    def labels(self) -> list[str]:
        """The tags, in the order of the logits."""
        return self.model.config.labels

    def predict(
        self,
        texts: Iterable[str],
        *,
        stride: int | None = None,
        threshold: float | None = None,
        threads: int | None = None,
    ) -> list[list[Entity]]:
        """The entities of each text, in their order.

        Tags `B-X` and `I-X` make spans of X: a span goes on with `I-X` after `B-X` or `I-X`, and
        what is not `O` begins one otherwise, as seqeval reads tags by default. Labels that are no
        such tags are each word's own entity. Words are those that the tokenizer parts a text into.
        `threshold` replaces that of the model's exits for this call.
        """
        return list(self.stream(texts, stride=stride, threshold=threshold, threads=threads))

    def stream(
        self,
        texts: Iterable[str],
        *,
        stride: int | None = None,
        threshold: float | None = None,
        threads: int | None = None,
        progress: OnProgress | None = None,
    ) -> Iterator[list[Entity]]:
        """`predict` for any number of texts in bounded memory.

        `progress` is called after each window of rows; a text in several windows of tokens passed
        as many layers as the one that passed most.
        """
        check_call(texts, threads)

        def groups(some: Iterator[str]) -> Iterator[Group[str, Tokens]]:
            return self._groups(some, _check_text, self.tokenizer.tokenize, stride)

        return self._answers(texts, groups, self._entities, threshold, threads, progress)

    def predict_words(
        self,
        rows: Iterable[Sequence[str]],
        *,
        stride: int | None = None,
        threshold: float | None = None,
        threads: int | None = None,
        progress: OnProgress | None = None,
    ) -> list[list[str]]:
        """A tag for each word of texts that are split into words already.

        A word of which the tokenizer keeps nothing (a control character) has the tag `O`.
        """
        check_call(rows, threads)
        groups = partial(self.word_windows, stride=stride)
        return list(self._answers(rows, groups, self._tags, threshold, threads, progress))

    def word_windows(
        self, rows: Iterable[Sequence[str]], *, stride: int | None = None
    ) -> Iterator[Group[Sequence[str], Tokens]]:
        """Each list of words with its tokens, in one window or several, as they are read."""
        return self._groups(rows, _check_words, self._encode_words, stride)

    def counted_windows(
        self, rows: Iterable[Sequence[str]], *, stride: int | None = None
    ) -> Iterator[Marked[Sequence[str]]]:
        """The same as a `Runner` takes them: the tokens count that speak for words."""
        return map(Marked.of, self.word_windows(rows, stride=stride))

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

    def _answers(
        self,
        asked: Iterable[T],
        groups: Callable[[Iterator[T]], Iterator[Group[T, Tokens]]],
        decide: Callable[[Marked[T], Sequence[RowResult]], A],
        threshold: float | None,
        threads: int | None,
        progress: OnProgress | None = None,
    ) -> Iterator[A]:
        """The answer to each that is asked, in order, in bounded memory."""
        criterion = self._with_threshold(threshold)
        runner = self.runner(criterion)
        route = runner.route()  # now, and not when the first answer is taken

        def marked(some: Iterator[T]) -> Iterator[list[Marked[T]]]:
            return gather_groups(map(Marked.of, groups(some)))

        def answers() -> Iterator[A]:
            meter = Meter(progress)
            with ahead(asked, marked) as windows:
                for window in windows:
                    rows = [row for group in window for row in group.rows]
                    with cpu_threads(threads):
                        results = iter(runner.answer_window(rows, route))
                    own = [list(islice(results, len(group.rows))) for group in window]
                    layers = sum(max(row.exit_layer for row in some) for some in own)
                    found = [decide(*pair) for pair in zip(window, own, strict=True)]
                    meter.add(len(window), n_tokens(rows), layers)
                    yield from found

        return answers()

    def _entities(self, group: Marked[str], results: Sequence[RowResult]) -> list[Entity]:
        tags, probabilities = self._decide(group, results)
        places = list(group.words.values())
        found = []
        for label, first, stop in spans(tags):
            start, end = places[first].start, max(word.end for word in places[first:stop])
            start, end = stripped(group.asked, start, end)
            if start == end:  # white space has tokens of its own in byte-level vocabularies
                continue
            mean = sum(probabilities[first:stop]) / (stop - first)
            found.append(Entity(label, group.asked[start:end], start, end, mean))
        return found

    def _tags(self, group: Marked[Sequence[str]], results: Sequence[RowResult]) -> list[str]:
        found, _ = self._decide(group, results)
        tags = [OUTSIDE] * len(group.asked)
        for number, tag in zip(group.words, found, strict=True):
            tags[number] = tag
        return tags

    def _decide(
        self, group: Marked[T], results: Sequence[RowResult]
    ) -> tuple[list[str], list[float]]:
        """Beside each word its tag and the tag's probability."""
        for result in results:
            self.check_finite(result.logits_C)
        if not group.words:
            return [], []
        logits = [results[word.window].logits_C[word.token] for word in group.words.values()]
        best = torch.stack(logits).float().softmax(-1).max(-1)
        labels = self.labels
        return [labels[number] for number in best.indices.tolist()], best.values.tolist()


def _check_text(text: object, row: int) -> None:
    if not isinstance(text, str):
        raise DataError(f"Row {row} is a {type(text).__name__}; expected a text.")


def _check_words(words: object, row: int) -> None:
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise DataError(f"Row {row} is a {type(words).__name__}; expected a list of words.")
