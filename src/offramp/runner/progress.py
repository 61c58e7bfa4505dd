"""How far a stream is: what a progress callback is told after each window."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """What a stream has computed so far, and how long it took.

    `rows` are those that were asked (a text, a pair, a prompt with its choices), `tokens` all that
    were read for them, `layers` those that the rows passed, added up.
    """

    rows: int
    tokens: int
    layers: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Since the first row was asked for."""
        return self.rows / max(self.seconds, 1e-9)

    @property
    def mean_layers(self) -> float:
        """Layers that a row passed, on average."""
        return self.layers / max(self.rows, 1)


OnProgress: TypeAlias = Callable[[Progress], None]
"""Called in the thread that takes the answers, after each window and before its answers."""


class Meter:
    """Adds windows up and tells what they come to."""

    def __init__(self, tell: OnProgress | None) -> None:
        self._tell = tell
        self._began = time.perf_counter()
        self._rows = self._tokens = self._layers = 0

    def add(self, rows: int, tokens: int, layers: int) -> None:
        """A window of so many rows and tokens, whose rows passed so many layers together."""
        self._rows += rows
        self._tokens += tokens
        self._layers += layers
        if self._tell is not None:
            seconds = time.perf_counter() - self._began
            self._tell(Progress(self._rows, self._tokens, self._layers, seconds))
