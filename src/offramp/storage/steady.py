"""Reading a directory of which no saver takes half away: what was replaced meanwhile is read again.

A save puts a new directory in the old one's place, so a reader that opens config.json before and
the weights after would have half of each. It looks, before and after, at which directory it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from offramp.errors import CheckpointError, OfframpError
from offramp.storage.files import leftovers, saved_as
from offramp.storage.locks import no_saver
from offramp.storage.manifest import MANIFEST_FILE

T = TypeVar("T")

AT_ONCE, WITH_SAVERS_WAITING = 3, 5
"""How often a directory is read before savers are made to wait, and then."""
_LOOKS = 4


class _ReplacedError(Exception):
    """The directory is not the one of before."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory))
        self.directory = saved_as(directory)


def reread(read: Callable[[], T], directory: Path | None = None) -> T:
    """`read()`, once more where `directory`, or one that it holds `steady`, was replaced meanwhile.

    After some times savers are kept waiting for it; in the end CheckpointError is raised.
    """
    replaced: Path | None = None
    for attempt in range(AT_ONCE + WITH_SAVERS_WAITING):
        at_last = replaced is not None and attempt >= AT_ONCE
        try:
            with ExitStack() as held:
                if replaced is not None and at_last:
                    held.enter_context(no_saver(_resolved(replaced)))
                if directory is not None:
                    held.enter_context(steady(directory))
                return read()
        except _ReplacedError as error:
            replaced = error.directory
    raise CheckpointError(
        f"{replaced} was replaced {AT_ONCE + WITH_SAVERS_WAITING} times while it was read: another "
        "program writes to it again and again. Load it when that has ended, or load a copy.",
        kind="replaced",
        file=replaced,
    )


@contextmanager
def steady(directory: Path) -> Iterator[None]:
    """A block that reads several files of a directory; inside of `reread`."""
    handle = _held(directory)  # while it is open its number is given to no other directory
    try:
        before = _identity(directory, handle)
        if not before and saved_as(directory) != directory:  # it was the one of before
            raise _ReplacedError(directory)
        try:
            yield
        except (OfframpError, OSError) as error:  # a file is gone, or does not go with another
            if _identity(directory) != before:
                raise _ReplacedError(directory) from error
            raise
        if _identity(directory) != before:
            raise _ReplacedError(directory)
    finally:
        if handle is not None:
            os.close(handle)


def present(path: Path) -> Path | None:
    """`path`, if it is there, or what stands for it while it is replaced; None where neither is."""
    for _ in range(_LOOKS):  # between two looks a save may have ended
        if _exists(path):
            return path
        if (old := interrupted(_resolved(path))) is not None:
            return old
    return None


def interrupted(path: Path) -> Path | None:
    """The whole directory of before, where a save was killed (or is) between its two renames.

    Only where the file system cannot exchange two names: there the old directory is renamed to
    `.NAME.X.old`, and then the new one from `.NAME.X.tmp` to NAME.
    """
    try:
        found = {left.name: left for left in leftovers(path)}
    except (OSError, ValueError):
        return None
    for name, left in found.items():
        if name.endswith(".old") and f"{name.removesuffix('old')}tmp" in found:
            return None if os.path.lexists(path) else left
    return None


def _exists(path: Path) -> bool:
    try:
        return os.path.exists(path)  # noqa: PTH110  # Path.exists raises for a name too long
    except ValueError:
        return False


def _resolved(path: Path) -> Path:
    """Where a link leads, which is what savers replace."""
    with suppress(OSError, RuntimeError, ValueError):
        return path.resolve()
    return path


def _held(directory: Path) -> int | None:
    with suppress(OSError, ValueError):
        return os.open(directory, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    return None


def _identity(directory: Path, handle: int | None = None) -> tuple[object, ...]:
    """Which directory it is, and which save: others than offramp's replace files one by one."""
    found: list[object] = []
    with suppress(OSError, ValueError):
        at = directory.stat() if handle is None else os.fstat(handle)
        found += [at.st_dev, at.st_ino]
        about = (directory / MANIFEST_FILE).stat()
        found += [about.st_ino, about.st_size, about.st_mtime_ns]
    return tuple(found)


__all__ = ["interrupted", "present", "reread", "steady"]
