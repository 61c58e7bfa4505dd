"""`offramp bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from rich.markup import escape
from rich.table import Table as Grid

from offramp.cli.common import check_file, progress_bar, refuse_options, report_console, whole_file
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from offramp.bench.comparing import Comparison
    from offramp.text.tables import Table
    from offramp.training.timing import Ratio


@click.command(epilog="Example: offramp bench sentiment --data reviews.tsv --threads 2")
@click.argument("model", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Texts; else Python's docstrings.")
@click.option("--text", default="text", show_default=True, help="The text's column.")
@click.option("--pair", help="The second text's column, where a row is a pair.")
@click.option("--rows", default=512, show_default=True, help="So many of them, evenly spread.")
@click.option("--rounds", default=7, show_default=True, help="Times each engine is measured.")
@click.option("--threads", type=int, help="CPU threads of every engine.  [default: torch's]")
@click.option("--batch", default=32, show_default=True, help="Rows in a batch of the others.")
@click.option("--int8", is_flag=True, help="Measure offramp with eight-bit products too.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the table as JSON.")
def bench(
    model: Path,
    data: Path | None,
    text: str,
    pair: str | None,
    rows: int,
    rounds: int,
    threads: int | None,
    batch: int,
    int8: bool,
    output: Path | None,
) -> None:
    """Measure the classifier in DIR on this machine, beside the engines that are installed.

    These are transformers, ONNX Runtime and CTranslate2. All run the same rows in turn in one run;
    a speed is the median of the rounds' ratios, with its 95% interval.
    """
    import offramp
    from offramp.bench.comparing import compare
    from offramp.runner.leaving import LeavingModel
    from offramp.runner.reranker import Reranker

    for name, value in (("--rows", rows), ("--rounds", rounds), ("--batch", batch)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1; got {value}.")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be at least 1; got {threads}.")
    if output is not None:
        check_file(output, data)
    if data is None:
        refuse_options("text", "pair", task="the built-in texts (pass --data FILE)")
        table = built_in_texts()
    else:
        table = offramp.read_table(data, text=text, pair=pair, label=None)
    opened = offramp.load(model)
    if not isinstance(opened, (LeavingModel, Reranker)):
        raise ConfigError(
            f"{model} holds a model for another task ({type(opened).__name__}); bench measures "
            "sequence classifiers."
        )
    n = len(table.texts)
    spread = [table.texts[i * n // rows] for i in range(rows)] if n > rows else table.texts
    with progress_bar() as progress:
        found = compare(
            model,
            opened.model,
            opened.tokenizer.encode(spread),
            rounds=rounds,
            batch_size=batch,
            threads=threads,
            int8=offramp.prepare(opened.model, int8=True) if int8 else None,
            progress=progress,
        )
    if output is not None:
        with whole_file(output) as file:
            json.dump(found.to_dict(), file, indent=2)
            file.write("\n")
    show(found)


def built_in_texts() -> Table:
    """Docstrings of Python's standard library, ragged and the same on each machine (nearly)."""
    from offramp.cli.stdlib_corpus import read_corpus
    from offramp.text.tables import Table

    return Table("docstrings", [text for text, _ in read_corpus()["test"]], None)


def show(found: Comparison) -> None:
    """Print the table, and below it what is to be said of single engines."""
    out = report_console()
    facts = found.machine
    out.print(
        f"{found.rows} rows of {found.tokens / found.rows:.1f} tokens, {found.rounds} rounds, "
        f"{facts['threads']} threads, batches of {found.batch_size} for the others; "
        f"{facts['processor']}.",
        markup=False,
        highlight=False,
    )
    ways = [line.engine for line in found.lines if line.mean_layers is not None]
    grid = Grid(title="offramp's speed over each engine")
    grid.add_column("engine", overflow="fold", min_width=14)
    for heading in ("rows/s", *ways, "logits differ by", "labels agree"):
        grid.add_column(heading, justify="right", overflow="fold")
    for line in found.lines:
        grid.add_row(
            line.engine,
            f"{line.rows_per_second:.0f}",
            *(_times(line.slower.get(way)) for way in ways),
            "-" if line.engine in ways else f"{line.difference:.1e}",
            "-" if line.engine == ways[0] else f"{line.agreement:.2%}",
        )
    out.print(grid)
    for line in found.lines:
        if line.mean_layers is not None and line.engine != ways[0]:
            out.print(f"{line.engine}: {line.mean_layers:.2f} layers a row.", highlight=False)
        if line.differs:
            out.print(f"{line.engine} answers otherwise than the plain model.", style="bold")
    for engine, reason in found.absent.items():
        out.print(f"{engine}: not measured. {escape(reason)}", highlight=False)


def _times(ratio: Ratio | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"
