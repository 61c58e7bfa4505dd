"""`offramp predict`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import rich_click as click

from offramp.cli.asking import Asked, Work, work
from offramp.cli.common import check_file
from offramp.cli.partial import file_identity, partial_file
from offramp.cli.row_progress import row_progress
from offramp.errors import ConfigError, DataError


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
@click.option("--resume", is_flag=True, help="Go on with what a stopped run left of --output.")
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
    resume: bool,
    threshold: float | None,
    threads: int | None,
) -> None:
    """Answer TEXTS, or the rows of a file: one JSON object a row.

    A classifier says the label, its probability, and the layer at which the row left; a regression
    model with exits the number and that layer; another model of one output its score; a token
    classifier the entities with their places in the text. For question answering pass --question
    and --context, or a file with such columns; for multiple choice the prompt and its choices as
    TEXTS, or a file and --choices. An embedder's command is `offramp embed`.

    A run that is stopped leaves OUTPUT.partial; the same command with --resume goes on with it, and
    ends in the same bytes.
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
    if resume and (output is None or data is None):
        raise ConfigError("--resume goes on with a file of answers: pass --data and --output.")
    if any(not one.strip() for one in texts):
        raise DataError("One of the texts is empty.")
    asked = Asked(
        texts, data, text, pair, choices, question is not None, no_answer, threshold, threads
    )
    opened = offramp.load(model)
    todo = work(opened, asked)
    if output is None:
        total = todo.count()
        with row_progress("predict", total) if not sys.stdout.isatty() else nullcontext() as told:
            for answer in todo.answer(todo.rows, told):
                sys.stdout.write(_line(answer) + "\n")
        return
    _write(todo, output, _identity(opened, asked), resume)


def _write(todo: Work, output: Path, run: dict[str, Any], resume: bool) -> None:
    from offramp.runner.rows import BLOCK

    total = todo.count()
    with (
        partial_file(output, run, resume=resume, block=BLOCK) as file,
        row_progress("predict", total, file.done) as progress,
    ):
        rest = itertools.islice(todo.rows, file.done, None)
        for answer in todo.answer(rest if file.done else todo.rows, progress):
            file.write(_line(answer))


def _line(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False)


def _identity(model: Any, asked: Asked) -> dict[str, Any]:
    """All that the bytes of the answers depend on, by the names that a refusal calls them."""
    import torch

    import offramp
    from offramp.runner.fingerprint import fingerprint

    options = {f.name: getattr(asked, f.name) for f in dataclasses.fields(asked)}
    del options["data"], options["question"]
    # Sums are made in another order by other numbers of threads.
    options["threads"] = asked.threads or torch.get_num_threads()
    return {
        "data": None if asked.data is None else file_identity(asked.data),
        "model": fingerprint(model),
        **options,
        "offramp's version": offramp.__version__,
        "torch's version": torch.__version__,
    }
