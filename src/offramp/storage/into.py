"""Files beside others that stay: a tokenizer's, or a configuration, in a model's directory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from offramp.errors import CheckpointError, SaveError
from offramp.storage.files import remove_leftovers, replace_file
from offramp.storage.locks import alone
from offramp.storage.manifest import (
    MANIFEST_FILE,
    FileRecord,
    manifest_text,
    read_manifest,
    record_of,
)
from offramp.storage.steady import interrupted


def write_into(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a directory, which is made if need be; each is there whole or as it was.

    What else lies there stays. The directory's manifest, where it has one, tells of them
    afterwards. Raises SaveError.
    """
    try:
        directory = directory.expanduser()
        directory.parent.mkdir(parents=True, exist_ok=True)
        whole = directory.resolve()
        with alone(whole) as locked:
            if locked and (old := interrupted(whole)):  # a killed save's, of which this is a part
                old.rename(whole)
            directory.mkdir(exist_ok=True)
            for name, content in files.items():
                if locked:
                    remove_leftovers(directory / name)
                replace_file(directory / name, content)
            _record(directory, {name: record_of(content) for name, content in files.items()})
    except (OSError, ValueError, RuntimeError) as error:  # no space; a NUL; ~ of an unknown user
        raise SaveError(f"{directory} could not be written to: {error}.") from error


def _record(directory: Path, records: Mapping[str, FileRecord]) -> None:
    with suppress(CheckpointError):  # one that is not sound is nobody's to mend here
        before = read_manifest(directory)
        if before is not None:
            replace_file(directory / MANIFEST_FILE, manifest_text({**before, **records}))
