"""What a training run keeps beside its output, so that a run that was killed can go on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from torch import Tensor

from offramp.checkpoints.directory import check_writable, recover, staged
from offramp.checkpoints.safetensors_file import read_safetensors, write_safetensors
from offramp.errors import SaveError, TrainingError
from offramp.models.tensors import as_stored, as_tensor
from offramp.storage.manifest import check_sizes

_PLACE = "checkpoint"
_VALUES, _TENSORS = "checkpoint.json", "checkpoint.safetensors"


class Checkpoint(NamedTuple):
    """Where a run was: JSON values, and tensors by name."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]

    def within(self, part: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `part/`, by what follows."""
        return {
            name.removeprefix(f"{part}/"): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(f"{part}/")
        }


class RunFolder:
    """`.OUTPUT.training`, a hidden folder beside a run's output, with its last checkpoint.

    `identity` is what the run's result depends on; a checkpoint of another is refused.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._place = path / _PLACE
        self._identity: dict[str, Any] = json.loads(json.dumps(identity, default=dict))

    @property
    def holds_a_checkpoint(self) -> bool:
        """Whether a run could go on with it."""
        return self._place.is_dir()

    def write(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint in the place of the one before, whole or not at all."""
        stored = {name: as_stored(tensor) for name, tensor in checkpoint.tensors.items()}
        values = {"identity": self._identity, **checkpoint.values}
        with staged(self._place) as fresh:
            write_safetensors(fresh / _TENSORS, stored)
            (fresh / _VALUES).write_text(json.dumps(values), encoding="utf-8")

    def read(self) -> Checkpoint | None:
        """The checkpoint, or None where there is none yet; SaveError for one of another run."""
        if not self.holds_a_checkpoint:
            return None
        try:
            check_sizes(self._place, (_VALUES, _TENSORS))
            values = json.loads((self._place / _VALUES).read_text(encoding="utf-8"))
            before = dict(values.pop("identity"))
            found = read_safetensors(self._place / _TENSORS)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SaveError(
                f"{self._place} is not a sound checkpoint ({error}). Run without resume to begin "
                "anew."
            ) from error
        for name in {**before, **self._identity}:
            if before.get(name) != self._identity.get(name):
                raise SaveError(
                    f"{self._place} belongs to another run, whose {name} was "
                    f"{_shown(before.get(name))}; now it is {_shown(self._identity.get(name))}. "
                    "Run without resume to begin anew."
                )
        return Checkpoint(values, {name: as_tensor(stored) for name, stored in found.items()})

    def remove(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def run_folder(
    output: str | Path, identity: Mapping[str, Any], *, resume: bool
) -> Iterator[RunFolder]:
    """The folder of a run that writes to `output`; gone when the block ends well.

    What an earlier run left is kept with `resume`, and removed otherwise. An error leaves the last
    checkpoint there, but for a TrainingError, at which the run would arrive again. Raises SaveError
    while another run has the folder.
    """
    target = check_writable(output)
    folder = RunFolder(target.with_name(f".{target.name}.training"), identity)
    with _taken(folder.path, target):
        if not resume:
            _clear(folder.path)
        else:
            recover(target)
            recover(folder.path / _PLACE)
        try:
            yield folder
        except BaseException as error:  # Ctrl-C too
            if isinstance(error, TrainingError) or not folder.holds_a_checkpoint:
                folder.remove()
            raise
        folder.remove()


def fingerprint_of_rows(rows: Iterable[object]) -> str:
    """SHA-256 of rows as JSON, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


@contextmanager
def _taken(path: Path, target: Path) -> Iterator[None]:
    """Have the folder alone, until the block or the process ends, however that is."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / "lock").open("a")
    except OSError as error:
        raise SaveError(f"{path} could not be written: {error}.") from error
    with file:
        if not _lock(file, path / "lock"):
            raise SaveError(
                f"{target} is being written by another training run; wait for it, or name another "
                "output."
            )
        yield


def _lock(file: IO[str], path: Path) -> bool:
    try:
        import fcntl  # not everywhere
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between the opening and the lock the run that had it may have removed it.
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _clear(path: Path) -> None:
    for old in path.iterdir():
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:12]}..."


__all__ = ["Checkpoint", "RunFolder", "fingerprint_of_rows", "run_folder"]
