"""Scores that are made of sums over rows, so that rows can be drawn again by the thousand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from exiting.sets import Kind
from offramp.runner.iob import spans
from offramp.training.tagged import NO_LABEL

DRAWS = 2000


@dataclass(frozen=True)
class Metric:
    """`parts` are a row's summands [R, K], of its answer and label; `score` of their means [.., K].

    Answers and labels are of rows, or of their tokens, [R, L, C] and [R, L]; `names` are those of
    the C classes. Scores are from 0 to 100.
    """

    parts: Callable[[Tensor, Tensor, Sequence[str]], Tensor]
    score: Callable[[Tensor], Tensor]


def _right(logits_RC: Tensor, labels_R: Tensor, names: Sequence[str]) -> Tensor:
    return (logits_RC.argmax(-1) == labels_R).double()[:, None]


def _moments(logits_RC: Tensor, labels_R: Tensor, names: Sequence[str]) -> Tensor:
    x_R, y_R = logits_RC[:, 0].double(), labels_R.double()
    return torch.stack([x_R, y_R, x_R * x_R, y_R * y_R, x_R * y_R], -1)


def _pearson(means_K: Tensor) -> Tensor:
    x, y, xx, yy, xy = means_K.unbind(-1)
    return 100 * (xy - x * y) / ((xx - x * x) * (yy - y * y)).sqrt()


def _entities(logits_RLC: Tensor, labels_RL: Tensor, names: Sequence[str]) -> Tensor:
    """Of each sentence the entities that were found, those that were said, those there are."""
    found = []
    for said_L, true_L in zip(logits_RLC.argmax(-1), labels_RL, strict=True):
        word_L = true_L != NO_LABEL
        said, true = (
            set(spans([names[number] for number in best_L[word_L].tolist()]))
            for best_L in (said_L, true_L)
        )
        found.append([len(said & true), len(said), len(true)])
    return torch.tensor(found, dtype=torch.float64)


def _f1(means_K: Tensor) -> Tensor:
    hits, said, true = means_K.unbind(-1)
    return 200 * hits / (said + true).clamp(min=1e-12)


METRICS: dict[Kind, Metric] = {
    "classification": Metric(_right, lambda means_K: 100 * means_K[..., 0]),
    "regression": Metric(_moments, _pearson),
    "tokens": Metric(_entities, _f1),
}
"""Accuracy; Pearson's correlation; F1 of entities."""


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


def scored(kind: Kind, logits_RC: Tensor, labels_R: Tensor, names: Sequence[str] = ()) -> Scored:
    """The way that gives these answers; see `Metric`."""
    return Scored(kind, METRICS[kind].parts(logits_RC, labels_R, names))


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
