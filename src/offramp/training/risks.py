"""What leaving early may cost a row, against the full model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from offramp.errors import ConfigError, nearest
from offramp.exits.criteria.task import MULTI_LABEL, REGRESSION, Task

Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Of the logits where rows left [R, C], the full model's [R, C] and labels: each row's, [R].

From 0, and exactly that where both logits are the same, to 1.
"""

A = TypeVar("A", bound=Sized)


@dataclass(frozen=True)
class Risk(Generic[A]):
    """A mean of losses over rows, and what is known of them beforehand.

    `loss` takes the answers to R rows where they left, the full model's, and labels or None.
    """

    name: str
    loss: Callable[[A, A, Any], object]
    takes_labels: bool = False
    """Whether the loss looks at labels, where there are some."""
    needs_labels: bool = False
    binary: bool = False
    """Whether a loss is 0 or 1."""
    least: float = 0.0
    """-1 where a row may gain by leaving early."""

    def of(self, left: A, full: A, labels: Any) -> Tensor:
        """[R], float64; ConfigError where they are not what they should be."""
        losses_R = torch.as_tensor(self.loss(left, full, labels))
        if losses_R.shape != (len(full),):
            raise ConfigError(
                f"The loss {self.name} gives {tuple(losses_R.shape)}; expected one number for each "
                f"of {len(full)} rows."
            )
        losses_R = losses_R.double()
        if not bool(((losses_R >= self.least) & (losses_R <= 1)).all()):  # and no NaN
            raise ConfigError(
                f"The loss {self.name} has values from {losses_R.min():g} to {losses_R.max():g}; a "
                f"risk is bounded where they are from {self.least:g} to 1. Divide them by the most "
                "they can be, and cut off what is above."
            )
        return losses_R


def risk_of(asked: str | Loss, task: Task, tolerance: float | None) -> Risk[Tensor]:
    """The risk of this name, for a model that is asked this, or that of a loss of one's own."""
    if callable(asked):
        if tolerance is not None:
            raise ConfigError("tolerance is of disagreement; a function has its own.")
        return Risk(name_of(asked), asked, takes_labels=True)
    kind = task.kind
    check_name(asked, ("disagreement", "accuracy"))
    if kind == REGRESSION:
        return _of_numbers(asked, tolerance)
    if tolerance is not None:
        raise ConfigError("tolerance is of numbers; this model says classes or labels.")
    decide = _labels if kind == MULTI_LABEL else _class
    if asked == "disagreement":
        return Risk(
            asked, lambda left, full, labels: _differ(decide(left), decide(full)), binary=True
        )

    def gap(left_RC: Tensor, full_RC: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        right = labels if labels.dim() == 1 else labels > 0.5
        return _differ(decide(left_RC), right) - _differ(decide(full_RC), right)

    return Risk(asked, gap, takes_labels=True, needs_labels=True, least=-1.0)


def name_of(loss: Callable[..., object]) -> str:
    """What certificates and messages call a loss of one's own."""
    return getattr(loss, "__name__", type(loss).__name__)


def check_name(asked: str, known: tuple[str, ...]) -> None:
    """ConfigError for a risk that there is none of that name."""
    if asked not in known:
        names = ", ".join(known)
        raise ConfigError(
            f"A risk is {names} or a function; got {asked!r}. {nearest(asked, known)}".rstrip()
        )


def _of_numbers(asked: str, tolerance: float | None) -> Risk[Tensor]:
    if asked != "disagreement" or tolerance is None or not 0 < tolerance < math.inf:
        raise ConfigError(
            "Numbers disagree where they are further apart than tolerance=, in the labels' units: "
            f"pass one above 0; got {tolerance!r}. For another risk pass a function."
            if asked == "disagreement"
            else f"The risk {asked!r} is of classes and labels; this model says numbers. Take "
            "disagreement, with a tolerance, or a function."
        )
    return Risk(
        f"disagreement by more than {tolerance:g}",
        lambda left, full, labels: (~((left - full).abs() <= tolerance)).any(-1).double(),
        binary=True,
    )


def _class(logits_RC: Tensor) -> Tensor:
    return logits_RC.argmax(-1)


def _labels(logits_RC: Tensor) -> Tensor:
    return logits_RC > 0


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """1 where a row's answers are not the same, [R]."""
    differ = one != other
    return (differ if differ.dim() == 1 else differ.any(-1)).double()
