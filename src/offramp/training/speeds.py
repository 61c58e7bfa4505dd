"""Which step of a path runs so many times as fast as the plain model, by the wall clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

from offramp.errors import ConfigError
from offramp.exits.criteria import Criterion
from offramp.models.base import PretrainedModel
from offramp.runner.rows import Row
from offramp.runner.run import Runner
from offramp.training.timing import Ratio, sample, speed, time_in_turn

ROWS, ROUNDS = 500, 5
PROBES = 6
"""So many steps are timed, spread over the layers that they take; those between are reckoned."""


def step_for_speed(
    model: PretrainedModel,
    path: Sequence[Criterion],
    layers: Sequence[float],
    rows: Sequence[Row],
    target: float,
) -> tuple[int, Ratio]:
    """The first step that reaches `target`, and how fast it was then measured to be.

    `layers` are what each step takes of `rows`, on average. ConfigError where no step is so fast.
    """
    if not target > 1:
        raise ConfigError(
            f"target_speed is how many times as fast as the plain model, above 1; got {target}."
        )
    speed_of = speeds_of(model, path, layers, rows)
    reached = [step for step in range(len(path)) if speed_of(step) >= target]
    if not reached:
        best = max(range(len(path)), key=speed_of)
        raise ConfigError(
            f"No threshold makes this model {target:g} times as fast: {path[best]}, at which rows "
            f"take {layers[best]:.2f} layers, is {speed_of(best):.2f} times as fast."
        )
    step = reached[0]
    return step, _measured(model, {step: path[step]}, rows)[step]


def speeds_of(
    model: PretrainedModel,
    path: Sequence[Criterion],
    layers: Sequence[float],
    rows: Sequence[Row],
) -> Callable[[int], float]:
    """How many times as fast as the plain model a step is, by some that are measured.

    A step's time is nearly a straight line over the layers that its rows take.
    """
    timed = _measured(model, {step: path[step] for step in _spread(layers)}, rows)
    return partial(_between, layers, timed)


def _spread(layers: Sequence[float]) -> list[int]:
    """Steps at about equal distances between the most layers and the fewest."""
    most, fewest = max(layers), min(layers)
    found = []
    for number in range(PROBES):
        wanted = most + (fewest - most) * number / (PROBES - 1)
        found.append(min(range(len(layers)), key=lambda step: abs(layers[step] - wanted)))
    return list(dict.fromkeys(found))


def _measured(
    model: PretrainedModel, criteria: dict[int, Criterion], rows: Sequence[Row]
) -> dict[int, Ratio]:
    """How many times as fast as the plain model, in turn in one run."""
    timed = [rows[i] for i in sample(len(rows), ROWS, ROUNDS)]
    runners = {step: Runner(model, criterion=criterion) for step, criterion in criteria.items()}
    calls: dict[str, Callable[[], object]] = {
        str(step): partial(runner.run, timed) for step, runner in runners.items()
    }
    calls["plain"] = partial(Runner(model, exits=False).run, timed)
    seconds = time_in_turn(calls, ROUNDS)
    return {step: speed(seconds[str(step)], seconds["plain"]) for step in criteria}


def _between(layers: Sequence[float], timed: dict[int, Ratio], step: int) -> float:
    """The speed of a step, by its neighbours that were timed."""
    points = sorted((layers[at], 1 / ratio.median) for at, ratio in timed.items())
    x = layers[step]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1:
            share = 0.0 if x1 == x0 else (x - x0) / (x1 - x0)
            return 1 / (y0 + (y1 - y0) * share)
    return 1 / points[0][1]
