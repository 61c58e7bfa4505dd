"""Scores that are made of sums over rows, so that rows can be drawn again by the thousand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from exiting.sets import Kind

DRAWS = 2000


@dataclass(frozen=True)
class Metric:
    """`parts` are a row's summands [R, K], of its answer and label; `score` of their means [.., K].

    Scores are from 0 to 100.
    """

    parts: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor], Tensor]


def _right(logits_RC: Tensor, labels_R: Tensor) -> Tensor:
    return (logits_RC.argmax(-1) == labels_R).double()[:, None]


def _moments(logits_RC: Tensor, labels_R: Tensor) -> Tensor:
    x_R, y_R = logits_RC[:, 0].double(), labels_R.double()
    return torch.stack([x_R, y_R, x_R * x_R, y_R * y_R, x_R * y_R], -1)


def _pearson(means_K: Tensor) -> Tensor:
    x, y, xx, yy, xy = means_K.unbind(-1)
    return 100 * (xy - x * y) / ((xx - x * x) * (yy - y * y)).sqrt()


METRICS: dict[Kind, Metric] = {
    "classification": Metric(_right, lambda means_K: 100 * means_K[..., 0]),
    "regression": Metric(_moments, _pearson),
}
"""Accuracy; Pearson's correlation."""


@dataclass(frozen=True)
class Scored:
    """One way to answer a set's rows: each row's summands [R, K].

    A way that takes one of two answers by a draw has the mean of their scores: the parts of both,
    and the share of the first.
    """

    kind: Kind
    parts_RK: Tensor
    other_RK: Tensor | None = None
    share: float = 1.0

    def score(self) -> float:
        return self._of(torch.full((1, len(self.parts_RK)), 1 / len(self.parts_RK)).double()).item()

    def drawn(self) -> Tensor:
        """The score of each draw of as many rows, [DRAWS]; the same draws for the same set."""
        return self._of(_draws(len(self.parts_RK)))

    def _of(self, weights_DR: Tensor) -> Tensor:
        score = METRICS[self.kind].score
        found_D = score(weights_DR @ self.parts_RK)
        if self.other_RK is None:
            return found_D
        return self.share * found_D + (1 - self.share) * score(weights_DR @ self.other_RK)


def scored(kind: Kind, logits_RC: Tensor, labels_R: Tensor) -> Scored:
    """The way that gives these answers."""
    return Scored(kind, METRICS[kind].parts(logits_RC, labels_R))


def interval(draws_D: Tensor) -> tuple[float, float]:
    """From the 2.5% to the 97.5% quantile."""
    low, high = torch.quantile(draws_D, torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


@cache
def _draws(n_rows: int) -> Tensor:
    """How often each row is drawn, as a share of all; [DRAWS, R]."""
    generator = torch.Generator().manual_seed(n_rows)
    drawn_DR = torch.randint(n_rows, (DRAWS, n_rows), generator=generator)
    weights_DR = torch.zeros(DRAWS, n_rows, dtype=torch.float64)
    ones_DR = torch.full_like(weights_DR, 1 / n_rows)
    return weights_DR.scatter_add_(1, drawn_DR, ones_DR)
