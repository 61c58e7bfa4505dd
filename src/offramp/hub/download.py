"""Fetching a repository's files into the cache, verified before they have a name there.

`hf_hub_download` of the client is not used: it names a file by the ETag of the answer, takes any
body of the right length, and gives up at the first 503. Here the listing of a commit says what a
file is; what the endpoint says of it beside its content must agree; and a file is put in its place
once its SHA-256 (of a large file) or git's SHA-1 is the listing's.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from offramp.errors import HubError, shown
from offramp.hub.cache import COMMIT, HASH, CachedRepository, Entry, Listing, below, new_hash
from offramp.hub.client import (
    Answer,
    Endpoint,
    PassingError,
    UnreachableError,
    check_length,
    retried,
)
from offramp.hub.names import Request, Select
from offramp.hub.settings import cache_directory

_INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$")
_LONGEST_INDEX = 64 << 20


def download(endpoint: str, hub_id: str, request: Request, select: Select) -> Path:
    """The directory with the files of a repository that `select` wants, fetched where need be.

    A branch is looked up each time. Raises HubError: UnreachableError where the endpoint does not
    answer, RefusedError where it has no such repository or shows it to others only.
    """
    hub = Endpoint(endpoint, request.token)
    repository = CachedRepository(cache_directory(request.cache_dir), hub_id)
    with _room_told(repository):
        revision = request.revision or "main"
        is_commit = COMMIT.fullmatch(revision) is not None
        commit = revision if is_commit else hub.commit_of(hub_id, revision)
        directory = repository.snapshot(commit) / (request.subfolder or "")
        if request.force_download or not _is_whole(repository, commit, request, select, []):
            where = f"{hub_id}/{request.subfolder or ''}".rstrip("/") + f" at {revision}"
            # Not the one that is kept: what does not fit its files should not stay.
            listing = hub.listing(hub_id, commit)
            bring = _Bringing(hub, repository, hub_id, commit, force=request.force_download)
            wanted = _wanted(listing, request.subfolder, select, bring, where)
            for entry in wanted:
                bring(entry)
            repository.keep_listing(commit, listing)  # before the links, which it judges
            for entry in wanted:
                repository.link(commit, entry)
        with suppress(OSError):  # only offline it is missed; a branch v/2 cannot lie below a v
            repository.point(revision, commit)
    return directory


def held(hub_id: str, request: Request, select: Select, notes: list[str]) -> Path | None:
    """The directory of a repository in the cache, without asking anyone; None if it is not whole.

    Whole it is when all is there that `select` takes of the commit's listing; where the commit was
    never listed, of what lies there. Each file's content has been verified, now or before. Why it
    is not taken is added to `notes`.
    """
    repository = CachedRepository(cache_directory(request.cache_dir), hub_id)
    commit = repository.commit_of(request.revision)
    if commit is None or not _is_whole(repository, commit, request, select, notes):
        return None
    return repository.snapshot(commit) / (request.subfolder or "")


def _is_whole(
    repository: CachedRepository, commit: str, request: Request, select: Select, notes: list[str]
) -> bool:
    directory = repository.snapshot(commit) / (request.subfolder or "")
    if not directory.is_dir():
        return False
    listing = repository.listing(commit)
    inside = {} if listing is None else _inside(listing, request.subfolder)
    names = select(below(directory) if listing is None else inside)
    for name in names:
        if wrong := repository.check(directory / PurePosixPath(name), inside.get(name)):
            notes.append(f"commit {commit[:8]} is cached, but {name} {wrong}")
            return False
        if _INDEX.search(name):
            with suppress(HubError):  # what reads it says what is wrong with it
                for shard in _shards(directory / PurePosixPath(name), name):
                    if not (directory / PurePosixPath(name).parent / shard).is_file():
                        notes.append(f"commit {commit[:8]} is cached, but not its {shard}")
                        return False
    if not names:
        notes.append(f"commit {commit[:8]} is cached, without what is needed")
    return bool(names)


class _Bringing:
    """Puts the contents of one commit's files into the cache."""

    def __init__(
        self, hub: Endpoint, repository: CachedRepository, hub_id: str, commit: str, *, force: bool
    ) -> None:
        self._hub, self._repository = hub, repository
        self._hub_id, self._commit, self._force = hub_id, commit, force
        self._brought: set[str] = set()

    def __call__(self, entry: Entry) -> Path:
        """The blob. One process fetches it, others wait for that."""
        repository, blob = self._repository, self._repository.blob(entry.hash)
        if entry.hash in self._brought:
            return blob
        if not self._force and repository.check(blob, entry) is None:
            return blob
        with repository.lock(entry.hash):
            if self._force or repository.check(blob, entry) is not None:
                self._fetch(entry, blob)
        self._brought.add(entry.hash)
        return blob

    def _fetch(self, entry: Entry, blob: Path) -> None:
        blob.parent.mkdir(parents=True, exist_ok=True)
        _check_room(entry, blob.parent)
        partial = _Partial(blob, entry)
        with partial, _progress(entry) as advance:
            partial.adopt()
            wrong = self._receive(entry, partial, advance)
            if wrong is not None:  # once more, from its beginning
                partial.restart()
                wrong = self._receive(entry, partial, advance)
            if wrong is not None:
                raise HubError(
                    f"{entry.path} of {self._hub_id} came damaged from {self._hub.url}, twice: "
                    f"{wrong}. Nothing of it is kept. Try again later or from another network; if "
                    "it stays so, tell the repository's owner."
                )
            partial.become(blob)
        self._repository.remember(entry.hash, blob)

    def _receive(
        self, entry: Entry, partial: _Partial, advance: Callable[[int], None]
    ) -> str | None:
        """What is wrong with what came; None if it is what the listing says."""
        url = self._hub.file_url(self._hub_id, self._commit, entry.path)

        def ask() -> str | None:
            if partial.size == entry.size and partial.hash() == entry.hash:
                return None
            begin = partial.size if partial.size < entry.size else 0
            if begin != partial.size:
                partial.restart()
            advance(begin)
            with self._hub.get(url, self._hub_id, self._commit, begin) as answer:
                if wrong := _disagreement(answer, entry, self._commit):
                    return wrong
                if begin and not _goes_on(answer, begin, entry.size):
                    partial.restart()
                    begin = 0
                    if answer.status == 206:
                        raise PassingError("it sends another part than it was asked for")
                for block in answer.blocks:
                    partial.write(block)
                    advance(partial.size)
                    if partial.size > entry.size:
                        return f"it is longer than the {entry.size} bytes that are listed"
                check_length(answer.headers, partial.size - begin)
            if partial.size < entry.size:
                return f"it ends after {partial.size} of {entry.size} bytes"
            found = partial.hash()
            return None if found == entry.hash else f"its hash is {found}, listed is {entry.hash}"

        return retried(ask, url, lambda: partial.received)


class _Partial:
    """A file on its way, under a name that no other process has, and the hash of what is in it.

    It stays where the hub cannot be reached any more, or the user breaks off, and the next attempt
    begins with it (`adopt`), as with that of a process that was killed.
    """

    def __init__(self, blob: Path, entry: Entry) -> None:
        self._blob, self._entry = blob, entry
        self.path = blob.with_name(f"{blob.name}.{secrets.token_hex(6)}.incomplete")
        self.received = 0
        """Bytes that came over the network, of all attempts."""
        self.size = 0
        """Bytes that are in the file."""

    def __enter__(self) -> _Partial:
        self._file: IO[bytes] = self.path.open("wb")
        self._digest = new_hash(self._entry.hash, self._entry.size)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with suppress(OSError):  # no room for what is yet to be written
            self._file.close()
        if not (self.size and isinstance(error, (UnreachableError, KeyboardInterrupt))):
            self.path.unlink(missing_ok=True)
        if error is None:
            for _, path in self._others():
                path.unlink(missing_ok=True)

    def adopt(self) -> None:
        """Begin with the most that another attempt has left of the same file.

        It is copied and not taken over: there are file systems where locks do not hold, and who
        writes to it may be alive.
        """
        for _, path in self._others()[-1:]:
            with path.open("rb") as file:
                while self.size < self._entry.size and (block := file.read(1 << 20)):
                    self._add(block[: self._entry.size - self.size])

    def write(self, block: bytes) -> None:
        """Add what came."""
        self.received += len(block)
        self._add(block)

    def restart(self) -> None:
        """Throw away what is there."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = new_hash(self._entry.hash, self._entry.size)
        self.size = 0

    def hash(self) -> str:
        """Of all that was written."""
        return str(self._digest.hexdigest())

    def become(self, blob: Path) -> None:
        """Take the blob's name, with all on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            self.path.replace(blob)
        except FileNotFoundError:  # where locks do not hold: another was sooner, and tidied up
            if not blob.is_file():
                raise

    def _add(self, block: bytes) -> None:
        self._file.write(block)
        self._digest.update(block)
        self.size += len(block)

    def _others(self) -> list[tuple[int, Path]]:
        """What other attempts have left, by its size."""
        found = []
        for path in self._blob.parent.glob(f"{self._blob.name}.*.incomplete"):
            with suppress(OSError):
                if path != self.path:
                    found.append((path.stat().st_size, path))
        return sorted(found)


def _wanted(
    listing: Listing,
    subfolder: str | None,
    select: Select,
    bring: Callable[[Entry], Path],
    where: str,
) -> list[Entry]:
    """The entries of the files that are needed: an index first, and what it names among them."""
    inside = _inside(listing, subfolder)
    names = select(inside)
    if not names:
        some = ", ".join(sorted(inside)[:10]) or "no files"
        raise HubError(
            f"{where} is no model that can be opened: it has {some}. Expected config.json and "
            "weights, such as model.safetensors, with all of their parts."
        )
    indices = [name for name in names if _INDEX.search(name)]
    for index in indices:
        folder = index.rpartition("/")[0]
        for shard in _shards(bring(inside[index]), where):
            path = f"{folder}/{shard}" if folder else shard
            if path not in inside:
                raise HubError(f"{where}: {index} names {shard}, which the repository lacks.")
            if path not in names:
                names.append(path)
    return [inside[name] for name in sorted(names, key=lambda name: inside[name].size)]


def _inside(listing: Listing, subfolder: str | None) -> dict[str, Entry]:
    """The entries below a folder, by their paths in it."""
    begin = f"{PurePosixPath(subfolder)}/" if subfolder else ""
    return {p.removeprefix(begin): entry for p, entry in listing.items() if p.startswith(begin)}


def _shards(index: Path, where: str) -> list[str]:
    """The files that an index of weights names."""
    try:
        if index.stat().st_size > _LONGEST_INDEX:
            raise ValueError("it is too long")
        named = set(json.loads(index.read_bytes())["weight_map"].values())
        if not all(isinstance(name, str) for name in named):
            raise TypeError("a file's name is a text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HubError(f"{where}: {index.name} is no index of weights ({error}).") from error
    return sorted(named)


def _disagreement(answer: Answer, entry: Entry, commit: str) -> str | None:
    """How the endpoint's headers and the listing differ, if they do."""
    if answer.headers.get("content-encoding", "identity") != "identity":
        return "it is sent in another encoding than asked for"
    stated = answer.stated
    if (found := stated.get("x-repo-commit", commit)) != commit:
        return f"X-Repo-Commit is {shown(found, 80)!r}, asked for was {commit}"
    tag = stated.get("x-linked-etag") or stated.get("etag") or entry.hash
    tag = tag.removeprefix("W/").strip('"')
    if not HASH.fullmatch(tag):
        return f"its ETag is {shown(tag, 80)!r}, and no hash of 40 or 64 hexadecimal digits"
    if tag != entry.hash:
        return f"its ETag is {tag}, listed is {entry.hash}"
    size = stated.get("x-linked-size", str(entry.size))
    return None if size == str(entry.size) else f"X-Linked-Size is {shown(size, 40)!r}"


def _goes_on(answer: Answer, begin: int, size: int) -> bool:
    """Whether a part is the one that was asked for."""
    return (
        answer.status == 206
        and answer.headers.get("content-range", "") == f"bytes {begin}-{size - 1}/{size}"
    )


def _check_room(entry: Entry, directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < entry.size:
        raise OSError(errno.ENOSPC, f"{entry.path} has {entry.size:,} bytes, free are {free:,}")


@contextmanager
def _room_told(repository: CachedRepository) -> Iterator[None]:
    """What the file system refuses inside, as a HubError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, HubError):
            raise
        where = repository.directory.parent
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HubError(
                f"There is no room in {where}: {error}. Make room (offramp cache prune), or have "
                "another cache: HF_HUB_CACHE, or cache_dir=."
            ) from error
        raise HubError(
            f"{where} cannot be written to: {error}. Name another cache: HF_HUB_CACHE, or "
            "cache_dir=."
        ) from error


@contextmanager
def _progress(entry: Entry) -> Iterator[Callable[[int], None]]:
    """A bar as the client's; none where its settings say so, or where nobody looks."""
    from huggingface_hub import utils

    client: Any = utils  # which does not say that it exports it
    bar = client.tqdm(
        total=entry.size,
        unit="B",
        unit_scale=True,
        desc=entry.path,
        disable=None,
        name="offramp.download",
    )

    def advance(size: int) -> None:
        bar.update(size - bar.n)

    with bar:
        yield advance
