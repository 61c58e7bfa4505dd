"""Options and displays that several commands share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as Grid

from offramp.checkpoints.directory import LONGEST_NAME
from offramp.errors import ConfigError, OfframpError, SaveError
from offramp.storage.files import flush

if TYPE_CHECKING:
    from offramp.training.evaluation import Evaluation, Line
    from offramp.training.tagger_evaluation import TaggerEvaluation

F = TypeVar("F", bound=Callable[..., Any])

console = Console(stderr=True)


def columns(command: F) -> F:
    """The options that name a data file's columns."""
    for option in (
        click.option("--label", default="label", show_default=True, help="The label's column."),
        click.option("--pair", help="The second text's column, where a row is a pair."),
        click.option("--text", default="text", show_default=True, help="The text's column."),
    ):
        command = option(command)
    return command


def measured(command: F) -> F:
    """The options of how systems are measured in turn."""
    for option in (
        click.option("--transformers/--no-transformers", default=None, help="Measure it too."),
        click.option("--timing-rows", default=1000, show_default=True, help="Rows that are timed."),
        click.option(
            "--rounds", default=5, show_default=True, help="Times each system is measured."
        ),
    ):
        command = option(command)
    return command


tokens_column = click.option(
    "--tokens", default="tokens", show_default=True, help="A tagger's column of words."
)


def refuse_options(*names: str, task: str) -> None:
    """ConfigError for an option that was given and that the task has no use for."""
    context = cast(click.Context, click.get_current_context())
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{name.replace('_', '-')} is not for {task}; leave it out.")


def reading_options(command: F) -> F:
    """The options that say which files of a directory are read, and what they hold."""
    for option in (
        click.option("--variant", help="The word in model.VARIANT.safetensors."),
        click.option(
            "--use-safetensors/--no-use-safetensors",
            default=None,
            help="Of two saves in the directory: safetensors, or the other.",
        ),
        click.option(
            "--uint16-is-bfloat16",
            is_flag=True,
            help="What a Paddle file has as uint16 is bfloat16 (where config.json has no dtype).",
        ),
        click.option(
            "--allow-legacy-pickle",
            is_flag=True,
            help="Read PyTorch files of before 1.6 too; nothing in them is executed.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (stage, done, total) that draws one bar a stage."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    tasks: dict[str, TaskID] = {}
    with bars:

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


@contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """A text file that appears at `path` complete, or not at all."""
    check_file(path)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        flush(path.parent)
    except OSError as error:
        if isinstance(error, OfframpError):
            raise
        raise SaveError(f"{path} could not be written: {error}.") from error
    finally:
        fresh.unlink(missing_ok=True)


def check_file(path: Path, *inputs: Path | None) -> None:
    """Raise SaveError if a file cannot be written at `path`; before long work, not after it.

    Nor may it be one of the `inputs` that are read.
    """
    if any(path.resolve() == other.resolve() for other in inputs if other is not None):
        raise SaveError(f"{path} is a file that is read; name another to write.")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise SaveError(f"The name {path.name[:40]}... is too long; shorten it.")
    if path.is_dir():
        raise SaveError(f"{path} is a directory; expected a file to write.")
    if path.exists() and not path.is_file():
        raise SaveError(f"{path} is a device or a pipe; expected a file to write.")
    if not path.parent.is_dir():
        raise SaveError(f"{path.parent} does not exist; make it first.")
    if not os.access(path.parent, os.W_OK):
        raise SaveError(f"{path.parent} may not be written to.")


def report_console() -> Console:
    """Where tables go: as wide as the terminal, and wide enough for all columns in a file."""
    out = Console()
    return out if out.is_terminal else Console(width=120)


def evaluation_grid(evaluation: Evaluation) -> Grid:
    """The table that `offramp evaluate` prints."""
    # Of two classes the F1 of one says more than the mean of both.
    hidden = () if evaluation.positive is None else ("macro_f1",)
    shown = [name for name in evaluation.lines[0].scores if name not in hidden]
    of = {"f1": f"f1 of {escape(str(evaluation.positive))}"}
    headings = [of.get(name, name) for name in shown]
    peers = [name for name in evaluation.lines[0].speed if name.startswith("transformers")]
    grid = Grid(title=f"{evaluation.rows} rows; times as fast as ...")
    # In a narrow terminal words are broken, and none is hidden.
    grid.add_column("system", overflow="fold", min_width=14)
    for heading in (*headings, "layers", "plain", "truncated as good", *peers):
        grid.add_column(heading, justify="right", overflow="fold")
    for line in evaluation.lines:
        style = "bold" if line.chosen else None
        name = escape(line.system) + (" (chosen)" if line.chosen else "")
        grid.add_row(
            name,
            *(f"{line.scores[score]:.4f}" for score in shown),
            f"{line.mean_layers:.2f}",
            _times(line, "plain"),
            _against_truncation(evaluation, line),
            *(_times(line, peer) for peer in peers),
            style=style,
        )
    return grid


def tagger_grid(evaluation: TaggerEvaluation) -> Grid:
    """The table that `offramp evaluate` prints of a tagger."""
    grid = Grid(title=f"{evaluation.rows} sentences; entities with their exact bounds and type")
    grid.add_column("type", overflow="fold", min_width=14)
    for heading in ("precision", "recall", "f1", "entities"):
        grid.add_column(heading, justify="right", overflow="fold")
    together = {"all (micro)": evaluation.entities}
    for name, found in (together | evaluation.entities.by_type).items():
        shares = (f"{share:.4f}" for share in (found.precision, found.recall, found.f1))
        style = "bold" if found is evaluation.entities else None
        grid.add_row(escape(name), *shares, str(found.support), style=style)
    return grid


def _times(line: Line, other: str) -> str:
    return f"{line.speed[other].median:.2f}x" if other in line.speed else "-"


def _against_truncation(evaluation: Evaluation, line: Line) -> str:
    if line.criterion is None:
        return "-"
    other = evaluation.truncation_as_good(line)
    depth = "all" if other.depth is None else str(other.depth)
    return f"{_times(line, other.system)} ({depth})"
