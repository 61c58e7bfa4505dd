"""Rows of a file as they lie there, one at a time, each with where it was found."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from offramp.backends import requires_backends
from offramp.errors import DataError

Record: TypeAlias = dict[str, Any]

Found: TypeAlias = Iterator[tuple[str, Record]]
"""Rows, each after the place that messages name: "line 3" of a text, "row 3" of Parquet."""


def records(path: Path, columns: Sequence[str]) -> Found:
    """The rows of a `.tsv`, `.csv`, `.jsonl` or `.parquet` file, of which `columns` are wanted.

    Raises DataError for a file or row that cannot be read, MissingBackendError for Parquet without
    pyarrow.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path} has the ending {path.suffix or '(none)'!r}; expected {' or '.join(_READERS)}."
        )
    return reader(path, columns)


def column(record: Record, name: str, path: Path, where: str) -> Any:
    """The value of a row's column; DataError where it has none of that name."""
    if name not in record:
        known = ", ".join(map(repr, record))
        raise DataError(f"{path}, {where}: no column {name!r}. It has {known}.")
    return record[name]


def as_label(value: Any, path: Path, where: str) -> str:
    """A label as a word; DataError for what is neither a word nor a number."""
    # A bool is an int to Python, and true/false are the words that the file has.
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (str, int, float)) and str(value).strip():
        return str(value).strip()
    raise DataError(f"{path}, {where}: the label {value!r} is neither a word nor a number.")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their ends, numbered from 1."""
    # Bytes are split at \n alone: str.splitlines would also cut at U+2028 and its like.
    try:
        with path.open("rb") as file:
            for line, content in enumerate(file, start=1):
                yield line, content.decode("utf-8-sig" if line == 1 else "utf-8")
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


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    """Lines without their ends, none of them empty but at the end of the file."""
    blank = 0  # an empty line is a row without text, but for those at the end
    for line, content in lines(path):
        text = content.rstrip("\r\n")
        if not text:
            blank = blank or line
            continue
        if blank:
            raise _empty(path, blank)
        yield line, text


def _empty(path: Path, line: int) -> DataError:
    return DataError(f"{path}, line {line}: an empty line, where a row belongs.")


def _read_jsonl(path: Path, columns: Sequence[str]) -> Found:
    for line, content in _rows(path):
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {line}: not valid JSON ({error}).") from error
        if not isinstance(record, dict):
            raise DataError(
                f'{path}, line {line}: expected an object such as {{"text": "...", "label": '
                f'"..."}}; it is a {type(record).__name__}.'
            )
        yield f"line {line}", record


def _read_tsv(path: Path, columns: Sequence[str]) -> Found:
    names: list[str] | None = None
    for line, content in _rows(path):
        fields = content.split("\t")
        if names is None:
            names = _named(fields, path)
        elif len(fields) != len(names):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields, and the first line names "
                f"{len(names)} columns. Fields are parted by one tab and never quoted."
            )
        else:
            yield f"line {line}", dict(zip(names, fields, strict=True))


def _read_csv(path: Path, columns: Sequence[str]) -> Found:
    reader = csv.reader((content for _, content in lines(path)), strict=True)
    names: list[str] | None = None
    blank, start = 0, 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path}, line {start}: not CSV ({error}). A field with a comma, a quote or a line "
                'end in it stands between quotes ("), and a quote in it is written twice.'
            ) from error
        if fields is None:
            return
        line, start = start, reader.line_num + 1  # a row may take several lines
        if not fields:
            blank = blank or line
        elif blank:
            raise _empty(path, blank)
        elif names is None:
            names = _named(fields, path)
        elif len(fields) != len(names):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields, and the first line names "
                f"{len(names)} columns. A field with a comma in it stands between quotes."
            )
        else:
            yield f"line {line}", dict(zip(names, fields, strict=True))


def _read_parquet(path: Path, columns: Sequence[str]) -> Found:
    requires_backends("Reading a .parquet file", "pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(str(path)) as file:
            names = file.schema_arrow.names
            for name in columns:
                if name not in names:
                    known = ", ".join(map(repr, names))
                    raise DataError(f"{path}: no column {name!r}. It has {known}.")
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=list(columns)):
                for record in batch.to_pylist():
                    row += 1
                    yield f"row {row}", record
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a sound Parquet file: {error}.") from error


def _named(names: list[str], path: Path) -> list[str]:
    if len(set(names)) < len(names):
        raise DataError(f"{path}: the first line names a column twice: {names}.")
    return names


_READERS: dict[str, Callable[[Path, Sequence[str]], Found]] = {
    ".jsonl": _read_jsonl,
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
