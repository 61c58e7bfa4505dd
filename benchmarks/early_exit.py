"""Early exit on SST-2: accuracy lost and wall clock saved.

    python benchmarks/early_exit.py --data ../shared/data/sst2

`--data` is a folder with train.jsonl, dev.jsonl and test.jsonl (fields `text` and `label`). Most of
its training rows are phrases cut from sentences, and test rows are sentences, so rows of `--words`
words or more are used: `--rows` of them, the same for every seed, to fine-tune all-MiniLM-L6-v2 by
`offramp train`; those of a fifth of the sentences are held out and join dev, because 872 rows tell
0.25 points from nothing badly. The threshold is the fastest that loses at most 0.25 points on dev
(`offramp.training.thresholds`); everything reported is on test.

All sides, transformers among them, are measured in turn in one run on rows encoded beforehand;
speeds are medians of the rounds' ratios. Trained models are kept under `--runs`, and a run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import offramp
from offramp.runner.run import Runner
from offramp.runner.sweep import every_exit
from offramp.text.tokenizer import Encoded
from offramp.training.evaluation import machine
from offramp.training.examples import Examples, to_examples
from offramp.training.metrics import paired_difference
from offramp.training.peers import transformers_model, transformers_run
from offramp.training.thresholds import choose_threshold
from offramp.training.timing import speed, time_in_turn

MAX_LOSS = 0.25  # points on dev
EPOCHS = 2


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
    print(
        f"training rows: {options.rows} of {options.words} words or more; rounds: {options.rounds}"
    )
    name = f"sst2-{options.rows}-{options.words}"
    train_file, dev_file = (options.runs / f"{name}-{split}.jsonl" for split in ("train", "dev"))
    write_splits(options.data, options.rows, options.words, train_file, dev_file)
    directories = [options.runs / f"{name}-seed{seed}" for seed in options.seeds]
    for seed, directory in zip(options.seeds, directories, strict=True):
        if not directory.is_dir():
            train(train_file, dev_file, directory, seed)
    test_file = options.data / "test.jsonl"
    seeds = [measure(directory, dev_file, test_file, options.rounds) for directory in directories]
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
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def write_splits(data: Path, rows: int, words: int, train_file: Path, dev_file: Path) -> None:
    """Training rows, and dev rows with those of a fifth of the training sentences.

    A phrase goes where the longest row that contains it goes: dev holds no part of a training row.
    """
    train_file.parent.mkdir(parents=True, exist_ok=True)
    lines = (data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    kept: list[str] = []
    held: list[str] = []
    for line, text, sentence in zip(lines, texts, sentences(texts), strict=True):
        if len(text.split()) >= words:
            digest = hashlib.sha256(sentence.encode()).digest()
            (held if digest[0] < 256 / 5 else kept).append(line)
    chosen = random.Random(0).sample(kept, min(rows, len(kept)))
    train_file.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    dev = (data / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    dev_file.write_text("\n".join([*dev, *held]) + "\n", encoding="utf-8")


def sentences(texts: list[str]) -> list[str]:
    """For each text the longest one that contains it, found by its first three words."""
    holders: dict[tuple[str, ...], list[str]] = {}
    found: dict[str, str] = {}
    for text in sorted(set(texts), key=lambda text: -len(text)):
        words = text.split()
        within = (t for t in holders.get(tuple(words[:3]), ()) if f" {text} " in f" {t} ")
        found[text] = next(within, text)
        if found[text] == text:
            for at in range(max(1, len(words) - 2)):
                holders.setdefault(tuple(words[at : at + 3]), []).append(text)
    return [found[text] for text in texts]


def train(data: Path, dev: Path, output: Path, seed: int) -> None:
    command = [str(Path(sys.executable).with_name("offramp")), "train"]
    command += ["--data", str(data), "--dev", str(dev), "--output", str(output)]
    command += ["--epochs", str(EPOCHS), "--seed", str(seed), "--max-loss", str(MAX_LOSS)]
    subprocess.run(command, check=True)


def measure(directory: Path, dev_file: Path, test_file: Path, rounds: int) -> Seed:
    """Choose the threshold on dev, then print and return what it gives on test."""
    classifier = offramp.load(directory)
    model = classifier.model
    dev, test = examples(classifier, dev_file), examples(classifier, test_file)
    choice = choose_threshold(every_exit(model, dev.rows), dev.labels_R, MAX_LOSS)
    runner = Runner(model, criterion=offramp.Entropy(choice.threshold))
    plain = Runner(model, exits=False)
    with_exits, full = runner.run(test.rows), plain.run(test.rows)
    hits_R, full_hits_R = (r.logits_RC.argmax(-1) == test.labels_R for r in (with_exits, full))
    loss, low, high = paired_difference(full_hits_R, hits_R)
    dev_loss = (choice.full_accuracy - choice.accuracy) * 100
    print(f"\n{directory.name}: threshold {choice.threshold:g}, dev loses {dev_loss:.2f} points")
    print(f"  test accuracy at full depth {full_hits_R.double().mean():.4f}")
    print(f"  with exits {hits_R.double().mean():.4f} at {with_exits.mean_layers:.2f} layers a row")
    print(f"  points lost {loss * 100:.2f} [{low * 100:.2f}, {high * 100:.2f}]")
    check_one_by_one(runner, test.rows)
    peer = transformers_model(directory)
    seconds = time_in_turn(
        {
            "plain": lambda: plain.run(test.rows),
            "exits": lambda: runner.run(test.rows),
            "transformers file order": transformers_run(peer, test.rows, sort=False),
            "transformers sorted": transformers_run(peer, test.rows, sort=True),
        },
        rounds,
    )
    speeds = {}
    for fast, slow in PAIRS:
        ratio = speed(seconds[fast], seconds[slow])
        speeds[fast, slow] = ratio.median
        print(f"  {fast} against {slow:24} {ratio.median:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]")
    ideal = full.mean_layers / with_exits.mean_layers
    print(f"  wall clock saved / layers saved {speeds['exits', 'plain'] / ideal:.2f}")
    return Seed(full_hits_R.int() - hits_R.int(), speeds)


def examples(classifier: offramp.Classifier, path: Path) -> Examples:
    table = offramp.read_table(path)
    return to_examples(table, classifier.tokenizer, classifier.model.config.label2id)


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
    """What exits cost when no row takes them: 20 alternating pairs."""
    classifier = offramp.load(directory)
    rows = examples(classifier, test_file).rows[:600]
    plain = Runner(classifier.model, exits=False)
    never = Runner(classifier.model, criterion=offramp.Entropy(0.0))
    seconds = time_in_turn(
        {"never": lambda: never.run(rows), "plain": lambda: plain.run(rows)}, rounds=20
    )
    cost = speed(seconds["plain"], seconds["never"])
    print("rows that never exit, 20 alternating pairs")
    print(f"  time against plain {cost.median:.3f}x [{cost.low:.3f}, {cost.high:.3f}]")


if __name__ == "__main__":
    main()
