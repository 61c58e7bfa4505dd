"""Text in, labels out, with early exits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

from torch import Tensor

from offramp.errors import ConfigError
from offramp.models.base import PretrainedModel
from offramp.runner.exiting import ThresholdModel
from offramp.runner.leaving import LeavingModel, Saying
from offramp.runner.progress import OnProgress
from offramp.text.tables import Text
from offramp.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Prediction:
    """A row's label, that label's probability at the exit, and the layer at which the row left."""

    label: str
    probability: float
    exit_layer: int


class Classifier(LeavingModel[Prediction], ThresholdModel):
    """A model that gives each text a label, and its tokenizer. Safe to call from several threads.

    A row's label and exit layer do not depend on the rows that it is predicted with.
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        if model.config.num_labels < 2 or model.config.problem_type not in (
            None,
            "single_label_classification",
        ):
            raise ConfigError(
                "A Classifier gives each row one of two labels or more; the number of "
                f"outputs of this model is {model.config.num_labels}, its problem_type "
                f"{model.config.problem_type}. Open it as a Regressor (task='regress'), or a "
                "MultiLabelClassifier (task='multilabel')."
            )

    @property
    def labels(self) -> list[str]:
        """The class names, in the order of the logits."""
        return self.model.config.labels

    def predict(
        self, texts: Iterable[Text], *, threshold: float | None = None, threads: int | None = None
    ) -> list[Prediction]:
        """A prediction for each text, or each pair of texts (tuples), in their order.

        `threshold` replaces the model's for this call; `threads` is how many CPU threads torch
        uses for it. (A thread that first uses torch meanwhile begins with that number too.)
        """
        return list(self.stream(texts, threshold=threshold, threads=threads))

    @overload
    def stream(
        self,
        texts: Iterable[Text],
        *,
        threshold: float | None = ...,
        threads: int | None = ...,
        ordered: Literal[True] = ...,
        progress: OnProgress | None = ...,
    ) -> Iterator[Prediction]: ...

    @overload
    def stream(
        self,
        texts: Iterable[Text],
        *,
        threshold: float | None = ...,
        threads: int | None = ...,
        ordered: Literal[False],
        progress: OnProgress | None = ...,
    ) -> Iterator[tuple[int, Prediction]]: ...

    def stream(
        self,
        texts: Iterable[Text],
        *,
        threshold: float | None = None,
        threads: int | None = None,
        ordered: bool = True,
        progress: OnProgress | None = None,
    ) -> Iterator[Prediction] | Iterator[tuple[int, Prediction]]:
        """`predict` for any number of texts in bounded memory: reads and answers by windows.

        With `ordered=False` it is (index, prediction), as soon as a row leaves, without waiting for
        the rows of its window that stay; `index` counts the texts from 0, as `enumerate` would.
        A thread of its own reads and tokenises the next window while one is computed. `progress` is
        called after each window.
        """
        criterion = self._with_threshold(threshold)
        if ordered:
            return self._answers(texts, criterion, threads, progress)
        return self._answers_as_they_leave(texts, criterion, threads, progress)

    def _saying(self) -> Saying[Prediction]:
        labels = self.labels

        def say(logits_RC: Tensor, layers: Sequence[int]) -> Iterator[Prediction]:
            best = logits_RC.float().softmax(-1).max(-1)
            self.check_finite(best.values)
            rows = zip(best.values.tolist(), best.indices.tolist(), layers, strict=True)
            for probability, label, layer in rows:
                yield Prediction(labels[label], probability, layer)

        return say
