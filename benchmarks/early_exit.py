"""Early exit on SST-2: accuracy lost and wall clock saved.

    python benchmarks/early_exit.py --data ../shared/data/sst2

The data, the models and how their thresholds are chosen: see benchmarks/sst2.py. Everything
reported is on test.

All sides, transformers among them, are measured in turn in one run on rows encoded beforehand;
speeds are medians of the rounds' ratios. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import offramp
from offramp.exits.container import exits_of
from offramp.runner.run import Results, Runner
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.tokenizer import Encoded
from offramp.training.evaluation import machine
from offramp.training.metrics import paired_difference
from offramp.training.peers import transformers_model, transformers_run
from offramp.training.timing import speed, time_in_turn
from sst2 import EPOCHS, add_options, cost_of_exits, examples, layers_saved, trained

BATCH = 32
PAIRS = (
    ("exits", "plain"),
    ("exits", "transformers file order"),
    ("exits", "transformers sorted"),
    ("plain", "transformers file order"),
    ("plain", "transformers sorted"),
)


@dataclass(frozen=True)
class Seed:
    """One seed's figures: each test row's loss (-1, 0 or 1), and median speeds of `PAIRS`."""

    lost_R: Tensor
    speeds: dict[tuple[str, str], float]


def main() -> None:
    options = arguments()
    print(f"machine: {machine()}")
    print(f"epochs: {EPOCHS}; rounds: {options.rounds}; transformers' batch: {BATCH}")
    directories = trained(options)
    test_file = options.data / "test.jsonl"
    seeds = [measure(directory, test_file, options.rounds) for directory in directories]
    print(f"\nmean of {len(seeds)} seeds")
    lost_R = torch.stack([seed.lost_R for seed in seeds]).double().mean(0)
    loss, low, high = paired_difference(lost_R, torch.zeros_like(lost_R))
    interval = f"[{low * 100:.2f}, {high * 100:.2f}]"
    print(f"  points lost against own full depth   {loss * 100:.2f} {interval}")
    for fast, slow in PAIRS:
        speeds = [seed.speeds[fast, slow] for seed in seeds]
        print(f"  {fast} against {slow:24} {sum(speeds) / len(speeds):.2f}x")
    never_exits(directories[0], test_file)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def measure(directory: Path, test_file: Path, rounds: int) -> Seed:
    """What the threshold that training chose on dev gives on test."""
    classifier = offramp.load(directory)
    model = classifier.model
    test = examples(classifier, test_file)
    runner = Runner(model)
    plain = Runner(model, exits=False)
    with_exits, full = runner.run(test.rows), plain.run(test.rows)
    hits_R, full_hits_R = (r.logits_RC.argmax(-1) == test.labels_R for r in (with_exits, full))
    loss, low, high = paired_difference(full_hits_R, hits_R)
    chosen = exits_of(model).calibration
    assert chosen is not None  # training wrote it
    dev_loss = (chosen["full_score"] - chosen["score"]) * 100
    print(f"\n{directory.name}: {classifier.criterion}, dev loses {dev_loss:.2f} points")
    print(f"  test accuracy at full depth {full_hits_R.double().mean():.4f}")
    print(f"  with exits {hits_R.double().mean():.4f} at {with_exits.mean_layers:.2f} layers a row")
    print(f"  points lost {loss * 100:.2f} [{low * 100:.2f}, {high * 100:.2f}]")
    check_one_by_one(runner, test.rows)
    print_exits(every_exit(model, test.rows), with_exits, test.labels_R)
    peer = transformers_model(directory)
    in_file_order, by_length = (
        transformers_run(peer, test.rows, sort=sort, batch_size=BATCH) for sort in (False, True)
    )
    difference = (by_length() - full.logits_RC).abs().max()
    print(f"  transformers' logits differ from the plain model's by at most {difference:.1e}")
    seconds = time_in_turn(
        {
            "transformers file order": in_file_order,
            "exits": lambda: runner.run(test.rows),
            "plain": lambda: plain.run(test.rows),
            "transformers sorted": by_length,
        },
        rounds,
    )
    speeds = {}
    for fast, slow in PAIRS:
        ratio = speed(seconds[fast], seconds[slow])
        speeds[fast, slow] = ratio.median
        print(f"  {fast} against {slow:24} {ratio.median:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]")
    by_rows, by_tokens = layers_saved(with_exits, test.rows, full.mean_layers)
    print(f"  layers saved {by_rows:.2f}x by rows, {by_tokens:.2f}x by tokens")
    print(f"  wall clock saved / layers saved by tokens {speeds['exits', 'plain'] / by_tokens:.2f}")
    return Seed(full_hits_R.int() - hits_R.int(), speeds)


def print_exits(answers: EveryExit, results: Results, labels_R: Tensor) -> None:
    """Where rows leave, and what the model cut off after each layer would answer."""
    counts = torch.bincount(results.exit_layers_R, minlength=answers.depths[-1] + 1)[1:]
    print(f"  rows that leave after layers 1, 2, ...: {', '.join(map(str, counts.tolist()))}")
    right = [(logits_RC.argmax(-1) == labels_R).double().mean() for logits_RC in answers.logits_ERC]
    cut = ", ".join(f"{accuracy:.4f}" for accuracy in right)
    print(f"  accuracy of the model cut off after layers 1, 2, ...: {cut}")


def check_one_by_one(runner: Runner, rows: list[Encoded]) -> None:
    """Every row alone, and all rows in random batches: the same label and layer, or a failure."""
    alone = [runner.run([row]) for row in rows]
    labels_R = torch.cat([r.logits_RC.argmax(-1) for r in alone])
    layers_R = torch.cat([r.exit_layers_R for r in alone])
    picker = random.Random(0)
    order = picker.sample(range(len(rows)), len(rows))
    batches = 0
    while order:
        batch, order = order[: (size := picker.choice((2, 7, 32, 300)))], order[size:]
        together = runner.run([rows[i] for i in batch])
        assert torch.equal(together.logits_RC.argmax(-1), labels_R[batch]), "a label changed"
        assert torch.equal(together.exit_layers_R, layers_R[batch]), "an exit layer changed"
        batches += 1
    print(
        f"  one by one equals batched: {len(rows)} of {len(rows)} rows in {batches} random batches"
    )


def never_exits(directory: Path, test_file: Path) -> None:
    """What exits cost when no row takes them."""
    classifier = offramp.load(directory)
    rows = examples(classifier, test_file).rows[:600]
    pairs, best_of = 20, 3
    cost = cost_of_exits(classifier.model, rows, pairs, best_of)
    print(f"rows that never exit, {pairs} alternating pairs, each side the best of {best_of} runs")
    print(f"  time against plain {cost.median:.3f}x [{cost.low:.3f}, {cost.high:.3f}]")


if __name__ == "__main__":
    main()
