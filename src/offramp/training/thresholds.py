"""Choosing a threshold on held-out rows by a rule fixed beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from offramp.exits.criteria import Entropy
from offramp.runner.sweep import EveryExit
from offramp.training.metrics import accuracy


def grid(n_classes: int) -> list[float]:
    """Thresholds to try: hundredths of ln C, the most entropy that C classes can have, and 0."""
    return [round(step * math.log(n_classes) / 100, 4) for step in range(100)]


@dataclass(frozen=True)
class Choice:
    """A threshold and what it gave on the rows it was chosen on; accuracies from 0 to 1."""

    threshold: float
    accuracy: float
    full_accuracy: float
    mean_layers: float


def choose_threshold(answers: EveryExit, labels_R: Tensor, max_loss: float) -> Choice:
    """The fastest threshold of the grid that loses at most `max_loss` points of accuracy.

    The loss is against the full depth on the same rows. A threshold counts as losing what any
    smaller one loses: on a few hundred rows the curve is noise, and its luckiest point would be
    picked otherwise. So the grid is climbed from 0, which loses nothing, until a threshold loses
    too much. This is a point estimate and guarantees nothing.
    """
    full = accuracy(answers.logits_ERC[-1].argmax(-1), labels_R)
    chosen = Choice(0.0, full, full, float(answers.depths[-1]))
    for threshold in grid(answers.logits_ERC.shape[-1]):
        results = answers.apply(Entropy(threshold))
        kept = accuracy(results.logits_RC.argmax(-1), labels_R)
        if (full - kept) * 100 > max_loss + 1e-9:
            break
        chosen = Choice(threshold, kept, full, results.mean_layers)
    return chosen
