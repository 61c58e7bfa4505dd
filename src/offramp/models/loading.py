"""The loading rule: every tensor of the file and of the module is accounted for.

Tensors of the body that are missing, mis-shaped or unknown raise, before the module is touched.
A head of the class that is wholly missing is initialised, reported, and warned of once. Heads of
the family that this class does not have are dropped and reported. Anything else raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from offramp.checkpoints.safetensors_file import TensorInfo, torch_dtype
from offramp.errors import CheckpointError, nearest

_BUFFERS = re.compile(r"(^|\.)position_ids$")
"""Constants that older transformers wrote beside the weights."""
Mismatch: TypeAlias = tuple[str, tuple[int, ...], tuple[int, ...]]
"""The model's name of a tensor, its shape in the file, and in the model."""
_LOADING_INFO = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


@dataclass(frozen=True)
class LoadingReport:
    """What loading did with every tensor.

    `loaded` is {name in the file: name in the model}; `initialised` are the model's tensors that
    the file does not have; `dropped` the file's tensors that the model has no use for.
    """

    loaded: dict[str, str]
    initialised: tuple[str, ...]
    dropped: tuple[str, ...]
    dtype: torch.dtype
    twins: Mapping[str, str] = field(default_factory=dict)
    """{name dropped: name loaded} of tied tensors that the file holds twice; they must be equal."""
    copied: Mapping[str, str] = field(default_factory=dict)
    """{tensor of the model: name in the file} of those that got a copy of another's."""
    mismatched: Mapping[str, Mismatch] = field(default_factory=dict)
    """{name in the file: what was initialised because of its size}; in `dropped` too."""

    def __getitem__(self, key: str) -> Any:
        """The report under the keys of transformers' `loading_info`."""
        if key == "missing_keys":
            return set(self.initialised) - {name for name, *_ in self.mismatched.values()}
        if key == "unexpected_keys":
            return set(self.dropped) - {*self.twins, *self.mismatched}
        if key == "mismatched_keys":
            return set(self.mismatched.values())
        if key == "error_msgs":
            return []
        raise KeyError(f"{key!r}. {nearest(key, _LOADING_INFO)}")

    def keys(self) -> tuple[str, ...]:
        """The keys of transformers' `loading_info`; `dict(report)` is that dictionary."""
        return _LOADING_INFO

    def __iter__(self) -> Iterator[str]:
        return iter(_LOADING_INFO)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded as {self.dtype}"]
        if self.copied:
            parts.append(f"copied: {', '.join(f'{n} from {o}' for n, o in self.copied.items())}")
        if self.initialised:
            parts.append(f"new with random weights: {', '.join(self.initialised)}")
        if self.dropped:
            parts.append(f"in the file and not used: {', '.join(self.dropped)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Expected:
    """What a model takes: its tensors' shapes, and which of them are heads.

    `heads` are module paths whose tensors may be absent together ("classifier", "bert.pooler");
    `known_heads` those that the family's files may have beside what this class needs; of one that
    the class has itself, no unknown tensor is dropped. `tied` are {tensor: the one of `shapes` that
    it is}; `stand_ins` {tensor: the one whose copy it gets where the file lacks it}; `integers`
    {buffer: its type in a file}, of buffers that are no floating numbers.
    """

    shapes: Mapping[str, tuple[int, ...]]
    prefix: str
    heads: tuple[str, ...]
    known_heads: tuple[str, ...]
    tied: Mapping[str, str] = field(default_factory=dict)
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    integers: Mapping[str, str] = field(default_factory=dict)


def plan(
    found: Mapping[str, TensorInfo],
    expected: Expected,
    source: str,
    *,
    ignore_mismatched_sizes: bool = False,
) -> LoadingReport:
    """Match a file's tensors to a model's; raises CheckpointError listing all that is wrong.

    `ignore_mismatched_sizes` initialises a head whose shape differs, instead of raising.
    """
    loaded: dict[str, str] = {}
    dropped: list[str] = []
    faults: list[str] = []
    mismatched: dict[str, Mismatch] = {}
    foreign_heads = tuple(head for head in expected.known_heads if not _has(expected, head))
    twins: dict[str, str] = {}
    places = {_locate(name, expected): name for name in found}
    for name, info in found.items():
        target = _locate(name, expected)
        if target is None and name in expected.tied:
            target = expected.tied[name]
            if target in places:
                twins[name] = places[target]
                dropped.append(name)
                continue
        if target is None:
            if _BUFFERS.search(name) or _under(name, foreign_heads):
                dropped.append(name)
            else:
                faults.append(f"unknown tensor {name}. {nearest(name, expected.shapes)}".rstrip())
        elif target in loaded.values():
            faults.append(f"{target} is in the file twice, once as {name}")
        elif info.shape != expected.shapes[target]:
            if ignore_mismatched_sizes and _under(target, expected.heads):
                dropped.append(name)
                mismatched[name] = (target, info.shape, expected.shapes[target])
            else:
                faults.append(
                    f"{name} has shape {list(info.shape)}, expected {list(expected.shapes[target])}"
                )
        elif expected.integers.get(target, info.dtype) != info.dtype:
            faults.append(f"{name} has type {info.dtype}, expected {expected.integers[target]}")
        elif target not in expected.integers and torch_dtype(info) is None:
            faults.append(f"{name} has type {info.dtype}, expected F64, F32, F16 or BF16")
        else:
            loaded[name] = target

    missing = [name for name in expected.shapes if name not in loaded.values()]
    if ignore_mismatched_sizes:  # a head is new whole or not at all
        partly = {head for head in expected.heads if any(_under(m, (head,)) for m in missing)}
        dropped += [name for name, target in loaded.items() if _under(target, tuple(partly))]
        loaded = {n: t for n, t in loaded.items() if not _under(t, tuple(partly))}
        missing = [name for name in expected.shapes if name not in loaded.values()]
    names = {target: name for name, target in loaded.items()}
    copied = {
        name: names[other]
        for name, other in expected.stand_ins.items()
        if name in missing and other in names
    }
    missing = [name for name in missing if name not in copied]
    if not faults:  # else a tensor under a wrong name would be told of twice
        for name in missing:
            head = next((head for head in expected.heads if _under(name, (head,))), None)
            if head is None:
                faults.append(f"{name} is missing")
            elif any(_under(target, (head,)) for target in loaded.values()):
                faults.append(f"{name} is missing while the rest of {head} is there")
    if faults:
        more = f"\n  ... and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise CheckpointError(
            f"{source} does not fill this model, and nothing was loaded:\n  "
            + "\n  ".join(faults[:20])
            + more
            + "\nCheck that config.json belongs to these weights and that the class is that of the "
            "checkpoint; for a head of another size pass ignore_mismatched_sizes=True, "
            "and to leave its exits out exits=None."
        )
    return LoadingReport(
        loaded,
        tuple(missing),
        tuple(dropped),
        _main_dtype(found, loaded),
        twins,
        copied,
        mismatched,
    )


def _locate(name: str, expected: Expected) -> str | None:
    """The model's tensor that a file's name means, the body's prefix on or off."""
    return next((way for way in _spellings(name, expected) if way in expected.shapes), None)


def _has(expected: Expected, head: str) -> bool:
    """Whether the model has a module of that path, the body's prefix on or off."""
    return any(_under(name, _spellings(head, expected)) for name in expected.shapes)


def _spellings(name: str, expected: Expected) -> tuple[str, ...]:
    prefix = expected.prefix + "."
    return name, name.removeprefix(prefix), prefix + name


def _under(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def _main_dtype(found: Mapping[str, TensorInfo], loaded: Mapping[str, str]) -> torch.dtype:
    dtypes = [dtype for name in loaded if (dtype := torch_dtype(found[name]))]
    return max(set(dtypes), key=dtypes.count, default=torch.float32)
