"""Questions and the texts that answer them in, the part of each text that is the answer out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from offramp.errors import ConfigError, DataError
from offramp.models.base import PretrainedModel
from offramp.runner.groups import Group, answers
from offramp.runner.head_calls import body, span_logits
from offramp.runner.prepare import prepared
from offramp.runner.progress import OnProgress
from offramp.runner.rows import read_tokens
from offramp.runner.text_model import TextModel, check_call, chunks
from offramp.runner.windows import stripped
from offramp.text.tokenizer import Tokenizer, Tokens

Floats: TypeAlias = npt.NDArray[np.float64]
Whole: TypeAlias = npt.NDArray[np.int64]

_CHUNK = 256  # questions tokenised at a time


@dataclass(frozen=True, slots=True)
class Answer:
    """A part of the context, `context[start:end]`; empty, at 0, where there is no answer.

    `score` is the sum of the logits of its first token as a start and of its last as an end;
    `probability` the softmax of it over all parts of the context that could be an answer (and over
    there being none, where that was asked for).
    """

    text: str
    start: int
    end: int
    score: float
    probability: float


class Answerer(TextModel):
    """A question-answering model and its tokenizer. Safe to call from several threads.

    A context that is too long is read in windows, each beside the whole question, that share
    `stride` tokens of the context (128 by default; a half of what a window has room for where that
    is less). A question's answer does not depend on those that it is answered with.
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        span_logits(model)  # or a ConfigError
        if model.config.num_labels != 2:
            raise ConfigError(
                "An Answerer's model has two outputs a token, start and end; this one's num_labels "
                f"is {model.config.num_labels}."
            )

    def answer(
        self,
        question: str,
        context: str,
        *,
        no_answer: bool = False,
        max_answer_length: int = 30,
        stride: int = 128,
        threads: int | None = None,
    ) -> Answer:
        """The best answer to one question; the options are those of `n_best`."""
        (found,) = self.predict(
            [(question, context)],
            no_answer=no_answer,
            max_answer_length=max_answer_length,
            stride=stride,
            threads=threads,
        )
        return found

    def predict(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        no_answer: bool = False,
        max_answer_length: int = 30,
        stride: int = 128,
        threads: int | None = None,
    ) -> list[Answer]:
        """The best answer to each (question, context), in their order; options as of `n_best`."""
        found = self.n_best(
            pairs,
            1,
            no_answer=no_answer,
            max_answer_length=max_answer_length,
            stride=stride,
            threads=threads,
        )
        return [best[0] for best in found]

    def n_best(
        self,
        pairs: Iterable[tuple[str, str]],
        n: int,
        *,
        no_answer: bool = False,
        max_answer_length: int = 30,
        stride: int = 128,
        threads: int | None = None,
        progress: OnProgress | None = None,
    ) -> Iterator[list[Answer]]:
        """The `n` best answers to each (question, context), the best first; read as asked for.

        An answer has `max_answer_length` tokens at most. With `no_answer`, for models trained on
        questions that have none (SQuAD 2.0), there being none is one of the answers; its score is
        that of the first token, the least of all windows. `progress` is called after each window
        of questions.
        """
        check_call(pairs, threads)
        for name, value, least in (
            ("n", n, 1),
            ("max_answer_length", max_answer_length, 1),
            ("stride", stride, 0),
        ):
            if value < least:
                raise ConfigError(f"{name} must be at least {least}; got {value}.")
        decide = partial(_decide, n=n, no_answer=no_answer, longest=max_answer_length)
        groups = partial(self._groups, stride=stride)
        return answers(self, pairs, groups, self._read, decide, threads, progress)

    def _groups(
        self, pairs: Iterable[tuple[str, str]], stride: int
    ) -> Iterator[Group[tuple[str, str], Tokens]]:
        """Each pair with its windows."""
        for number, chunk in enumerate(chunks(pairs, _CHUNK)):
            first = number * _CHUNK
            for row, pair in enumerate(chunk, start=first):
                _check_pair(pair, row)
            questions = self.tokenizer.encode([question for question, _ in chunk], first_row=first)
            # What a question leaves of a window, less what parts the two texts.
            rooms = [self.tokenizer.max_length - len(question.ids) - 2 for question in questions]
            strides = [max(0, min(stride, room // 2)) for room in rooms]
            alike = groupby(range(len(chunk)), key=strides.__getitem__)
            for own_stride, places in alike:
                rows = list(places)
                windows = self.tokenizer.tokenize(
                    [chunk[row] for row in rows],
                    truncation="only_second",
                    stride=own_stride,
                    first_row=first + rows[0],
                )
                for row, own in groupby(windows, key=lambda window: window.row):
                    yield Group(chunk[row - first], list(own))

    def _read(self, rows: Sequence[Tokens]) -> list[Tensor]:
        model = prepared(self.model)
        return read_tokens(body(model), rows, span_logits(model), model.device)


def _decide(
    group: Group[tuple[str, str], Tokens],
    values: Sequence[Tensor],
    *,
    n: int,
    no_answer: bool,
    longest: int,
) -> tuple[list[Answer], float]:
    """The best answers; and how far logits may move before the first is another."""
    context = group.asked[1]
    logits = [value.double().numpy() for value in values]
    parts = [_spans(row, own, longest) for row, own in zip(group.rows, logits, strict=True)]
    bounds_S2, scores_S = _once(
        np.concatenate([bounds for bounds, _ in parts]),
        np.concatenate([scores for _, scores in parts]),
    )
    # Byte-level vocabularies have tokens of white space, which answer nothing.
    letters = np.cumsum([0, *(not letter.isspace() for letter in context)])
    real_S = letters[bounds_S2[:, 1]] > letters[bounds_S2[:, 0]]
    bounds_S2, scores_S = bounds_S2[real_S], scores_S[real_S]
    if no_answer or not len(scores_S):
        bounds_S2 = np.concatenate([[[0, 0]], bounds_S2])
        scores_S = np.concatenate([[min(own[0].sum() for own in logits)], scores_S])
    order = np.argsort(-scores_S, kind="stable")[: max(n, 2)]
    weights_S = np.exp(scores_S - scores_S[order[0]])
    total = weights_S.sum()
    found = []
    for place in order[:n].tolist():
        start, end = stripped(context, *bounds_S2[place].tolist())
        found.append(
            Answer(
                context[start:end],
                start,
                end,
                float(scores_S[place]),
                float(weights_S[place] / total),
            )
        )
    # Each of the two scores is a sum of two logits.
    slack = float(scores_S[order[0]] - scores_S[order[1]]) / 4 if len(order) > 1 else np.inf
    return found, slack


def _spans(row: Tokens, logits_T2: Floats, longest: int) -> tuple[Whole, Floats]:
    """The parts of the context that a window shows: their characters [S, 2] and scores [S]."""
    inside = np.flatnonzero(row.texts == 1)
    size = len(inside)
    ahead = np.arange(min(longest, size))
    starts, ends = np.broadcast_arrays(np.arange(size)[:, None], np.arange(size)[:, None] + ahead)
    real = ends < size
    starts, ends = inside[starts[real]], inside[ends[real]]
    bounds_S2 = np.stack([row.offsets[starts, 0], row.offsets[ends, 1]], axis=1)
    return bounds_S2, logits_T2[starts, 0] + logits_T2[ends, 1]


def _once(bounds_S2: Whole, scores_S: Floats) -> tuple[Whole, Floats]:
    """Each part once, with the best of the scores that windows give it; in order of place."""
    base = bounds_S2.max(initial=0) + 1
    keys, which_S = np.unique(bounds_S2[:, 0] * base + bounds_S2[:, 1], return_inverse=True)
    best = np.full(len(keys), -np.inf)
    np.maximum.at(best, which_S, scores_S)
    return np.stack(np.divmod(keys, base), axis=1), best


def _check_pair(pair: object, row: int) -> None:
    if not (
        isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
    ):
        raise DataError(
            f"Row {row} is {str(pair)[:100]!r}; expected a tuple (question, context) of two texts."
        )
