"""Wall clock, measured so that a noisy machine cannot favour one side."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from offramp.errors import ConfigError


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one side was: the median over rounds, and its 95% interval."""

    median: float
    low: float
    high: float


def time_in_turn(
    systems: Mapping[str, Callable[[], object]],
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """Seconds of each system in each round; a round runs every system once, in alternating order.

    One unmeasured run of each comes first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    total = (rounds + 1) * len(systems)
    done = 0
    for turn in range(rounds + 1):
        names = list(systems)[:: 1 if turn % 2 else -1]
        for name in names:
            began = time.perf_counter()
            systems[name]()
            if turn:
                seconds[name].append(time.perf_counter() - began)
            done += 1
            progress(done, total)
    return seconds


def sample(n_rows: int, timing_rows: int, rounds: int) -> list[int]:
    """Which rows are timed: so many at most, picked by a fixed seed, in their order."""
    for name, value in (("rounds", rounds), ("timing_rows", timing_rows)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1; got {value}.")
    return sorted(random.Random(0).sample(range(n_rows), min(timing_rows, n_rows)))


def speed(fast: list[float], slow: list[float]) -> Ratio:
    """How many times as fast `fast` is as `slow`, from the rounds' pairs."""
    ratios = sorted(s / f for f, s in zip(fast, slow, strict=True))
    low, high = _median_interval(len(ratios))
    return Ratio(statistics.median(ratios), ratios[low], ratios[high])


def _median_interval(n: int) -> tuple[int, int]:
    """Ranks (from 0) between which the median lies with 95% confidence; by the sign test.

    With fewer than six values no ranks give 95%, and the interval is their whole range.
    """
    probability, rank = 0.5**n, 0
    tail = probability
    while tail <= 0.025:
        rank += 1
        probability *= (n - rank + 1) / rank
        tail += probability
    rank = max(0, rank - 1)
    return rank, n - 1 - rank


__all__ = ["Ratio", "sample", "speed", "time_in_turn"]
