"""What a classifier and its like share: one answer a row, from the exit where it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Literal, TypeAlias, TypeVar, overload

from torch import Tensor

from offramp.exits.criteria import Criterion
from offramp.runner.ahead import ahead
from offramp.runner.exiting import ExitingModel
from offramp.runner.progress import Meter, OnProgress
from offramp.runner.rows import n_tokens
from offramp.runner.run import Runner
from offramp.runner.text_model import check_call
from offramp.runner.threads import cpu_threads
from offramp.runner.window import Route
from offramp.text.tables import Text

A = TypeVar("A")

Saying: TypeAlias = Callable[[Tensor, Sequence[int]], Iterator[A]]
"""What is said of rows: from their logits [R, C], and the layers at which they left."""


class LeavingModel(ExitingModel, Generic[A]):
    """A model with a head for sequences, and its tokenizer. Safe to call from several threads.

    A row's answer and exit layer do not depend on the rows that it is predicted with. Without exits
    all rows pass all layers.
    """

    def predict(self, texts: Iterable[Text], *, threads: int | None = None) -> list[A]:
        """An answer for each text, or each pair of texts (tuples), in their order.

        `threads` is how many CPU threads torch uses for the call.
        """
        return list(self.stream(texts, threads=threads))

    @overload
    def stream(
        self,
        texts: Iterable[Text],
        *,
        threads: int | None = ...,
        ordered: Literal[True] = ...,
        progress: OnProgress | None = ...,
    ) -> Iterator[A]: ...

    @overload
    def stream(
        self,
        texts: Iterable[Text],
        *,
        threads: int | None = ...,
        ordered: Literal[False],
        progress: OnProgress | None = ...,
    ) -> Iterator[tuple[int, A]]: ...

    def stream(
        self,
        texts: Iterable[Text],
        *,
        threads: int | None = None,
        ordered: bool = True,
        progress: OnProgress | None = None,
    ) -> Iterator[A] | Iterator[tuple[int, A]]:
        """`predict` for any number of texts in bounded memory: reads and answers by windows.

        With `ordered=False` it is (index, answer), as soon as a row leaves. `progress` is called
        after each window.
        """
        if ordered:
            return self._answers(texts, None, threads, progress)
        return self._answers_as_they_leave(texts, None, threads, progress)

    def _saying(self) -> Saying[A]:
        """What makes answers of logits; asked once a call."""
        raise NotImplementedError

    def _answers(
        self,
        texts: Iterable[Text],
        criterion: Criterion | None,
        threads: int | None,
        progress: OnProgress | None,
    ) -> Iterator[A]:
        """The texts' answers in their order, read and answered by windows."""
        check_call(texts, threads)
        runner = self.runner(criterion)
        return self._in_order(texts, runner, runner.route(), threads, progress)

    def _answers_as_they_leave(
        self,
        texts: Iterable[Text],
        criterion: Criterion | None,
        threads: int | None,
        progress: OnProgress | None,
    ) -> Iterator[tuple[int, A]]:
        """(index, answer) as soon as a row leaves; `index` counts the texts from 0."""
        check_call(texts, threads)
        runner = self.runner(criterion)
        return self._leaving(texts, runner, runner.route(), threads, progress)

    def _in_order(
        self,
        texts: Iterable[Text],
        runner: Runner,
        route: Route,
        threads: int | None,
        progress: OnProgress | None,
    ) -> Iterator[A]:
        say, meter = self._saying(), Meter(progress)
        with ahead(texts, lambda rows: runner.gather(self.encoded(rows))) as windows:
            for window in windows:
                with cpu_threads(threads):
                    results = runner.run_window(window, route)
                layers = results.exit_layers_R.tolist()
                meter.add(len(window), n_tokens(window), sum(layers))
                yield from say(results.logits_RC, layers)

    def _leaving(
        self,
        texts: Iterable[Text],
        runner: Runner,
        route: Route,
        threads: int | None,
        progress: OnProgress | None,
    ) -> Iterator[tuple[int, A]]:
        say, meter, first = self._saying(), Meter(progress), 0
        with ahead(texts, lambda rows: runner.gather(self.encoded(rows))) as windows:
            for window in windows:
                leavers, layers = runner.leavers(window, route), 0
                while True:
                    with cpu_threads(threads):  # and not while the caller has an answer
                        left = next(leavers, None)
                    if left is None:
                        break
                    places = left.places_R.tolist()
                    layers += left.depth * len(places)
                    said = say(left.logits_RC, [left.depth] * len(places))
                    yield from zip((first + place for place in places), said, strict=True)
                first += len(window)
                meter.add(len(window), n_tokens(window), layers)
