"""Timing in turn, and the median's interval against tables of the binomial distribution."""

import itertools
import math
import time

import pytest

from offramp.training.timing import Ratio, _median_interval, speed, time_in_turn

# Ranks, from 1, of the values between which the median lies with 95% confidence, as statistics
# textbooks print them.
TABLE = {
    6: (1, 6), 7: (1, 7), 8: (1, 8), 9: (2, 8), 10: (2, 9), 11: (2, 10), 12: (3, 10), 15: (4, 12),
    20: (6, 15), 25: (8, 18), 30: (10, 21), 50: (18, 33), 100: (40, 61),
}  # fmt: skip


@pytest.mark.parametrize(("n", "ranks"), TABLE.items())
def test_interval_of_the_tables(n: int, ranks: tuple[int, int]) -> None:
    low, high = _median_interval(n)
    assert (low + 1, high + 1) == ranks


@pytest.mark.parametrize("n", range(1, 6))
def test_of_fewer_than_six_the_whole_range(n: int) -> None:
    assert _median_interval(n) == (0, n - 1)


@pytest.mark.parametrize("n", range(6, 60))
def test_interval_is_the_narrowest_that_holds_95_percent(n: int) -> None:
    low, high = _median_interval(n)

    def confidence(first: int) -> float:
        return 1 - 2 * sum(math.comb(n, k) for k in range(first + 1)) / 2**n

    assert high == n - 1 - low
    assert confidence(low) >= 0.95 > confidence(low + 1)


def test_speed_is_the_median_of_the_rounds_pairs() -> None:
    fast = [1.0, 2.0, 1.0, 4.0, 1.0, 1.0, 1.0]
    slow = [3.0, 4.0, 5.0, 4.0, 2.5, 9.0, 1.5]
    # Ratios 3, 2, 5, 1, 2.5, 9, 1.5.
    assert speed(fast, slow) == Ratio(median=2.5, low=1.0, high=9.0)
    ratio = speed([1.0] * 10, [float(i) for i in range(1, 11)])
    assert ratio == Ratio(median=5.5, low=2.0, high=9.0)
    with pytest.raises(ValueError, match="longer"):
        speed([1.0], [1.0, 2.0])


def test_systems_run_in_turn_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []
    told: list[tuple[int, int]] = []
    names = "abc"
    seconds = time_in_turn(
        {name: lambda name=name: calls.append(name) for name in names},  # type: ignore[misc]
        rounds=4,
        progress=lambda done, total: told.append((done, total)),
    )
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys(names, 4)
    rounds = ["".join(calls[i : i + 3]) for i in range(0, 15, 3)]
    # Forwards and backwards by turns: a machine that slows down meanwhile favours neither side.
    assert len(rounds) == 5
    assert all(one == two[::-1] for one, two in itertools.pairwise(rounds))
    assert told == [(i, 15) for i in range(1, 16)]


def test_seconds_are_seconds() -> None:
    seconds = time_in_turn({"sleep": lambda: time.sleep(0.02), "nothing": lambda: None}, rounds=3)
    assert all(0.02 <= value < 2 for value in seconds["sleep"])
    assert max(seconds["nothing"]) < 0.02
    assert speed(seconds["nothing"], seconds["sleep"]).median > 1
