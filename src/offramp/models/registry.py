"""From what config.json says to a class, by public name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import offramp
from offramp.errors import ConfigError
from offramp.models.base import PretrainedModel
from offramp.models.config import read_config

SEQUENCE_CLASSIFIERS = {"bert": "BertForSequenceClassification"}
"""model_type: the family's class for whole-row classification."""


def sequence_classifier(directory: str | Path) -> type[PretrainedModel]:
    """The classification class of the family whose model lies in `directory`."""
    model_type = read_config(directory).get("model_type")
    if model_type not in SEQUENCE_CLASSIFIERS:
        raise ConfigError(
            f"{directory} holds a model of type {model_type!r}; this offramp classifies with "
            f"{', '.join(SEQUENCE_CLASSIFIERS)}."
        )
    found: Any = getattr(offramp, SEQUENCE_CLASSIFIERS[model_type])
    return found  # type: ignore[no-any-return]
