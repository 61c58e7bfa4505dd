"""`offramp predict`."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import rich_click as click

from offramp.cli.asking import Asked, work
from offramp.cli.common import check_file, progress_bar, whole_file
from offramp.errors import DataError


@click.command(epilog='Example: offramp predict sentiment "a quiet, lovely film"')
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--data", type=click.Path(path_type=Path), help="A file's rows, in place of TEXTS.")
@click.option("--text", help="The text's column.  [default: text; or question]")
@click.option("--pair", help="The second text's column, where a row is a pair.  [or: context]")
@click.option("--choices", help="Of multiple choice, the choices' columns, such as a,b,c,d.")
@click.option("--question", help="A question to answer from --context.")
@click.option("--context", help="The text that answers it.")
@click.option("--no-answer", is_flag=True, help="A question may have no answer (SQuAD 2.0).")
@click.option("--output", type=click.Path(path_type=Path), help="A JSONL file; else the terminal.")
@click.option("--threshold", type=float, help="Nats of entropy at layer 1, not the model's.")
@click.option("--threads", type=int, help="CPU threads.")
def predict(
    model: Path,
    texts: tuple[str, ...],
    data: Path | None,
    text: str | None,
    pair: str | None,
    choices: str | None,
    question: str | None,
    context: str | None,
    no_answer: bool,
    output: Path | None,
    threshold: float | None,
    threads: int | None,
) -> None:
    """Answer TEXTS, or the rows of a file: one JSON object a row.

    A classifier says the label, its probability, and the layer at which the row left; a model of
    one output its score; a token classifier the entities with their places in the text. For
    question answering pass --question and --context, or a file with such columns; for multiple
    choice the prompt and its choices as TEXTS, or a file and --choices. An embedder's command is
    `offramp embed`.
    """
    import offramp

    if question is not None or context is not None:
        if question is None or context is None or data is not None or texts:
            raise DataError("Pass --question and --context together, without TEXTS and --data.")
        texts = (question, context)
    elif (data is None) == (not texts):
        raise DataError("Pass either texts or --data FILE.")
    if data is None and (text or pair or choices):
        raise DataError("--text, --pair and --choices name columns of a file; pass --data FILE.")
    if output is not None:
        check_file(output, data)
    if any(not one.strip() for one in texts):
        raise DataError("One of the texts is empty.")
    asked = Asked(
        texts, data, text, pair, choices, question is not None, no_answer, threshold, threads
    )
    asked_for = work(offramp.load(model), asked)
    total = asked_for.count()
    found = asked_for.answer(asked_for.rows)
    writer = nullcontext(sys.stdout) if output is None else whole_file(output)
    with writer as file, progress_bar() if output else nullcontext(None) as progress:
        for done, answer in enumerate(found, start=1):
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")
            if progress is not None and (done % 256 == 0 or done == total):
                progress("predict", done, total)
