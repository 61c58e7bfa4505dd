"""What teaches the exits how sure they are: the regressor that `LearnedToExit` asks.

Xin et al. 2021, "BERxiT: Early Exiting for BERT with Better Fine-Tuning and Extension to
Regression": one linear layer, which all ramps share, learns of what a ramp pooled whether the ramp
is right. There it learns by squared error, and together with all the rest, whose loss it is added
to. Here it is a cross-entropy, and of a pooled vector without its gradient: body and ramps learn
what they would learn without it, and it can be had beside any schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.exits.criteria import Answer
from offramp.training.metrics import check_loss
from offramp.training.options import TrainingOptions

_BATCH = 512  # rows of a ramp; a step is one product with a vector


class Pooled(NamedTuple):
    """What a ramp pooled of rows, [R, P], whether it was right, and what a row counts, [R]."""

    pooled_RP: Tensor
    right_R: Tensor
    weights_R: Tensor


def is_right(logits_RC: Tensor, labels_R: Tensor) -> Tensor:
    """1 for a row whose label was said, and else 0; [R].

    Of any number of labels [R, C], for a row with all of them right. Of a number, which is hardly
    ever said exactly, 1 - tanh(|how far it is off|), as in the paper.
    """
    if labels_R.dim() == 2:
        return ((logits_RC.detach() > 0) == (labels_R > 0.5)).all(-1).float()
    if labels_R.is_floating_point():
        return 1 - (logits_RC.detach()[:, 0] - labels_R).abs().tanh()
    return (logits_RC.detach().argmax(-1) == labels_R).float()


def certainty_loss(
    answers: Mapping[int, Answer], labels_R: Tensor, weights_C: Tensor | None = None
) -> Tensor | None:
    """Mean over ramps and rows of the cross-entropy of their certainties, []; None without any.

    A row counts by its label's class weight, as in the losses that it is added to.
    """
    weights_R = weights_of(labels_R, weights_C)
    losses = [
        _loss(certainty_R.float(), is_right(logits_RC, labels_R), weights_R)
        for logits_RC, certainty_R, *_ in answers.values()
        if certainty_R is not None
    ]
    return cast(Tensor, sum(losses)) / len(losses) if losses else None


def weights_of(labels_R: Tensor, weights_C: Tensor | None) -> Tensor:
    """What rows count: their labels' class weights, or 1 each; [R]."""
    return torch.ones(len(labels_R)) if weights_C is None else weights_C[labels_R]


def train_regressor(regressor: nn.Linear, seen: Sequence[Pooled], options: TrainingOptions) -> None:
    """Teach the regressor on what ramps that learn no more have pooled, of all of them alike."""
    optimizer = torch.optim.AdamW(
        regressor.parameters(), lr=options.ramp_learning_rate, weight_decay=options.weight_decay
    )
    generator = torch.Generator().manual_seed(options.seed)
    n_rows = len(seen[0].right_R) if seen else 0
    regressor.train()
    for _ in range(options.epochs):
        for rows in torch.split(torch.randperm(n_rows, generator=generator), _BATCH):
            losses = [
                _loss(regressor(pooled_RP[rows])[:, 0], right_R[rows], weights_R[rows])
                for pooled_RP, right_R, weights_R in seen
            ]
            loss = cast(Tensor, sum(losses)) / len(losses)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            check_loss(loss.item(), 1)
    regressor.eval()


@torch.no_grad()
def regressor_accuracy(certainty_XR: Tensor, right_XR: Tensor) -> float:
    """Share of the ramps' answers of which the regressor says rightly that they are right or not.

    Log-odds and what `is_right` gave, a row of them a ramp. Right is what has more than one half.
    """
    return ((certainty_XR >= 0) == (right_XR > 0.5)).double().mean().item()


def _loss(certainty_R: Tensor, right_R: Tensor, weights_R: Tensor) -> Tensor:
    losses_R = F.binary_cross_entropy_with_logits(certainty_R, right_R, reduction="none")
    return (losses_R * weights_R).sum() / weights_R.sum()
