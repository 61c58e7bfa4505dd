"""Mutant number n: a function of n, the seed and the corpus."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from fuzzing import json_changes, pickle_changes, safetensors_changes, torch_changes
from fuzzing.byte_changes import change_bytes, one_in
from fuzzing.corpus import TARGETS

OUTWARD = ("link.safetensors", "hard.safetensors")
"""Files beside the shards that no reader may open: links that lead out, soft and hard."""
_LARGEST = 200_000  # bytes that a mutant may grow to, or twice its origin


class Format(Protocol):
    """How files come apart, and how what is apart is changed and put together."""

    def parts(self, content: bytes, /) -> Any: ...

    def change(self, rng: Random, own: Any, pool: Any, /) -> bytes:
        """`pool` are the parts of another file."""


FORMATS: dict[str, Format] = {
    "json": json_changes,
    "safetensors": safetensors_changes,
    "pdparams": pickle_changes,
    "bin": torch_changes,
}
"""By a file's suffix."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A file of the corpus, in parts, and the files beside it."""

    target: str
    directory: str
    file: str
    content: bytes
    parts: Any
    beside: dict[str, bytes]

    @property
    def suffix(self) -> str:
        return self.file.rpartition(".")[2]


@dataclass(frozen=True)
class Mutant:
    number: int
    sample: Sample
    content: bytes
    choice: int
    """Which of 64 choices of options to read it with."""

    @property
    def name(self) -> str:
        return f"{self.number}.{self.sample.file}"


class Fuzzer:
    """Makes mutants."""

    def __init__(self, corpus: Path, seed: int) -> None:
        self.seed = seed
        self.samples = {target: _samples(corpus, target) for target in TARGETS}

    def mutant(self, number: int) -> Mutant:
        rng = Random((self.seed << 48) + number)
        samples = self.samples[target_of(number)]
        sample = rng.choice(samples)
        if len(sample.content) > _LARGEST:  # these take their time: fewer of them
            sample = rng.choice(samples)
        alike = [other for other in samples if other.suffix == sample.suffix]
        content = sample.content
        by_format = rng.random() < 0.65
        if by_format:
            pool = rng.choice(alike).parts
            content = FORMATS[sample.suffix].change(rng, sample.parts, pool)
        if not by_format or one_in(rng, 7):
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                others = self.samples[rng.choice(TARGETS)] if one_in(rng, 9) else alike
                content = change_bytes(rng, content, rng.choice(others).content)
        content = content[: max(_LARGEST, 2 * len(sample.content))]
        return Mutant(number, sample, content, rng.randrange(64))

    def lay_out(self, place: Path) -> dict[Sample, Path]:
        """Every sample in a directory of its own, with what lies beside it."""
        paths = {}
        for sample in (sample for samples in self.samples.values() for sample in samples):
            directory = place / sample.directory
            directory.mkdir(parents=True)
            paths[sample] = directory / sample.file
            for name, content in {sample.file: sample.content, **sample.beside}.items():
                (directory / name).write_bytes(content)
            if sample.target in ("index", "shards"):
                outside = directory.parent / "outside.safetensors"
                outside.write_bytes(struct.pack("<Q", 2) + b"{}")
                (directory / OUTWARD[0]).symlink_to(outside)
                (directory / OUTWARD[1]).hardlink_to(outside)
                os.mkfifo(directory / "pipe.safetensors")
        return paths


def target_of(number: int) -> str:
    return TARGETS[number % len(TARGETS)]


def _samples(corpus: Path, target: str) -> list[Sample]:
    found = []
    for directory in sorted((corpus / target).iterdir()):
        file = directory.name.partition(".")[2]
        contents = {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
        content = contents.pop(file)
        parts = FORMATS[file.rpartition(".")[2]].parts(content)
        place = f"{target}/{directory.name}"
        found.append(Sample(target, place, file, content, parts, contents))
    return found
