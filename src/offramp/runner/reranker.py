"""Texts or pairs in, one number each out; and texts put in order by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from offramp.errors import ConfigError, DataError
from offramp.models.base import PretrainedModel
from offramp.runner.ahead import ahead
from offramp.runner.progress import Meter, OnProgress
from offramp.runner.rows import n_tokens
from offramp.runner.run import Runner
from offramp.runner.text_model import TextModel, check_call
from offramp.runner.threads import cpu_threads
from offramp.text.tables import Text
from offramp.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Ranked:
    """A text, its place in the list that was given, and its score."""

    index: int
    text: str
    score: float


class Reranker(TextModel):
    """A model that gives each text or pair a number, and its tokenizer. Safe to call from threads.

    A model of one output (regression, or a cross-encoder) gives its logit; one of two classes the
    probability of the second. All layers are run: numbers of different exits do not compare.
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        kind = {1: "regression", 2: "single_label_classification"}.get(model.config.num_labels)
        if kind is None or model.config.problem_type not in (None, kind):
            raise ConfigError(
                "A Reranker gives each row one number, from one output or from the second of two "
                f"classes; the number of outputs of this model is {model.config.num_labels}, its "
                f"problem_type {model.config.problem_type}."
            )

    def predict(
        self, texts: Iterable[Text], *, sigmoid: bool = False, threads: int | None = None
    ) -> list[float]:
        """The number of each text, or of each pair of texts (tuples), in their order.

        `sigmoid` makes a probability of the logit of a model that has one output; two classes have
        their probability already.
        """
        return list(self.stream(texts, sigmoid=sigmoid, threads=threads))

    def stream(
        self,
        texts: Iterable[Text],
        *,
        sigmoid: bool = False,
        threads: int | None = None,
        progress: OnProgress | None = None,
    ) -> Iterator[float]:
        """`predict` for any number of texts in bounded memory.

        `progress` is called after each window.
        """
        check_call(texts, threads)
        return self._scores(texts, sigmoid, threads, progress)

    def rerank(
        self,
        query: str,
        texts: Iterable[str],
        *,
        top_k: int | None = None,
        sigmoid: bool = False,
        threads: int | None = None,
    ) -> list[Ranked]:
        """The texts in order of their scores beside `query`, the highest first; or `top_k` of them.

        The query is the first text of each pair. Texts of one score keep their order.
        """
        check_call(texts, threads, "rerank")
        if not isinstance(query, str):
            raise DataError(f"The query is a {type(query).__name__}; expected a text.")
        if top_k is not None and top_k < 1:
            raise ConfigError(f"top_k must be at least 1; got {top_k}.")
        listed = list(texts)
        scores = self.predict([(query, text) for text in listed], sigmoid=sigmoid, threads=threads)
        order = sorted(range(len(listed)), key=lambda i: -scores[i])
        return [Ranked(i, listed[i], scores[i]) for i in order[:top_k]]

    def _scores(
        self,
        texts: Iterable[Text],
        sigmoid: bool,
        threads: int | None,
        progress: OnProgress | None,
    ) -> Iterator[float]:
        runner, meter = Runner(self.model, exits=False), Meter(progress)
        route = runner.route()
        with ahead(texts, lambda rows: runner.gather(self.encoded(rows))) as windows:
            for window in windows:
                with cpu_threads(threads):
                    logits_RC = runner.run_window(window, route).logits_RC
                self.check_finite(logits_RC)
                meter.add(len(window), n_tokens(window), len(window) * route.last)
                if logits_RC.shape[-1] == 2:
                    yield from logits_RC.softmax(-1)[:, 1].tolist()
                else:
                    yield from (torch.sigmoid(logits_RC) if sigmoid else logits_RC)[:, 0].tolist()
