"""`offramp evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rich_click as click

from offramp.cli.common import (
    check_file,
    columns,
    evaluation_grid,
    measured,
    progress_bar,
    refuse_options,
    report_console,
    tagger_grid,
    tokens_column,
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
@tokens_column
@click.option("--output", type=click.Path(path_type=Path), help="Write the table as JSON.")
@click.option(
    "--thresholds",
    help="Thresholds to report, such as .05,.1,.2 (nats at layer 1; of numbers, their distance).",
)
@click.option(
    "--max-loss",
    default=0.25,
    show_default=True,
    help="Points exits may cost on dev: of accuracy, micro F1, or 100 x Pearson's correlation.",
)
@measured
def evaluate(
    model: Path,
    data: Path,
    dev: Path | None,
    text: str,
    pair: str | None,
    label: str,
    tokens: str,
    output: Path | None,
    thresholds: str | None,
    max_loss: float,
    rounds: int,
    timing_rows: int,
    transformers: bool | None,
) -> None:
    """Print what each threshold costs in score and saves in wall clock.

    The scores are those of the model's kind: one class a row, any number of labels, or a number. Of
    a tagger, print the precision, recall and F1 of its entities, and rows a second. All systems
    are measured in turn in one run; speeds are medians of the rounds' ratios.
    """
    import offramp
    from offramp.runner.loading import task_of

    if output is not None:
        check_file(output, data, dev)
    timing: dict[str, Any] = {
        "rounds": rounds,
        "timing_rows": timing_rows,
        "transformers": transformers,
    }
    if task_of(model) == "tag":
        refuse_options("dev", "text", "pair", "thresholds", "max_loss", task="a tagger")
        _evaluate_tagger(model, data, tokens, label, output, timing)
        return
    refuse_options("tokens", task="a model of whole texts")
    rows = offramp.read_table(data, text=text, pair=pair, label=label)
    held = None if dev is None else offramp.read_table(dev, text=text, pair=pair, label=label)
    with progress_bar() as progress:
        evaluation = offramp.evaluate(
            model,
            rows,
            dev=held,
            thresholds=_thresholds(thresholds),
            max_loss=max_loss,
            progress=progress,
            **timing,
        )
    _write(output, evaluation.to_dict())
    out = report_console()
    out.print(evaluation_grid(evaluation))
    loss, low, high = evaluation.loss
    out.print(
        f"Chosen: {evaluation.chosen.criterion}. It loses {loss:.2f} points (hundredths of "
        f"{evaluation.measure}) against full depth on these rows (paired 95% interval {low:.2f} to "
        f"{high:.2f}).",
        markup=False,
    )
    if evaluation.transformers_difference is not None:
        out.print(
            f"transformers' logits differ from the plain model's by at most "
            f"{evaluation.transformers_difference:.1e}."
        )


def _evaluate_tagger(
    model: Path, data: Path, tokens: str, label: str, output: Path | None, timing: dict[str, Any]
) -> None:
    import offramp

    rows = offramp.read_tagged(data, tokens=tokens, label=label)
    with progress_bar() as progress:
        evaluation = offramp.evaluate_tagger(model, rows, progress=progress, **timing)
    _write(output, evaluation.to_dict())
    out = report_console()
    out.print(tagger_grid(evaluation))
    out.print(f"{evaluation.accuracy:.4f} of {evaluation.words} words have the right tag.")
    if evaluation.exits_speed is not None:
        by_depth = ", ".join(f"{depth}: {f1:.4f}" for depth, f1 in evaluation.f1_by_depth.items())
        out.print(f"A sentence passed {evaluation.mean_layers:.2f} layers. F1 by exit: {by_depth}.")
        exits = evaluation.exits_speed
        out.print(
            f"The exits make it {exits.median:.2f}x as fast as all layers (95% interval "
            f"{exits.low:.2f} to {exits.high:.2f})."
        )
    for name, speed in evaluation.rows_per_second.items():
        out.print(f"{name}: {speed:.0f} rows a second, of {evaluation.timed_rows}.")
    ratio = evaluation.speed
    if ratio is not None:
        out.print(
            f"offramp is {ratio.median:.2f}x as fast as transformers (95% interval "
            f"{ratio.low:.2f} to {ratio.high:.2f}); their logits differ by at most "
            f"{evaluation.transformers_difference:.1e}."
        )


def _write(output: Path | None, values: dict[str, Any]) -> None:
    if output is not None:
        with whole_file(output) as file:
            json.dump(values, file, indent=2)
            file.write("\n")


def _thresholds(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--thresholds takes numbers, such as .1,.2; got {text!r}.") from None
