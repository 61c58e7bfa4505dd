"""`offramp embed`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import rich_click as click

from offramp.cli.common import check_file, progress_bar, whole_file
from offramp.errors import DataError, SaveError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@click.command(epilog="Example: offramp embed all-MiniLM-L6-v2 --data rows.tsv --output x.npy")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--data", type=click.Path(path_type=Path), help="A file's rows, in place of TEXTS.")
@click.option("--text", default="text", show_default=True, help="The text's column.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="A .npy or .jsonl file; else the terminal."
)
@click.option("--pooling", help="first, last, mean or max, or several: mean,max.  [the model's]")
@click.option("--normalize/--no-normalize", default=None, help="Vectors of length 1, or not.")
@click.option("--prompt", help="A text that goes before each text.")
@click.option("--prompt-name", help="The name of one of the model's own prompts.")
@click.option("--threads", type=int, help="CPU threads.")
def embed(
    model: Path,
    texts: tuple[str, ...],
    data: Path | None,
    text: str,
    output: Path | None,
    pooling: str | None,
    normalize: bool | None,
    prompt: str | None,
    prompt_name: str | None,
    threads: int | None,
) -> None:
    """Turn TEXTS, or the rows of a file, into vectors.

    A .npy file holds them as one array of float32, a row a text; elsewhere it is one JSON object a
    text.
    """
    import numpy as np

    import offramp

    if (data is None) == (not texts):
        raise DataError("Pass either texts or --data FILE.")
    if any(not one.strip() for one in texts):
        raise DataError("One of the texts is empty.")
    if output is not None:
        check_file(output, data)
        if output.suffix not in (".npy", ".jsonl"):
            raise SaveError(f"--output {output} is neither a .npy nor a .jsonl file.")
    rows = list(texts)
    if data is not None:
        rows = cast("list[str]", offramp.read_table(data, text=text, label=None).texts)
    vectors = offramp.load(model, task="embed").stream(
        rows,
        pooling=None if pooling is None else pooling.split(","),
        normalize=normalize,
        prompt=prompt,
        prompt_name=prompt_name,
        threads=threads,
    )
    if output is None:
        for vector_D in vectors:
            sys.stdout.write(_line(vector_D))
        return
    with whole_file(output) as file, progress_bar() as progress:
        table: list[npt.NDArray[np.float32]] = []
        for done, vector_D in enumerate(vectors, start=1):
            if output.suffix == ".npy":
                table.append(vector_D)
            else:
                file.write(_line(vector_D))
            if done % 256 == 0 or done == len(rows):
                progress("embed", done, len(rows))
        if table:
            np.save(file.buffer, np.stack(table))  # type: ignore[attr-defined]


def _line(vector_D: npt.NDArray[np.float32]) -> str:
    return json.dumps({"embedding": vector_D.tolist()}) + "\n"
