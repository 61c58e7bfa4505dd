"""How far a long run over rows is, on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bars,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from offramp.cli.common import console
from offramp.runner.progress import OnProgress, Progress


@contextmanager
def row_progress(stage: str, total: int, done: int = 0) -> Iterator[OnProgress]:
    """A `progress=` callback that draws one bar on stderr, where that is a terminal.

    `done` rows were answered before.
    """
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bars:
        task = bars.add_task(stage, total=total, completed=done, said="")
        yield lambda now: bars.update(task, completed=done + now.rows, said=described(now))


def described(now: Progress) -> str:
    """The figures beside the bar."""
    return (
        f"{now.rows_per_second:,.0f} rows/s, {now.mean_layers:.2f} layers a row, "
        f"{now.tokens:,} tokens"
    )
