"""The tensors of one save: a safetensors file, or several with an index that says what is where.

Names of files are transformers': `model.safetensors`, or `model-00001-of-00002.safetensors` and
`model.safetensors.index.json`; a variant ("fp16") stands before the last suffix.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from offramp.checkpoints.directory import WEIGHTS
from offramp.checkpoints.safetensors_file import (
    TensorInfo,
    read_header,
    read_tensors,
    tensor_info,
    write_tensors,
)
from offramp.checkpoints.strict_json import parse_json
from offramp.errors import CheckpointError, ConfigError

INDEX_SUFFIX = ".index.json"
_SIZE = re.compile(r"\d+(\.\d+)?\s*[KMGT]B", re.IGNORECASE | re.ASCII)
_INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$")


@dataclass(frozen=True)
class Weights:
    """What a save holds, by name; the tensors themselves are read when asked for.

    `files` says where each lies; `given` are tensors that were handed over and lie in no file.
    """

    source: str
    header: Mapping[str, TensorInfo]
    files: Mapping[str, Path]
    given: Mapping[str, Tensor]
    fresh: bool = False
    """Whether the given tensors are nobody else's, so that they need no copy."""

    def read(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """Tensors in host memory under other names: `names` is {name in the file: name here}.

        A file's are private views of its mapping, read when touched; given ones are copied.
        """
        found = {
            new: self.given[old].detach().to("cpu", copy=not self.fresh)
            for old, new in names.items()
            if old in self.given
        }
        for path in dict.fromkeys(self.files[old] for old in names if old in self.files):
            here = {old: new for old, new in names.items() if self.files.get(old) == path}
            found |= read_tensors(path, here)
        return found


def given_weights(tensors: Mapping[str, Tensor]) -> Weights:
    """Tensors in memory in place of a file's; CheckpointError for what is none with values."""
    if not isinstance(tensors, Mapping):
        raise CheckpointError(
            f"state_dict is a mapping of names to tensors; got a {type(tensors).__name__}."
        )
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"state_dict[{name!r}] is a {type(tensor).__name__}; expected a torch.Tensor under "
                "a text."
            )
        if tensor.layout is not torch.strided or tensor.is_meta:
            raise CheckpointError(
                f"state_dict[{name!r}] is {'on the meta device' if tensor.is_meta else 'sparse'}; "
                "expected dense tensors with values."
            )
    header = {name: tensor_info(tensor) for name, tensor in tensors.items()}
    return Weights("the state_dict given", header, {}, dict(tensors))


def open_weights(directory: Path, file: str, variant: str | None = None) -> Weights:
    """The save in `directory` whose file, or whose index, has the name `file` with its variant.

    Raises ModelNotFoundError where neither is, and CheckpointError where both are, where a file is
    no safetensors file, or where index and files disagree.
    """
    path, index = (directory / name for name in weights_files(file, variant))
    if not index.is_file():
        return open_file(path)
    if path.exists():
        raise CheckpointError(
            f"{directory} holds {path.name} and {index.name}, which are two saves. Remove the one "
            "that is not wanted."
        )
    return open_file(index)


def open_file(path: Path) -> Weights:
    """The save that is one file, or that an index (.index.json) describes."""
    if not _INDEX.search(path.name):
        header = read_header(path)
        return Weights(str(path), header, dict.fromkeys(header, path), {})
    shards = read_index(path)
    header = {}
    for shard in dict.fromkeys(shards.values()):
        inside = read_header(path.parent / shard)
        if named := sorted({name for name in shards if shards[name] == shard} ^ inside.keys()):
            raise CheckpointError(
                f"{path} and {shard} disagree on {', '.join(named[:5])}: each tensor stands in the "
                "index under the one file that holds it. The files may be of two saves."
            )
        header |= inside
    return Weights(str(path), header, {n: path.parent / shards[n] for n in header}, {})


def write_weights(
    directory: Path,
    tensors: Mapping[str, Tensor],
    file: str,
    variant: str | None = None,
    max_shard_size: int | str | None = None,
) -> None:
    """Write one file, or several of at most `max_shard_size` (bytes, or "5GB") and their index.

    A tensor larger than that has a file of its own.
    """
    name = with_variant(file, variant)
    if max_shard_size is None:
        write_tensors(directory / name, tensors)
        return
    if not _is_size(max_shard_size):
        raise ConfigError(
            f'max_shard_size is a number of bytes or a text such as "5GB"; got {max_shard_size!r}.'
        )
    stem, _, suffix = name.rpartition(".")
    from huggingface_hub import split_torch_state_dict_into_shards  # takes a while to import

    split = split_torch_state_dict_into_shards(
        dict(tensors),
        filename_pattern=f"{stem}{{suffix}}.{suffix}",
        max_shard_size=max_shard_size,
    )
    for shard, names in split.filename_to_tensors.items():
        write_tensors(directory / shard, {name: tensors[name] for name in names})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (directory / weights_files(file, variant)[1]).write_text(text, encoding="utf-8")


def replaced_by(file: str, variant: str | None = None) -> re.Pattern[str]:
    """The names of an earlier save's weights that a save takes away.

    That of a variant takes away the variant's, and any other all: they would be read in its place.
    """
    stem = re.escape(file.rpartition(".")[0])
    shard, index = r"(-\d+-of-\d+)?\.safetensors", r"\.safetensors\.index"
    if variant is not None:
        word = re.escape(variant)
        return re.compile(rf"{stem}\.{word}{shard}|{stem}{index}\.{word}\.json")
    own = rf"{stem}(\.[\w-]+)?{shard}|{stem}{index}(\.[\w-]+)?\.json"
    return re.compile(f"{own}|{WEIGHTS.pattern}")


def weights_files(file: str, variant: str | None = None) -> tuple[str, str]:
    """The two names under which a save's weights are found: one file's, and an index's."""
    return with_variant(file, variant), with_variant(file + INDEX_SUFFIX, variant)


def with_variant(file: str, variant: str | None) -> str:
    """`file` with the variant before its last suffix; ConfigError for a variant that is no name."""
    if variant is None:
        return file
    if not isinstance(variant, str) or not variant.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(
            f'variant is a word in a file\'s name, such as "fp16" in model.fp16.safetensors; got '
            f"{variant!r}."
        )
    stem, _, suffix = file.rpartition(".")
    return f"{stem}.{variant}.{suffix}"


def _is_size(value: object) -> bool:
    if isinstance(value, str):
        return bool(_SIZE.fullmatch(value.strip())) and float(value.strip()[:-2]) > 0
    return type(value) is int and value > 0


def read_index(path: Path) -> dict[str, str]:
    """{tensor: file beside the index}; CheckpointError for anything else."""
    try:
        index = parse_json(path.read_text(encoding="utf-8"))
        shards = index["weight_map"]
        for name, shard in shards.items():
            if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".."):
                raise ValueError(f"{name} lies in {shard!r}, which is no file beside the index")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not an index of weights ({error}); expected a mapping weight_map of "
            "tensors to the names of files beside it."
        ) from error
    return dict(shards)
