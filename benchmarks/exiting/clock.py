"""Wall clock: measured for a few criteria, and read off between them.

What is kept are times as a part of the plain model's (no exits, the same kernels and windows), each
from sides that were measured in turn in one run. The time of a criterion is nearly a straight line
over the layers that its rows take, counted in tokens: `curves` holds some points of each family's
line, measured on one model for all of its set and shape; what lies between is interpolated.
`points` holds criteria that were chosen and then measured on the model itself, beside its own
truncations.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from exiting.families import FAMILIES, paths
from exiting.models import Answers, Model
from offramp.exits.criteria import Criterion
from offramp.runner.rows import Row
from offramp.runner.run import Results, Runner
from offramp.training.evaluation import machine
from offramp.training.timing import speed, time_in_turn
from running.setting import spread

SHARES = (0.75, 0.5, 0.3)
"""Of the layers, by tokens: about where a family's line is measured."""

Line = list[tuple[float, float]]
"""Points (share of the layers, part of the plain model's time), rising."""


@dataclass
class Times:
    """What was measured for one set on one machine; see above. `depths` are truncated models'."""

    machine: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Line] = field(default_factory=dict)
    depths: dict[str, float] = field(default_factory=dict)
    points: dict[str, dict[str, float]] = field(default_factory=dict)


class Clock:
    """The times of one set, kept in a file; measured when they are not there, or `again`.

    Poolers have a clock each, of a few `families`; None means all.
    """

    def __init__(
        self,
        model: Model,
        n_rows: int,
        rounds: int,
        *,
        again: bool = False,
        families: Sequence[str] | None = None,
    ) -> None:
        self._n_rows, self._rounds = n_rows, rounds
        ramps = "" if model.pooler is None else f"{model.pooler}-"
        name = f"times-{ramps}{n_rows}-rows-{torch.get_num_threads()}-threads.json"
        self._file: Path = model.data.folder / name
        self.times = Times()
        if self._file.exists() and not again:
            self.times = Times(**json.loads(self._file.read_text(encoding="utf-8")))
        if not self.times.curves:
            wanted = FAMILIES[model.data.recipe.kind] if families is None else families
            self._measure_curves(model, wanted)

    def time(self, family: str, share: float, model: Model) -> float:
        """The part of the plain model's time that a criterion of this family takes.

        `model` has its line measured, if the clock's own cannot be asked so.
        """
        if family not in self.times.curves:
            self._measure_curves(model, [family])
        return interpolated([(x, y) for x, y in self.times.curves[family]], share)

    def measure(self, model: Model, criteria: Sequence[Criterion]) -> dict[str, float]:
        """What these criteria take on this model, by their names, and its truncations, by depth.

        Measured in one run if some are not there.
        """
        known = self.times.points.setdefault(model.name, {})
        if fresh := {str(c): {"criterion": c} for c in criteria if str(c) not in known}:
            found, _ = self._in_turn(model, {**_truncations(model), **fresh})
            known |= found
            self._keep()
        return known

    def _measure_curves(self, model: Model, families: Iterable[str]) -> None:
        """Each family's line, and the truncated models, on one model."""
        ways = _truncations(model)
        chosen: dict[str, list[str]] = {}
        for family in families:
            found_paths = paths(model.data.recipe.kind, family, model.dev.exits)
            criteria = [criterion for one in found_paths for criterion in one]
            if near := _near_shares(model.test, criteria):
                chosen[family] = [f"{family}: {criterion}" for criterion in near]
                ways |= {f"{family}: {criterion}": {"criterion": criterion} for criterion in near}
        found, taken = self._in_turn(model, ways)
        self.times.machine = {
            **machine(),
            "rows": self._n_rows,
            "rounds": self._rounds,
            "at": time.strftime("%Y-%m-%d %H:%M"),
        }
        self.times.depths = {way: time for way, time in found.items() if way.isdigit()}
        self.times.curves |= {
            family: _apart(sorted((taken[way], found[way]) for way in ways_of))
            for family, ways_of in chosen.items()
        }
        self._keep()

    def _in_turn(
        self, model: Model, ways: Mapping[str, Mapping[str, Any]]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Times of some ways to run a model, by the runner's settings, and shares of its layers."""
        rows = spread(model.test_rows(), self._n_rows)
        runners = {way: Runner(model.network, **settings) for way, settings in ways.items()}
        runners["plain"] = Runner(model.network, exits=False)
        calls: dict[str, Callable[[], object]] = {
            way: partial(runner.run, rows) for way, runner in runners.items()
        }
        seconds = time_in_turn(calls, self._rounds)
        times = {way: 1 / speed(seconds[way], seconds["plain"]).median for way in ways}
        return times, {way: _share(rows, runners[way].run(rows), model) for way in ways}

    def _keep(self) -> None:
        fresh = self._file.with_suffix(".part")
        fresh.write_text(json.dumps(asdict(self.times), indent=1), encoding="utf-8")
        fresh.replace(self._file)


def share_of(answers: Answers, results: Results) -> float:
    """Of the layers, how much was taken, by tokens."""
    return _part(results, answers.tokens_R.double(), answers.n_layers)


def interpolated(line: Line, x: float) -> float:
    """The value at x of straight lines through the points, which go on at both ends."""
    if len(line) == 1:  # through the plain model's time for all layers
        line = [*line, (1.0, 1.0)]
    at = min(max(bisect_left([point[0] for point in line], x), 1), len(line) - 1)
    (x0, y0), (x1, y1) = line[at - 1], line[at]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def depth_at(times: Mapping[str, float], n_layers: int, time: float) -> tuple[int, float]:
    """The truncated models that take this much: a depth, and the share of rows that stop there.

    The rest of the rows take one layer more. A whole depth where none takes so little. `times` has
    those of the depths, by their number.
    """
    at = [times[str(depth)] for depth in range(1, n_layers)] + [1.0]
    above = min(bisect_left(at, time), n_layers - 1)
    if above == 0:
        return 1, 1.0
    low, high = at[above - 1], at[above]
    return above, min(1.0, max(0.0, (high - time) / (high - low)))


def _truncations(model: Model) -> dict[str, dict[str, Any]]:
    """A runner's settings, by depth."""
    depths = model.test.exits.depths[:-1]
    return {str(depth): {"depth": depth, "exits": False} for depth in depths}


def _near_shares(answers: Answers, criteria: Sequence[Criterion]) -> list[Criterion]:
    """Of a path, those that take about `SHARES` of the layers."""
    taken = [share_of(answers, answers.exits.apply(criterion)) for criterion in criteria]
    near = (min(taken, key=partial(_distance, share)) for share in SHARES if taken)
    return [criteria[at] for at in dict.fromkeys(map(taken.index, near))]


def _distance(one: float, other: float) -> float:
    return abs(one - other)


def _apart(line: Line) -> Line:
    """Without points that lie too near the one before for a slope."""
    kept = line[:1]
    for point in line[1:]:
        if point[0] - kept[-1][0] > 0.05:
            kept.append(point)
    return kept


def _share(rows: Sequence[Row], results: Results, model: Model) -> float:
    tokens_R = torch.tensor([float(len(row.ids)) for row in rows]).double()
    return _part(results, tokens_R, model.test.n_layers)


def _part(results: Results, tokens_R: torch.Tensor, n_layers: int) -> float:
    taken = (results.exit_layers_R * tokens_R).sum() / (tokens_R.sum() * n_layers)
    return taken.item()
