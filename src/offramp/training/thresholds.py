"""Choosing a threshold on held-out rows by a rule fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from offramp.errors import ConfigError
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

    The loss is against the full depth on the same rows. On a few hundred rows it is noise as much
    as loss, and the luckiest threshold would be picked; so the losses are first made monotone in
    the threshold by isotonic regression, which averages the noise out. Threshold 0 loses nothing,
    so there always is one. This is a point estimate and guarantees nothing.
    """
    if not max_loss >= 0:
        raise ConfigError(f"max_loss is in points of accuracy, at least 0; got {max_loss}.")
    full = accuracy(answers.logits_ERC[-1].argmax(-1), labels_R)
    choices = []
    for threshold in grid(answers.logits_ERC.shape[-1]):
        results = answers.apply(Entropy(threshold))
        kept = accuracy(results.logits_RC.argmax(-1), labels_R)
        choices.append(Choice(threshold, kept, full, results.mean_layers))
    losses = isotonic([(full - choice.accuracy) * 100 for choice in choices])
    allowed = [c for c, loss in zip(choices, losses, strict=True) if loss <= max_loss + 1e-9]
    return allowed[-1] if allowed else choices[0]  # pooled, even 0 may seem to lose


def isotonic(values: Sequence[float]) -> list[float]:
    """The nearest non-decreasing sequence in squared distance, by pooling adjacent violators.

    Ayer et al. 1955, "An empirical distribution function for sampling with incomplete information".
    """
    pools: list[tuple[float, int]] = []  # mean, how many
    for value in values:
        mean, count = value, 1
        while pools and pools[-1][0] > mean:
            before, n = pools.pop()
            mean, count = (before * n + mean * count) / (n + count), n + count
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]
