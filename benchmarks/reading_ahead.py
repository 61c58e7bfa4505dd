"""Does reading and tokenising ahead help? A classifier's stream with it and without, in turn.

    python benchmarks/reading_ahead.py MODEL --data rows.jsonl --rounds 20

`pause` has a sleep in place of the layers: what is left to gain where a GPU computes.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from pathlib import Path

import torch

import offramp
from offramp.runner import ahead as reading


def main() -> None:
    """Print the time without over the time with, of each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pause", type=float, help="Seconds a window, in place of the layers.")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    classifier = offramp.load(asked.model, task="classify")
    table = offramp.read_table(asked.data, text=asked.text, label=None)
    texts = random.Random(0).sample(table.texts, min(asked.rows, len(table)))
    print(f"{platform.machine()}, torch {torch.__version__}, {asked.threads} threads, seed 0")
    print(f"{len(texts)} rows of {asked.data.name}, {asked.rounds} rounds in turn")

    def seconds(few: int) -> float:
        reading.FEW = few
        began = time.perf_counter()
        if asked.pause is None:
            classifier.predict(texts)
        else:
            runner = offramp.Runner(classifier.model)
            with reading.ahead(
                texts, lambda rows: runner.gather(classifier.encoded(rows))
            ) as windows:
                for _ in windows:
                    time.sleep(asked.pause)
        return time.perf_counter() - began

    seconds(0)
    ratios = []
    for number in range(asked.rounds):
        order = (len(texts), 0) if number % 2 else (0, len(texts))
        took = {few: seconds(few) for few in order}
        ratios.append(took[len(texts)] / took[0])
        print(f"inline {took[len(texts)]:.2f} s, ahead {took[0]:.2f} s, {ratios[-1]:.3f}x")
    print(f"median {statistics.median(ratios):.3f}x")


if __name__ == "__main__":
    main()
