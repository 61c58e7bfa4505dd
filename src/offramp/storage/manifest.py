"""The manifest of a save: the size and SHA-256 of every file that it wrote.

`offramp_manifest.json` is {"files": {path: {"sha256": ..., "size": ...}}, "format": 1}, with
paths below the directory, in one spelling: a manifest that says the same in other bytes is not
sound, so that no bit of it can change unnoticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from offramp.errors import CheckpointError

MANIFEST_FILE = "offramp_manifest.json"
FORMAT = 1
_LONGEST = 2_000_000
_PIECE = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEDY = (
    f"If it was changed on purpose, remove {MANIFEST_FILE} (the files are then loaded unchecked) "
    "or save the model again; otherwise fetch the files again."
)


class FileRecord(NamedTuple):
    """What a manifest says of one file."""

    size: int
    sha256: str


def read_manifest(directory: Path) -> dict[str, FileRecord] | None:
    """{path below the directory: its record}; None where there is no manifest.

    Raises CheckpointError for one that is not sound.
    """
    path = directory / MANIFEST_FILE
    try:
        with opened(path) as file:
            text = file.read(_LONGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unsound(path, f"it cannot be read ({error.strerror or error})") from error
    if len(text) > _LONGEST:
        raise _unsound(path, f"it is longer than {_LONGEST} bytes")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unsound(path, f"it is no JSON ({error})") from None
    stated = values.get("format") if isinstance(values, dict) else None
    if type(stated) is int and stated > FORMAT:
        raise _unsound(path, f"its format is {stated}, and this offramp knows {FORMAT}: update it")
    records = _records(values)
    if records is None or manifest_text(records).encode() != text:
        raise _unsound(path, "it is not as offramp writes it")
    return records


def manifest_text(records: Mapping[str, FileRecord]) -> str:
    """The one text of a manifest."""
    files = {name: record._asdict() for name, record in records.items()}
    return json.dumps({"format": FORMAT, "files": files}, indent=2, sort_keys=True) + "\n"


def recorded(path: Path) -> FileRecord:
    """A file's record, from its bytes."""
    digest, size = hashlib.sha256(), 0
    with opened(path) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return FileRecord(size, digest.hexdigest())


def record_of(content: bytes) -> FileRecord:
    """The record of a file that has these bytes."""
    return FileRecord(len(content), hashlib.sha256(content).hexdigest())


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open to be read; OSError for a directory, a pipe or a device."""
    # A pipe would wait for a writer: not opened to be looked at.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:  # noqa: PTH123  # a handle, not a path
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is a directory, a pipe or a device", str(path))
        yield file


def files_below(directory: Path) -> list[str]:
    """The paths of all files below a directory, with "/", but for its manifest."""
    found = [p.relative_to(directory).as_posix() for p in directory.rglob("*") if not _is_folder(p)]
    return sorted(name for name in found if name != MANIFEST_FILE)


def check_sizes(directory: Path, names: Iterable[str]) -> None:
    """CheckpointError where one of these files has not the size that the manifest says.

    A file that is in no manifest is not looked at.
    """
    records = read_manifest(directory)
    for name in () if records is None else names:
        record = records.get(name) if records else None
        if record is None:
            continue
        try:
            size = (directory / name).stat().st_size
        except OSError:
            continue  # who reads it says so
        if size != record.size:
            raise CheckpointError(
                f"{directory / name} has {size} bytes, and by the manifest of its save it has "
                f"{record.size}: it was cut short, or another program has written it. "
                f"`offramp verify {directory}` looks at every file. {_REMEDY}",
                kind="manifest",
                file=directory / name,
            )


def _records(values: Any) -> dict[str, FileRecord] | None:
    """What a manifest's JSON says; None where it is no manifest."""
    files = values.get("files") if isinstance(values, dict) else None
    if not isinstance(files, dict):
        return None
    records = {}
    for name, entry in files.items():
        if not _is_inside(name) or not isinstance(entry, dict):
            return None
        size, digest = entry.get("size"), entry.get("sha256")
        if type(size) is not int or size < 0 or not isinstance(digest, str):
            return None
        if not _SHA256.fullmatch(digest):
            return None
        records[name] = FileRecord(size, digest)
    return records


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _unsound(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is no sound manifest: {what}. {_REMEDY}", kind="manifest", file=os.fspath(path)
    )
