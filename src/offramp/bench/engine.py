"""What every engine that is measured offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from torch import Tensor

from offramp.runner.rows import Row

Run: TypeAlias = Callable[[], Tensor]
"""Runs the rows that were prepared: logits [R, C] on the host, in input order."""


class Engine(Protocol):
    """A sequence classifier, opened by an engine."""

    def prepare(self, rows: Sequence[Row]) -> Run:
        """A call that answers `rows`. What an engine needs of them is made here, outside of it."""


@dataclass(frozen=True)
class Setting:
    """How engines are run: rows in a padded batch, and CPU threads."""

    batch_size: int
    threads: int


Opener: TypeAlias = Callable[[Path, Setting], Engine]
"""Opens what offramp saved in a directory.

Raises MissingBackendError where the engine is not installed, and UnsupportedError where it has not
the model's family.
"""
