"""Numbers in words, the same in a plot, a table and a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MEASURES = {
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "exact_match": "exact match",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "mean_squared_error": "mean squared error",
    "f1": "F1",
}
MINUS = "\N{MINUS SIGN}"
NARROW = "\N{NARROW NO-BREAK SPACE}"
TIMES = "\N{MULTIPLICATION SIGN}"


def capital(words: str) -> str:
    """The words with a capital at their beginning, and no other letter changed."""
    return words[:1].upper() + words[1:]


def listed(names: Iterable[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def system_of(name: str) -> str:
    """A peer's name, without how it was run."""
    return name.partition(",")[0]


def score(value: float) -> str:
    """Three decimals: with a thousand rows a row is one of the last."""
    return f"{value:.3f}".replace("-", MINUS)


def times(value: float) -> str:
    """How many times as fast, to three figures."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.{1 if value >= 9.95 else 2}f}"


def points(value: float) -> str:
    """Hundredths of a score, with a sign where it is negative."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", MINUS)


def interval(low: str, high: str) -> str:
    """Two ends."""
    return f"{low} to {high}"


def speed_interval(ratio: Mapping[str, float]) -> str:
    """The ends of a speed's interval."""
    return interval(times(ratio["low"]), times(ratio["high"]))


def cost(seconds: float, price_per_hour: float | None) -> str:
    """What a million texts take in hours, or what those cost."""
    hours = seconds / 3600
    if price_per_hour is None:
        return f"{hours:.2g}{NARROW}h" if hours < 10 else f"{hours:,.0f}{NARROW}h"
    price = hours * price_per_hour
    return f"{price:.2g}" if price < 10 else f"{price:,.0f}"


def layers(value: float) -> str:
    """How many, on average."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.2f}"


def threshold_of(system: Mapping[str, Any]) -> str:
    """The threshold, or the whole criterion where it has none of the problem's own kind."""
    if system["threshold"] is not None:
        return f"{system['threshold']:.4g}"
    return str(system["name"]).removeprefix("exits by ")
