"""`offramp calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from offramp.cli.common import columns, console, refuse_options, tokens_column
from offramp.errors import DataError


@click.command(epilog="Example: offramp calibrate sentiment --data held-out.tsv --max-loss 0.01")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Rows new to the model."
)
@columns
@tokens_column
@click.option("--no-labels", is_flag=True, help="The rows have none; a disagreement needs none.")
@click.option(
    "--max-loss", default=0.01, show_default=True, help="The most risk: .01 is one row in 100."
)
@click.option("--confidence", default=0.95, show_default=True, help="Of the guarantee.")
@click.option(
    "--method",
    default="ltt",
    show_default=True,
    type=click.Choice(["ltt", "ucb", "crc", "empirical"]),
    help="How it is bounded; by empirical it is not.",
)
@click.option(
    "--risk",
    default="disagreement",
    show_default=True,
    type=click.Choice(["disagreement", "word-disagreement", "accuracy"]),
    help="What a row may lose; of its words, if it is a tagger's.",
)
@click.option("--tolerance", type=float, help="Numbers that are further apart disagree.")
@click.option(
    "--tune", type=click.Path(path_type=Path), help="Other rows, to find what thresholds to try."
)
@click.option("--by-layer", is_flag=True, help="A threshold for each layer, found on --tune.")
@click.option(
    "--target-speed", type=float, help="The threshold this many times as fast, and its risk."
)
@click.option("--force", is_flag=True, help="Go on with rows that the model was trained on.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Where to write; else into MODEL itself."
)
def calibrate(
    model: Path,
    data: Path,
    text: str,
    pair: str | None,
    label: str,
    tokens: str,
    no_labels: bool,
    tune: Path | None,
    output: Path | None,
    **options: Any,
) -> None:
    """Choose the fastest threshold whose risk is bounded, and write it with its certificate.

    The risk is against all layers, of rows like those of --data: the share of rows that get another
    answer, or by how much the share of right ones falls. A tagger's rows are sentences, in files as
    `offramp evaluate` takes them: another answer has one whose tags are not all the same, and by
    word-disagreement it loses the share of its words that have another.
    """
    import offramp

    opened, labels = offramp.load(model), None if no_labels else label
    is_tagger = isinstance(opened, offramp.Tagger)
    if is_tagger:
        refuse_options("text", "pair", "tolerance", task="a tagger")
    else:
        refuse_options("tokens", task="a model of whole texts")

    def read(file: Path) -> Any:
        if is_tagger:
            return offramp.read_tagged(file, tokens=tokens, label=labels)
        return offramp.read_table(file, text=text, pair=pair, label=labels)

    rows, others = read(data), None if tune is None else read(tune)
    found = offramp.calibrate(opened, rows, tune=others, **options)
    if found.is_full_depth and output is None:
        raise DataError(
            f"No threshold could be certified but one by which no row leaves early; {model} stays "
            "as it is. With more rows, or a greater --max-loss, one may be; or pass --output."
        )
    opened.save(output or model)
    console.print(_said(found), markup=False)
    console.print(f"Wrote {output or model}.", markup=False)


def _said(found: Any) -> str:
    layers = f"rows take {found.mean_layers:.2f} of {found.n_layers} layers"
    speed = ""
    if found.speed is not None:
        speed = (
            f", {found.speed.median:.2f} times as fast as the plain model "
            f"({found.speed.low:.2f} to {found.speed.high:.2f})"
        )
    return f"{found.criterion}: {layers}{speed}. {found.certificate}."
