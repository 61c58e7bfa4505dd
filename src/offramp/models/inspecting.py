"""`offramp inspect`: what a checkpoint holds, from its headers. torch is not needed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offramp.checkpoints.file_names import is_index
from offramp.checkpoints.finding import find_save
from offramp.checkpoints.safetensors_file import read_metadata
from offramp.checkpoints.tables import paddle_rows
from offramp.checkpoints.weights import Reading, open_save, read_index
from offramp.errors import ModelNotFoundError
from offramp.models.config_file import (
    CONFIG_FILE,
    OLD_CONFIG_FILE,
    architecture,
    read_config,
    stated_dtype,
    stated_family,
)
from offramp.models.names import exists, given_path, is_file
from offramp.models.research import from_research
from offramp.storage.steady import reread

_SETTINGS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class TensorShape:
    """One tensor of a file."""

    name: str
    """In the file."""
    own_name: str
    """By offramp's names."""
    dtype: str
    """As safetensors calls it: "F32", "BF16", ..."""
    shape: tuple[int, ...]
    """In the file."""
    file: str


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is, without its numbers."""

    source: str
    model_type: str | None
    architectures: tuple[str, ...]
    dialect: str
    """Whose names it has: "own" (transformers'), "old", "paddle", "deebert" or "pabee"."""
    files: Mapping[str, int]
    """{file of weights: its bytes}."""
    parameters: int
    """How many numbers there are in all tensors of the files."""
    dtypes: Mapping[str, int]
    """{type: how many numbers have it}."""
    settings: Mapping[str, Any]
    """The sizes that config.json states."""
    metadata: Mapping[str, str]
    """What safetensors' header has beside the tensors, such as `format`."""
    exits: Mapping[str, Any] | None
    """The exits' section of the configuration, or what the tensors of research code say."""
    tensors: tuple[TensorShape, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values of all of it."""
        values = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "tensors"}
        named = {
            t.name: {
                "own_name": t.own_name,
                "dtype": t.dtype,
                "shape": list(t.shape),
                "file": t.file,
            }
            for t in self.tensors
        }
        return {**values, "tensors": named}


def inspect(
    source: str | Path,
    *,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    allow_legacy_pickle: bool = False,
    uint16_is_bfloat16: bool = False,
) -> Inspection:
    """Look into a model's directory, or into one file of weights.

    Headers are read and numbers are not; the options are `from_pretrained`'s. Raises
    ModelNotFoundError, ConfigError or CheckpointError as loading would, but needs no configuration
    and compares with none.
    """
    whole = given_path(source)
    options = Reading(
        allow_legacy_pickle=allow_legacy_pickle, uint16_is_bfloat16=uint16_is_bfloat16
    )
    return reread(
        lambda: _inspected(Path(source).expanduser(), variant, use_safetensors, options), whole
    )


def _inspected(
    source: Path, variant: str | None, use_safetensors: bool | None, options: Reading
) -> Inspection:
    if not exists(source):
        raise ModelNotFoundError(f"{source} does not exist. Pass a model's directory or file.")
    directory = source if source.is_dir() else source.parent
    stated = any(is_file(directory / name) for name in (CONFIG_FILE, OLD_CONFIG_FILE))
    values = read_config(directory) if stated else {}
    architectures = values.get("architectures")
    architectures = architectures if isinstance(architectures, list) else []
    model_type = stated_family(values)
    rows = paddle_rows(model_type or "bert", architecture(values))
    if stated_dtype(values) == "bfloat16":
        options = replace(options, uint16_is_bfloat16=True)
    save = source
    if not source.is_file():
        save = find_save(
            source, variant=variant, use_safetensors=use_safetensors, rows=rows, options=options
        )
    weights, values = from_research(open_save(save, rows, options), values)
    tensors = []
    told: set[str] = set()
    where = read_index(save) if is_index(save.name) else {}
    for own, stored in {**weights.tensors, **weights.left_out}.items():
        shape = stored.shape[::-1] if own in weights.turned else stored.shape
        name = weights.foreign.get(own, own)
        if name in told:  # PABEE's one pooler, which each of our exits has a copy of
            continue
        told.add(name)
        tensors.append(TensorShape(name, own, stored.dtype, shape, where.get(name, save.name)))
    dtypes: Counter[str] = Counter()
    for tensor in tensors:
        dtypes[tensor.dtype] += math.prod(tensor.shape)
    files = dict.fromkeys(weights.files.values())
    if is_index(save.name):
        files[save] = None
    exits = values.get("exits")
    return Inspection(
        str(source),
        model_type,
        tuple(map(str, architectures)),
        weights.dialect,
        {path.name: path.stat().st_size for path in files},
        sum(dtypes.values()),
        dict(dtypes.most_common()),
        {name: values[name] for name in _SETTINGS if name in values},
        _metadata(files),
        exits if isinstance(exits, Mapping) else None,
        tuple(tensors),
    )


def _metadata(files: Iterable[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in files:
        if path.suffix == ".safetensors":
            found |= read_metadata(path)
    return found


__all__ = ["Inspection", "TensorShape", "inspect"]
