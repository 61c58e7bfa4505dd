"""The loss of a classification head, chosen as transformers chooses it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.errors import InputError
from offramp.models.checks import check_tensor


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
    check_tensor("labels", labels)
    n_classes = logits_RC.shape[-1]
    if labels.numel() not in (len(logits_RC), logits_RC.numel()):
        raise InputError(
            f"labels of shape {list(labels.shape)} do not fit logits of shape "
            f"{list(logits_RC.shape)}; pass one a row, or one a class and row."
        )
    if problem_type is None:
        if n_classes == 1:
            problem_type = "regression"
        elif not labels.is_floating_point() and labels.numel() == len(logits_RC):
            problem_type = "single_label_classification"
        else:
            problem_type = "multi_label_classification"
    one_each = labels.shape == logits_RC.shape
    if problem_type == "regression":
        if not one_each and (n_classes > 1 or labels.numel() != len(logits_RC)):
            raise _misfit(problem_type, labels, logits_RC)
        return F.mse_loss(logits_RC, labels.reshape(logits_RC.shape).to(logits_RC.dtype))
    if problem_type == "multi_label_classification":
        if not one_each:
            raise _misfit(problem_type, labels, logits_RC)
        return F.binary_cross_entropy_with_logits(logits_RC, labels.to(logits_RC.dtype))
    if labels.is_floating_point() or labels.numel() != len(logits_RC):
        raise InputError(
            f"single_label_classification takes one class number a row, [{len(logits_RC)}] whole "
            f"numbers; got {labels.dtype} of shape {list(labels.shape)}."
        )
    labels_R = labels.reshape(-1).long()
    _check_classes(labels_R, n_classes)
    return F.cross_entropy(logits_RC, labels_R, weight=class_weights_C)


def token_loss(logits_BLC: Tensor, labels_BL: Tensor, real_BL: Tensor) -> Tensor:
    """Mean cross-entropy over the real tokens whose label is not -100, []."""
    check_tensor("labels", labels_BL)
    if logits_BLC.shape[:-1] != labels_BL.shape:
        raise InputError(
            f"labels must be {list(logits_BLC.shape[:-1])}, one a token; got "
            f"{list(labels_BL.shape)}."
        )
    labels_T = _numbers("labels", labels_BL)
    _check_classes(labels_T, logits_BLC.shape[-1])
    labels_T = labels_T.masked_fill(~real_BL.reshape(-1), -100)
    return F.cross_entropy(logits_BLC.reshape(len(labels_T), -1), labels_T)


def replaced_loss(logits_BL: Tensor, labels_BL: Tensor, real_BL: Tensor) -> Tensor:
    """Mean binary cross-entropy over the real tokens: 1 is a replaced one, -100 does not count."""
    check_tensor("labels", labels_BL)
    if logits_BL.shape != labels_BL.shape:
        raise InputError(
            f"labels must be {list(logits_BL.shape)}, one a token; got {list(labels_BL.shape)}."
        )
    labels_T = _numbers("labels", labels_BL)
    _check_classes(labels_T, 2)
    counted_T = real_BL.reshape(-1) & (labels_T != -100)
    targets = labels_T[counted_T].to(logits_BL.dtype)
    return F.binary_cross_entropy_with_logits(logits_BL.reshape(-1)[counted_T], targets)


def span_loss(
    start_logits_BL: Tensor, end_logits_BL: Tensor, starts_B: Tensor, ends_B: Tensor
) -> Tensor:
    """Mean cross-entropy of an answer's first and last position, [].

    A position that is none of the row's (an answer that was cut off) is left out; logits of such
    are the type's lowest number.
    """
    losses = []
    for logits_BL, at in ((start_logits_BL, starts_B), (end_logits_BL, ends_B)):
        at_B = _numbers("answers' positions", at)
        if len(at_B) != len(logits_BL):
            raise InputError(
                f"start_positions and end_positions are [{len(logits_BL)}], one a row; got "
                f"{list(at.shape)}."
            )
        inside_B = (at_B >= 0) & (at_B < logits_BL.shape[1])
        found_B = logits_BL.detach().gather(1, (at_B * inside_B)[:, None])[:, 0]
        inside_B &= found_B > torch.finfo(logits_BL.dtype).min
        losses.append(F.cross_entropy(logits_BL, at_B.masked_fill(~inside_B, -100)))
    return (losses[0] + losses[1]) / 2


def _numbers(what: str, labels: Tensor) -> Tensor:
    check_tensor(what, labels)
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(f"{what} are whole numbers; got {labels.dtype}.")
    return labels.reshape(-1).long()


def _misfit(problem_type: str, labels: Tensor, logits_RC: Tensor) -> InputError:
    return InputError(
        f"{problem_type} takes a target for each of the logits, {list(logits_RC.shape)}; got "
        f"labels of shape {list(labels.shape)}."
    )


def _check_classes(labels: Tensor, n_classes: int) -> None:
    outside = (labels != -100) & ((labels < 0) | (labels >= n_classes))
    if bool(outside.any()):
        raise InputError(
            f"label {int(labels[outside][0])} is not a class of a model with {n_classes} "
            f"(0 to {n_classes - 1}; -100 is left out of the loss)."
        )
