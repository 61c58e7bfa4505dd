"""Text in, a number out, with early exits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from offramp.errors import ConfigError
from offramp.models.base import PretrainedModel
from offramp.runner.leaving import LeavingModel, Saying
from offramp.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Estimate:
    """A row's number, of the exit where it left, and the layer of that."""

    value: float
    exit_layer: int


class Regressor(LeavingModel[Estimate]):
    """A regression model of one output, and its tokenizer. Safe to call from several threads.

    A row's exit layer does not depend on the rows that it is predicted with, and its number only in
    the last digits of float products. Where texts are put in order of one another, as beside a
    query, a `Reranker` compares numbers of one depth.
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        if model.config.num_labels != 1 or model.config.problem_type not in (None, "regression"):
            raise ConfigError(
                "A Regressor gives each row one number, the model's only output; the number of "
                f"outputs of this model is {model.config.num_labels}, its problem_type "
                f"{model.config.problem_type}. Use offramp.Runner for its logits."
            )

    def _saying(self) -> Saying[Estimate]:
        def say(logits_RC: Tensor, layers: Sequence[int]) -> Iterator[Estimate]:
            self.check_finite(logits_RC)
            return map(Estimate, logits_RC[:, 0].tolist(), layers)

        return say
