"""The data sets: what is asked of a row, how many rows are trained on, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

import offramp
from offramp.text.tables import Table
from offramp.text.tagged import TaggedTable
from offramp.training.examples import hold_out
from sst2 import write_splits

Kind = Literal["classification", "regression", "tokens"]
Rows: TypeAlias = Table | TaggedTable
T = TypeVar("T", bound=Rows)

WORDS = 4  # of SST-2's training rows, at least


@dataclass(frozen=True)
class Recipe:
    """How a set is read and learnt. With `pair` a row is two texts."""

    kind: Kind
    epochs: int
    text: str = "text"
    pair: str | None = None
    most_rows: int | None = None
    """Training rows at most, evenly drawn."""
    rates: Mapping[str, Any] = field(default_factory=dict)
    """Where the library's own learn too little: peak rates of the body and of ramps."""


RECIPES = {
    "sst2": Recipe("classification", epochs=1, most_rows=20_000),
    "trec": Recipe("classification", epochs=4),
    "mrpc": Recipe("classification", epochs=3, text="a", pair="b"),
    "banking77": Recipe("classification", epochs=5),
    "stsb": Recipe("regression", epochs=3, text="a", pair="b"),
    "wnut17": Recipe(
        "tokens",
        epochs=4,
        text="tokens",
        rates={"learning_rate": 1e-4, "ramp_learning_rate": 1e-3},
    ),
}


@dataclass(frozen=True)
class DataSet:
    """A set's rows: `training` teaches, `dev` chooses, `test` is reported on.

    `data` is the folder of all sets, `runs` the one where what is made of them is kept. Where a set
    has no dev split a tenth of train is one, by hash of the text.
    """

    name: str
    data: Path
    runs: Path
    rows_cap: int | None = None
    precision: str = "float32"
    """What its models are trained in."""

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.name]

    @property
    def folder(self) -> Path:
        """Where its models are kept."""
        rows = len(self.training)
        precision = "" if self.precision == "float32" else f"-{self.precision}"
        return self.runs / f"{self.name}-{rows}-rows-{self.recipe.epochs}-epochs{precision}"

    @property
    def training(self) -> Rows:
        return self._halves[0]

    @property
    def dev(self) -> Rows:
        return self._halves[1]

    @cached_property
    def test(self) -> Rows:
        return self._capped(self._read(self.data / self.name / "test.jsonl"))

    @cached_property
    def _halves(self) -> tuple[Rows, Rows]:
        """Training and dev rows."""
        files = [self.data / self.name / f"{split}.jsonl" for split in ("train", "dev")]
        if self.name == "sst2":  # its rows are phrases: see benchmarks/sst2.py
            source = files[0].parent
            files = [self.runs / f"sst2-{WORDS}-words-{split}.jsonl" for split in ("train", "dev")]
            if not all(file.exists() for file in files):
                write_splits(source, WORDS, *files)
        if files[1].exists():
            training, dev = map(self._read, files)
        else:
            training, dev = hold_out(cast(Table, self._read(files[0])))
        return self._capped(evenly(training, self.recipe.most_rows)), self._capped(dev)

    def _read(self, file: Path) -> Rows:
        if self.recipe.kind == "tokens":
            return offramp.read_tagged(file, tokens=self.recipe.text)
        return offramp.read_table(file, text=self.recipe.text, pair=self.recipe.pair)

    def _capped(self, table: Rows) -> Rows:
        return evenly(table, self.rows_cap)


def evenly(table: T, most: int | None) -> T:
    """So many of the rows at most, evenly spread."""
    count = len(table)
    if most is None or count <= most:
        return table
    which = [i * count // most for i in range(most)]
    columns: dict[str, Any] = {
        name: [values[i] for i in which]
        for name, values in vars(table).items()
        if isinstance(values, list)
    }
    return replace(table, **columns)
