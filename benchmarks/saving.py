"""What a manifest costs: a save with and without it, a load's look at it, and `offramp verify`.

    python benchmarks/saving.py [FOLDER]

A BERT of bert-base's size with random weights is saved to a directory that is there, with the
manifest and without, in turn; FOLDER is on the disk that is measured. Seconds of the clock and of
the processor are medians; the processor's do not count waiting for the disk or for other programs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import offramp
from offramp.checkpoints import directory as directories
from offramp.storage.manifest import FileRecord, check_sizes, recorded
from offramp.storage.steady import steady
from offramp.training.evaluation import machine

LOOKS = 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", help="where to save; a temporary folder")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = offramp.BertModel(offramp.BertConfig())
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        target = Path(folder) / "model"
        measure(model, target, options.rounds)


def measure(model: offramp.BertModel, target: Path, rounds: int) -> None:
    for _ in range(2):  # the first reads the weights into memory
        model.save_pretrained(target)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{size / 1e6:.0f} MB in {target.parent}, medians of {rounds} rounds")
    times: dict[str, list[tuple[float, float]]] = {"with": [], "without": [], "verify": []}
    for _ in range(rounds):
        for kind, record in (("with", recorded), ("without", no_record)):
            setattr(directories, "recorded", record)  # noqa: B010  # a name of its own imports
            times[kind].append(seconds(lambda: model.save_pretrained(target)))
        setattr(directories, "recorded", recorded)  # noqa: B010
        model.save_pretrained(target)
        times["verify"].append(seconds(lambda: offramp.verify(target)))
    for name, found in times.items():
        clock, processor = (statistics.median(part) for part in zip(*found, strict=True))
        print(f"{name:8} {clock:.2f} s, of the processor {processor:.2f} s", end="")
        print(f" ({size / 1e9 / processor:.1f} GB/s)" if name == "verify" else "")
    _, processor = seconds(lambda: look(target))
    print(f"a load's look at sizes and directory: {processor / LOOKS * 1e6:.0f} us")


def look(target: Path) -> None:
    for _ in range(LOOKS):
        with steady(target):
            check_sizes(target, ["model.safetensors"])


def no_record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, "0" * 64)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Of the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


if __name__ == "__main__":
    main()
