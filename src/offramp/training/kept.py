"""What `freeze_backbone` keeps of the directory that it begins with: the head, and the ramps."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from offramp.errors import ConfigError, ReplacedExitsWarning
from offramp.exits.container import Exits, exits_of
from offramp.models.base import PretrainedModel
from offramp.models.loading import LoadingReport
from offramp.models.opening import Opening, open_model
from offramp.training.options import TrainingOptions


def check_head(model: str | Path, report: LoadingReport, options: TrainingOptions) -> None:
    """ConfigError where a head is to be kept that is not there."""
    if options.freeze_backbone and report.initialised:
        raise ConfigError(
            f"freeze_backbone keeps the head of {model}, and it lacks "
            f"{', '.join(report.initialised)}. Fine-tune the model first."
        )


def head_labels(head: list[str], labels: list[str]) -> list[str]:
    """The names of a kept head's classes: its own, or the data's for one that never had any."""
    if set(labels) <= set(head) and len(labels) > 1:
        return head
    if len(labels) == len(head) == 1:
        return head
    if len(labels) == len(head) and head == [f"LABEL_{i}" for i in range(len(head))]:
        return labels
    if len(labels) == 1:  # a number
        raise ConfigError(
            f"freeze_backbone keeps the model's head, which has {len(head)} outputs; one for "
            "regression has one. Fine-tune the model first."
        )
    raise ConfigError(
        f"freeze_backbone keeps the model's head, whose classes are {head}; the data's are "
        f"{labels}. Fine-tune the model on these first, or name its classes in config.json."
    )


def keep_ramps(model: PretrainedModel, directory: str | Path, options: TrainingOptions) -> None:
    """Give the model's new ramps the weights of those that the directory has, where they are alike.

    Alike are ramps after the same layers, that pool in the same way and have tensors of the same
    shapes. A ReplacedExitsWarning says it of others, which are lost. Where the body learns too, so
    are all.
    """
    if not options.freeze_backbone:
        return
    before, _ = open_model(type(model), directory, Opening(dtype=torch.float32))
    if not hasattr(before, "exits"):
        return
    old, new = exits_of(before), exits_of(model)
    if _form(old) == _form(new):
        new.load_state_dict(old.state_dict())
        return
    warnings.warn(
        f"The exits that {directory} has, {_said(old)}, are replaced by new ones, {_said(new)}. "
        "Those of the same form would have been trained on: it is asked for by TrainingOptions' "
        "depths, pooler, queries and certainty.",
        ReplacedExitsWarning,
        stacklevel=3,
    )


def _form(exits: Exits) -> tuple[object, dict[str, torch.Size]]:
    """What has to be equal for weights to mean the same."""
    return exits.shape["pooler"], {name: x.shape for name, x in exits.state_dict().items()}


def _said(exits: Exits) -> str:
    if not exits.depths:
        return "none at all"
    settings = {name: exits.shape[name] for name in ("pooler", "queries", "hidden")}
    settings["certainty"] = exits.certainty is not None
    listed = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"after layers {', '.join(map(str, exits.depths))} ({listed})"
