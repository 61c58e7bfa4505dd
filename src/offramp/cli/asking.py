"""What `offramp predict` asks of a model of each task: which rows, and what it says of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import offramp
from offramp.errors import ConfigError, DataError

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

    def rows(self, text: str = "text", pair: str | None = None) -> list[Any]:
        """The texts, or the file's rows; `text` and `pair` are columns where none are named."""
        if self.data is None:
            return list(self.texts)
        text, pair = self.text or text, self.pair or pair
        return offramp.read_table(self.data, text=text, pair=pair, label=None).texts


def answers(model: Any, asked: Asked) -> tuple[int, Iterator[Json]]:
    """How many rows there are, and what the model says of each."""
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
    "threshold": ("Classifier",),
    "question": ("Answerer",),
    "no_answer": ("Answerer",),
    "choices": ("Chooser",),
    "pair": ("Classifier", "Reranker", "Answerer"),
}
"""The options that not every task has, and whose they are."""


def _classify(model: offramp.Classifier, asked: Asked) -> tuple[int, Iterator[Json]]:
    rows = asked.rows()
    found = model.stream(rows, threshold=asked.threshold, threads=asked.threads)
    return len(rows), _as_json(found)


def _score(model: offramp.Reranker, asked: Asked) -> tuple[int, Iterator[Json]]:
    rows = asked.rows()
    found = model.stream(rows, threads=asked.threads)
    return len(rows), ({"score": score} for score in found)


def _tag(model: offramp.Tagger, asked: Asked) -> tuple[int, Iterator[Json]]:
    rows = asked.rows()
    found = model.stream(rows, threads=asked.threads)
    return len(rows), ({"entities": list(_as_json(entities))} for entities in found)


def _answer(model: offramp.Answerer, asked: Asked) -> tuple[int, Iterator[Json]]:
    rows = asked.rows("question", "context")
    if asked.data is None:
        if len(rows) != 2:
            raise DataError("Pass --question and --context, or --data FILE with such columns.")
        rows = [tuple(rows)]
    found = model.n_best(rows, 1, no_answer=asked.no_answer, threads=asked.threads)
    return len(rows), _as_json(best for (best,) in found)


def _choose(model: offramp.Chooser, asked: Asked) -> tuple[int, Iterator[Json]]:
    if asked.data is None:
        prompt, *choices = asked.texts
        rows = [(prompt, choices)]
    elif asked.choices is None:
        raise DataError("This is a multiple-choice model: name the choices' columns, --choices a,b")
    else:
        data, names = asked.data, asked.choices.split(",")
        columns = [offramp.read_table(data, text=name, label=None).texts for name in names]
        prompts = cast("list[str]", asked.rows())
        options = [[str(text) for text in texts] for texts in zip(*columns, strict=True)]
        rows = list(zip(prompts, options, strict=True))
    return len(rows), _as_json(model.stream(rows, threads=asked.threads))


def _as_json(found: Iterable[Any]) -> Iterator[Json]:
    return (dataclasses.asdict(one) for one in found)


_TASKS: dict[str, Callable[[Any, Asked], tuple[int, Iterator[Json]]]] = {
    "Classifier": _classify,
    "Reranker": _score,
    "Tagger": _tag,
    "Answerer": _answer,
    "Chooser": _choose,
}
"""By the class that `offramp.load` opens a directory as."""
