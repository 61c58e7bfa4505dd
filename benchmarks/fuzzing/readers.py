"""What reads the mutants: offramp's readers, or `read(path)` of a file that stands in for them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np

import offramp
from fuzzing.corpus import INDEXES
from offramp.checkpoints.content import settled
from offramp.checkpoints.renames import Row
from offramp.checkpoints.weights import Reading, open_save, read_file
from offramp.models.config import PretrainedConfig
from offramp.models.config_file import read_config

Reader = Callable[[Path, int], object]
"""Reads the file as one of 64 choices of options says, and touches what is in it."""
_SHARDS = {
    f"{stem}-0000{n}-of-00002.{suffix}": f"{stem}.{suffix}.index.json"
    for stem, suffix in (index.removesuffix(".index.json").split(".") for index in INDEXES)
    for n in (1, 2)
}
"""{a shard: the index that it is read by}"""
_ROWS = (
    Row("{b}embeddings.layer_norm.{p}", "{b}embeddings.LayerNorm.{p}"),
    Row(
        "{b}encoder.layers.{n}.self_attn.q_proj.{p}",
        "{b}encoder.layer.{n}.attention.self.query.{p}",
        transpose=True,
    ),
)


def read_checkpoint(path: Path, choice: int) -> object:
    """Read what the name says it is, and touch every number."""
    if path.name in ("config.json", "model_config.json"):
        config = PretrainedConfig.from_values(read_config(path.parent), str(path))
        config.validate()
        return config.to_json_string(use_diff=False)
    options = Reading(
        mmap=choice % 4 != 0, allow_legacy_pickle=True, uint16_is_bfloat16=choice % 8 > 3
    )
    path = path.with_name(_SHARDS.get(path.name, path.name))
    if ".index." in path.name or choice // 16 == 0:
        tensors = open_save(path, _ROWS, options).tensors
    else:
        tensors = read_file(path, options)
    arrays = [settled(stored.array) for stored in tensors.values()]  # all in memory at once
    return sum(int(array.reshape(-1).view(np.uint8).sum()) for array in arrays)


def reader_of(path: Path | None) -> Reader:
    if path is None:
        return read_checkpoint
    spec = spec_from_file_location("reader", path)
    assert spec is not None and spec.loader is not None  # a .py file
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    read: Callable[[Path], object] = module.read
    return lambda path, _: read(path)


def sources(path: Path | None) -> list[Path]:
    """The files that make out what a reader does."""
    if path is not None:
        return [path]
    source = Path(offramp.__file__).parent
    return [*source.glob("checkpoints/*.py"), source / "errors.py", *source.glob("models/con*.py")]
