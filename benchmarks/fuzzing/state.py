"""What is known of a run, kept as lines of JSON, so that one that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TypedDict

from fuzzing.corpus import TARGETS


class Block(TypedDict):
    """What came of the mutants from `start` to before `stop`."""

    start: int
    stop: int
    counts: dict[str, dict[str, int]]
    """{target: {"read", "failed" or the kind of the refusal: mutants}}"""
    failures: list[tuple[int, str, str]]
    """Mutants, each with the sort of its failure and all that is known of it."""


class State:
    """The blocks that are done. Lines under another key, of other inputs, are passed over."""

    def __init__(self, path: Path, key: str) -> None:
        self.key = key
        self.done: list[tuple[int, int]] = []
        self.counts = {target: Counter[str]() for target in TARGETS}
        self.failures: dict[int, tuple[str, str]] = {}
        kept = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in kept.splitlines():
            with suppress(json.JSONDecodeError):  # a line that was being written at a kill
                found = json.loads(line)
                if found["key"] == key:
                    self._take(found["block"])
        self.before = self.mutants
        """Mutants that earlier runs did."""
        self._file: IO[str] = path.open("a", encoding="utf-8")
        if kept and not kept.endswith("\n"):
            self._file.write("\n")

    @property
    def mutants(self) -> int:
        return sum(stop - start for start, stop in self.done)

    def remaining(self, mutants: int, most: int) -> list[range]:
        """What is to be done until all up to `mutants` are, in ranges of at most `most`."""
        gaps, at = [], 0
        for start, stop in [*sorted(self.done), (mutants, mutants)]:
            gaps.append(range(at, min(start, mutants)))
            at = max(at, stop)
        return [gap[i : i + most] for gap in gaps for i in range(0, len(gap), most)]

    def add(self, block: Block) -> None:
        self._take(block)
        self._file.write(json.dumps({"key": self.key, "block": block}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _take(self, block: Block) -> None:
        self.done.append((block["start"], block["stop"]))
        for target, counts in block["counts"].items():
            self.counts[target].update(counts)
        for number, sort, detail in block["failures"]:
            self.failures[number] = sort, detail


def key_of(seed: int, corpus: Path, sources: Sequence[Path]) -> str:
    """A digest of all that an outcome is a function of: seed, corpus, fuzzer and readers."""
    digest = hashlib.sha256(str(seed).encode())
    files = [path for path in corpus.rglob("*") if path.is_file()]
    for path in (*sorted(files), *sorted(Path(__file__).parent.glob("*.py")), *sorted(sources)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]
