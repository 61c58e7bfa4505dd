"""The loading rule: every tensor of the file and of the module is accounted for.

Tensors of the body that are missing, mis-shaped or unknown raise, before the module is touched.
A head of the class that is wholly missing is initialised, reported, and warned of once. Heads of
the family that this class does not have are dropped and reported. Anything else raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from offramp.checkpoints.stored import FLOATS, Stored
from offramp.errors import CheckpointError, nearest
from offramp.models.tensors import TORCH_TYPES

_BUFFERS = re.compile(r"(^|\.)position_ids$|(^|\.)h\.\d+\.attn\.(masked_)?bias$")
"""Constants that older transformers wrote beside the weights: GPT-2's are of its mask."""
Mismatch: TypeAlias = tuple[str, tuple[int, ...], tuple[int, ...]]
"""The model's name of a tensor, its shape in the file, and in the model."""
_LOADING_INFO = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


@dataclass(frozen=True)
class LoadingReport:
    """What loading did with every tensor of the file and of the model, or why it did nothing.

    `loaded` is {name in the file: name in the model}, where a file of another dialect is told of
    by our names; `initialised` are the model's tensors that the file does not have; `dropped` the
    file's tensors that the model has no use for. `str(report)` says it in words.
    """

    loaded: Mapping[str, str]
    initialised: tuple[str, ...]
    dropped: tuple[str, ...]
    dtype: torch.dtype
    twins: Mapping[str, str] = field(default_factory=dict)
    """{name dropped: name loaded} of tied tensors that the file holds twice; they must be equal."""
    copied: Mapping[str, str] = field(default_factory=dict)
    """{tensor of the model: name in the file} of those that got a copy of another's."""
    mismatched: Mapping[str, Mismatch] = field(default_factory=dict)
    """{name in the file: what was initialised because of its size}; in `dropped` too."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """{tensor of the model: the one that it is too}, as its configuration ties them."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """{name in the file: ours}, of a file of another dialect."""
    transposed: tuple[str, ...] = ()
    """Our names of matrices that lie the other way round in the file."""
    casts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """{tensor of the model: (its type in the file, its type now)}, where `dtype=` changed it."""
    missing: tuple[str, ...] = ()
    """Tensors of the model that may not be absent and are: with this and the next three nothing
    was loaded."""
    unexpected: tuple[str, ...] = ()
    """Tensors of the file that neither the class nor its family knows, or that are there twice."""
    misshaped: Mapping[str, Mismatch] = field(default_factory=dict)
    """{name in the file: (the model's, shape in the file, shape in the model)}."""
    mistyped: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """{name in the file: (its type, what was expected)}."""
    source: str = ""
    """The file, or the index of several."""

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
        told = f"{len(self.loaded)} tensors loaded as {str(self.dtype).removeprefix('torch.')}"
        lines = [
            ("renamed", [f"{old} -> {new}" for old, new in self.renamed.items()]),
            ("transposed", list(self.transposed)),
            ("copied", [f"{new} from {old}" for new, old in self.copied.items()]),
            ("tied", [f"{name} is {other}" for name, other in self.tied.items()]),
            ("cast", sorted({f"{old} to {new}" for old, new in self.casts.values()})),
            ("new, random", list(self.initialised)),
            ("not used", list(self.dropped)),
            ("missing", list(self.missing)),
            ("unknown", list(self.unexpected)),
            (
                "mis-shaped",
                [f"{n} {list(a)}, not {list(b)}" for n, a, b in self.misshaped.values()],
            ),
            ("mis-typed", [f"{n} {a}, not {b}" for n, (a, b) in self.mistyped.items()]),
        ]
        return "\n".join([told, *(f"  {what:<12}{_some(names)}" for what, names in lines if names)])


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 3 else shown


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

    def types(self, name: str) -> tuple[str, ...]:
        """The types that a tensor may have in a file."""
        return (self.integers[name],) if name in self.integers else FLOATS


def plan(
    found: Mapping[str, Stored],
    expected: Expected,
    source: str,
    *,
    ignore_mismatched_sizes: bool = False,
    renamed: Mapping[str, str] | None = None,
    transposed: Iterable[str] = (),
) -> LoadingReport:
    """Match a file's tensors to a model's; raises CheckpointError listing all that is wrong.

    `ignore_mismatched_sizes` initialises a head whose shape differs, instead of raising.
    `renamed` ({ours: the file's}) and `transposed` are for the report.
    """
    loaded: dict[str, str] = {}
    dropped: list[str] = []
    faults: list[str] = []
    unexpected: list[str] = []
    misshaped: dict[str, Mismatch] = {}
    mistyped: dict[str, tuple[str, str]] = {}
    mismatched: dict[str, Mismatch] = {}
    modules = _modules(expected.shapes)
    foreign_heads = tuple(
        head for head in expected.known_heads if modules.isdisjoint(_spellings(head, expected))
    )
    twins: dict[str, str] = {}
    targets = {name: _locate(name, expected) for name in found}
    places = {target: name for name, target in targets.items()}
    filled: set[str] = set()
    for name, info in found.items():
        target = targets[name]
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
                unexpected.append(name)
                close = nearest(name, expected.shapes) if len(unexpected) < 6 else ""
                faults.append(f"unknown tensor {name}. {close}".rstrip())
        elif target in filled:
            unexpected.append(name)
            faults.append(f"{target} is in the file twice, once as {name}")
        elif info.shape != expected.shapes[target]:
            if ignore_mismatched_sizes and _under(target, expected.heads):
                dropped.append(name)
                mismatched[name] = (target, info.shape, expected.shapes[target])
            else:
                misshaped[name] = (target, info.shape, expected.shapes[target])
                faults.append(
                    f"{name} has shape {list(info.shape)}, expected {list(expected.shapes[target])}"
                )
        elif info.dtype not in (wanted := expected.types(target)):
            mistyped[name] = (info.dtype, " or ".join(wanted))
            faults.append(f"{name} has type {info.dtype}, expected {mistyped[name][1]}")
        else:
            loaded[name] = target
            filled.add(target)

    missing = [name for name in expected.shapes if name not in filled]
    if ignore_mismatched_sizes:  # a head is new whole or not at all
        partly = {head for head in expected.heads if any(_under(m, (head,)) for m in missing)}
        dropped += [name for name, target in loaded.items() if _under(target, tuple(partly))]
        loaded = {n: t for n, t in loaded.items() if not _under(t, tuple(partly))}
        filled = set(loaded.values())
        missing = [name for name in expected.shapes if name not in filled]
    names = {target: name for name, target in loaded.items()}
    copied = {
        name: names[other]
        for name, other in expected.stand_ins.items()
        if name in missing and other in names
    }
    missing = [name for name in missing if name not in copied]
    lacking = []
    for name in missing:
        head = next((head for head in expected.heads if _under(name, (head,))), None)
        if head is None:
            lacking.append(f"{name} is missing")
        elif any(_under(target, (head,)) for target in loaded.values()):
            lacking.append(f"{name} is missing while the rest of {head} is there")
    report = LoadingReport(
        loaded,
        tuple(missing),
        tuple(dropped),
        _main_dtype(found, loaded),
        twins,
        copied,
        mismatched,
        tied=dict(expected.tied),
        renamed={old: new for new, old in (renamed or {}).items()},
        transposed=tuple(sorted(transposed)),
        missing=tuple(told.partition(" ")[0] for told in lacking),
        unexpected=tuple(unexpected),
        misshaped=misshaped,
        mistyped=mistyped,
        source=source,
    )
    if ".pdparams" in source and any(kind == "U16" for kind, _ in mistyped.values()):
        faults.append("Paddle writes bfloat16 as U16: if that is meant, uint16_is_bfloat16=True")
    faults = faults or lacking  # a tensor under a wrong name would be told of twice
    if faults:
        more = f"\n  ... and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise CheckpointError(
            f"{source} does not fill this model, and nothing was loaded:\n  "
            + "\n  ".join(faults[:20])
            + more
            + "\nCheck that config.json belongs to these weights and that the class is that of the "
            "checkpoint; for a head of another size pass ignore_mismatched_sizes=True, "
            "and to leave its exits out exits=None.",
            report=report,
        )
    return report


def knows(names: Iterable[str], expected: Expected) -> bool:
    """Whether a model has, or its family knows, each of these names as it is."""
    heads = tuple(head for head in expected.known_heads if not head.endswith(".highway"))
    return all(
        _locate(name, expected) is not None
        or name in expected.tied
        or _BUFFERS.search(name)
        or _under(name, heads)
        for name in names
    )


def _locate(name: str, expected: Expected) -> str | None:
    """The model's tensor that a file's name means, the body's prefix on or off."""
    return next((way for way in _spellings(name, expected) if way in expected.shapes), None)


def _modules(names: Iterable[str]) -> set[str]:
    """The paths of all modules that tensors of these names lie in, and the names."""
    found = set(names)
    for name in names:
        while "." in name and (name := name.rpartition(".")[0]) not in found:
            found.add(name)
    return found


def _spellings(name: str, expected: Expected) -> tuple[str, ...]:
    prefix = expected.prefix + "."
    return name, name.removeprefix(prefix), prefix + name


def _under(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def _main_dtype(found: Mapping[str, Stored], loaded: Mapping[str, str]) -> torch.dtype:
    types = [found[name].dtype for name in loaded if found[name].dtype in FLOATS]
    return TORCH_TYPES[max(set(types), key=types.count, default="F32")]
