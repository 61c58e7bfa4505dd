"""Figures and the bars that they are held against."""

from __future__ import annotations

from dataclasses import dataclass, field

from offramp.training.timing import Ratio


@dataclass
class Report:
    """Prints each figure with its bar, and keeps the names of those that miss theirs."""

    missed: list[str] = field(default_factory=list)
    section: str = ""

    def begin(self, section: str, said: str) -> None:
        """A section's heading."""
        self.section = section
        print(f"\n{section}: {said}", flush=True)

    def ratio(self, name: str, ratio: Ratio, least: float | None = None) -> None:
        """A speed: its median and interval, and how many times as fast it should be at least."""
        interval = f"[{ratio.low:.2f}, {ratio.high:.2f}]"
        self.figure(name, ratio.median, least=least, unit="x", more=interval)

    def figure(
        self,
        name: str,
        value: float,
        *,
        least: float | None = None,
        most: float | None = None,
        unit: str = "",
        more: str = "",
        digits: int = 2,
    ) -> None:
        """One figure, which should be at least `least` and at most `most`; NaN misses both."""
        bars = [f">= {least:g}"] if least is not None else []
        bars += [f"<= {most:g}"] if most is not None else []
        met = (least is None or value >= least) and (most is None or value <= most)
        said = ("met" if met else "MISSED") if bars else ""
        shown = f"{value:.{digits}f}{unit} {more}"
        print(f"  {name:62} {shown:24} {' and '.join(bars):12} {said}".rstrip(), flush=True)
        if bars and not met:
            self.missed.append(f"{self.section}: {name}")
