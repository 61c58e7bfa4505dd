"""What the hub's cache holds of models: listed, verified, and cleaned of what nothing uses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from offramp.errors import HubError
from offramp.hub.cache import COMMIT, HASH, CachedRepository, below, file_hash

_ABANDONED = 24 * 3600  # seconds since a file that nothing uses was written


@dataclass(frozen=True)
class Kept:
    """A repository in the cache."""

    repo_id: str
    size: int
    """Bytes of its files, each counted once."""
    commits: tuple[str, ...]
    """Those that have files here."""
    revisions: dict[str, str]
    """{branch, tag or pull request: its commit when it was last looked up}."""


def kept(cache: Path) -> list[Kept]:
    """The models of a cache; HubError for one that cannot be read."""
    found = []
    for repository, repo_id in _repositories(cache):
        directory = repository.directory
        sizes = [path.stat().st_size for path in _files(directory / "blobs")]
        commits = [p.name for p in _entries(directory / "snapshots") if COMMIT.fullmatch(p.name)]
        refs = {name: repository.commit_of(name) for name in below(directory / "refs")}
        revisions = {name: commit for name, commit in sorted(refs.items()) if commit is not None}
        found.append(Kept(repo_id, sum(sizes), tuple(sorted(commits)), revisions))
    return found


def damaged(cache: Path, repo_id: str | None = None) -> Iterator[tuple[str, Path, str | None]]:
    """Each blob that has a hash for its name, as (repository, file, what is wrong with it).

    All of them are read, whatever was verified before. What is damaged is forgotten to have been
    verified: it is fetched again when it is next needed.
    """
    for repository, name in _repositories(cache):
        if repo_id not in (None, name):
            continue
        for path in _files(repository.directory / "blobs"):
            if HASH.fullmatch(path.name) is None:
                continue
            wrong = None if (real := file_hash(path, path.name)) == path.name else real
            if wrong is None:
                repository.remember(path.name, path)
                yield name, path, None
            else:
                repository.forget(path.name)
                yield name, path, f"its hash is {wrong}"


def prune(cache: Path, *, dry_run: bool = False) -> list[tuple[str, Path, int]]:
    """Remove files that were begun and given up, and blobs that no snapshot has.

    As (repository, file, its size); what was written to within a day stays, as it may be on its
    way. With `dry_run` nothing is removed.
    """
    removed = []
    for repository, repo_id in _repositories(cache):
        for path in _files(repository.directory / "blobs"):
            if path.is_symlink() or path.name in _used(repository):
                continue  # a link leads to what the client shares between repositories
            with suppress(OSError):
                about = path.stat()
                if time.time() - about.st_mtime < _ABANDONED:
                    continue
                if not dry_run:
                    _remove(repository, path)
                removed.append((repo_id, path, about.st_size))
    return removed


def _remove(repository: CachedRepository, path: Path) -> None:
    if HASH.fullmatch(path.name) is None:
        path.unlink()
        return
    with repository.lock(path.name):
        if path.name not in _used(repository):
            path.unlink()
            repository.forget(path.name)


def _used(repository: CachedRepository) -> set[str]:
    """The names of the blobs that snapshots link to."""
    snapshots = repository.directory / "snapshots"
    links = (snapshots / name for name in below(snapshots))
    return {Path(os.readlink(path)).name for path in links if path.is_symlink()}  # noqa: PTH115


def _repositories(cache: Path) -> Iterator[tuple[CachedRepository, str]]:
    try:
        names = sorted(path.name for path in _entries(cache))
    except OSError as error:
        raise HubError(f"The cache {cache} cannot be read: {error}.") from error
    for name in names:
        if name.startswith("models--") and (cache / name).is_dir():
            repo_id = name.removeprefix("models--").replace("--", "/", 1)
            yield CachedRepository(cache, repo_id), repo_id


def _entries(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in _entries(directory) if path.is_file())
