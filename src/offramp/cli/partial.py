"""A file of answers that a stopped run leaves behind, and that the next run goes on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from offramp.cli.common import check_file
from offramp.errors import OfframpError, SaveError
from offramp.storage.files import flush, write_file

_PIECE = 1 << 20


class PartialFile:
    """Lines of answers, written to OUTPUT.partial until all are there.

    `done` is how many of them an earlier run has left, in blocks that are whole.
    """

    def __init__(self, path: Path, file: IO[bytes], done: int, block: int) -> None:
        self.path, self.done = path, done
        self._file, self._block = file, block
        self._lines = done

    @property
    def is_worth_keeping(self) -> bool:
        """Whether a run could go on with it."""
        return self._lines >= self._block

    def write(self, line: str) -> None:
        """One line, without its end. Each whole block reaches the disk."""
        self._file.write(line.encode() + b"\n")
        self._lines += 1
        if self._lines % self._block == 0:
            self.flush()

    def flush(self) -> None:
        """See to it that what is written outlives the machine."""
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def partial_file(
    output: Path, run: dict[str, Any], *, resume: bool, block: int
) -> Iterator[PartialFile]:
    """Lines that appear at `output` complete, or not at all.

    Until then they are in OUTPUT.partial, and `run`, what the answers depend on, in
    OUTPUT.partial.json. A process that is killed leaves both, and so does an error after the first
    `block` lines. With `resume` what is there is kept up to the last whole block; SaveError where
    it belongs to another run. Otherwise it is replaced, as an output is.
    """
    check_file(output)
    run = json.loads(json.dumps(run))  # as it will be read again: with lists for tuples
    path = output.with_name(f"{output.name}.partial")
    about = path.with_name(f"{path.name}.json")
    try:
        with path.open("a+b") as file:
            _take(file, path)
            done = _repair(file, path, about, run, block) if resume else 0
            file.truncate(_size(file, done))
            if not done:
                write_file(about, json.dumps(run, indent=2) + "\n")
            found = PartialFile(path, file, done, block)
            try:
                yield found
                found.flush()
            except BaseException:  # Ctrl-C too: it goes on once the files are seen to
                if not found.is_worth_keeping:
                    about.unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
                raise
            path.replace(output)
            flush(output.parent)
            about.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, OfframpError):
            raise
        raise SaveError(f"{output} could not be written: {error}.") from error


def file_identity(path: Path) -> dict[str, Any]:
    """A file's size and SHA-256; neither its name nor its time, which a copy changes."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _take(file: IO[bytes], path: Path) -> None:
    """Have the file alone, until it is closed or the process ends, however that is."""
    import fcntl  # not everywhere; other commands do without

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between the opening and the lock it may have become another run's output.
        own = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        own = False
    if not own:
        raise SaveError(f"{path} is being written by another run; wait for it, or name another.")


def _repair(file: IO[bytes], path: Path, about: Path, run: dict[str, Any], block: int) -> int:
    """How many lines to keep: whole blocks alone. SaveError for what is another run's."""
    if os.fstat(file.fileno()).st_size == 0:
        return 0
    try:
        before = json.loads(about.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError
    except (FileNotFoundError, ValueError):
        raise SaveError(
            f"{about} does not say what {path.name} belongs to. Run without --resume to begin anew."
        ) from None
    for name in {**before, **run}:
        if before.get(name) != run.get(name):
            raise SaveError(
                f"{path} belongs to another run, whose {name} was {_shown(before.get(name))}; now "
                f"it is {_shown(run.get(name))}. Run without --resume to begin anew."
            )
    file.seek(0)
    lines = 0
    while piece := file.read(_PIECE):
        lines += piece.count(b"\n")
    return lines // block * block


def _size(file: IO[bytes], lines: int) -> int:
    """The bytes that so many lines have."""
    file.seek(0)
    return sum(len(file.readline()) for _ in range(lines))


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"{value['bytes']} bytes with SHA-256 {value['sha256'][:12]}..."
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
