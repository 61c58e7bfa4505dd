"""Tiny models of each task, with a tokenizer that has subwords, for several folders' tests."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch

from offramp.models.base import PretrainedModel
from offramp.models.bert import BertConfig

PIECES = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "anna", "oslo", "lives", "in", "the", "city",
    "of", "rome", "walk", "##ed", "##ing", "##s", "who", "where", "to", ",", ".", "'", "-", "?",
    "new", "york", "and", "bob", "##by",
)  # fmt: skip
WORDS = (
    "Anna", "Oslo", "lives", "in", "the", "city", "of", "Rome", "walked", "walking", "walks", "to",
    "New", "York", "and", "Bob", "bobby", "oslos", "rome-york", "who", "annaing,", "cités",
)  # fmt: skip
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def some_texts(n: int, seed: int = 0, longest: int = 12) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(n)]


def tiny(**changes: object) -> BertConfig:
    values: dict[str, object] = {
        "vocab_size": len(PIECES),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    return BertConfig(**(values | changes))


def write_vocabulary(directory: Path, **settings: object) -> None:
    (directory / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), "utf-8")
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": True, **settings}), "utf-8"
    )


def write_model(
    directory: Path, cls: type[PretrainedModel], seed: int = 0, **changes: object
) -> Path:
    torch.manual_seed(seed)
    cls(tiny(**changes)).save_pretrained(directory)  # type: ignore[call-arg]
    write_vocabulary(directory)
    return directory
