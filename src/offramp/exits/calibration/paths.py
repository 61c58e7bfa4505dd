"""Paths: criteria of one kind, from where no row leaves early to where most do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from offramp.errors import ConfigError
from offramp.exits.criteria import (
    AllOf,
    ConfidentPatience,
    Criterion,
    Energy,
    Entropy,
    FixedDepth,
    JensenShannonPatience,
    LayerEntropy,
    LearnedToExit,
    Margin,
    MaxProbability,
    MinDepth,
    NormalizedEntropy,
    Patience,
    RandomExit,
    RegressionPatience,
    Voting,
)
from offramp.exits.criteria.confidence import log_odds, logits_entropy
from offramp.exits.criteria.task import LARGEST

STEPS = 200


@dataclass(frozen=True)
class Grounds:
    """What a path is made of beside the criterion.

    `tuning_ERC` are every exit's logits, the model's own last, for rows of which none is a
    calibration row: paths whose unit is the logits' own need them.
    """

    n_classes: int
    n_layers: int
    tuning_ERC: Tensor | None = None

    def tuning(self, criterion: Criterion) -> Tensor:
        """ConfigError where there is none."""
        if self.tuning_ERC is None:
            raise ConfigError(
                f"{criterion} has a threshold in the model's own units: which ones to try is read "
                "off other rows than those of the calibration. Pass them as tune= (--tune)."
            )
        return self.tuning_ERC.double()


def path_of(criterion: Criterion, grounds: Grounds) -> list[Criterion]:
    """The criterion with its first setting varied, all else as it is.

    Of `a & b` that of the first part which is not a depth that rows pass at least. ConfigError for
    one of somebody's own.
    """
    if isinstance(criterion, AllOf):
        parts = list(criterion.of)
        at = next((i for i, part in enumerate(parts) if not isinstance(part, MinDepth)), 0)
        varied = path_of(parts[at], grounds)
        return [AllOf((*parts[:at], one, *parts[at + 1 :])) for one in varied]
    make = _PATHS.get(type(criterion))
    if make is None:
        raise ConfigError(
            f"There is no path for {criterion}. Pass one as path=: criteria in a list, of which "
            "the first lets no row leave."
        )
    return make(criterion, grounds)


FLAT = 1e-9
"""The slope of a curve that rounding alone has bent."""


def layer_path(tuning_ERC: Tensor, lost_XR: Tensor, depths: Sequence[int]) -> list[Criterion]:
    """Entropies with a threshold for each layer: where a row's chance of being lost is the same.

    `lost_XR`, from 0 to 1, is what leaving at each ramp costs each row. Of each ramp that chance is
    a logistic function of the entropy's logarithm, fitted to them. Along the path all ramps let the
    rows go whose chance is below one number, which rises.
    """
    curves = {
        depth: _fitted(logits_entropy(logits_RC), lost_R.double())
        for depth, logits_RC, lost_R in zip(depths[:-1], tuning_ERC[:-1], lost_XR, strict=True)
    }
    most = math.log(1.001 * math.log(tuning_ERC.shape[-1]))  # above any entropy's logarithm
    path: list[Criterion] = []
    for chance in rising(0.5, decades=5):
        own = [0.0] * depths[-1]
        for depth, (offset, slope) in curves.items():
            if chance <= 0 or slope < -FLAT:
                continue
            if slope > FLAT:
                own[depth - 1] = math.exp(min(most, (log_odds(chance) - offset) / slope))
            elif log_odds(chance) > offset:  # the same chance for all rows: none is lost, say
                own[depth - 1] = math.exp(most)
        path.append(LayerEntropy(tuple(float(f"{threshold:.6g}") for threshold in own)))
    return path


def _fitted(entropy_R: Tensor, lost_R: Tensor) -> tuple[float, float]:
    """Offset and slope of the log-odds of `lost_R` over ln(entropy): ridge regression by Newton.

    The penalty of half a row keeps both finite where no row is lost, or all.
    """
    x_R = entropy_R.double().clamp(min=1e-12).log()
    design_R2 = torch.stack([torch.ones_like(x_R), x_R - x_R.mean()], -1)
    penalty_22 = 0.5 * torch.eye(2, dtype=torch.float64)
    found_2 = torch.zeros(2, dtype=torch.float64)
    for _ in range(50):
        chance_R = (design_R2 @ found_2).sigmoid()
        gradient_2 = design_R2.T @ (chance_R - lost_R) + penalty_22 @ found_2
        curvature_22 = (design_R2.T * (chance_R * (1 - chance_R))) @ design_R2 + penalty_22
        step_2 = torch.linalg.solve(curvature_22, gradient_2)
        found_2 = found_2 - step_2.clamp(-2, 2)
        if step_2.abs().max() < 1e-9:
            break
    offset, slope = found_2.tolist()
    return offset - slope * x_R.mean().item(), slope


def rising(most: float, decades: float = 3) -> list[float]:
    """0, and numbers from so many powers of ten below `most` up to it."""
    parts = [10 ** (-decades * (1 - step / (STEPS - 1))) for step in range(STEPS)]
    return [0.0, *(float(f"{most * part:.4g}") for part in parts)]


def _thresholds(criterion: Any, values: Sequence[float]) -> list[Criterion]:
    return [replace(criterion, threshold=value) for value in values]


def _entropy(criterion: Criterion, grounds: Grounds) -> list[Criterion]:
    return _thresholds(criterion, rising(math.log(grounds.n_classes)))


def _layer_entropy(criterion: LayerEntropy, grounds: Grounds) -> list[Criterion]:
    """All thresholds a part of what they are, up to ten times; where none is above 0, all alike."""
    own, parts = criterion.thresholds, rising(10.0)
    if max(own) <= 0:
        own, parts = (1.0,) * len(own), rising(math.log(grounds.n_classes))
    return [LayerEntropy(tuple(max(0.0, x) * part for x in own)) for part in parts]


def _part(criterion: Criterion, grounds: Grounds) -> list[Criterion]:
    return _thresholds(criterion, rising(1.0))


def _down_from_1(criterion: Criterion, grounds: Grounds) -> list[Criterion]:
    return _thresholds(criterion, [1 - rest for rest in rising(1.0, decades=4)])


def _jensen_shannon(criterion: Criterion, grounds: Grounds) -> list[Criterion]:
    return _thresholds(criterion, rising(math.log(2) - 1e-4, decades=6))


def _patience(criterion: Criterion, grounds: Grounds) -> list[Criterion]:
    return [Patience(0), *(Patience(count) for count in range(grounds.n_layers - 2, 0, -1))]


def _voting(criterion: Voting, grounds: Grounds) -> list[Criterion]:
    """Every score that there can be, the highest first."""
    ramps = range(1, grounds.n_layers)
    scores = {votes / n**criterion.power for n in ramps for votes in range(1, n + 1)}
    falling = sorted(scores, reverse=True)
    return _thresholds(criterion, [falling[0], *(score - 1e-6 for score in falling)])


def _random(criterion: RandomExit, grounds: Grounds) -> list[Criterion]:
    return [replace(criterion, rate=part) for part in rising(1.0)]


def _fixed_depth(criterion: Criterion, grounds: Grounds) -> list[Criterion]:
    return [FixedDepth(depth) for depth in range(grounds.n_layers, 0, -1)]


def _energy(criterion: Energy, grounds: Grounds) -> list[Criterion]:
    logits = grounds.tuning(criterion)[:-1] / criterion.temperature
    energies = -criterion.temperature * logits.logsumexp(-1).flatten()
    return _thresholds(criterion, [-LARGEST, *_quantiles(energies)])


def _changes(criterion: RegressionPatience, grounds: Grounds) -> list[Criterion]:
    """With a patience of 0, by which nobody leaves whatever the threshold, that of 1."""
    criterion = replace(criterion, patience=max(1, criterion.patience))
    changes = grounds.tuning(criterion)[:-1].diff(dim=0).abs().amax(-1).flatten()
    return _thresholds(criterion, [0.0, *_quantiles(changes)])


def _quantiles(values_N: Tensor) -> list[float]:
    """Rising, the last just above all."""
    shares = torch.linspace(0, 1, STEPS, dtype=torch.float64)
    few_N = values_N[:: 1 + len(values_N) // 10**6]  # torch sorts no more at once
    found: list[float] = torch.quantile(few_N, shares).tolist()
    return [*found, found[-1] + 1e-6]


_PATHS: dict[type[Criterion], Callable[[Any, Grounds], list[Criterion]]] = {
    Entropy: _entropy,
    ConfidentPatience: _entropy,
    LayerEntropy: _layer_entropy,
    NormalizedEntropy: _part,
    MaxProbability: _down_from_1,
    Margin: _down_from_1,
    LearnedToExit: _down_from_1,
    JensenShannonPatience: _jensen_shannon,
    Patience: _patience,
    Voting: _voting,
    RandomExit: _random,
    FixedDepth: _fixed_depth,
    Energy: _energy,
    RegressionPatience: _changes,
}
