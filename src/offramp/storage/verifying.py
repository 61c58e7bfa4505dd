"""`offramp verify`: whether the files of a directory are those that were saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offramp.errors import CheckpointError, ModelNotFoundError
from offramp.storage.manifest import (
    MANIFEST_FILE,
    FileRecord,
    files_below,
    read_manifest,
    recorded,
)
from offramp.storage.steady import reread


@dataclass(frozen=True)
class Verification:
    """What the files of a directory are, held against the manifest of its save."""

    directory: str
    has_manifest: bool
    """Without one nothing is known of the files, and all of them are `uncovered`."""
    sound: tuple[str, ...] = ()
    """Files whose every byte is as it was saved."""
    damaged: Mapping[str, str] = field(default_factory=dict)
    """{file: what is wrong with it}; the manifest too, where it is not sound."""
    missing: tuple[str, ...] = ()
    """Files of the save that are not there."""
    uncovered: tuple[str, ...] = ()
    """Files that the manifest does not tell of: added since, or kept from before."""
    n_bytes: int = 0
    """How much was read."""

    @property
    def ok(self) -> bool:
        """Whether all of the save is there as it was saved. Files beside it do not matter."""
        return self.has_manifest and not self.damaged and not self.missing

    def to_dict(self) -> dict[str, Any]:
        """JSON values of all of it."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "damaged": dict(self.damaged), "ok": self.ok}

    def __str__(self) -> str:
        if not self.has_manifest and not self.damaged:
            return (
                f"{self.directory} has no {MANIFEST_FILE}: nothing can be said of its "
                f"{len(self.uncovered)} files. Save the model with offramp to have one."
            )
        lines = [f"{name}: {what}" for name, what in self.damaged.items()]
        lines += [f"{name}: missing" for name in self.missing]
        lines += [f"{name}: not in the manifest" for name in self.uncovered]
        state = "as it was saved" if self.ok else "NOT as it was saved"
        lines.append(
            f"{self.directory} is {state}: {len(self.sound)} files of {self.n_bytes:,} bytes are "
            "sound."
        )
        return "\n".join(lines)


def verify(directory: str | Path) -> Verification:
    """Read every file of a saved directory and compare it with the manifest of the save.

    That is `offramp_manifest.json`, which each of offramp's saves writes. Loading compares sizes
    alone; this reads all bytes, at the speed of SHA-256 or the disk. A directory below that has a
    manifest of its own is not gone into. Raises ModelNotFoundError where there is no directory.
    """
    place = Path(directory).expanduser()
    if not place.is_dir():
        raise ModelNotFoundError(f"{place} is no directory. Pass the one that was saved to.")
    return reread(lambda: _verified(str(directory), place), place)


def _verified(name: str, place: Path) -> Verification:
    there = _own_files(place)
    try:
        records = read_manifest(place)
    except CheckpointError as error:
        return Verification(name, False, (), {MANIFEST_FILE: str(error)}, (), there)
    if records is None:
        return Verification(name, False, uncovered=there)
    faults = {file: _fault(place / file, record) for file, record in records.items()}
    sound = tuple(file for file, fault in faults.items() if fault is None)
    missing = tuple(file for file, fault in faults.items() if fault == "missing")
    return Verification(
        name,
        True,
        sound,
        {file: fault for file, fault in faults.items() if fault and file not in missing},
        missing,
        tuple(file for file in there if file not in records),
        sum(records[file].size for file in sound),
    )


def _own_files(directory: Path) -> tuple[str, ...]:
    """The files below, without those of other saves that lie inside."""
    names = files_below(directory)
    inner = [n.removesuffix(MANIFEST_FILE) for n in names if n.endswith(f"/{MANIFEST_FILE}")]
    return tuple(name for name in names if not any(name.startswith(folder) for folder in inner))


def _fault(path: Path, record: FileRecord) -> str | None:
    """What is wrong with a file; None for one that is sound."""
    try:
        size = path.stat().st_size
        if size != record.size:
            return f"{size} bytes, and {record.size} were saved"
        if recorded(path).sha256 != record.sha256:
            return "as long as it was saved, and with other contents"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return None


__all__ = ["Verification", "verify"]
