"""Which rows a model was trained with, as fingerprints that its exits keep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from offramp.exits.calibration.certificate import FINGERPRINTS
from offramp.exits.container import exits_of
from offramp.models.base import PretrainedModel

TOGETHER = "train and dev"
"""What the rows are called that train and dev were both taken from."""


def fingerprint_of_texts(texts: Iterable[object]) -> str:
    """SHA-256 of texts, pairs or lists of words, whatever their order."""
    digest = hashlib.sha256()
    for text in sorted(json.dumps(text) for text in texts):
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def note_rows(model: PretrainedModel, **splits: Iterable[object]) -> None:
    """Let the exits remember the rows of these splits, beside those that they know."""
    exits = exits_of(model)
    fresh = {name: fingerprint_of_texts(texts) for name, texts in splits.items()}
    found = {**noted_rows(model), **fresh}
    exits.calibration = {**(exits.calibration or {}), FINGERPRINTS: found}


def noted_rows(model: PretrainedModel) -> dict[str, str]:
    """The fingerprints by split; none for a model that nothing is known of."""
    found: dict[str, str] = (exits_of(model).calibration or {}).get(FINGERPRINTS, {})
    return found
