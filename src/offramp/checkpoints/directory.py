"""A directory that is there whole or not at all."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from offramp.checkpoints.card import CARD, merged_card
from offramp.checkpoints.file_names import WEIGHTS
from offramp.errors import CheckpointError, OfframpError, SaveError
from offramp.storage.files import (
    flush,
    is_leftover,
    mount_points,
    remove_leftovers,
    remove_tree,
    temporary,
)
from offramp.storage.locks import alone
from offramp.storage.manifest import (
    MANIFEST_FILE,
    FileRecord,
    files_below,
    manifest_text,
    read_manifest,
    recorded,
)
from offramp.storage.steady import interrupted

LONGEST_NAME = 220
"""Bytes of a name: 255 on Linux, less what a temporary sibling adds."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def staged(target: str | Path, replaced: re.Pattern[str] = WEIGHTS) -> Iterator[Path]:
    """A fresh sibling directory to write into, which takes `target`'s place when the block ends.

    The change is one rename (one exchange where `target` exists), so a reader or a crash finds
    the old directory or the new one; `interrupted` says what there is where the file system has no
    exchange. Files of the old one that are neither written anew nor `replaced` by their names are
    kept, and of its card (`checkpoints.card`) what is its owner's; what the block wrote is in the
    directory's manifest. If the block raises, nothing of it remains. One saver waits for another of
    the same target, and removes what killed ones left.
    """
    target = _whole_path(target)
    with _told(target):
        _check_place(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target) as locked:
            _recover(target, locked)
            _check_replaceable(target)
            fresh = temporary(target)
            try:
                fresh.mkdir()
                yield fresh
                _finish(fresh, target, replaced)
                _swap(fresh, target)
                with _told(target, "It is there, but may not outlive a power cut."):
                    flush(target.parent)
            finally:
                if interrupted(target) is None:  # or the old one could not be named back
                    remove_tree(fresh)  # the old directory, if all is well


def recover(target: Path) -> None:
    """Put right what killed saves of `target` have left beside it; nothing where that cannot be."""
    try:
        with alone(target) as locked:
            _recover(target, locked)
    except OSError:
        return


def check_writable(target: str | Path) -> Path:
    """The directory that a save to `target` would replace; SaveError where none can be.

    Worth calling before long work whose result goes there.
    """
    target = _whole_path(target)
    with _told(target):
        _check_place(target)
        _check_replaceable(target)
    return target


def _whole_path(target: str | Path) -> Path:
    try:
        target = Path(target).expanduser().resolve()  # a link stays a link to what is replaced
        length = len(os.fsencode(target.name))
    except (RuntimeError, ValueError, OSError) as error:  # ~ of an unknown user; a NUL
        raise SaveError(f"{str(target)[:200]!r} is no path: {error}.") from error
    if length > LONGEST_NAME:
        raise SaveError(f"The name {target.name[:40]}... is too long; shorten it.")
    return target


def _check_place(target: Path) -> None:
    """SaveError where nothing can be written beside the target."""
    there = next(parent for parent in target.parents if parent.exists())
    if not there.is_dir():
        raise SaveError(f"{there} is a file; {target} cannot lie in it.")
    if not os.access(there, os.W_OK):
        raise SaveError(f"{there} may not be written to.")


def _check_replaceable(target: Path) -> None:
    """SaveError where the target is what no directory can take the place of."""
    if target.exists() and not target.is_dir():
        raise SaveError(f"{target} is a file; a model is saved to a directory.")
    if target in (Path.cwd(), *Path.cwd().parents) or target == Path.home() or target.is_mount():
        raise SaveError(
            f"{target} cannot be replaced: it is the working directory or holds it, the home "
            "directory, or a mount. Save to a directory inside it."
        )
    if not target.is_dir():
        return
    if not os.access(target, os.W_OK):
        raise SaveError(f"{target} may not be written to.")
    for path in target.iterdir():
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise SaveError(f"{path} is a device or a pipe; a save cannot keep it.")
    for point in mount_points():
        if target in point.parents:
            raise SaveError(
                f"{target} cannot be replaced: {point} in it is a mount, which a save would take "
                "along. Save to a directory beside it, or unmount it."
            )


@contextmanager
def _told(target: Path, said: str = "Nothing was changed.") -> Iterator[None]:
    """What goes wrong with the disk inside is a SaveError that says so."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OfframpError):
            raise
        raise SaveError(f"{target} could not be written: {error}. {said}") from error


def _recover(target: Path, locked: bool) -> None:
    """Give back the directory that a kill between two renames took away; remove what is left."""
    if not locked:  # what lies there may be another saver's
        return
    if old := interrupted(target):
        old.rename(target)
    remove_leftovers(target)


def _finish(fresh: Path, target: Path, replaced: re.Pattern[str]) -> None:
    """Whatever the block did not do: what is kept of the old directory, a manifest, the disk."""
    written = set(files_below(fresh)) - {CARD}  # which is its owner's to change
    before: Mapping[str, FileRecord] = {}
    if target.is_dir():
        _keep_other_files(target, fresh, replaced)
        before = _records_before(target)
        shutil.copystat(target, fresh)
    records = {}
    for name in files_below(fresh):
        path = fresh / name
        kept = _is_one(path, target / name)
        if not kept:
            flush(path)
        if name in written:
            records[name] = recorded(path)
        elif name in before and (kept or recorded(path) == before[name]):  # a copy of it
            records[name] = before[name]
    manifest = fresh / MANIFEST_FILE
    manifest.write_text(manifest_text(records), encoding="utf-8")
    flush(manifest)
    for path in fresh.rglob("*"):
        if path.is_dir():
            flush(path)
    flush(fresh)


def _records_before(target: Path) -> Mapping[str, FileRecord]:
    try:
        return read_manifest(target) or {}
    except CheckpointError:  # the new one will be sound
        return {}


def _is_one(path: Path, other: Path) -> bool:
    """Whether two names are of one file, or of links that lead to one place."""
    try:
        return os.path.samestat(path.stat(), other.stat())
    except FileNotFoundError:
        return path.is_symlink()  # which leads nowhere


def _keep_other_files(old: Path, new: Path, replaced: re.Pattern[str]) -> None:
    written = {path.name for path in new.iterdir()} | {MANIFEST_FILE}
    for path in old.iterdir():
        kept = new / path.name
        if path.name == CARD and path.is_file() and not path.is_symlink():
            _keep_card(path, kept)
            continue
        if path.name in written or replaced.fullmatch(path.name) or is_leftover(path.name):
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
    except FileExistsError:  # which a copy would overwrite
        raise
    except OSError:  # a file system without links
        shutil.copy2(old, new)
        flush(Path(new))


def _swap(fresh: Path, target: Path) -> None:
    """Put `fresh` in the place of `target`; the old directory, if there was one, is then there."""
    if not target.is_dir():
        fresh.rename(target)
    elif not _exchanged(fresh, target):
        # Two renames: for a moment nothing has the target's name, and readers go by `interrupted`.
        aside = fresh.with_suffix(".old")
        target.rename(aside)
        try:
            flush(target.parent)
            fresh.rename(target)
        except OSError:
            aside.rename(target)
            raise
        with suppress(OSError):  # the save is there; the next one removes what is left
            aside.rename(fresh)
            return
        remove_tree(aside)


def _exchanged(a: Path, b: Path) -> bool:
    """Swap two directories' names in one step; False where the system has no such step."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = (os.fsencode(a), os.fsencode(b))
    done: int = renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return done == 0
