"""Which save of a directory is the one to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from offramp.checkpoints.content import give_back
from offramp.checkpoints.file_names import (
    PADDLE_FILE,
    SAFETENSORS_FILE,
    TORCH_FILE,
    WEIGHTS,
    weights_files,
    with_variant,
)
from offramp.checkpoints.renames import Row
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.weights import Reading, open_save, read_index
from offramp.errors import CheckpointError, ModelNotFoundError


def find_save(
    directory: Path,
    file: str = SAFETENSORS_FILE,
    variant: str | None = None,
    *,
    use_safetensors: bool | None = None,
    rows: Sequence[Row] = (),
    options: Reading | None = None,
) -> Path:
    """The one file of a directory's weights, or their index.

    safetensors come before PyTorch's and those before PaddleNLP's, one file before an index. Saves
    in two formats must be one and the same: with `use_safetensors` True or False the others are
    not looked at. Raises ModelNotFoundError where there is none, and CheckpointError where there
    are two saves.
    """
    formats = [TORCH_FILE, PADDLE_FILE] if use_safetensors is False else []
    formats = [file] if use_safetensors else formats or [file, TORCH_FILE, PADDLE_FILE]
    saves = [
        save for name in formats if (save := _save_of_format(directory, name, variant)) is not None
    ]
    if not saves:
        wanted = " or ".join(with_variant(name, variant) for name in formats)
        raise ModelNotFoundError(
            f"{directory} holds no weights: expected {wanted}, or an index."
            + _others_beside(directory)
        )
    for other in saves[1:]:
        if difference := _difference(saves[0], other, rows, options or Reading()):
            raise CheckpointError(
                f"{directory} holds {saves[0].name} and {other.name}, which are two saves: "
                f"{difference}. Remove the one that is not wanted, or choose by use_safetensors= "
                "or by passing the file itself.",
                kind="ambiguous",
                file=other,
            )
    return saves[0]


def _others_beside(directory: Path) -> str:
    if not directory.is_dir():
        return ""
    there = sorted(p.name for p in directory.iterdir() if WEIGHTS.fullmatch(p.name))
    return f" Beside it: {', '.join(there[:10])}." if there else ""


def _save_of_format(directory: Path, file: str, variant: str | None) -> Path | None:
    path, index = (directory / name for name in weights_files(file, variant))
    there = [save for save in (path, index) if save.is_file() or save.is_symlink()]
    if not there:
        return None
    used = {path.name} if there == [path] else set()
    if there == [index]:
        used = set(read_index(index).values())
    stem, _, suffix = with_variant(file, variant).rpartition(".")
    shard = re.compile(rf"{re.escape(stem)}-\d+-of-\d+\.{suffix}")
    strays = sorted({p.name for p in directory.iterdir() if shard.fullmatch(p.name)} - used)
    if len(there) == 2 or strays:
        raise CheckpointError(
            f"{directory} holds {', '.join([*(p.name for p in there), *strays[:3]])}, which are "
            "two saves. Remove the one that is not wanted.",
            kind="ambiguous",
            file=directory / (strays or [index.name])[0],
        )
    return there[0]


def _difference(one: Path, other: Path, rows: Sequence[Row], options: Reading) -> str | None:
    """How two saves differ, if they do: in names, shapes, or numbers.

    A tensor that one of them has twice, because it is tied, stands in the other once.
    """
    options = Reading(options.mmap, True, options.uint16_is_bfloat16)  # to compare, not to load
    first, second = (open_save(path, rows, options).tensors for path in (one, other))
    for name in (name for name in first if name in second):
        a, b = first[name], second[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{name} is {a.dtype} {list(a.shape)} in one, {b.dtype} {list(b.shape)} in other"
        if not _same(a, b):
            return f"{name} has other numbers"
    for name in first.keys() ^ second.keys():
        has, lacks = (first, second) if name in first else (second, first)
        if has[name].dtype.startswith(("I", "U", "BOOL")):
            continue  # an old buffer
        if not any(_same(has[name], stored) for stored in lacks.values()):
            return f"{name} is in one alone"
    return None


def _same(one: Stored, other: Stored) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    bits = f"u{one.array.itemsize}"  # a NaN is equal to itself
    same = bool(np.array_equal(one.array.view(bits), other.array.view(bits)))
    for stored in (one, other):
        give_back(stored.array)
    return same
