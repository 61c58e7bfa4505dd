"""`offramp evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from offramp.cli.common import (
    check_file,
    columns,
    evaluation_grid,
    progress_bar,
    report_console,
    whole_file,
)
from offramp.errors import ConfigError


@click.command(
    epilog="Example: offramp evaluate sentiment --dev dev.tsv --data test.tsv --output table.json"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Rows to report on.")
@click.option("--dev", type=click.Path(path_type=Path), help="Rows to choose the threshold on.")
@columns
@click.option("--output", type=click.Path(path_type=Path), help="Write the table as JSON.")
@click.option("--thresholds", help="Thresholds to report, such as .05,.1,.2 (nats at layer 1).")
@click.option(
    "--max-loss", default=0.25, show_default=True, help="Points of dev accuracy exits may cost."
)
@click.option("--rounds", default=5, show_default=True, help="Times each system is measured.")
@click.option("--timing-rows", default=1000, show_default=True, help="Rows that are timed.")
@click.option("--transformers/--no-transformers", default=None, help="Measure it too.")
def evaluate(
    model: Path,
    data: Path,
    dev: Path | None,
    text: str,
    pair: str | None,
    label: str,
    output: Path | None,
    thresholds: str | None,
    max_loss: float,
    rounds: int,
    timing_rows: int,
    transformers: bool | None,
) -> None:
    """Print what each threshold costs in accuracy and saves in wall clock.

    All systems are measured in turn in one run; speeds are medians of the rounds' ratios.
    """
    import offramp

    if output is not None:
        check_file(output, data, dev)
    rows = offramp.read_table(data, text=text, pair=pair, label=label)
    held = None if dev is None else offramp.read_table(dev, text=text, pair=pair, label=label)
    with progress_bar() as progress:
        evaluation = offramp.evaluate(
            model,
            rows,
            dev=held,
            thresholds=_thresholds(thresholds),
            max_loss=max_loss,
            rounds=rounds,
            timing_rows=timing_rows,
            transformers=transformers,
            progress=progress,
        )
    if output is not None:
        with whole_file(output) as file:
            json.dump(evaluation.to_dict(), file, indent=2)
            file.write("\n")
    out = report_console()
    out.print(evaluation_grid(evaluation))
    loss, low, high = evaluation.loss
    out.print(
        f"The chosen threshold loses {loss:.2f} points against full depth on these rows "
        f"(paired 95% interval {low:.2f} to {high:.2f})."
    )
    if evaluation.transformers_difference is not None:
        out.print(
            f"transformers' logits differ from the plain model's by at most "
            f"{evaluation.transformers_difference:.1e}."
        )


def _thresholds(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--thresholds takes numbers, such as .1,.2; got {text!r}.") from None
