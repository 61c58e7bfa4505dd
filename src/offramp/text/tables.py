"""Labelled text from TSV, CSV, JSONL and Parquet files, with the row at fault named when one is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from offramp.errors import DataError
from offramp.text.records import Record, as_label, column, records

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
    """
    path = Path(path)
    texts: list[Text] = []
    labels: list[str] = []
    wanted = [name for name in (text, pair, label) if name is not None]
    for where, record in records(path, wanted):
        first = _text(record, text, path, where)
        texts.append(first if pair is None else (first, _text(record, pair, path, where)))
        if label is not None:
            labels.append(as_label(column(record, label, path, where), path, where))
    if not texts:
        raise DataError(f"{path} has no rows.")
    return Table(str(path), texts, None if label is None else labels)


def _text(record: Record, name: str, path: Path, where: str) -> str:
    value = column(record, name, path, where)
    if not isinstance(value, str):
        raise DataError(f"{path}, {where}: {name!r} is a {type(value).__name__}; expected text.")
    if not value.strip():
        raise DataError(f"{path}, {where}: {name!r} has no text.")
    return value
