"""Labelled text from TSV and JSONL files, with the line at fault named when one is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from offramp.errors import DataError

Text: TypeAlias = str | tuple[str, str]
"""A row: one text, or a pair of texts."""

Record: TypeAlias = dict[str, Any]


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
    """The rows of a `.tsv` (first line names the columns, no quoting) or `.jsonl` file, UTF-8.

    `text`, `pair` and `label` name columns: with `pair` a row is a pair of texts; with
    `label=None` labels are not read. Raises DataError for a file or row that cannot be used.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path} has the ending {path.suffix or '(none)'!r}; expected {' or '.join(_READERS)}."
        )
    texts: list[Text] = []
    labels: list[str] = []
    for line, record in reader(path):
        first = _text(record, text, path, line)
        texts.append(first if pair is None else (first, _text(record, pair, path, line)))
        if label is not None:
            labels.append(_label(record, label, path, line))
    if not texts:
        raise DataError(f"{path} has no rows.")
    return Table(str(path), texts, None if label is None else labels)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Record]]:
    for line, content in _lines(path):
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {line}: not valid JSON ({error}).") from error
        if not isinstance(record, dict):
            raise DataError(
                f'{path}, line {line}: expected an object such as {{"text": "...", "label": '
                f'"..."}}; it is a {type(record).__name__}.'
            )
        yield line, record


def _read_tsv(path: Path) -> Iterator[tuple[int, Record]]:
    columns: list[str] | None = None
    for line, content in _lines(path):
        fields = content.split("\t")
        if columns is None:
            columns = fields
            if len(set(columns)) < len(columns):
                raise DataError(f"{path}: the first line names a column twice: {columns}.")
        elif len(fields) != len(columns):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields, and the first line names "
                f"{len(columns)} columns. Fields are parted by one tab and never quoted."
            )
        else:
            yield line, dict(zip(columns, fields, strict=True))


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Record]]]] = {
    ".jsonl": _read_jsonl,
    ".tsv": _read_tsv,
}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # Bytes are split at \n alone: str.splitlines would also cut at U+2028 and its like.
    try:
        with path.open("rb") as file:
            blank = 0  # an empty line is a row without text, but for those at the end
            for line, content in enumerate(file, start=1):
                text = content.decode("utf-8-sig" if line == 1 else "utf-8").rstrip("\r\n")
                if not text:
                    blank = blank or line
                    continue
                if blank:
                    raise DataError(f"{path}, line {blank}: an empty line, where a row belongs.")
                yield line, text
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a directory; expected a file.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {line}: not UTF-8 (byte {error.object[error.start]:#04x}). "
            "Convert the file to UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _value(record: Record, column: str, path: Path, line: int) -> Any:
    if column not in record:
        known = ", ".join(map(repr, record))
        raise DataError(f"{path}, line {line}: no column {column!r}. It has {known}.")
    return record[column]


def _text(record: Record, column: str, path: Path, line: int) -> str:
    value = _value(record, column, path, line)
    if not isinstance(value, str):
        raise DataError(
            f"{path}, line {line}: {column!r} is a {type(value).__name__}; expected text."
        )
    if not value.strip():
        raise DataError(f"{path}, line {line}: {column!r} has no text.")
    return value


def _label(record: Record, column: str, path: Path, line: int) -> str:
    value = _value(record, column, path, line)
    # A bool is an int to Python, and true/false are the words that the file has.
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (str, int, float)) and str(value).strip():
        return str(value).strip()
    raise DataError(f"{path}, line {line}: the label {value!r} is neither a word nor a number.")
