"""`offramp rerank`."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import rich_click as click

from offramp.cli.common import check_file, whole_file
from offramp.errors import DataError


@click.command(epilog='Example: offramp rerank ranker --query "early boats" --data rows.tsv')
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--query", required=True, help="What each text is scored beside.")
@click.option("--data", type=click.Path(path_type=Path), help="A file's rows, in place of TEXTS.")
@click.option("--text", default="text", show_default=True, help="The text's column.")
@click.option("--top", type=int, help="How many of them to give.  [all]")
@click.option("--sigmoid", is_flag=True, help="Probabilities, of a model with one output.")
@click.option("--output", type=click.Path(path_type=Path), help="A JSONL file; else the terminal.")
@click.option("--threads", type=int, help="CPU threads.")
def rerank(
    model: Path,
    texts: tuple[str, ...],
    query: str,
    data: Path | None,
    text: str,
    top: int | None,
    sigmoid: bool,
    output: Path | None,
    threads: int | None,
) -> None:
    """Put TEXTS, or the rows of a file, in order of their scores beside a query.

    One JSON object a text, the best first: its place in the input, the text, and its score.
    """
    import offramp

    if (data is None) == (not texts):
        raise DataError("Pass either texts or --data FILE.")
    if any(not one.strip() for one in texts):
        raise DataError("One of the texts is empty.")
    if output is not None:
        check_file(output, data)
    rows = list(texts)
    if data is not None:
        rows = cast("list[str]", offramp.read_table(data, text=text, label=None).texts)
    ranked = offramp.load(model, task="rerank").rerank(
        query, rows, top_k=top, sigmoid=sigmoid, threads=threads
    )
    with nullcontext(sys.stdout) if output is None else whole_file(output) as file:
        for one in ranked:
            file.write(json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n")
