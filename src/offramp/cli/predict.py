"""`offramp predict`."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import rich_click as click

from offramp.cli.common import check_file, progress_bar, whole_file
from offramp.errors import DataError


@click.command(epilog='Example: offramp predict sentiment "a quiet, lovely film"')
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option(
    "--data", type=click.Path(path_type=Path), help="TSV or JSONL rows, in place of TEXTS."
)
@click.option("--text", default="text", show_default=True, help="The text's column.")
@click.option("--pair", help="The second text's column, where a row is a pair.")
@click.option("--output", type=click.Path(path_type=Path), help="A JSONL file; else the terminal.")
@click.option("--threshold", type=float, help="Nats of entropy at layer 1, not the model's.")
@click.option("--threads", type=int, help="CPU threads.")
def predict(
    model: Path,
    texts: tuple[str, ...],
    data: Path | None,
    text: str,
    pair: str | None,
    output: Path | None,
    threshold: float | None,
    threads: int | None,
) -> None:
    """Label TEXTS, or the rows of a file: one JSON object a row.

    Each has the label, its probability, and the layer at which the row left.
    """
    import offramp

    if (data is None) == (not texts):
        raise DataError("Pass either texts or --data FILE.")
    if output is not None:
        check_file(output, data)
    if any(not one.strip() for one in texts):
        raise DataError("One of the texts is empty.")
    rows = (
        list(texts)
        if data is None
        else offramp.read_table(data, text=text, pair=pair, label=None).texts
    )
    classifier = offramp.load(model)
    writer = nullcontext(sys.stdout) if output is None else whole_file(output)
    with writer as file, progress_bar() if output else nullcontext(None) as progress:
        answers = classifier.stream(rows, threshold=threshold, threads=threads)
        for done, prediction in enumerate(answers, start=1):
            line = json.dumps(dataclasses.asdict(prediction), ensure_ascii=False)
            file.write(line + "\n")
            if progress is not None and (done % 256 == 0 or done == len(rows)):
                progress("predict", done, len(rows))
