"""`offramp.load(directory)`: text in, labels out."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from offramp.checkpoints.directory import staged
from offramp.errors import CheckpointError, ConfigError, DataError
from offramp.exits.attach import exits_of
from offramp.exits.criteria import Criterion, Entropy
from offramp.models.base import PretrainedModel
from offramp.models.opening import Opening, open_model
from offramp.models.registry import sequence_classifier
from offramp.runner.run import Route, Runner
from offramp.text.tables import Text
from offramp.text.tokenizer import Tokenizer

_CHUNK = 4096  # texts tokenised at a time


@dataclass(frozen=True, slots=True)
class Prediction:
    """A row's label, that label's probability at the exit, and the layer at which the row left."""

    label: str
    probability: float
    exit_layer: int


def load(
    directory: str | Path, *, device: str | torch.device = "cpu", max_length: int | None = None
) -> Classifier:
    """The classifier that `offramp train` or `Classifier.save` wrote to `directory`.

    Raises ModelNotFoundError for a path that is absent or no model, CheckpointError where the
    weights do not fill the model, and ConfigError for a model that is no classifier.
    """
    model_class = sequence_classifier(directory)
    model, report = open_model(model_class, directory, Opening(device=device))
    if report.initialised:
        raise CheckpointError(
            f"{directory} is not a trained classifier: it lacks {', '.join(report.initialised)}. "
            f"Train it first: offramp train --model {directory} --data ... --output ..."
        )
    tokenizer = Tokenizer.from_pretrained(directory, max_length=max_length)
    return Classifier(model, tokenizer)


class Classifier:
    """A model and its tokenizer. Safe to call from several threads.

    A row's label and exit layer do not depend on the rows that it is predicted with.
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        vocabulary = getattr(model.config, "vocab_size", tokenizer.vocab_size)
        if tokenizer.vocab_size > vocabulary:
            raise ConfigError(
                f"The tokenizer has {tokenizer.vocab_size} ids and the model embeds "
                f"{vocabulary}; they do not belong together."
            )
        if model.config.num_labels < 2 or model.config.problem_type not in (
            None,
            "single_label_classification",
        ):
            raise ConfigError(
                "A Classifier gives each row one of two labels or more; the number of "
                f"outputs of this model is {model.config.num_labels}, its problem_type "
                f"{model.config.problem_type}. Use offramp.Runner for its logits."
            )
        positions = getattr(model.config, "max_position_embeddings", tokenizer.max_length)
        longest = getattr(model.base_model, "max_length", positions)  # without those of padding
        if tokenizer.max_length > longest:
            raise ConfigError(
                f"max_length {tokenizer.max_length} is more than the {longest} positions of "
                "this model."
            )
        self.model = model.eval()
        self.tokenizer = tokenizer

    @property
    def labels(self) -> list[str]:
        """The class names, in the order of the logits."""
        return self.model.config.labels

    @property
    def criterion(self) -> Criterion:
        """What decides which rows leave; replace it at any time, for calls that begin later."""
        return exits_of(self.model).criterion

    @criterion.setter
    def criterion(self, value: Criterion) -> None:
        exits_of(self.model).criterion = value

    @property
    def threshold(self) -> float:
        """The entropy (nats) below which a row leaves after the first layer; its growth stays.

        Assign to it to trade accuracy for speed.
        """
        return self._entropy.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self.criterion = replace(self._entropy, threshold=value)

    @property
    def growth(self) -> float:
        """By what the threshold is multiplied from layer to layer."""
        return self._entropy.growth

    @property
    def _entropy(self) -> Entropy:
        criterion = self.criterion  # once: another thread may replace it
        if not isinstance(criterion, Entropy):
            raise ConfigError(f"The criterion {criterion} has no threshold; set `criterion`.")
        return criterion

    def predict(
        self, texts: Iterable[Text], *, threshold: float | None = None, threads: int | None = None
    ) -> list[Prediction]:
        """A prediction for each text, or each pair of texts (tuples), in their order.

        `threshold` replaces the model's for this call; `threads` is how many CPU threads torch
        uses for it. (A thread that first uses torch meanwhile begins with that number too.)
        """
        return list(self.stream(texts, threshold=threshold, threads=threads))

    def stream(
        self, texts: Iterable[Text], *, threshold: float | None = None, threads: int | None = None
    ) -> Iterator[Prediction]:
        """`predict` for any number of texts in bounded memory: reads and answers by windows."""
        if isinstance(texts, str):
            raise DataError("predict takes a list of texts; for one text pass [text].")
        if threads is not None and threads < 1:
            raise ConfigError(f"threads must be at least 1; got {threads}.")
        criterion = None if threshold is None else replace(self._entropy, threshold=threshold)
        runner = Runner(self.model, criterion=criterion)
        return self._answers(iter(texts), runner, runner.route(), threads)

    def _answers(
        self, texts: Iterator[Text], runner: Runner, route: Route, threads: int | None
    ) -> Iterator[Prediction]:
        labels = self.labels
        rows = (
            row
            for number, chunk in enumerate(_chunks(texts, _CHUNK))
            for row in self.tokenizer.encode(chunk, first_row=number * _CHUNK)
        )
        for window in runner.gather(rows):
            with _cpu_threads(threads):
                results = runner.run_window(window, route)
            best = results.logits_RC.float().softmax(-1).max(-1)
            if not bool(best.values.isfinite().all()):
                raise CheckpointError(
                    "The model answers with NaN. Its weights hold NaN, or are too large for "
                    f"their type, {self.model.dtype}."
                )
            for probability, label, layer in zip(
                best.values.tolist(),
                best.indices.tolist(),
                results.exit_layers_R.tolist(),
                strict=True,
            ):
                yield Prediction(labels[label], probability, layer)

    def save(self, directory: str | Path) -> None:
        """Write model, exits and tokenizer; the directory is there whole or not at all."""
        with staged(directory) as fresh:
            self.write_files(fresh)

    def write_files(self, directory: Path) -> None:
        """Write the model's and the tokenizer's files into an open directory."""
        self.model.write_files(directory)
        self.tokenizer.write_files(directory)


def _chunks(texts: Iterator[Text], size: int) -> Iterator[list[Text]]:
    while chunk := list(itertools.islice(texts, size)):
        yield chunk


class _CpuThreads:
    """torch's count of CPU threads, set for a call and put back.

    The count is the calling thread's own, but what one thread sets is also what threads begun
    meanwhile start with; so all calls under way put back the count that was there before the first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._before = 1

    @contextmanager
    def __call__(self, threads: int | None) -> Iterator[None]:
        if threads is None:
            yield
            return
        with self._lock:
            if self._calls == 0:
                self._before = torch.get_num_threads()
            self._calls += 1
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                torch.set_num_threads(self._before)


_cpu_threads = _CpuThreads()
