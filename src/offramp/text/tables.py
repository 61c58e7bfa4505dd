"""Labelled text from TSV, CSV, JSONL and Parquet files, with the row at fault named when one is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from offramp.errors import DataError
from offramp.text.columns import Columns, column_records, has_columns, source_of
from offramp.text.records import (
    Found,
    Record,
    as_label,
    check_columns,
    column,
    column_names,
    records,
)

Text: TypeAlias = str | tuple[str, str]
"""A row: one text, or a pair of texts."""


@dataclass(frozen=True)
class Table:
    """Rows: texts (or pairs), and labels as words where they were read with them.

    `source` is what messages call it, such as a file's path. `read_table` makes one of a file, and
    `Table.of` of rows in memory.
    """

    source: str
    texts: list[Text]
    labels: list[str] | None

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(
        cls,
        data: Table | Columns,
        *,
        text: str = "text",
        pair: str | None = None,
        label: str | None = "label",
        source: str | None = None,
    ) -> Table:
        """The rows of a dict of columns or a Hugging Face `datasets.Dataset`; a table is itself.

        `text`, `pair` and `label` name columns, as of `read_table`. Labels may be words or numbers;
        a dataset's `ClassLabel` numbers become their names. Raises DataError for what cannot be
        used.
        """
        if isinstance(data, Table):
            return data
        if not has_columns(data):
            raise DataError(
                f"A {type(data).__name__} is no table; expected a dict of columns, such as "
                '{"text": [...], "label": [...]}, or a datasets.Dataset.'
            )
        source = source or source_of(data)
        columns = (text,) if pair is None else (text, pair)
        wanted = [*columns] if label is None else [*columns, label]
        return _table(source, column_records(data, wanted, source), columns, label)


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
    columns = (text,) if pair is None else (text, pair)
    wanted = [*columns] if label is None else [*columns, label]
    return _table(str(path), records(path, wanted), columns, label)


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
        return (row for row, _ in _rows(self.path, records(self.path, self.wanted), self.wanted))

    def count(self) -> int:
        """How many rows there are: the file is read once for it, and every row checked.

        Worth it before long work: it raises DataError for the first row that cannot be used, or
        where there is none.
        """
        n_rows = sum(1 for _ in self.rows())
        if not n_rows:
            raise DataError(f"{self.path} has no rows.")
        return n_rows


def _table(source: str, found: Found, columns: Sequence[str], label: str | None) -> Table:
    texts: list[Text] = []
    labels: list[str] = []
    for row, said in _rows(source, found, columns, label):
        texts.append(_as_text(row))
        labels.append(said)
    if not texts:
        raise DataError(f"{source} has no rows.")
    return Table(source, texts, None if label is None else labels)


def _rows(
    source: Path | str, found: Found, texts: Sequence[str], label: str | None = None
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each row's texts, and its label ("" where none is wanted)."""
    for where, record in found:
        row = tuple(_text(record, name, source, where) for name in texts)
        said = ""
        if label is not None:
            said = as_label(column(record, label, source, where), source, where)
        yield row, said


def _as_text(row: tuple[str, ...]) -> Text:
    return row[0] if len(row) == 1 else (row[0], row[1])


def _text(record: Record, name: str, path: Path | str, where: str) -> str:
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
