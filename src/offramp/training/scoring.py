"""What each exit is worth on held-out rows."""

from __future__ import annotations

from typing import Any

import torch

from offramp.errors import TrainingError
from offramp.models.base import PretrainedModel
from offramp.runner.sweep import EveryExit, every_exit
from offramp.training.certainty import is_right, regressor_accuracy
from offramp.training.examples import EncodedRows


def evaluate_exits(
    model: PretrainedModel, dev: EncodedRows[Any], score: str | None = None
) -> dict[str, Any]:
    """What each exit is worth on dev, the scores at full depth, and the one that counts.

    Where the exits say how sure they are, the accuracy of that too (`regressor_accuracy`).
    """
    model.eval()
    return figures(finite(every_exit(model, dev.asked())).counted(), dev, score)


def figures(answers: EveryExit, dev: EncodedRows[Any], score: str | None) -> dict[str, Any]:
    """As `evaluate_exits`, from the answers to what counts of dev's rows (`EveryExit.counted`)."""
    found = dev.scores(answers, score)
    if answers.certainty_XR is not None:
        labels_R = dev.labels_of(torch.arange(len(dev)))
        right_XR = torch.stack([is_right(x, labels_R) for x in answers.logits_ERC[:-1]])
        sure = regressor_accuracy(answers.certainty_XR, right_XR)
        found["dev_certainty_accuracy"] = round(sure, 5)
    return found


def finite(answers: EveryExit) -> EveryExit:
    """The answers; TrainingError where they are no numbers."""
    if not bool(answers.logits_ERC.isfinite().all()):
        raise TrainingError(
            "The model's answers are no numbers any more. Lower learning_rate or "
            "ramp_learning_rate."
        )
    return answers


__all__ = ["evaluate_exits", "figures", "finite"]
