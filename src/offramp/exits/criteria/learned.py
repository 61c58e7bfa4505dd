"""A criterion that was learnt: how sure the exits are that they are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from offramp.errors import ConfigError, InputError
from offramp.exits.criteria.base import Answer, Criterion, Decision, above, check_number
from offramp.exits.criteria.confidence import log_odds
from offramp.exits.criteria.task import Task


@dataclass(frozen=True)
class LearnedToExit(Criterion):
    """A row leaves when the exits are sure enough that the ramp's answer is right.

    How sure is what one regressor says that all ramps share: of what the ramp pooled, the
    probability of a right answer (`add_exits(model, certainty=True)`; it has to be trained). Xin et
    al. 2021, "BERxiT: Early Exiting for BERT with Better Fine-Tuning and Extension to Regression".
    """

    name: ClassVar[str] = "learned_to_exit"
    threshold: float
    """A probability, from 0 to 1 (nobody leaves)."""

    def __post_init__(self) -> None:
        check_number(self.threshold, 0, 1, "A certainty's threshold is a probability from 0 to 1")

    def check(self, task: Task) -> None:
        """Raise ConfigError for a model whose exits do not say how sure they are."""
        super().check(task)
        if not task.certainty:
            raise ConfigError(
                f"{self} asks how sure the exits are, and this model's do not say. Put exits with "
                "add_exits(model, certainty=True) and train them."
            )

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Raise InputError: logits alone do not say it."""
        raise InputError("LearnedToExit needs a certainty beside the logits; call `ask`.")

    def ask(self, state_RS: Tensor, depth: int, answer: Answer) -> Decision:
        """Rows leave whose certainty is strictly above the threshold."""
        if answer.certainty_R is None:
            raise InputError("LearnedToExit needs an Answer with `certainty_R`; got none.")
        # Compared as log-odds, which are a sum of products as the logits are.
        certainty_R = answer.certainty_R.double()
        return Decision(*above(certainty_R, log_odds(self.threshold), 1), state_RS)

    def each_label(self) -> Criterion:
        """Itself: the certainty is the row's."""
        return self
