"""Labelled text from TSV, CSV, JSONL and Parquet files, with the row at fault named when one is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from offramp.errors import DataError
from offramp.text.records import Record, as_label, check_columns, column, column_names, records

Text: TypeAlias = str | tuple[str, str]
"""A row: one text, or a pair of texts."""


@dataclass(frozen=True)
class Table:
    """Rows of a file: texts (or pairs), and labels as words where the file was read with them."""

    source: str
    texts: list[Text]
    labels: list[str] | None

    def __len__(self) -> int:
        return len(self.texts)


def read_table(
    path: str | Path,
    *,
    text: str = "text",
    pair: str | None = None,
    label: str | None = "label",
) -> Table:
    """The rows of a `.tsv`, `.csv`, `.jsonl` or `.parquet` file; text is UTF-8.

    The first line of a `.tsv` (no quoting) or `.csv` (RFC 4180) names the columns. Parquet needs
    pyarrow, the `data` extra.

    `text`, `pair` and `label` name columns: with `pair` a row is a pair of texts; with
    `label=None` labels are not read. Raises DataError for a file or row that cannot be used.
    For a file that is larger than memory there is `stream_table`.
    """
    path = Path(path)
    texts: list[Text] = []
    labels: list[str] = []
    columns = (text,) if pair is None else (text, pair)
    for row, said in _rows(path, columns, label):
        texts.append(_as_text(row))
        labels.append(said)
    if not texts:
        raise DataError(f"{path} has no rows.")
    return Table(str(path), texts, None if label is None else labels)


def stream_table(path: str | Path, *, text: str = "text", pair: str | None = None) -> StreamedTable:
    """The texts of a file that may be larger than memory: files and columns as of `read_table`.

    What comes back may be iterated any number of times, and handed to `stream` of a model as it is:

        for answer in classifier.stream(offramp.stream_table("big.parquet")): ...

    Raises DataError for a file that cannot be read or has no such columns, and, while rows are
    read, for a row that cannot be used, naming file and line.
    """
    return stream_columns(path, (text,) if pair is None else (text, pair))


def stream_columns(path: str | Path, wanted: tuple[str, ...]) -> StreamedTable:
    """As `stream_table`, for any number of columns of texts; `StreamedTable.rows` gives them."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(
            f"{path} is a device or a pipe; expected a file that can be read more than once."
        )
    names = column_names(path)
    if not names:
        raise DataError(f"{path} has no rows.")
    check_columns(path, names, wanted)
    return StreamedTable(path, tuple(names), wanted)


@dataclass(frozen=True)
class StreamedTable:
    """A file's texts (or pairs), which are read anew, in bounded memory, each time it is iterated.

    `columns` are all that the file has (JSONL: its first row), `wanted` those of the texts.
    """

    path: Path
    columns: tuple[str, ...]
    wanted: tuple[str, ...]

    def __iter__(self) -> Iterator[Text]:
        return (_as_text(row) for row in self.rows())

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The texts of the wanted columns, row by row."""
        return (row for row, _ in _rows(self.path, self.wanted, None))

    def count(self) -> int:
        """How many rows there are: the file is read once for it, and every row checked.

        Worth it before long work: it raises DataError for the first row that cannot be used, or
        where there is none.
        """
        n_rows = sum(1 for _ in self.rows())
        if not n_rows:
            raise DataError(f"{self.path} has no rows.")
        return n_rows


def _rows(
    path: Path, texts: Sequence[str], label: str | None
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each row's texts, and its label ("" where none is wanted)."""
    wanted = [*texts] if label is None else [*texts, label]
    for where, record in records(path, wanted):
        row = tuple(_text(record, name, path, where) for name in texts)
        said = "" if label is None else as_label(column(record, label, path, where), path, where)
        yield row, said


def _as_text(row: tuple[str, ...]) -> Text:
    return row[0] if len(row) == 1 else (row[0], row[1])


def _text(record: Record, name: str, path: Path, where: str) -> str:
    value = column(record, name, path, where)
    if not isinstance(value, str):
        raise DataError(f"{path}, {where}: {name!r} is a {type(value).__name__}; expected text.")
    if not value.strip():
        raise DataError(f"{path}, {where}: {name!r} has no text.")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
        raise DataError(f"{path}, {where}: {name!r} is not valid Unicode: {error}.") from error
    return value
