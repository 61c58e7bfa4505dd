"""Rows of a file as they lie there, one at a time, each with where it was found."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from offramp.backends import requires_backends
from offramp.errors import DataError

Record: TypeAlias = dict[str, Any]

Found: TypeAlias = Generator[tuple[str, Record], None, None]
"""Rows, each after the place that messages name: "line 3" of a text, "row 3" of Parquet."""

Fields: TypeAlias = Generator[tuple[int, list[str]], None, None]
"""Rows of a text file by their first lines, that of the columns' names included."""


def records(path: Path, columns: Sequence[str]) -> Found:
    """The rows of a `.tsv`, `.csv`, `.jsonl` or `.parquet` file, of which `columns` are wanted.

    They are read as they are asked for, in bounded memory. Raises DataError for a file or row that
    cannot be read, MissingBackendError for Parquet without pyarrow.
    """
    return _format(path).rows(path, columns)


def column_names(path: Path) -> list[str]:
    """The columns of such a file, from its beginning; of JSONL those of the first row.

    Empty for an empty file. Raises as `records` does.
    """
    return _format(path).names(path)


def check_columns(path: Path, names: Sequence[str], wanted: Iterable[str]) -> None:
    """DataError for a wanted column that a file of these columns has not."""
    for name in wanted:
        if name not in names:
            known = ", ".join(map(repr, names))
            raise DataError(f"{path}: no column {name!r}. It has {known}.")


def column(record: Record, name: str, path: Path | str, where: str) -> Any:
    """The value of a row's column; DataError where it has none of that name."""
    if name not in record:
        known = ", ".join(map(repr, record))
        raise DataError(f"{path}, {where}: no column {name!r}. It has {known}.")
    return record[name]


def as_label(value: Any, path: Path | str, where: str) -> str:
    """A label as a word; DataError for what is neither a word nor a number.

    NaN is what other programs leave for a label that is not there.
    """
    # A bool is an int to Python, and true/false are the words that the file has.
    if isinstance(value, bool):
        return json.dumps(value)
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, (str, int, float)) and finite and str(value).strip():
        return str(value).strip()
    raise DataError(
        f"{path}, {where}: the label {value!r} is neither a word nor a number. Leave out rows "
        "without a label."
    )


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


def _jsonl_names(path: Path) -> list[str]:
    with closing(_read_jsonl(path, ())) as rows:
        return next(([*record] for _, record in rows), [])


def _read_tsv(path: Path, columns: Sequence[str]) -> Found:
    return _under_names(path, _tsv_fields(path), "Fields are parted by one tab and never quoted.")


def _tsv_names(path: Path) -> list[str]:
    return _first_line(path, _tsv_fields(path))


def _tsv_fields(path: Path) -> Fields:
    for line, content in _rows(path):
        yield line, content.split("\t")


def _read_csv(path: Path, columns: Sequence[str]) -> Found:
    return _under_names(
        path, _csv_fields(path), "A field with a comma in it stands between quotes."
    )


def _csv_names(path: Path) -> list[str]:
    return _first_line(path, _csv_fields(path))


def _csv_fields(path: Path) -> Fields:
    reader = csv.reader((content for _, content in lines(path)), strict=True)
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
        else:
            yield line, fields


def _under_names(path: Path, rows: Fields, advice: str) -> Found:
    """Rows of fields as records: the first one has the columns' names."""
    _, names = next(rows, (0, []))
    _check_names(path, names)
    for line, fields in rows:
        if len(fields) != len(names):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields, and the first line names "
                f"{len(names)} columns. {advice}"
            )
        yield f"line {line}", dict(zip(names, fields, strict=True))


def _first_line(path: Path, rows: Fields) -> list[str]:
    with closing(rows):
        _, names = next(rows, (0, []))
    _check_names(path, names)
    return names


def _check_names(path: Path, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise DataError(f"{path}: the first line names a column twice: {names}.")


def _read_parquet(path: Path, columns: Sequence[str]) -> Found:
    with _parquet(path) as file:
        check_columns(path, file.schema_arrow.names, columns)
        row = 0
        # Without threads, which torch has a use for.
        for batch in file.iter_batches(batch_size=1024, columns=[*columns], use_threads=False):
            for record in batch.to_pylist():
                row += 1
                yield f"row {row}", record


def _parquet_names(path: Path) -> list[str]:
    with _parquet(path) as file:
        return [*file.schema_arrow.names]


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """An open pyarrow ParquetFile; DataError for what goes wrong while it is read."""
    requires_backends("Reading a .parquet file", "pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        # So a column is read page by page as it is reached: otherwise whole groups of rows are.
        with parquet.ParquetFile(str(path), buffer_size=1 << 20, pre_buffer=False) as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a sound Parquet file: {error}.") from error


def _format(path: Path) -> Format:
    found = _FORMATS.get(path.suffix.lower())
    if found is None:
        raise DataError(
            f"{path} has the ending {path.suffix or '(none)'!r}; expected {' or '.join(_FORMATS)}."
        )
    return found


@dataclass(frozen=True)
class Format:
    """How a file's rows are read, and how the names of its columns."""

    rows: Callable[[Path, Sequence[str]], Found]
    names: Callable[[Path], list[str]]


_FORMATS = {
    ".jsonl": Format(_read_jsonl, _jsonl_names),
    ".tsv": Format(_read_tsv, _tsv_names),
    ".csv": Format(_read_csv, _csv_names),
    ".parquet": Format(_read_parquet, _parquet_names),
}
