"""Losses over several exits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from offramp.models.losses import classification_loss


def depth_weighted_loss(
    logits: Mapping[int, Tensor],
    labels: Tensor,
    problem_type: str | None = None,
    class_weights_C: Tensor | None = None,
) -> Tensor:
    """Mean over exits {depth: logits [R, C]} of `classification_loss`, each weighted by its depth.

    Zhou et al. 2020, "BERT Loses Patience: Fast and Robust Inference with Early Exit" (PABEE).
    """
    total = sum(
        depth * classification_loss(logits_RC, labels, problem_type, class_weights_C)
        for depth, logits_RC in logits.items()
    )
    return cast(Tensor, total) / sum(logits)
