"""A directory that is there whole or not at all."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offramp.errors import ModelNotFoundError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# Weights of an earlier save would be read in place of this one's, so they never stay.
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pdparams")


@contextmanager
def staged(target: str | Path) -> Iterator[Path]:
    """A fresh sibling directory to write into, which takes `target`'s place when the block ends.

    The change is one rename (one exchange where `target` exists), so a reader or a crash finds
    the old directory or the new one. Files of the old one that are neither written anew nor
    weights are kept. If the block raises, nothing of it remains.
    """
    target = Path(target).resolve()  # a link stays a link to the directory that is replaced
    if target.exists() and not target.is_dir():
        raise ModelNotFoundError(f"{target} is a file; a model is saved to a directory.")
    if target == Path.cwd():
        raise ModelNotFoundError(
            f"{target} is the working directory, which cannot be replaced while a process is in "
            "it. Save to a directory inside or beside it."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{target.name}.{secrets.token_hex(6)}.tmp"
    fresh.mkdir()
    try:
        yield fresh
        if target.is_dir():
            _keep_other_files(target, fresh)
        for path in fresh.rglob("*"):
            _flush(path)
        _flush(fresh)
        if target.is_dir():
            _exchange(fresh, target)  # `fresh` is the old directory from here on
        else:
            fresh.rename(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _keep_other_files(old: Path, new: Path) -> None:
    for path in old.iterdir():
        kept = new / path.name
        if path.name.endswith(_WEIGHTS) or kept.exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, kept, symlinks=True)
        elif path.is_symlink():
            kept.symlink_to(path.readlink())
        else:
            shutil.copy2(path, kept)


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
    a.rename(b)
    aside.rename(a)


def _flush(path: Path) -> None:
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
