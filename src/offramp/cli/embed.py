"""`offramp embed`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import rich_click as click

from offramp.cli.common import check_file, whole_file
from offramp.cli.row_progress import row_progress
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
    import offramp

    if (data is None) == (not texts):
        raise DataError("Pass either texts or --data FILE.")
    if any(not one.strip() for one in texts):
        raise DataError("One of the texts is empty.")
    if output is not None:
        check_file(output, data)
        if output.suffix not in (".npy", ".jsonl"):
            raise SaveError(f"--output {output} is neither a .npy nor a .jsonl file.")
    rows: Iterable[str] = texts
    total = len(texts)
    if data is not None:
        table = offramp.stream_table(data, text=text)
        rows, total = cast("Iterable[str]", table), table.count()
    embedder = offramp.load(model, task="embed")
    vectors = partial(
        embedder.stream,
        rows,
        pooling=None if pooling is None else pooling.split(","),
        normalize=normalize,
        prompt=prompt,
        prompt_name=prompt_name,
        threads=threads,
    )
    if output is None:
        with row_progress("embed", total) if not sys.stdout.isatty() else nullcontext() as told:
            for vector_D in vectors(progress=told):
                sys.stdout.write(_line(vector_D))
        return
    with whole_file(output) as file, row_progress("embed", total) as progress:
        as_array = output.suffix == ".npy"
        for done, vector_D in enumerate(vectors(progress=progress), start=1):
            if as_array and done == 1:
                _begin_array(file.buffer, total, len(vector_D))  # type: ignore[attr-defined]
            if as_array:
                file.buffer.write(vector_D.astype("<f4").tobytes())  # type: ignore[attr-defined]
            else:
                file.write(_line(vector_D))


def _begin_array(file: IO[bytes], rows: int, width: int) -> None:
    """What numpy writes before the numbers, which follow row by row: memory stays flat."""
    from numpy.lib import format as npy

    about = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    npy.write_array_header_1_0(file, about)


def _line(vector_D: npt.NDArray[np.float32]) -> str:
    return json.dumps({"embedding": vector_D.tolist()}) + "\n"
