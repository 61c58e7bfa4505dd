"""Small files of a tokenizer's directory, read with a bound and named when they are not sound."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from offramp.errors import DataError

_MOST = 256 * 2**20  # bytes; the largest vocabularies in use take 20 MB


def file_bytes(path: Path, most: int = _MOST) -> bytes:
    """A file's bytes. DataError for one that is longer than `most`, or is no ordinary file."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path} is a directory, a pipe or a device; expected a file.")
        if found.st_size > most:
            raise DataError(f"{path} is longer than {most} bytes; a tokenizer's file is not.")
        with path.open("rb") as file:
            return file.read(found.st_size)  # as much is taken of the memory at once
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def check_size(path: Path, most: int = _MOST) -> None:
    """DataError for a file that is not to be read whole; for those that a library opens itself."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if found.st_size > most:
        raise DataError(f"{path} is longer than {most} bytes; a tokenizer's file is not.")


def file_text(path: Path) -> str:
    """A file's text, which has to be UTF-8."""
    content = file_bytes(path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start}). Convert the file to UTF-8."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; nothing where there is no file, or no object in it."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(file_bytes(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not valid JSON: {error}.") from error
    return values if isinstance(values, dict) else {}
