"""Files that are what they seem: ordinary ones, inside their directory, and told of when not."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from offramp.errors import CheckpointError
from offramp.storage.files import leftovers

_LOOKS = 5


class UnsoundError(Exception):
    """What is wrong with a file, and at which byte; `reading` makes it a CheckpointError."""

    def __init__(self, message: str, offset: int | None = None, kind: str | None = None) -> None:
        super().__init__(message)
        self.offset = offset
        self.kind = kind


@contextmanager
def reading(path: Path, kind: str, remedy: str = "") -> Iterator[None]:
    """What goes wrong inside becomes a CheckpointError of this kind that names the file."""
    try:
        yield
    except UnsoundError as error:
        at = "" if error.offset is None else f" (byte {error.offset})"
        raise CheckpointError(
            f"{path} is refused{at}: {error}. {remedy}".rstrip(),
            kind=error.kind or kind,
            file=path,
            offset=error.offset,
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}.", kind="missing", file=path
        ) from error


def small_file(path: Path, most: int) -> bytes:
    """A file's bytes; UnsoundError for one of more than `most`."""
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise UnsoundError(f"it is longer than {most} bytes")
        content: bytes = file.read(most + 1)
    if len(content) > most:  # it grew
        raise UnsoundError(f"it is longer than {most} bytes")
    return content


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, open to be read; UnsoundError for a directory, a pipe or a device."""
    # A pipe would wait for a writer, and a device has no end: not opened to be looked at.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:  # noqa: PTH123  # a handle, not a path
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UnsoundError("it is a directory, a pipe or a device", kind="outside")
        yield file


def check_inside(path: Path, directory: Path) -> None:
    """UnsoundError for a link that leads out of the directory.

    Of a repository in the hub's cache all is inside, from the directory above "snapshots" on.
    """
    try:
        home, target = directory.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a ring; a name that is none
        raise UnsoundError(f"it cannot be followed ({error})", kind="outside") from None
    for up in (home, *home.parents):
        if up.parent.name == "snapshots" and up.parent.parent.name.startswith("models--"):
            home = up.parent.parent
            break
    if not target.is_relative_to(home):
        raise UnsoundError(
            f"it is a link to {target}, outside of {home}. Copy the file there, or pass the "
            "directory that it lies in",
            kind="outside",
        )


def check_own(path: Path, directory: Path) -> None:
    """UnsoundError for a file that has a second name outside of the directory (a hard link)."""
    for _ in range(_LOOKS):  # a saver gives names and takes them away meanwhile
        found = path.stat()
        if found.st_nlink == 1:
            return
        savers = [left for left in leftovers(directory.resolve()) if left.is_dir()]
        if _names_of(found, [directory, *savers]) >= found.st_nlink:
            return
    raise UnsoundError(
        "it has a second name outside of its directory (a hard link), so that another can "
        "change it. Copy the file",
        kind="outside",
    )


def _names_of(found: os.stat_result, directories: list[Path]) -> int:
    """How many names a file has in these directories."""
    count = 0
    for directory in directories:
        with suppress(OSError):
            count += sum(os.path.samestat(p.lstat(), found) for p in directory.iterdir())
    return count
