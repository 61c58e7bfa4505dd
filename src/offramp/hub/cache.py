"""One repository in huggingface_hub's cache: blobs named by their hashes, snapshots of links, refs.

The layout is that of https://huggingface.co/docs/huggingface_hub/guides/manage-cache, so the client
finds what is put here and the other way round. Two things are added: the listing of a commit is
kept as client 2.4 keeps it (`trees/`), which tells a snapshot that lacks files from a whole one;
and `.offramp/` remembers which blobs were verified, so that each is read for it only once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from offramp.errors import HubError
from offramp.hub.settings import links_allowed

COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""What may name a blob: git's SHA-1 of a file, or the SHA-256 of a large one."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DRIVE = re.compile(r"[A-Za-z]:")
_LISTING_FORMAT = 1
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A file of a repository: its path there, its size, and the hash of its content."""

    path: str
    size: int
    hash: str
    """The SHA-256 of a large file, and git's SHA-1 of another."""
    blob_id: str
    """git's name for it: of a large file that of the pointer to it."""
    xet_hash: str | None = None
    """The hub's name for it in its storage; not used here, and kept for the client."""

    def __post_init__(self) -> None:
        """Raise HubError for what cannot be; the path is judged by `is_safe_path`."""
        sound = isinstance(self.size, int) and not isinstance(self.size, bool) and self.size >= 0
        for value, kind in ((self.hash, HASH), (self.blob_id, COMMIT)):
            sound = sound and isinstance(value, str) and kind.fullmatch(value) is not None
        if not sound or not isinstance(self.path, str):
            raise HubError(f"A listing's entry is not sound: {self!r}.")


Listing = Mapping[str, Entry]
"""The files of a commit by their paths."""


def is_safe_path(path: object) -> bool:
    """Whether a path of a listing stays in the repository's directory, on any system."""
    if not isinstance(path, str) or not path or len(path) > 1024 or not path.isprintable():
        return False
    parts = path.split("/")
    return (
        "\\" not in path
        and not _DRIVE.match(path)
        and all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
    )


class CachedRepository:
    """The directory of one repository in a cache."""

    def __init__(self, cache: Path, hub_id: str) -> None:
        self.name = "models--" + hub_id.replace("/", "--")
        self.directory = cache / self.name
        self._locks = cache / ".locks" / self.name

    def commit_of(self, revision: str | None) -> str | None:
        """The commit that a revision was when it was last looked up; None if it never was."""
        revision = revision or "main"
        if COMMIT.fullmatch(revision):
            return revision
        try:
            found = (self.directory / "refs" / revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return found if COMMIT.fullmatch(found) else None

    def snapshot(self, commit: str) -> Path:
        """The directory of a commit's files."""
        return self.directory / "snapshots" / commit

    def blob(self, name: str) -> Path:
        """The file that has a hash for its name; HubError for what is no hash."""
        if HASH.fullmatch(name) is None:
            raise HubError(f"{name!r} is no hash of 40 or 64 hexadecimal digits; it names nothing.")
        return self.directory / "blobs" / name

    # ------------------------------------------------------------------ listings

    def listing(self, commit: str) -> dict[str, Entry] | None:
        """The files of a commit, where they were listed before; None as well for a broken list."""
        try:
            text = (self.directory / "trees" / f"{commit}.json").read_text(encoding="utf-8")
            values = json.loads(text)
            if values["format_version"] != _LISTING_FORMAT:
                return None
            entries = [_entry(path, about) for path, about in values["files"].items()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return {entry.path: entry for entry in entries if is_safe_path(entry.path)}

    def keep_listing(self, commit: str, listing: Listing) -> None:
        """Remember a commit's files."""
        files = {path: _about(listing[path]) for path in sorted(listing)}
        text = json.dumps({"format_version": _LISTING_FORMAT, "files": files}, indent=1)
        _write(self.directory / "trees" / f"{commit}.json", text)

    # ------------------------------------------------------------------ files

    def link(self, commit: str, entry: Entry) -> None:
        """Let the snapshot have a file whose blob is there."""
        path = self.snapshot(commit) / PurePosixPath(entry.path)
        blob = self.blob(entry.hash)
        path.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(blob, path.parent)
        if path.is_symlink() and os.readlink(path) == target:  # noqa: PTH115
            return
        fresh = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            try:
                if not links_allowed():
                    raise NotImplementedError
                fresh.symlink_to(target)
            except (OSError, NotImplementedError):  # a file system without links
                _copy(blob, fresh)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)

    def point(self, revision: str, commit: str) -> None:
        """Remember which commit a revision is."""
        if revision != commit and self.commit_of(revision) != commit:
            _write(self.directory / "refs" / revision, commit)

    def check(self, path: Path, entry: Entry | None = None) -> str | None:
        """What is wrong with a snapshot's file: its size or its content; None if nothing is.

        A blob that was verified before and has not been written to since is not read again. Where
        neither the blob's name nor the listing tells the hash, nothing can be checked.
        """
        try:
            found = path.stat()
        except OSError:
            return "is not there"
        blob = path.parent / os.readlink(path) if path.is_symlink() else path  # noqa: PTH115
        in_blobs = os.path.normpath(blob.parent) == os.path.normpath(self.directory / "blobs")
        name = blob.name if in_blobs and HASH.fullmatch(blob.name) else None
        if entry is not None:
            if name not in (None, entry.hash) or found.st_size != entry.size:
                return f"is not the file that the hub lists ({entry.size} bytes, {entry.hash})"
            name = entry.hash
        if name is None or self._stamp(name) == _stamp_of(found):
            return None
        try:
            real = file_hash(blob, name)
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
        if real != name:
            return f"is damaged: its hash is {real}, and should be {name}"
        self.remember(name, blob)
        return None

    def remember(self, name: str, blob: Path) -> None:
        """Note that a blob was verified; a cache that may not be written to does without."""
        with suppress(OSError):
            _write(self.directory / ".offramp" / name, _stamp_of(blob.stat()))

    def forget(self, name: str) -> None:
        """Take the note away."""
        with suppress(OSError):
            (self.directory / ".offramp" / name).unlink(missing_ok=True)

    def _stamp(self, name: str) -> str | None:
        try:
            return (self.directory / ".offramp" / name).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    @contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Only one process at a time is inside for a blob, and no client of the hub's is.

        The system takes the lock off a process that ends, however it ends. False where the file
        system has no locks; the client's own lock files there outlive a process that is killed, so
        they are not used.
        """
        from filelock import FileLock

        self._locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._locks / f"{name}.lock", mode=0o664)
        try:
            lock.acquire()
        except NotImplementedError:
            yield False
            return
        try:
            yield True
        finally:
            with suppress(OSError):
                lock.release()


def file_hash(path: Path, like: str) -> str:
    """A file's SHA-256, or git's SHA-1 of it where `like` is as short as that."""
    digest = new_hash(like, path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())


def new_hash(like: str, size: int) -> Any:
    """A digest of hashlib's to be fed with a file's bytes: of the kind that `like` is."""
    if _SHA256.fullmatch(like):
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def below(directory: Path) -> Iterable[str]:
    """The files under a directory, by their paths in it."""
    for root, _, names in os.walk(directory):
        inside = os.path.relpath(root, directory)
        for name in names:
            yield name if inside == "." else f"{PurePosixPath(inside)}/{name}"


def _entry(path: str, about: Mapping[str, Any]) -> Entry:
    large = about.get("lfs_sha256")
    size = about["size"] if large is None else about["lfs_size"]
    blob_id = about["blob_id"]
    return Entry(path, size, blob_id if large is None else large, blob_id, about.get("xet_hash"))


def _about(entry: Entry) -> dict[str, Any]:
    about: dict[str, Any] = {"size": entry.size, "blob_id": entry.blob_id}
    if entry.hash != entry.blob_id:
        about |= {"lfs_sha256": entry.hash, "lfs_size": entry.size}
    if entry.xet_hash is not None:
        about["xet_hash"] = entry.xet_hash
    return about


def _stamp_of(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"


def _write(path: Path, text: str) -> None:
    """A file that is there whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as written:
        while block := read.read(_BLOCK):
            written.write(block)
