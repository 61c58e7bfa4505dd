"""Text in, any number of labels out, with early exits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from offramp.errors import ConfigError
from offramp.models.base import PretrainedModel
from offramp.runner.leaving import LeavingModel, Saying
from offramp.text.tokenizer import Tokenizer

MULTI_LABEL = "multi_label_classification"


@dataclass(frozen=True, slots=True)
class LabelSet:
    """A row's labels in the model's order, the probability of each, and the layer it left at.

    They are those whose probability at that exit is above one half; there may be none.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    exit_layer: int


class MultiLabelClassifier(LeavingModel[LabelSet]):
    """A model that gives each text any number of labels, and its tokenizer.

    Safe to call from several threads. A row's labels and exit layer do not depend on the rows that
    it is predicted with; it leaves when the least sure of its labels may.
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        if model.config.problem_type != MULTI_LABEL:
            raise ConfigError(
                f"A MultiLabelClassifier's problem_type is {MULTI_LABEL!r}; this model's is "
                f"{model.config.problem_type!r}. One label a row is a Classifier's (task="
                "'classify')."
            )

    @property
    def labels(self) -> list[str]:
        """The labels' names, in the order of the logits."""
        return self.model.config.labels

    def _saying(self) -> Saying[LabelSet]:
        names = self.labels

        def say(logits_RC: Tensor, layers: Sequence[int]) -> Iterator[LabelSet]:
            self.check_finite(logits_RC)
            probabilities = logits_RC.float().sigmoid().tolist()
            there = (logits_RC > 0).tolist()
            for row, said, layer in zip(probabilities, there, layers, strict=True):
                own = [(name, p) for name, p, yes in zip(names, row, said, strict=True) if yes]
                yield LabelSet(tuple(n for n, _ in own), tuple(p for _, p in own), layer)

        return say
