"""SST-2 and the models fine-tuned on it, which several benchmarks measure.

The data is a folder with train.jsonl, dev.jsonl and test.jsonl (fields `text` and `label`).
Training rows of SST-2 are sentences and the phrases in them; test rows are sentences. A fifth of
the training sentences join dev, because 872 rows tell 0.25 points from nothing badly; their phrases
are left out. all-MiniLM-L6-v2 is fine-tuned by `offramp train` on the rest: rows of `--words` words
or more. Its threshold is the fastest that loses at most 0.25 points on dev
(`offramp.training.thresholds`). Trained models are kept under `--runs`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import offramp
from offramp.exits.criteria import Criterion
from offramp.models.base import PretrainedModel
from offramp.runner.run import Results, Runner
from offramp.text.tokenizer import Encoded
from offramp.training.examples import Examples, to_examples
from offramp.training.timing import Ratio, speed, time_in_turn

MAX_LOSS = 0.25  # points on dev
EPOCHS = 1
NEVER = offramp.Entropy(0.0)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which data and which models."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--words", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])


def trained(options: argparse.Namespace) -> list[Path]:
    """A directory a seed; those that are not there yet are trained."""
    directories: list[Path] = [
        options.runs / f"{_name(options)}-seed{seed}" for seed in options.seeds
    ]
    if all(directory.is_dir() for directory in directories):
        return directories
    train_rows, dev_rows = options.runs / f"{_name(options)}-train.jsonl", dev_file(options)
    write_splits(options.data, options.words, train_rows, dev_rows)
    for seed, directory in zip(options.seeds, directories, strict=True):
        if not directory.is_dir():
            train(train_rows, dev_rows, directory, seed)
    return directories


def dev_file(options: argparse.Namespace) -> Path:
    """The rows that thresholds are chosen on; there once models are trained."""
    path: Path = options.runs / f"{_name(options)}-dev.jsonl"
    return path


def _name(options: argparse.Namespace) -> str:
    return f"sst2-{options.words}-words-{EPOCHS}-epochs"


def write_splits(data: Path, words: int, train_file: Path, dev_file: Path) -> None:
    """Training rows of `words` words or more, and dev rows with a fifth of the training sentences.

    A phrase goes where its sentence goes, so dev holds no part of a training row.
    """
    train_file.parent.mkdir(parents=True, exist_ok=True)
    lines = (data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    kept: list[str] = []
    held: list[str] = []
    for line, text, sentence in zip(lines, texts, sentences(texts), strict=True):
        if len(text.split()) < words:
            continue
        if hashlib.sha256(sentence.encode()).digest()[0] >= 256 / 5:
            kept.append(line)
        elif text == sentence:
            held.append(line)
    train_file.write_text("\n".join(kept) + "\n", encoding="utf-8")
    dev = (data / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    dev_file.write_text("\n".join([*dev, *held]) + "\n", encoding="utf-8")
    print(
        f"training rows: {len(kept)}, sentences and phrases of {words} words or more; "
        f"dev rows: {len(dev)} and {len(held)} held-out training sentences"
    )


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


def examples(classifier: offramp.Classifier, path: Path) -> Examples:
    table = offramp.read_table(path)
    return to_examples(table, classifier.tokenizer, classifier.model.config.label2id)


def layers_saved(results: Results, rows: Sequence[Encoded], n_layers: float) -> tuple[float, float]:
    """How many times fewer layers: by rows, and by tokens.

    A long row costs more and stays longer: what the clock can save is counted in tokens.
    """
    lengths_R = torch.tensor([float(len(row.ids)) for row in rows])
    by_tokens = (results.exit_layers_R * lengths_R).sum() / lengths_R.sum()
    return n_layers / results.mean_layers, n_layers / by_tokens.item()


def cost_of_exits(
    model: PretrainedModel,
    rows: Sequence[Encoded],
    pairs: int,
    best_of: int,
    criterion: Criterion = NEVER,
) -> Ratio:
    """Time of exits that no row takes, against the plain model: alternating pairs.

    The machine's own noise is several times what is to be seen, and comes in bursts: one spoils a
    run or two of several short ones and not the pair, of which each side is the best.
    """
    plain = Runner(model, exits=False)
    never = Runner(model, criterion=criterion)
    seconds = time_in_turn(
        {"never": lambda: never.run(rows), "plain": lambda: plain.run(rows)}, pairs * best_of
    )
    best = {
        name: [min(runs[i : i + best_of]) for i in range(0, len(runs), best_of)]
        for name, runs in seconds.items()
    }
    return speed(best["plain"], best["never"])
