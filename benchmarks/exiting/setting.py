"""What the sections share: the options, the sets, the models and their clocks."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from exiting.clock import Clock
from exiting.families import DEFAULTS, FAMILIES, paths
from exiting.models import PLAIN, Model
from exiting.points import Chosen, choose
from exiting.sets import DataSet
from offramp.training.options import SCHEDULE
from running.figures import Report


@dataclass(frozen=True, order=True)
class Pair:
    """A schedule and a criterion's family."""

    schedule: str
    family: str

    def __str__(self) -> str:
        return f"{self.schedule}: {self.family}"


DEFAULT = Pair(SCHEDULE, DEFAULTS["classification"])
"""What the library does where nobody says."""


class Setting:
    """The options, and what is made of them once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.report = Report()
        self._models: dict[tuple[str, str, int, str | None], Model] = {}
        self._clocks: dict[tuple[str, str | None], Clock] = {}

    @cached_property
    def sets(self) -> list[DataSet]:
        options = self.options
        return [
            DataSet(name, options.data, options.runs, options.rows_cap, options.precision)
            for name in options.sets
        ]

    def model(self, data: DataSet, schedule: str, seed: int, pooler: str | None = None) -> Model:
        """The same object each time: it keeps what it has read."""
        key = (data.name, schedule, seed, pooler)
        return self._models.setdefault(key, Model(data, schedule, seed, pooler=pooler))

    def plain(self, model: Model) -> Model:
        """Whose body and head are the plain fine-tuned model's, of the same set and seed."""
        return self.model(model.data, PLAIN, model.seed)

    def train(self, sets: Iterable[DataSet], schedules: Iterable[str], seeds: list[int]) -> None:
        """Train those that are not there yet, and keep what their exits answer."""
        in_order = sorted({PLAIN, *schedules}, key=lambda schedule: (schedule != PLAIN, schedule))
        for data in sets:
            for seed in seeds:
                for model in (self.model(data, schedule, seed) for schedule in in_order):
                    _ = model.dev, model.test

    def clock(self, data: DataSet, pooler: str | None = None, *, again: bool = False) -> Clock:
        """The set's times, by its plain fine-tuned model with ramps; of a pooler, by its own."""
        key = (data.name, pooler)
        if again or key not in self._clocks:
            model = self.model(data, PLAIN, self.options.seeds[0], pooler)
            families = None if pooler is None else [DEFAULTS[data.recipe.kind]]
            options = self.options
            clock = Clock(model, options.rows, options.rounds, again=again, families=families)
            self._clocks[key] = clock
            print(f"times of {data.name}: {clock.times.machine}", flush=True)
        return self._clocks[key]

    def chosen(self, model: Model, family: str) -> dict[float, Chosen]:
        """A family's criteria for the targets; what it cannot reach is not there."""
        return choose(model, self.clock(model.data, model.pooler), family)


def fitting(data: DataSet, model: Model) -> list[str]:
    """The families that have paths for this model."""
    kind = data.recipe.kind
    return [family for family in FAMILIES[kind] if paths(kind, family, model.dev.exits)]
