"""Training schedules: what learns in which stage, and by which loss over the exits.

A loss is a function of what the exits answer, by depth (the model's own head is the deepest), and
no more: it can be worked out by hand. Each counts a row by its label's class weight, where there
are such: sums over rows are divided by the sum of their weights. Where labels are numbers (floats)
each exit's own loss is the squared error, and where they are 1 and 0 [R, C] the mean over labels of
the binary cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

import torch.nn.functional as F
from torch import Tensor

from offramp.exits import losses
from offramp.models.losses import classification_loss
from offramp.training.options import SCHEDULE, TrainingOptions

ExitLoss: TypeAlias = Callable[[Mapping[int, Tensor], Tensor, int, Tensor | None], Tensor]
"""Logits [R, C] by depth, labels [R], the step (from 1) and class weights [C]: the loss, []."""

RampLoss: TypeAlias = Callable[[Tensor, Tensor | None, Tensor, Tensor | None], Tensor]
"""A ramp's logits [R, C], the model's own, labels [R] and class weights [C]: the loss, []."""


def _never(step: int) -> bool:
    return False


@dataclass(frozen=True)
class Stage:
    """A stage in which the body learns, and the ramps with it unless `backbone_alone`.

    In a step of which `last_alone` the loss reads nothing but the last exit.
    """

    name: str
    loss: ExitLoss
    backbone_alone: bool = False
    last_alone: Callable[[int], bool] = _never


@dataclass(frozen=True)
class RampStage:
    """A stage in which the ramps learn, on a body that stays as it is.

    Their loss is the sum of each one's own, so that they can learn one after the other. With
    `distils` it reads the model's own answers, which are None otherwise.
    """

    name: str
    loss: RampLoss
    distils: bool = False


def stages(options: TrainingOptions) -> tuple[Stage | RampStage, ...]:
    """The stages of a schedule, in order."""
    made = _SCHEDULES[options.schedule or SCHEDULE](options)
    if not options.freeze_backbone:
        return made
    of_ramps = tuple(stage for stage in made if isinstance(stage, RampStage))
    return of_ramps or (_RAMPS,)  # `joint`: as each ramp's gradient is its own loss's


# Losses


def own_loss(
    logits: Mapping[int, Tensor], labels_R: Tensor, step: int, weights_C: Tensor | None = None
) -> Tensor:
    """The loss of the last exit, the model's own head, []."""
    return classification_loss(logits[max(logits)], labels_R, class_weights_C=weights_C)


def depth_weighted_loss(
    logits: Mapping[int, Tensor], labels_R: Tensor, step: int, weights_C: Tensor | None = None
) -> Tensor:
    """Mean over exits of the classification loss, each weighted by its depth, [].

    Zhou et al. 2020, "BERT Loses Patience: Fast and Robust Inference with Early Exit" (PABEE).
    """
    return losses.depth_weighted_loss(logits, labels_R, class_weights_C=weights_C)


def alternating_loss(
    logits: Mapping[int, Tensor], labels_R: Tensor, step: int, weights_C: Tensor | None = None
) -> Tensor:
    """The last exit's loss in steps 1, 3, 5, ..., in the others the mean over all exits, [].

    Xin et al. 2021, "BERxiT: Early Exiting for BERT with Better Fine-Tuning and Extension to
    Regression". There it is the sum over exits: the mean has its direction, and the scale of the
    loss that it takes turns with.
    """
    if is_odd(step):
        return own_loss(logits, labels_R, step, weights_C)
    each = [
        classification_loss(logits_RC, labels_R, class_weights_C=weights_C)
        for logits_RC in logits.values()
    ]
    return cast(Tensor, sum(each)) / len(each)


def joint_distillation_loss(
    logits: Mapping[int, Tensor],
    labels_R: Tensor,
    step: int,
    weights_C: Tensor | None = None,
    *,
    weight: float,
    temperature: float,
) -> Tensor:
    """`depth_weighted_loss`, and `weight` times the mean over ramps of their `divergence`, [].

    From the last exit's answers, which get no gradient of it. Phuong and Lampert 2019,
    "Distillation-Based Training for Multi-Exit Architectures".
    """
    loss = depth_weighted_loss(logits, labels_R, step, weights_C)
    own_RC = logits[max(logits)]
    apart = [
        divergence(logits_RC, own_RC, labels_R, weights_C, temperature)
        for depth, logits_RC in logits.items()
        if depth != max(logits)
    ]
    return loss + weight * cast(Tensor, sum(apart)) / len(apart) if apart else loss


def ramp_loss(
    logits_RC: Tensor, own_RC: Tensor | None, labels_R: Tensor, weights_C: Tensor | None = None
) -> Tensor:
    """A ramp's classification loss, [].

    Xin et al. 2020, "DeeBERT: Dynamic Early Exiting for Accelerating BERT Inference", stage two:
    the sum of it over all ramps, without the last exit.
    """
    return classification_loss(logits_RC, labels_R, class_weights_C=weights_C)


def ramp_distillation_loss(
    logits_RC: Tensor, own_RC: Tensor | None, labels_R: Tensor, weights_C: Tensor | None = None
) -> Tensor:
    """A ramp's `divergence` from the model's own answers, [].

    Liu et al. 2020, "FastBERT: a Self-distilling BERT with Adaptive Inference Time". The paper's
    formula has the two distributions the other way round; this is what its authors' code does.
    """
    return divergence(logits_RC, cast(Tensor, own_RC), labels_R, weights_C)


def divergence(
    logits_RC: Tensor,
    teacher_RC: Tensor,
    labels_R: Tensor,
    weights_C: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """T^2 KL(teacher || student) of softmax(logits / T), mean over rows, [].

    The square keeps its gradient's scale whatever T is (Hinton et al. 2015, "Distilling the
    Knowledge in a Neural Network"). The teacher gets no gradient. Of any number of labels
    a row (1 and 0, [R, C]) it is the mean over labels of that of two answers each; of numbers
    (floats, [R]) the squared difference.
    """
    if labels_R.dim() == 2:
        student_RC, teacher_RC = logits_RC / temperature, teacher_RC.detach() / temperature
        crossed, own = (
            F.binary_cross_entropy_with_logits(x_RC, teacher_RC.sigmoid())
            for x_RC in (student_RC, teacher_RC)
        )
        return (crossed - own) * temperature**2
    if labels_R.is_floating_point():
        return F.mse_loss(logits_RC, teacher_RC.detach())
    log_teacher_RC = (teacher_RC.detach() / temperature).log_softmax(-1)
    log_student_RC = (logits_RC / temperature).log_softmax(-1)
    apart_RC = F.kl_div(log_student_RC, log_teacher_RC, reduction="none", log_target=True)
    apart_R = apart_RC.sum(-1) * temperature**2
    if weights_C is None:
        return apart_R.mean()
    weights_R = weights_C[labels_R]
    return (apart_R * weights_R).sum() / weights_R.sum()


def is_odd(step: int) -> bool:
    """Whether it is step 1, 3, 5, ..."""
    return step % 2 == 1


def _always(step: int) -> bool:
    return True


# Schedules

BACKBONE = Stage("backbone", own_loss, backbone_alone=True, last_alone=_always)
_JOINT = Stage("joint", depth_weighted_loss)
_RAMPS = RampStage("ramps", ramp_loss)
_DISTILLED = RampStage("ramps", ramp_distillation_loss, distils=True)


def _joint_distillation(options: TrainingOptions) -> tuple[Stage, ...]:
    loss = partial(
        joint_distillation_loss,
        weight=options.distillation_weight,
        temperature=options.temperature,
    )
    return (Stage("joint-distillation", loss),)


_SCHEDULES: dict[str, Callable[[TrainingOptions], tuple[Stage | RampStage, ...]]] = {
    "joint": lambda options: (_JOINT,),
    "two-stage": lambda options: (BACKBONE, _RAMPS),
    "alternating": lambda options: (Stage("alternating", alternating_loss, last_alone=is_odd),),
    "self-distillation": lambda options: (BACKBONE, _DISTILLED),
    "joint-distillation": _joint_distillation,
    "mixed": lambda options: (BACKBONE, _JOINT),
}
