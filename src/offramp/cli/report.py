"""`offramp report`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from offramp.cli.common import check_file, columns, measured, progress_bar, report_console


@click.command(epilog="Example: offramp report sentiment --data test.tsv --output report.html")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Rows to report on.")
@click.option("--dev", type=click.Path(path_type=Path), help="Rows to choose the threshold on.")
@columns
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The page; its numbers go beside it as JSON.",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Write the plot alone, as SVG.")
@click.option(
    "--table", type=click.Path(path_type=Path), help="Write the table of systems, in Markdown."
)
@click.option("--price-per-hour", type=float, help="What an hour of this machine costs.")
@click.option(
    "--peers/--no-peers",
    default=None,
    help="Measure ONNX Runtime and CTranslate2 too; by default where they are installed.",
)
@measured
def report(
    model: Path,
    data: Path,
    dev: Path | None,
    text: str,
    pair: str | None,
    label: str,
    output: Path,
    plot: Path | None,
    table: Path | None,
    price_per_hour: float | None,
    rounds: int,
    timing_rows: int,
    transformers: bool | None,
    peers: bool | None,
) -> None:
    """Write a page that shows what leaving early costs and saves: one HTML file.

    It has score against wall clock, a threshold slider, where rows leave, each exit's score and
    reliability, rows to look at (texts of your data), the certificate, and what a million texts
    cost. It needs no network. Measured as `offramp evaluate` does.
    """
    import offramp
    from offramp.reporting.measuring import check_endings, report_files

    page, numbers = report_files(output)
    check_endings(plot, table)
    for file in (page, numbers, plot, table):
        if file is not None:
            check_file(file, data, dev)
    rows = offramp.read_table(data, text=text, pair=pair, label=label)
    held = None if dev is None else offramp.read_table(dev, text=text, pair=pair, label=label)
    with progress_bar() as progress:
        found = offramp.report(
            model,
            rows,
            dev=held,
            output=page,
            plot=plot,
            table=table,
            price_per_hour=price_per_hour,
            rounds=rounds,
            timing_rows=timing_rows,
            transformers=transformers,
            peers=peers,
            progress=progress,
        )
    out = report_console()
    out.print(f"{found.headline}.", markup=False)
    out.print(f"The page is {page}, its numbers are {numbers}.", markup=False)
