"""What the table of attacks is written with: outcomes, a sound checkpoint, ways to spoil it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import opcodes as op
from zip_bytes import Entry, zipped

Array: TypeAlias = "np.ndarray[Any, Any]"

MARKER = "planted"
"""What every payload tries to make, in the directory that the opening process works in."""
BAIT = op.of("mkdir " + MARKER)
"""A shell's command that makes it."""

WEIGHT = "pooler.dense.bias"
"""The tensor that attacks change: the first of each file, of 8 numbers in 32 bytes."""
SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "type_vocab_size": 2,
}


@dataclass(frozen=True)
class Outcome:
    """What may come of an attack; where several may, any of them is right."""

    kinds: frozenset[str] = frozenset()
    """A CheckpointError of one of these kinds."""
    loads: bool = False
    """The model, every tensor as it should be."""
    not_found: bool = False
    """A ModelNotFoundError: there is nothing that could be a model."""


LOADS = Outcome(loads=True)
NOT_FOUND = Outcome(not_found=True)


def refused(*kinds: str, **others: bool) -> Outcome:
    return Outcome(frozenset(kinds), **others)


@dataclass(frozen=True, repr=False)
class Sound:
    """The checkpoint that attacks start from.

    Its numbers are such that half precision and bfloat16 hold them exactly.
    """

    config: Mapping[str, Any]
    arrays: Mapping[str, Array]
    """By their names in our own dialect, `WEIGHT` first."""

    @property
    def digest(self) -> str:
        """What `digest_of` gives for a model with these weights."""
        return digest_of(self.arrays)

    def header(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """A safetensors header, without metadata."""
        found, place = {}, 0
        for name in names or self.arrays:
            array = self.arrays[name]
            offsets = [place, place + array.nbytes]
            found[name] = {"dtype": "F32", "shape": [*array.shape], "data_offsets": offsets}
            place = offsets[1]
        return found

    def data(self, names: Iterable[str] | None = None) -> bytes:
        """What follows it."""
        return b"".join(self.arrays[name].tobytes() for name in names or self.arrays)

    def paddle(self) -> dict[str, Array]:
        """The arrays as PaddleNLP names and turns them."""
        found = {}
        for name, array in self.arrays.items():
            for own, theirs in _PADDLE:
                name = name.replace(own, theirs)
            turned = array.ndim == 2 and "embeddings" not in name
            found[name] = np.ascontiguousarray(array.T if turned else array)
        return found


_PADDLE = (
    ("attention.self.query", "self_attn.q_proj"),
    ("attention.self.key", "self_attn.k_proj"),
    ("attention.self.value", "self_attn.v_proj"),
    ("attention.output.dense", "self_attn.out_proj"),
    ("attention.output.LayerNorm", "norm1"),
    ("intermediate.dense", "linear1"),
    ("output.LayerNorm", "norm2"),
    ("output.dense", "linear2"),
    ("embeddings.LayerNorm", "embeddings.layer_norm"),
    ("encoder.layer.", "encoder.layers."),
)


def made_sound(shapes: Mapping[str, tuple[int, ...]]) -> Sound:
    """Weights for a model of these tensors, and its configuration."""
    numbers = np.random.default_rng(0)
    names = [WEIGHT, *(name for name in shapes if name != WEIGHT)]
    arrays = {
        name: numbers.integers(-15, 16, shapes[name]).astype(np.float32) / 8 for name in names
    }
    return Sound({"model_type": "bert", **SIZES}, arrays)


def digest_of(arrays: Mapping[str, Array]) -> str:
    """A number for all names, shapes and values, whatever type the values have."""
    found = sha256()
    for name in sorted(arrays):
        found.update(f"{name}{arrays[name].shape}".encode())
        found.update(arrays[name].astype("<f4").tobytes())
    return found.hexdigest()


Builder: TypeAlias = Callable[[Path, Sound], object]
"""Writes the directory. One that writes several, each after the other, is a generator of words."""


@dataclass(frozen=True)
class Attack:
    """A row of the table: `opens`, in the directory that `build` writes, must end in `outcome`."""

    name: str
    build: Builder
    outcome: Outcome
    opens: str = "."
    options: Mapping[str, Any] = field(default_factory=dict)
    """What `from_pretrained` is told beside: dtype, allow_legacy_pickle, a config's values."""


def rows(
    name: str, build: Callable[[Any], Builder], outcome: Outcome, cases: Mapping[str, Any]
) -> list[Attack]:
    """A row for each case: `name` with the case's word in its place, built from its value."""
    return [Attack(name.format(word), build(value), outcome) for word, value in cases.items()]


# ---------------------------------------------------------------- files


def written(build: Builder, directory: Path, sound: Sound) -> Iterator[str]:
    """A word each time that the directory has been written."""
    words = build(directory, sound)
    yield from words if isinstance(words, Iterator) else ("",)


Contents: TypeAlias = bytes | Iterable[tuple[str, bytes]]
"""What a file holds; or several such, each with a word for it."""


def save(
    make: Callable[[Sound], Contents],
    file: str = "model.safetensors",
    **config: Any,
) -> Builder:
    """A configuration, and one file of weights: what `make` gives, or all that it gives in turn."""

    def build(directory: Path, sound: Sound) -> Iterator[str]:
        write_config(directory, sound, **config)
        made = make(sound)
        for word, content in [("", made)] if isinstance(made, bytes) else made:
            (directory / file).write_bytes(content)
            yield word

    return build


def write_config(directory: Path, sound: Sound, **changes: Any) -> None:
    """config.json; a setting that is `...` is left out."""
    values = {**sound.config, **changes}
    text = json.dumps({key: value for key, value in values.items() if value is not ...})
    (directory / "config.json").write_text(text)


def cuts(content: bytes, lengths: Iterable[int] | None = None) -> Iterator[tuple[str, bytes]]:
    """The content broken off at every byte, or at these lengths."""
    for length in range(len(content)) if lengths is None else lengths:
        yield f"{length} bytes", content[:length]


# ---------------------------------------------------------------- safetensors


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of a header, as a value or as its text, that may be said to have another length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def sound_safetensors(sound: Sound, names: Iterable[str] | None = None) -> bytes:
    names = None if names is None else list(names)
    return safetensors({"__metadata__": {"format": "pt"}, **sound.header(names)}, sound.data(names))


# ---------------------------------------------------------------- .pdparams


def sound_paddle(
    sound: Sound, names: Iterable[str] | None = None, *, protocol: int = 4, **items: Any
) -> bytes:
    """The sound arrays, and `items` beside them or in their place (an item that is `...` goes)."""
    found: dict[str, Any] = op.arrays(sound.paddle())
    if names is not None:
        found = {name: found[name] for name in names}
    found |= items
    return op.pickled(
        op.of({key: value for key, value in found.items() if value is not ...}), protocol=protocol
    )


# ---------------------------------------------------------------- pytorch_model.bin


def tensor(shape: Any = (8,), stride: Any = (1,), offset: Any = 0, **lies: Any) -> op.Ops:
    """A tensor of PyTorch's in storage "0", which is `WEIGHT`'s and has 8 numbers."""
    stored = lies.get("stored") or (
        "storage",
        op.name("torch", lies.get("kind", "FloatStorage")),
        lies.get("key", "0"),
        "cpu",
        lies.get("numel", 8),
        *lies.get("view", ()),
    )
    hooks = op.call(op.name("collections", "OrderedDict"))
    persistent = op.Ops(op.of(stored) + b"Q")
    make = lies.get("make", op.name("torch._utils", "_rebuild_tensor_v2"))
    return op.call(make, persistent, offset, shape, stride, False, hooks)


def tensors(
    sound: Sound, names: Iterable[str] | None = None, *, view: tuple[Any, ...] = (), **items: Any
) -> bytes:
    """The data.pkl of the sound tensors, each in the storage of its number."""
    found: dict[str, Any] = {}
    for number, name in enumerate(names or sound.arrays):
        array = sound.arrays[name]
        stride = tuple(step // array.itemsize for step in array.strides)
        found[name] = tensor(array.shape, stride, key=str(number), numel=array.size, view=view)
    found |= items
    value = op.of({key: value for key, value in found.items() if value is not ...})
    return op.pickled(value, protocol=2)


def torch_entries(
    sound: Sound, names: Iterable[str] | None = None, data: bytes | None = None
) -> dict[str, Entry]:
    """The files of the zip by their names in the folder "archive"; `data` in place of data.pkl."""
    names = list(names or sound.arrays)
    contents = {
        "data.pkl": tensors(sound, names) if data is None else data,
        "byteorder": b"little",
        **{f"data/{n}": sound.arrays[name].tobytes() for n, name in enumerate(names)},
        "version": b"3\n",
    }
    return {name: Entry(f"archive/{name}", content) for name, content in contents.items()}


def sound_torch(
    sound: Sound, names: Iterable[str] | None = None, data: bytes | None = None
) -> bytes:
    return zipped(torch_entries(sound, names, data).values())
