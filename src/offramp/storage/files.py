"""Single files that are there whole or as they were, and what kills have left of them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from offramp.errors import SaveError
from offramp.storage.locks import alone

_MOUNTS = Path("/proc/self/mountinfo")
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{12}\.(?:tmp|old)")


def write_file(path: Path, content: str | bytes) -> None:
    """Write one file, which is there whole or as it was; its directory is made if need be.

    Raises SaveError.
    """
    try:
        path = path.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path) as locked:
            if locked:
                remove_leftovers(path)
            replace_file(path, content)
    except (OSError, ValueError, RuntimeError) as error:  # no space; a NUL; ~ of an unknown user
        raise SaveError(f"{path} could not be written: {error}.") from error


def replace_file(path: Path, content: str | bytes) -> None:
    """`write_file` for a caller that is `alone` already. Raises OSError."""
    fresh = temporary(path)
    try:
        fresh.write_bytes(content.encode() if isinstance(content, str) else content)
        flush(fresh)
        fresh.replace(path)
        flush(path.parent)
    finally:
        with suppress(OSError, ValueError):
            fresh.unlink(missing_ok=True)


def temporary(path: Path) -> Path:
    """A new name beside `path`, to be written under and renamed from."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def leftovers(path: Path) -> list[Path]:
    """What savers of `path` have beside it while they live, and leave when they are killed."""
    if not path.parent.is_dir():
        return []
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.(tmp|old)")
    return [other for other in path.parent.iterdir() if pattern.fullmatch(other.name)]


def remove_leftovers(path: Path) -> None:
    """Remove them; only for who is `alone`, or a living saver's would go."""
    for left in leftovers(path):
        with suppress(OSError):
            if left.is_dir() and not left.is_symlink():
                remove_tree(left)
            else:
                left.unlink()


def remove_tree(directory: Path) -> None:
    """Remove a directory as far as that can be: the next save removes what is left of it."""
    with suppress(OSError):  # which rmtree raises for a failing fstat all the same
        shutil.rmtree(directory, ignore_errors=True)


def mount_points() -> list[Path]:
    """Where other file systems, or other directories, are mounted; none where nobody says so."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    return [Path(_unescaped(line.split(" ")[4])) for line in lines if line.count(" ") > 4]


def _unescaped(path: str) -> str:
    """A path of the system's table, where a space is `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def is_leftover(name: str) -> bool:
    """Whether a name is one that `temporary` gives."""
    return _TEMPORARY.fullmatch(name) is not None


def saved_as(path: Path) -> Path:
    """What a temporary file or directory is of; any other is its own."""
    found = _TEMPORARY.fullmatch(path.name)
    return path.with_name(found[1]) if found else path


def flush(path: Path) -> None:
    """See to it that a file's content, or a directory's list of names, outlives the machine."""
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
