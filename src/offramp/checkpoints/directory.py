"""A directory that is there whole or not at all."""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from offramp.checkpoints.card import CARD, merged_card
from offramp.checkpoints.file_names import WEIGHTS
from offramp.errors import OfframpError, SaveError

LONGEST_NAME = 220
"""Bytes of a name: 255 on Linux, less what a temporary sibling adds."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def staged(target: str | Path, replaced: re.Pattern[str] = WEIGHTS) -> Iterator[Path]:
    """A fresh sibling directory to write into, which takes `target`'s place when the block ends.

    The change is one rename (one exchange where `target` exists), so a reader or a crash finds
    the old directory or the new one. Files of the old one that are neither written anew nor
    `replaced` by their names are kept, and of its card (`checkpoints.card`) what is its owner's.
    If the block raises, nothing of it remains.
    """
    target = check_writable(target)
    fresh = target.parent / f".{target.name}.{secrets.token_hex(6)}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        yield fresh
        for path in fresh.rglob("*"):
            _flush(path)
        if target.is_dir():
            _keep_other_files(target, fresh, replaced)
        _flush(fresh)
        if target.is_dir():
            shutil.copystat(target, fresh)
            _exchange(fresh, target)  # `fresh` is the old directory from here on
        else:
            fresh.rename(target)
        _flush(target.parent)
    except OSError as error:
        if isinstance(error, OfframpError):
            raise
        raise SaveError(f"{target} could not be written: {error}. Nothing was changed.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write_file(path: Path, text: str) -> None:
    """Write one file, which is there whole or as it was; its directory is made if need be."""
    fresh = None
    try:
        path = path.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        fresh.write_text(text, encoding="utf-8")
        _flush(fresh)
        fresh.replace(path)
    except (OSError, ValueError, RuntimeError) as error:  # no space; a NUL; ~ of an unknown user
        raise SaveError(f"{path} could not be written: {error}.") from error
    finally:
        if fresh is not None:
            with suppress(OSError, ValueError):
                fresh.unlink(missing_ok=True)


def check_writable(target: str | Path) -> Path:
    """The directory that a save to `target` would replace; SaveError where none can be.

    Worth calling before long work whose result goes there.
    """
    try:
        target = Path(target).expanduser().resolve()  # a link stays a link to what is replaced
        length = len(os.fsencode(target.name))
    except (RuntimeError, ValueError, OSError) as error:  # ~ of an unknown user; a NUL
        raise SaveError(f"{str(target)[:200]!r} is no path: {error}.") from error
    if length > LONGEST_NAME:
        raise SaveError(f"The name {target.name[:40]}... is too long; shorten it.")
    if target.exists() and not target.is_dir():
        raise SaveError(f"{target} is a file; a model is saved to a directory.")
    if target in (Path.cwd(), *Path.cwd().parents) or target == Path.home() or target.is_mount():
        raise SaveError(
            f"{target} cannot be replaced: it is the working directory or holds it, the home "
            "directory, or a mount. Save to a directory inside it."
        )
    there = next(parent for parent in target.parents if parent.exists())
    if not there.is_dir():
        raise SaveError(f"{there} is a file; {target} cannot lie in it.")
    for place in (there, target):
        if place.exists() and not os.access(place, os.W_OK):
            raise SaveError(f"{place} may not be written to.")
    if target.is_dir():
        for path in target.iterdir():
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise SaveError(f"{path} is a device or a pipe; a save cannot keep it.")
    return target


def _keep_other_files(old: Path, new: Path, replaced: re.Pattern[str]) -> None:
    for path in old.iterdir():
        kept = new / path.name
        if path.name == CARD and path.is_file() and not path.is_symlink():
            _keep_card(path, kept)
            continue
        if replaced.fullmatch(path.name) or kept.exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, kept, symlinks=True, copy_function=_link)
        elif path.is_symlink():
            kept.symlink_to(path.readlink())
        else:
            _link(path, kept)


def _keep_card(old: Path, kept: Path) -> None:
    """What is its owner's, with the new save's part."""
    before = old.read_bytes()
    merged = merged_card(before, kept.read_bytes() if kept.exists() else None)
    kept.unlink(missing_ok=True)
    if merged == before:
        _link(old, kept)
    elif merged is not None:
        kept.write_bytes(merged)


def _link(old: str | Path, new: str | Path) -> None:
    """The file itself under a second name: a trainer's checkpoints are large, its logs open."""
    try:
        os.link(old, new)
    except OSError:  # a file system without links
        shutil.copy2(old, new)


def _exchange(a: Path, b: Path) -> None:
    """Swap two directories' names, in one step where the system has it."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        renameat2 = None
    names = (os.fsencode(a), os.fsencode(b))
    if renameat2 and renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    # Two renames: for a moment `b` is not there, but it is never half of each.
    aside = a.with_name(a.name + ".old")
    b.rename(aside)
    try:
        a.rename(b)
    except OSError:
        aside.rename(b)
        raise
    aside.rename(a)


def _flush(path: Path) -> None:
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
