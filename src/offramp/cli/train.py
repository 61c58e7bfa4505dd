"""`offramp train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from offramp.cli.common import columns, console, progress_bar
from offramp.errors import ConfigError


@click.command(epilog="Example: offramp train --data train.tsv --dev dev.tsv --output sentiment")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="TSV or JSONL rows.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Where to write.")
@click.option(
    "--model",
    default="all-MiniLM-L6-v2",
    show_default=True,
    help="A directory, or the built-in name.",
)
@click.option("--dev", type=click.Path(path_type=Path), help="Held-out rows; else 10% of --data.")
@columns
@click.option("--epochs", default=3, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--learning-rate", default=5e-5, show_default=True, help="Of the body.")
@click.option("--ramp-learning-rate", default=5e-4, show_default=True, help="Of exits and head.")
@click.option("--max-length", type=int, help="Tokens kept of a row; the model's limit by default.")
@click.option("--seed", default=0, show_default=True)
@click.option("--patience", default=2, show_default=True, help="Evaluations without a gain.")
@click.option(
    "--evaluations-per-epoch", default=1, show_default=True, help="Dev evaluations an epoch."
)
@click.option("--score", default="accuracy", show_default=True, help="accuracy, f1 or macro_f1.")
@click.option("--class-weights", help="`balanced`, or a weight for each label: `spam=3,ham=1`.")
@click.option("--freeze-backbone", is_flag=True, help="Train exits only, on a fine-tuned model.")
@click.option("--pooler", default="attention", show_default=True, help="attention, mean or first.")
@click.option("--depths", help="Layers with an exit: `2,4`; all but the last by default.")
@click.option(
    "--max-loss", default=0.25, show_default=True, help="Points of dev accuracy exits may cost."
)
@click.option(
    "--growth", type=float, help="By what the threshold rises a layer; 1.5 for six layers."
)
def train(
    data: Path,
    output: Path,
    model: str,
    dev: Path | None,
    text: str,
    pair: str | None,
    label: str,
    max_length: int | None,
    class_weights: str | None,
    depths: str | None,
    **settings: float,
) -> None:
    """Fine-tune a classifier with early exits and choose its threshold."""
    import offramp
    from offramp.models.names import model_directory

    options = offramp.TrainingOptions(
        class_weights=_weights(class_weights),
        depths=_numbers(depths),
        **settings,  # type: ignore[arg-type]  # named and typed as the options are
    )
    rows = offramp.read_table(data, text=text, pair=pair, label=label)
    held = None if dev is None else offramp.read_table(dev, text=text, pair=pair, label=label)
    with progress_bar() as progress:
        _, report = offramp.train(
            model_directory(model),
            rows,
            output,
            dev=held,
            options=options,
            max_length=max_length,
            progress=progress,
            on_evaluation=_show,
        )
    choice = report.choice
    console.print(
        f"Wrote {output}. Threshold {choice.criterion.threshold:g} at the first layer, "
        f"{choice.criterion.growth:g} times that a layer: dev accuracy {choice.accuracy:.4f} at "
        f"{choice.mean_layers:.2f} layers a row (full depth {choice.full_accuracy:.4f}).",
        markup=False,
    )


def _show(line: dict[str, Any]) -> None:
    by_depth = " ".join(f"{value:.3f}" for value in line["dev_accuracy_by_depth"].values())
    console.print(f"epoch {line['epoch']}  loss {line['loss']:.3f}  dev by exit {by_depth}")


def _weights(text: str | None) -> dict[str, float] | str | None:
    if text is None or "=" not in text:
        return text
    try:
        pairs = [part.rpartition("=") for part in text.split(",")]
        return {label.strip(): float(weight) for label, _, weight in pairs}
    except ValueError:
        raise ConfigError(
            f"--class-weights takes `balanced` or `label=number,label=number`; got {text!r}."
        ) from None


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--depths takes layers, such as 2,4; got {text!r}.") from None
