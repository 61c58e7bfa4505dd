"""What `offramp predict` asks of a model of each task: which rows, and what it says of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import offramp
from offramp.errors import ConfigError, DataError
from offramp.runner.progress import OnProgress
from offramp.text.tables import stream_columns

Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """The arguments of the command: texts or a file with columns, and options of some tasks."""

    texts: tuple[str, ...]
    data: Path | None
    text: str | None
    pair: str | None
    choices: str | None
    question: bool
    """Whether the texts are those of --question and --context."""
    no_answer: bool
    threshold: float | None
    threads: int | None

    def rows(self, text: str = "text", pair: str | None = None) -> Iterable[Any]:
        """The texts, or the file's rows; `text` and `pair` are columns where none are named."""
        if self.data is None:
            return self.texts
        return offramp.stream_table(self.data, text=self.text or text, pair=self.pair or pair)


@dataclass(frozen=True)
class Work:
    """The rows that are asked, and what answers them, or some of them, with one object a row."""

    rows: Iterable[Any]
    answer: Callable[[Iterable[Any], OnProgress | None], Iterator[Json]]

    def count(self) -> int:
        """How many rows there are. Every row of a file is checked: DataError before the work."""
        if isinstance(self.rows, Sized):
            return len(self.rows)
        if isinstance(self.rows, offramp.StreamedTable):
            return self.rows.count()
        return sum(1 for _ in self.rows)


def work(model: Any, asked: Asked) -> Work:
    """What the model is asked; ConfigError for an option that its task does not have."""
    name = type(model).__name__
    if name not in _TASKS:
        place = model.model.name_or_path
        raise ConfigError(
            f"{place} gives texts vectors: offramp embed {place} ... To have labels, train it "
            f"first: offramp train --model {place} --data ... --output ..."
        )
    for option, tasks in _OPTIONS.items():
        if getattr(asked, option) not in (None, False) and name not in tasks:
            raise ConfigError(
                f"--{option.replace('_', '-')} is for a model that offramp opens as "
                f"{' or '.join(tasks)}; this one it opens as {name}."
            )
    return _TASKS[name](model, asked)


_OPTIONS = {
    "threshold": ("Classifier", "Tagger"),
    "question": ("Answerer",),
    "no_answer": ("Answerer",),
    "choices": ("Chooser",),
    "pair": ("Classifier", "MultiLabelClassifier", "Regressor", "Reranker", "Answerer"),
}
"""The options that not every task has, and whose they are."""


def _classify(model: offramp.Classifier, asked: Asked) -> Work:
    def answer(rows: Iterable[Any], progress: OnProgress | None) -> Iterator[Json]:
        return _as_json(
            model.stream(rows, threshold=asked.threshold, threads=asked.threads, progress=progress)
        )

    return Work(asked.rows(), answer)


def _score(model: offramp.Reranker, asked: Asked) -> Work:
    def answer(rows: Iterable[Any], progress: OnProgress | None) -> Iterator[Json]:
        found = model.stream(rows, threads=asked.threads, progress=progress)
        return ({"score": score} for score in found)

    return Work(asked.rows(), answer)


def _estimate(model: offramp.Regressor | offramp.MultiLabelClassifier, asked: Asked) -> Work:
    def answer(rows: Iterable[Any], progress: OnProgress | None) -> Iterator[Json]:
        return _as_json(model.stream(rows, threads=asked.threads, progress=progress))

    return Work(asked.rows(), answer)


def _tag(model: offramp.Tagger, asked: Asked) -> Work:
    def answer(rows: Iterable[Any], progress: OnProgress | None) -> Iterator[Json]:
        found = model.stream(
            rows, threshold=asked.threshold, threads=asked.threads, progress=progress
        )
        return ({"entities": list(_as_json(entities))} for entities in found)

    return Work(asked.rows(), answer)


def _answer(model: offramp.Answerer, asked: Asked) -> Work:
    def answer(rows: Iterable[Any], progress: OnProgress | None) -> Iterator[Json]:
        found = model.n_best(
            rows, 1, no_answer=asked.no_answer, threads=asked.threads, progress=progress
        )
        return _as_json(best for (best,) in found)

    if asked.data is not None:
        return Work(asked.rows("question", "context"), answer)
    if len(asked.texts) != 2:
        raise DataError("Pass --question and --context, or --data FILE with such columns.")
    return Work([asked.texts], answer)


def _choose(model: offramp.Chooser, asked: Asked) -> Work:
    def answer(rows: Iterable[Any], progress: OnProgress | None) -> Iterator[Json]:
        return _as_json(model.stream(rows, threads=asked.threads, progress=progress))

    if asked.data is None:
        prompt, *choices = asked.texts
        return Work([(prompt, choices)], answer)
    if asked.choices is None:
        raise DataError("This is a multiple-choice model: name the choices' columns, --choices a,b")
    wanted = (asked.text or "text", *asked.choices.split(","))
    return Work(_Prompts(stream_columns(asked.data, wanted)), answer)


@dataclass(frozen=True)
class _Prompts:
    """A file's rows as prompts: the first column's text, and the others' as its choices."""

    table: offramp.StreamedTable

    def __iter__(self) -> Iterator[tuple[str, list[str]]]:
        return ((prompt, choices) for prompt, *choices in self.table.rows())


def _as_json(found: Iterable[Any]) -> Iterator[Json]:
    return (dataclasses.asdict(one) for one in found)


_TASKS: dict[str, Callable[[Any, Asked], Work]] = {
    "Classifier": _classify,
    "MultiLabelClassifier": _estimate,
    "Regressor": _estimate,
    "Reranker": _score,
    "Tagger": _tag,
    "Answerer": _answer,
    "Chooser": _choose,
}
"""By the class that `offramp.load` opens a directory as."""
