"""Savers that save over one another, and readers that load meanwhile, each a process of its own.

    python savers_and_readers.py FOLDER --seconds 600 [--without-exchange]

Each model has its own width, one value in every weight, and as many words in its tokenizer as
neither of the others: a load of two saves' files would show another three. Prints what the
processes did as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import offramp
from offramp.checkpoints import directory as directories

SAVERS = READERS = 4
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Kind(NamedTuple):
    """What tells one save from another."""

    width: int
    value: float
    words: int


KINDS = [Kind(8 * (n + 1), float(n + 1), len(WORDS) + n) for n in range(2 * SAVERS)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--without-exchange", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.without_exchange:
        directories._exchanged = lambda a, b: False  # type: ignore[assignment]
    target = options.folder / "model"
    models = [classifier(kind, options.folder) for kind in KINDS]
    models[0].save(target)
    until = time.monotonic() + options.seconds
    workers: list[Callable[[], dict[str, int]]] = []
    for n in range(SAVERS):
        own = models[2 * n : 2 * n + 2]
        workers.append(lambda own=own: save(own, target, until))  # type: ignore[misc]
    workers += [lambda n=n: read(n, target, until) for n in range(READERS)]  # type: ignore[misc]
    found = [forked(work) for work in workers]
    told: Counter[str] = Counter()
    for answer in found:
        told.update(json.loads(Path(f"/proc/self/fd/{answer}").read_text()))
    left = sorted(p.name for p in options.folder.iterdir() if p.name.startswith("."))
    print(json.dumps({**told, "left": left}))


def forked(work: Callable[[], dict[str, int]]) -> int:
    """A pipe from a child that does the work and says what it did."""
    answer, tell = os.pipe()
    if os.fork() == 0:
        try:
            counts = work()
        except BaseException as error:
            counts = {f"failed: {type(error).__name__}: {error}": 1}
        os.write(tell, json.dumps(counts).encode())
        os._exit(0)
    os.close(tell)
    return answer


def save(models: list[offramp.Classifier], target: Path, until: float) -> dict[str, int]:
    """Now one and now the other, in one file or in several."""
    for number in itertools.count(1):
        model = models[number % 2]
        if number % 3:
            model.save(target)
        else:
            model.model.save_pretrained(target.with_name("apart"), max_shard_size="2KB")
            model.save(target)
        if time.monotonic() > until:
            return {"saves": number}
    raise AssertionError


def read(reader: int, target: Path, until: float) -> dict[str, int]:
    counts: Counter[str] = Counter()
    while time.monotonic() < until:
        found: Any = offramp.load(target) if reader % 2 else None
        if found is None:
            model = offramp.AutoModelForSequenceClassification.from_pretrained(target)
            words = KINDS[model.config.hidden_size // 8 - 1].words
        else:
            model, words = found.model, found.tokenizer.vocab_size
        values = {value for p in model.parameters() for value in p.detach().unique().tolist()}
        value = values.pop() if len(values) == 1 else -1.0
        counts["reads"] += 1
        kind = Kind(model.config.hidden_size, value, words)
        if kind not in KINDS or model.config.labels != [f"{kind.words}-{i}" for i in range(2)]:
            counts["mixed"] += 1
    return dict(counts)


def classifier(kind: Kind, folder: Path) -> offramp.Classifier:
    config = offramp.BertConfig(
        vocab_size=20,
        hidden_size=kind.width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        id2label={i: f"{kind.words}-{i}" for i in range(2)},
    )
    model = offramp.BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(kind.value)
    words = folder / f"words-{kind.words}"
    words.mkdir()
    more = [f"word{n}" for n in range(kind.words - len(WORDS))]
    (words / "vocab.txt").write_text("\n".join([*WORDS, *more]) + "\n")
    (words / "config.json").write_text('{"model_type": "bert"}')
    return offramp.Classifier(model, offramp.Tokenizer.from_pretrained(words, max_length=8))


if __name__ == "__main__":
    main()
