"""Tiny token classifiers with exits, and rows of which some tokens count, for several folders."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from exit_models import random_rows
from parity_families import FAMILIES

import offramp
from offramp.exits.attach import add_exits, exits_of
from offramp.runner.rows import CountedRow
from offramp.text.tokenizer import Encoded


def token_model(
    family: str = "Bert", seed: int = 0, *, n_labels: int = 4, scale: float = 8.0, **changes: Any
) -> Any:
    """A random one in eval mode, whose logits are spread: sure and unsure tokens at every exit."""
    torch.manual_seed(seed)
    exits = changes.pop("exits", {})
    values = {**FAMILIES[family].tiny, "num_labels": n_labels, **changes}
    config = getattr(offramp, f"{family}Config")(**values)
    model = add_exits(getattr(offramp, f"{family}ForTokenClassification")(config), **exits)
    with torch.no_grad():
        for depth in exits_of(model).depths:
            exits_of(model).ramp(depth).classifier.weight.mul_(scale)
        model.classifier.weight.mul_(scale)
    return model.eval()


def small_rows(n_rows: int = 40, seed: int = 3) -> list[Encoded]:
    return random_rows(n_rows, seed=seed, longest=9, vocabulary=20)


def counted(rows: Sequence[Encoded], share: float = 0.4, seed: int = 0) -> list[CountedRow]:
    """The rows with some of their tokens counted; of some rows none."""
    rng = random.Random(seed)
    picks = [np.array([rng.random() < share for _ in row.ids]) for row in rows]
    return [CountedRow(row.ids, row.types, pick) for row, pick in zip(rows, picks, strict=True)]
