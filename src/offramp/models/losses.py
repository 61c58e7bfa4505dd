"""The loss of a classification head, chosen as transformers chooses it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.errors import InputError


def classification_loss(
    logits_RC: Tensor,
    labels: Tensor,
    problem_type: str | None = None,
    class_weights_C: Tensor | None = None,
) -> Tensor:
    """Mean loss over the rows, [].

    Cross-entropy for class numbers [R]; squared error for `regression` or C = 1; binary
    cross-entropy for floating labels [R, C]. `problem_type` decides where it is given.
    """
    n_classes = logits_RC.shape[-1]
    if labels.numel() not in (len(logits_RC), logits_RC.numel()):
        raise InputError(
            f"labels of shape {list(labels.shape)} do not fit logits of shape "
            f"{list(logits_RC.shape)}; pass one a row, or one a class and row."
        )
    if problem_type is None:
        if n_classes == 1:
            problem_type = "regression"
        elif labels.dtype in (torch.int64, torch.int32):
            problem_type = "single_label_classification"
        else:
            problem_type = "multi_label_classification"
    if problem_type == "regression":
        return F.mse_loss(logits_RC, labels.reshape(logits_RC.shape).to(logits_RC.dtype))
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits_RC, labels.to(logits_RC.dtype))
    if labels.is_floating_point() or labels.numel() != len(logits_RC):
        raise InputError(
            f"single_label_classification takes one class number a row, [{len(logits_RC)}] whole "
            f"numbers; got {labels.dtype} of shape {list(labels.shape)}."
        )
    labels_R = labels.reshape(-1).long()
    outside = (labels_R != -100) & ((labels_R < 0) | (labels_R >= n_classes))
    if bool(outside.any()):
        raise InputError(
            f"label {int(labels_R[outside][0])} is not a class of a model with {n_classes} "
            f"(0 to {n_classes - 1}; -100 is left out of the loss)."
        )
    return F.cross_entropy(logits_RC, labels_R, weight=class_weights_C)
