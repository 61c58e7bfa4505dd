"""Reads one file and says how much memory that took; run by test_memory.py.

    python memory_reader.py FILE turned|as-it-is mapped|copied

Every array is taken and touched, and all are kept, as a model keeps them; `turned` transposes
every matrix first. Says {"grown": bytes, "numbers": how many there were} or {"refused": why}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from offramp.checkpoints.content import taken
from offramp.checkpoints.stored import Stored, in_memory
from offramp.checkpoints.weights import Reading, read_file
from offramp.errors import CheckpointError


def main() -> None:
    path, turned, mapped = Path(sys.argv[1]), sys.argv[2] == "turned", sys.argv[3] == "mapped"
    options = Reading(allow_legacy_pickle=True)
    taken(np.ones((2, 2), np.float32).T).sum()  # numpy's own first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = peak()
    try:
        found = read_file(path, options)
    except CheckpointError as error:
        print(json.dumps({"grown": peak() - before, "refused": str(error)}))
        return
    if turned:
        found = {
            name: Stored(stored.dtype, stored.array.T) if stored.array.ndim == 2 else stored
            for name, stored in found.items()
        }
    kept = []
    for stored in (found if mapped else in_memory(found)).values():
        array = taken(stored.array)
        array.view("u1").max()
        kept.append(array)
    grown = peak() - before
    print(json.dumps({"grown": grown, "numbers": sum(array.size for array in kept)}))


def peak() -> int:
    """The most bytes that have been in memory at once."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
