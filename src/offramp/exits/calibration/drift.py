"""Whether rows leave where those of the calibration set did."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Mapping

import torch

from offramp.errors import DriftWarning

ROWS = 200
"""So few rows or fewer say nothing yet."""
BLOCK = 12_800
"""So many rows are looked at, and then the counting begins anew, so that late drift shows too."""
LEVEL = 1e-6
"""A p-value below this is drift: rows are looked at again and again."""


class ExitWatch:
    """Counts at which layers rows leave, and warns once when that is not as it was.

    `expected` is how many rows of the calibration set left after so many layers, as a certificate
    has it. It looks after 200 rows and whenever they have doubled, up to blocks of 12,800, by a
    chi-square test of homogeneity. Safe to share between threads. That rows leave elsewhere says
    that they are other rows, and a certificate is of rows like its own; that they leave at the same
    layers proves nothing.
    """

    def __init__(self, expected: Mapping[str, int]) -> None:
        self._expected = {int(depth): count for depth, count in expected.items()}
        self._seen: Counter[int] = Counter()
        self._next, self._before = ROWS, 0
        self._has_warned = False
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """How many were seen."""
        return self._before + sum(self._seen.values())

    def add(self, left: Mapping[int, int]) -> None:
        """Count how many rows left after so many layers; a DriftWarning, once, if they differ."""
        with self._lock:
            self._seen.update(left)
            count = sum(self._seen.values())
            if self._has_warned or count < self._next:
                return
            self._next = min(2 * count, BLOCK)
            p_value, mean = homogeneity_p_value(self._expected, self._seen), _mean(self._seen)
            self._has_warned = p_value < LEVEL
            if count >= BLOCK:
                self._before += count
                self._seen.clear()
        if self._has_warned:
            warnings.warn(
                f"{count} rows leave after {mean:.2f} layers on average and those of the "
                f"calibration set after {_mean(self._expected):.2f}, or spread otherwise about "
                f"that (p {p_value:.1e}): they are other rows than the certificate is of. "
                "Calibrate on rows like these.",
                DriftWarning,
                stacklevel=2,
            )


def homogeneity_p_value(one: Mapping[int, int], other: Mapping[int, int]) -> float:
    """Pearson's chi-square test that two sets of counts are of the same distribution.

    Neighbouring layers are counted as one until at least five rows are expected in each cell.
    """
    n_one, n_other = sum(one.values()), sum(other.values())
    if min(n_one, n_other) == 0:
        return 1.0
    share = min(n_one, n_other) / (n_one + n_other)
    cells: list[list[int]] = [[0, 0]]
    for depth in sorted({*one, *other}):
        if sum(cells[-1]) * share >= 5:
            cells.append([0, 0])
        cells[-1][0] += one.get(depth, 0)
        cells[-1][1] += other.get(depth, 0)
    if len(cells) > 1 and sum(cells[-1]) * share < 5:
        last = cells.pop()
        cells[-1] = [a + b for a, b in zip(cells[-1], last, strict=True)]
    if len(cells) < 2:
        return 1.0
    statistic = 0.0
    for pair in cells:
        for count, n in zip(pair, (n_one, n_other), strict=True):
            expected = sum(pair) * n / (n_one + n_other)
            statistic += (count - expected) ** 2 / expected
    freedom = torch.tensor((len(cells) - 1) / 2, dtype=torch.float64)
    half = torch.tensor(statistic / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, half))


def _mean(counts: Mapping[int, int]) -> float:
    return sum(depth * count for depth, count in counts.items()) / max(1, sum(counts.values()))
