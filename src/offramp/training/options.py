"""What a training run can be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from offramp.errors import ConfigError
from offramp.exits.criteria import Entropy

SCORES = ("accuracy", "f1", "macro_f1")
SCORE, TAGGER_SCORE = "accuracy", "f1"
"""Where none is asked for."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Settings of `offramp.train` and `offramp.train_tagger`.

    The loss is the mean over exits weighted by depth (deeper counts more: Zhou et al. 2020,
    PABEE), the model's own head included. With `freeze_backbone` the body and its head stay as they
    are and only the ramps learn, from hidden states that the body computes once; then `epochs`,
    `ramp_learning_rate`, `weight_decay`, `class_weights` and `seed` apply, and each ramp keeps the
    epoch of its best dev accuracy. A tagger has no exits, and takes none of what is said of them.
    """

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 5e-5
    """Peak rate of the body."""
    ramp_learning_rate: float = 5e-4
    """Peak rate of ramps and of the model's own new head."""
    weight_decay: float = 0.01
    warmup: float = 0.1
    """Share of the steps over which the rate rises; it falls to 0 over the rest."""
    seed: int = 0
    patience: int = 2
    """Evaluations without a better dev score after which training stops."""
    evaluations_per_epoch: int = 1
    class_weights: Mapping[str, float] | str | None = None
    """Loss weight by label; `balanced` for inverse class frequency; None for 1 each."""
    score: str | None = None
    """What the best checkpoint is best in, on dev, at full depth: accuracy, f1 or macro_f1.
    Accuracy by default; for a tagger f1, of entities (macro_f1: the mean over their types)."""
    freeze_backbone: bool = False
    max_loss: float = 0.25
    """Points of dev accuracy, smoothed, that the threshold may lose against full depth."""
    growth: float | None = None
    """By what the chosen threshold rises from layer to layer (see `Entropy`); 1.5 for six layers
    and as much over the whole depth for others by default."""
    depths: tuple[int, ...] | None = None
    """Layers with an exit after them, from 1; all but the last by default."""
    pooler: str = "attention"
    queries: int = 4

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "evaluations_per_epoch", "queries"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:  # isinstance would take True
                raise ConfigError(f"{name} must be a whole number of at least 1; got {value!r}.")
        for name in ("learning_rate", "ramp_learning_rate", "weight_decay", "warmup", "max_loss"):
            _check_number(name, getattr(self, name))
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be a whole number from 0; got {self.seed!r}.")
        if self.warmup > 1:
            raise ConfigError(f"warmup is a share of the steps, from 0 to 1; got {self.warmup}.")
        if self.growth is not None:
            Entropy(growth=self.growth)  # refuses one that cannot be
        if self.score is not None and self.score not in SCORES:
            raise ConfigError(f"score is one of {', '.join(SCORES)}; got {self.score!r}.")
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            raise ConfigError(
                f"class_weights is 'balanced' or a weight for each label; got "
                f"{self.class_weights!r}."
            )
        if isinstance(self.class_weights, Mapping):
            for label, weight in self.class_weights.items():
                _check_number(f"the class weight of {label!r}", weight)


def _check_number(name: str, value: object) -> None:
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ConfigError(f"{name} must be a number of at least 0; got {value!r}.")
