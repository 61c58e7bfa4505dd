"""`offramp train`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from offramp.cli.common import columns, console, progress_bar, refuse_options, tokens_column
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from offramp.training.tagger import TaggerReport
    from offramp.training.thresholds import Choice
    from offramp.training.train import TrainingReport


@click.command(epilog="Example: offramp train --data train.tsv --dev dev.tsv --output sentiment")
@click.option(
    "--task",
    default="classify",
    show_default=True,
    type=click.Choice(["classify", "multilabel", "regress", "tag"]),
)
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
@tokens_column
@click.option("--epochs", default=3, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--accumulate", default=1, show_default=True, help="Batches a step.")
@click.option("--precision", default="float32", show_default=True, help="float32 or bfloat16.")
@click.option("--learning-rate", default=5e-5, show_default=True, help="Of the body.")
@click.option("--ramp-learning-rate", default=5e-4, show_default=True, help="Of exits and head.")
@click.option("--max-length", type=int, help="Tokens kept of a row; the model's limit by default.")
@click.option("--seed", default=0, show_default=True)
@click.option("--patience", default=2, show_default=True, help="Evaluations without a gain.")
@click.option(
    "--evaluations-per-epoch", default=1, show_default=True, help="Dev evaluations an epoch."
)
@click.option(
    "--score",
    help="accuracy, f1 or macro_f1; multilabel: micro_f1 or macro_f1; regress: pearson or "
    "spearman.  [default: the first; a tagger's: f1, of entities]",
)
@click.option("--class-weights", help="`balanced`, or a weight for each label: `spam=3,ham=1`.")
@click.option(
    "--schedule",
    help="joint, two-stage, alternating, self-distillation, joint-distillation or mixed.  "
    "[default: joint; a tagger's: two-stage]",
)
@click.option(
    "--distillation-weight", default=1.0, help="Of joint-distillation.", show_default=True
)
@click.option("--temperature", default=2.0, help="Of joint-distillation.", show_default=True)
@click.option(
    "--gradient-equilibrium", is_flag=True, help="Layers get the mean of the exits' gradients."
)
@click.option("--freeze-backbone", is_flag=True, help="Train exits only, on a fine-tuned model.")
@click.option(
    "--pooler", default="attention", show_default=True, help="attention, mean, first or last."
)
@click.option(
    "--certainty", is_flag=True, help="Exits learn how sure they are, too (LearnedToExit)."
)
@click.option(
    "--depths",
    help="Layers with an exit: `2,4`; all but the last by default; `none`: a tagger without.",
)
@click.option(
    "--max-loss", default=0.25, show_default=True, help="Points of dev accuracy exits may cost."
)
@click.option(
    "--growth", type=float, help="By what the threshold rises a layer; 1.5 for six layers."
)
@click.option(
    "--resume", is_flag=True, help="Go on where a run that was stopped has left --output."
)
def train(
    task: str,
    data: Path,
    output: Path,
    model: str,
    dev: Path | None,
    text: str,
    pair: str | None,
    label: str,
    tokens: str,
    max_length: int | None,
    class_weights: str | None,
    depths: str | None,
    resume: bool,
    **settings: Any,
) -> None:
    """Fine-tune a classifier with early exits and choose its threshold.

    With `--task regress` labels are numbers, and the model answers with a number; with `--task
    multilabel` they are lists, and it answers with any number of labels.

    With `--task tag`, fine-tune a tagger on words with a tag each: JSONL with the columns `tokens`
    and `label`, or a CoNLL file. `--depths none` trains one at full depth, without exits.
    """
    import offramp
    from offramp.models.names import model_directory

    options = offramp.TrainingOptions(
        class_weights=_weights(class_weights),
        depths=_numbers(depths),
        problem_type=_PROBLEMS.get(task, "single_label_classification"),
        **settings,  # named and typed as the options are
    )
    read, fit, summary = _steps(task, text, pair, label, tokens)
    rows, held = read(data), None if dev is None else read(dev)
    with progress_bar() as progress:
        _, report = fit(
            model_directory(model),
            rows,
            output,
            dev=held,
            options=options,
            max_length=max_length,
            resume=resume,
            progress=progress,
            on_evaluation=_show,
        )
    from offramp.training.group import is_first_process  # with torch, which options do not need

    if is_first_process():
        console.print(f"Wrote {output}. {summary(report)}", markup=False)


_PROBLEMS = {"multilabel": "multi_label_classification", "regress": "regression"}

Steps = tuple[Callable[[Path], Any], Callable[..., tuple[Any, Any]], Callable[[Any], str]]


def _steps(task: str, text: str, pair: str | None, label: str, tokens: str) -> Steps:
    """What reads a task's rows, what trains on them, and what is said of it at the end."""
    import offramp

    if task == "tag":
        refuse_options("text", "pair", task="a tagger")
        read_tagged = partial(offramp.read_tagged, tokens=tokens, label=label)
        return read_tagged, offramp.train_tagger, _found
    refuse_options("tokens", task="a regression model" if task == "regress" else "a classifier")
    read_table = partial(offramp.read_table, text=text, pair=pair, label=label)
    return read_table, offramp.train, _threshold


def _threshold(report: TrainingReport) -> str:
    return _chosen(report.choice, "row")


def _chosen(choice: Choice, row: str) -> str:
    import offramp

    criterion, score = choice.criterion, f"{choice.measure} {choice.score:.4f}"
    where = "of change from exit to exit"
    if isinstance(criterion, offramp.Entropy):
        where = f"at the first layer, {criterion.growth:g} times that a layer"
    return (
        f"Threshold {choice.threshold:g} {where}: dev {score} at {choice.mean_layers:.2f} "
        f"layers a {row} (full depth {choice.full_score:.4f})."
    )


def _found(report: TaggerReport) -> str:
    dev = report.best["dev"]
    exits = "" if report.choice is None else f" {_chosen(report.choice, 'sentence')}"
    return (
        f"Dev: F1 of entities {dev['f1']:.4f} (precision {dev['precision']:.4f}, recall "
        f"{dev['recall']:.4f}), {dev['accuracy']:.4f} of words right, after epoch "
        f"{report.best['epoch']}.{exits}"
    )


def _show(line: dict[str, Any]) -> None:
    by_depth = next(found for name, found in line.items() if name.endswith("_by_depth"))
    dev = " ".join(f"{value:.3f}" for value in by_depth.values())
    console.print(
        f"{line['stage']}: epoch {line['epoch']}  loss {line['loss']:.3f}  dev by exit {dev}",
        markup=False,
    )


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
    if text == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--depths takes layers, such as 2,4, or none; got {text!r}.") from None
