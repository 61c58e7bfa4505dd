"""The tensors of one save, by our names: of a file, or of several that an index names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from offramp.checkpoints.checked_file import (
    UnsoundError,
    check_inside,
    check_own,
    reading,
    small_file,
)
from offramp.checkpoints.file_names import is_index
from offramp.checkpoints.paddle_file import read_paddle
from offramp.checkpoints.renames import Row, renamed
from offramp.checkpoints.safetensors_file import read_safetensors
from offramp.checkpoints.stored import Stored, check_name, in_memory
from offramp.checkpoints.strict_json import parse_json
from offramp.checkpoints.tables import OLD_NAMES
from offramp.checkpoints.torch_file import read_torch
from offramp.errors import CheckpointError

LONGEST_INDEX = 25_000_000
_PADDLE_SIGNATURE = re.compile(
    r"(^|\.)encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj\.|^transformer\.encoder\.albert"
    r"|\.albert_layers\.\d+\.attention\.layer_norm\.",
    re.MULTILINE,
)
"""Names that PaddleNLP alone has, whatever the file is."""
_OWN_SIGNATURE = re.compile(r"(^|\.)encoder\.layer\.\d+\.|LayerNorm\.", re.MULTILINE)
_OLD_ENDINGS = ("LayerNorm.gamma", "LayerNorm.beta")


@dataclass(frozen=True)
class Reading:
    """How files are read.

    `mmap` keeps them mapped; without it they are copied into memory. `allow_legacy_pickle` reads
    PyTorch's format of before 1.6. `uint16_is_bfloat16` says what Paddle's bare uint16 is.
    """

    mmap: bool = True
    allow_legacy_pickle: bool = False
    uint16_is_bfloat16: bool = False


@dataclass(frozen=True)
class Weights:
    """What a save holds, by our names; the numbers themselves are read when touched.

    `files` says in which file each lies; `foreign` are the names in the file of those that have
    another there, and `turned` those whose matrix lies the other way round there. `given` are
    somebody's own tensors: they are copied before a model has them.
    """

    source: str
    tensors: Mapping[str, Stored]
    files: Mapping[str, Path] = field(default_factory=dict)
    dialect: str = "own"
    foreign: Mapping[str, str] = field(default_factory=dict)
    turned: frozenset[str] = frozenset()
    given: bool = False
    left_out: Mapping[str, Stored] = field(default_factory=dict)
    """By their names in the file: those that no model of ours has a place for."""

    def in_memory(self) -> Weights:
        """The same in memory of its own, so that the files are no longer needed.

        By our names, so that a matrix that lies the other way round is copied once.
        """
        return replace(self, tensors=in_memory(self.tensors))

    def without(self, names: Collection[str]) -> Weights:
        """The same without these tensors, which are then among those left out."""
        left = {self.foreign.get(name, name): self.tensors[name] for name in sorted(names)}
        kept = {name: stored for name, stored in self.tensors.items() if name not in names}
        return replace(self, tensors=kept, left_out={**self.left_out, **left})


def open_save(path: Path, rows: Sequence[Row] = (), options: Reading | None = None) -> Weights:
    """The save that is one file, or that an index (.index.json) describes, by our names.

    `rows` are PaddleNLP's names, used for its files and for any file that has names of its own.
    Raises CheckpointError for files that are not sound, or disagree with their index.
    """
    options = options or Reading()
    found = translated(read_save(path, options), rows, options)
    return found if options.mmap else found.in_memory()


def read_save(path: Path, options: Reading) -> Weights:
    """A save by the names that its files have, and whose names they seem to be."""
    tensors: dict[str, Stored] = {}
    files: dict[str, Path] = {}
    for file, found in _read(path, options):
        tensors |= found
        files |= dict.fromkeys(found, file)
    return Weights(str(path), tensors, files, _dialect(path, tensors))


def translated(weights: Weights, rows: Sequence[Row], options: Reading) -> Weights:
    """The save by our names; a tensor that no row knows keeps its own, which loading tells of.

    Raises CheckpointError for two tensors of one name.
    """
    tensors = weights.tensors
    if weights.dialect == "paddle" and options.uint16_is_bfloat16:
        tensors = {
            name: Stored("BF16", stored.array) if stored.dtype == "U16" else stored
            for name, stored in tensors.items()
        }
    rows = {"own": (), "old": OLD_NAMES}.get(weights.dialect, rows)
    own: dict[str, Stored] = {}
    foreign: dict[str, str] = {}
    turned: set[str] = set()
    left_out: dict[str, Stored] = {}
    for name, stored in tensors.items():
        new, transpose = renamed(name, rows) or (name, False)
        if new is None:
            left_out[name] = stored
            continue
        if new in own:
            raise CheckpointError(
                f"{weights.files[name]} holds {new} a second time, as {name}.",
                file=weights.files[name],
            )
        if transpose and stored.array.ndim == 2:
            turned.add(new)
            stored = Stored(stored.dtype, stored.array.T)
        own[new] = stored
        if new != name:
            foreign[new] = name
    return replace(
        weights,
        tensors=own,
        files={name: weights.files[foreign.get(name, name)] for name in own},
        foreign=foreign,
        turned=frozenset(turned),
        left_out=left_out,
    )


def _dialect(path: Path, names: Collection[str]) -> str:
    listed = "\n".join(names)
    if _PADDLE_SIGNATURE.search(listed):
        return "paddle"
    if ".pdparams" in path.name:
        if _OWN_SIGNATURE.search(listed):
            raise CheckpointError(
                f"{path} is Paddle's file with transformers' names: how its matrices lie is not "
                "known. Save the model with PaddleNLP, or its tensors as safetensors.",
                kind="unsupported",
                file=path,
            )
        return "paddle"
    return "old" if any(name.endswith(_OLD_ENDINGS) for name in names) else "own"


def _read(path: Path, options: Reading) -> Iterator[tuple[Path, dict[str, Stored]]]:
    """The files of a save, each with the tensors in it."""
    if not is_index(path.name):
        with reading(path, "outside"):
            check_inside(path, path.parent)
        yield path, read_file(path, options)
        return
    shards = read_index(path)
    for shard in dict.fromkeys(shards.values()):
        file = path.parent / shard
        with reading(file, "outside"):
            check_inside(file, path.parent)
            check_own(file, path.parent)
        inside = read_file(file, options)
        if named := sorted({name for name in shards if shards[name] == shard} ^ inside.keys()):
            raise CheckpointError(
                f"{path} and {shard} disagree on {', '.join(named[:5])}: each tensor stands in the "
                "index under the one file that holds it. The files may be of two saves.",
                kind="index",
                file=path,
            )
        yield file, inside


def read_file(path: Path, options: Reading | None = None) -> dict[str, Stored]:
    """The tensors of one file, in the format that its name says."""
    options = options or Reading()
    if ".pdparams" in path.name:
        return read_paddle(path)
    if path.suffix in (".pdiparams", ".pdmodel", ".pdopt"):
        raise CheckpointError(
            f"{path} is a program's (a static graph's) or an optimiser's, and not a layer's. Save "
            "the layer's state_dict() as .pdparams.",
            kind="unsupported",
            file=path,
        )
    if path.name.endswith((".bin", ".pt", ".pth")):
        return read_torch(path, allow_legacy=options.allow_legacy_pickle)
    return read_safetensors(path)


def read_index(path: Path) -> dict[str, str]:
    """{tensor: file beside the index}; CheckpointError for anything else."""
    remedy = "Expected a mapping weight_map of tensors to the names of files beside it."
    with reading(path, "index", remedy):
        check_inside(path, path.parent)
        try:
            index = parse_json(small_file(path, LONGEST_INDEX))
        except (ValueError, RecursionError) as error:
            raise UnsoundError(f"it is no JSON that can be read ({error})") from None
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not shards:
            raise UnsoundError("it has no weight_map")
        for name, shard in shards.items():
            check_name(name)
            if not isinstance(shard, str) or not _is_file_name(shard):
                raise UnsoundError(f"{name} lies in {str(shard)[:60]!r}, no file beside the index")
        return shards


def _is_file_name(name: str) -> bool:
    plain = Path(name).name == name and "\\" not in name and "\0" not in name
    known = plain and name not in ("", ".", "..") and not is_index(name)
    return known and len(name) < 256 and not re.search("[\\ud800-\\udfff]", name)
