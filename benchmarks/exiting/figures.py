"""What is told of points: scores lost, and differences to truncation, over sets and seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exiting.points import Point
from exiting.scoring import Scored, interval


@dataclass(frozen=True)
class OnSet:
    """One pair's points for one target on one set, a seed each, and the plain models' answers."""

    points: Sequence[Point]
    plain: Sequence[Scored]

    @property
    def lost(self) -> float:
        """Against the same model's full depth; as all scores, in points and the seeds' mean."""
        return _mean([point.full.score() - point.way.score() for point in self.points])

    @property
    def lost_to_plain(self) -> float:
        """Against the plain fine-tuned model."""
        pairs = zip(self.plain, self.points, strict=True)
        return _mean([plain.score() - point.way.score() for plain, point in pairs])

    @property
    def lost_on_dev(self) -> float:
        """Minus the score there: what pairs are put in order by."""
        return -_mean([point.chosen.dev_score for point in self.points])

    @property
    def speed(self) -> float:
        return _mean([point.speed for point in self.points])

    @property
    def over_truncation(self) -> float:
        return _mean([point.way.score() - point.truncation.score() for point in self.points])

    @property
    def over_shorter(self) -> float | None:
        """Over models that were fine-tuned of fewer layers; None where there are none."""
        found = [
            point.way.score() - point.shorter.score()
            for point in self.points
            if point.shorter is not None
        ]
        return _mean(found) if found else None

    def drawn_over_truncation(self) -> Tensor:
        """The same, of rows drawn again; [DRAWS]."""
        found = [point.way.drawn() - point.truncation.drawn() for point in self.points]
        return torch.stack(found).mean(0)

    def drawn_lost_to_plain(self) -> Tensor:
        """[DRAWS]."""
        pairs = zip(self.plain, self.points, strict=True)
        return torch.stack([plain.drawn() - point.way.drawn() for plain, point in pairs]).mean(0)


@dataclass(frozen=True)
class Mean:
    """Of several sets: points lost, and the difference to truncation with its 95% interval."""

    lost: float
    lost_to_plain: float
    speed: float
    over_truncation: float
    interval: tuple[float, float]
    over_shorter: float | None


def mean_of(sets: Sequence[OnSet]) -> Mean:
    """Each set counts the same."""
    drawn_D = torch.stack([found.drawn_over_truncation() for found in sets]).mean(0)
    over_shorter = [over for found in sets if (over := found.over_shorter) is not None]
    return Mean(
        _mean([found.lost for found in sets]),
        _mean([found.lost_to_plain for found in sets]),
        _mean([found.speed for found in sets]),
        _mean([found.over_truncation for found in sets]),
        interval(drawn_D),
        _mean(over_shorter) if len(over_shorter) == len(sets) else None,
    )


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)
