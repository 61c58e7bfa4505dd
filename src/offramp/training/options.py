"""What a training run can be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from offramp.errors import ConfigError

SCORES = ("accuracy", "f1", "macro_f1")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Settings of `offramp.train`; the defaults are those of the published benchmark.

    The loss is the mean over exits weighted by depth (deeper counts more: Zhou et al. 2020,
    PABEE), the model's own head included. With `freeze_backbone` the body and its head stay as they
    are and only the ramps learn, from hidden states that the body computes once.
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
    score: str = "accuracy"
    """What the best checkpoint is best in, on dev, at full depth: accuracy, f1 or macro_f1."""
    freeze_backbone: bool = False
    max_loss: float = 0.25
    """Points of dev accuracy that the chosen threshold may lose against full depth."""
    depths: tuple[int, ...] | None = None
    """Layers with an exit after them, from 1; all but the last by default."""
    pooler: str = "attention"
    queries: int = 4

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "evaluations_per_epoch", "queries"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}.")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{field.name} must be a number of at least 0; got {value}.")
        if self.warmup > 1:
            raise ConfigError(f"warmup is a share of the steps, from 0 to 1; got {self.warmup}.")
        if self.score not in SCORES:
            raise ConfigError(f"score is one of {', '.join(SCORES)}; got {self.score!r}.")
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            raise ConfigError(
                f"class_weights is 'balanced' or a weight for each label; got "
                f"{self.class_weights!r}."
            )
