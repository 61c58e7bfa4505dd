"""What a conversion writes, and what it says that it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offramp.checkpoints.content import taken
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.weights import Weights


@dataclass(frozen=True)
class Conversion:
    """What a conversion did with every tensor, and what its user should know."""

    source: str
    target: str
    dialect: str
    """Whose names the source has: "own" (transformers'), "old", "paddle", "deebert" or "pabee"."""
    to: str
    written: Mapping[str, str]
    """{name in the source: name in the target}."""
    transposed: tuple[str, ...] = ()
    """Names in the target of matrices that lie the other way round there."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """{name in the target: the one that it is too}, of those that the source has once."""
    left_out: tuple[str, ...] = ()
    """Names in the source of what is not written: constants, and what is there twice."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        new = [f"{old} -> {name}" for old, name in self.written.items() if old != name]
        lines = [
            f"{self.source} ({self.dialect}) -> {self.target} ({self.to}): "
            f"{len(self.written)} tensors",
            f"  renamed     {len(new)}" + (f", such as {new[0]}" if new else ""),
            f"  transposed  {len(self.transposed)}",
        ]
        lines += [f"  tied        {name} is {other}" for name, other in self.tied.items()]
        lines += [f"  left out    {name}" for name in self.left_out]
        lines += [f"  note        {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass
class Target:
    """What is to be written: tensors by our names, what each is called there, and settings."""

    tensors: dict[str, Stored]
    names: dict[str, str]
    values: dict[str, Any]
    turned: set[str] = field(default_factory=set)
    """Our names of matrices that lie the other way round there."""
    tied: dict[str, str] = field(default_factory=dict)
    """{tensor that is there a second time: the one that it is too}, by our names."""
    notes: list[str] = field(default_factory=list)

    def written(self) -> dict[str, Stored]:
        """The tensors as they are there."""
        return {
            self.names[own]: Stored(
                stored.dtype, taken(stored.array.T if own in self.turned else stored.array)
            )
            for own, stored in self.tensors.items()
        }

    def report(self, weights: Weights, source: str, target: str, to: str) -> Conversion:
        """What was done with the tensors of the source."""
        names = self.names
        not_written = [own for own in weights.tensors if own not in names]
        return Conversion(
            source,
            target,
            weights.dialect,
            to,
            {weights.foreign.get(own, own): names[own] for own in weights.tensors if own in names},
            tuple(sorted(names[own] for own in weights.turned ^ self.turned)),
            {names[name]: names[other] for name, other in self.tied.items()},
            (*weights.left_out, *(weights.foreign.get(own, own) for own in not_written)),
            tuple(self.notes),
        )
