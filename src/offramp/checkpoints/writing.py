"""Tensors to one file, or to several with an index."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from offramp.checkpoints.file_names import SAFETENSORS_FILE, weights_files, with_variant
from offramp.checkpoints.paddle_file import write_paddle
from offramp.checkpoints.safetensors_file import write_safetensors
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.torch_file import write_torch
from offramp.errors import ConfigError

_SIZE = re.compile(r"\d+(\.\d+)?\s*[KMGT]B", re.IGNORECASE | re.ASCII)
Writer = Callable[[Path, Mapping[str, Stored]], None]


def write_weights(
    directory: Path,
    tensors: Mapping[str, Stored],
    file: str = SAFETENSORS_FILE,
    variant: str | None = None,
    max_shard_size: int | str | None = None,
) -> None:
    """Write one file, or several of at most `max_shard_size` (bytes, or "5GB") and their index.

    The format is that of the file's name. A tensor larger than that has a file of its own.
    """
    write: Writer = {".bin": write_torch, ".pdparams": write_paddle}.get(
        Path(file).suffix, write_safetensors
    )
    name = with_variant(file, variant)
    if max_shard_size is None:
        write(directory / name, tensors)
        return
    if not _is_size(max_shard_size):
        raise ConfigError(
            f'max_shard_size is a number of bytes or a text such as "5GB"; got {max_shard_size!r}.'
        )
    stem, _, suffix = name.rpartition(".")
    from huggingface_hub import split_state_dict_into_shards_factory  # takes a while to import

    split = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda stored: stored.nbytes,
        filename_pattern=f"{stem}{{suffix}}.{suffix}",
        max_shard_size=max_shard_size,
    )
    for shard, names in split.filename_to_tensors.items():
        write(directory / shard, {name: tensors[name] for name in names})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (directory / weights_files(file, variant)[1]).write_text(text, encoding="utf-8")


def _is_size(value: object) -> bool:
    if isinstance(value, str):
        return bool(_SIZE.fullmatch(value.strip())) and float(value.strip()[:-2]) > 0
    return type(value) is int and value > 0
