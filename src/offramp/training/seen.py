"""Which rows a model was trained with, as fingerprints that its exits keep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from offramp.errors import OfframpError
from offramp.exits.calibration.certificate import FINGERPRINTS
from offramp.exits.container import exits_of
from offramp.models.base import PretrainedModel
from offramp.models.config_file import read_config

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
    keep_noted(model, {name: [fingerprint_of_texts(texts)] for name, texts in splits.items()})


def keep_noted(model: PretrainedModel, more: Mapping[str, Sequence[str]]) -> None:
    """Let the exits remember these fingerprints, beside those that they know."""
    exits, found = exits_of(model), noted_rows(model)
    for name, prints in more.items():
        found[name] = list(dict.fromkeys([*found.get(name, []), *prints]))
    if found:
        exits.calibration = {**(exits.calibration or {}), FINGERPRINTS: found}


def noted_rows(model: PretrainedModel) -> dict[str, list[str]]:
    """The fingerprints by split; none for a model that nothing is known of."""
    return _by_split(exits_of(model).calibration)


def rows_noted_in(model: str | Path) -> dict[str, list[str]]:
    """Those that a directory's exits have, which new exits would know nothing of."""
    if not Path(model).is_dir():  # a built-in name's model has no exits
        return {}
    try:
        section = read_config(Path(model)).get("exits")
    except OfframpError:  # who opens it says so
        return {}
    return _by_split(section.get("calibration") if isinstance(section, Mapping) else None)


def _by_split(calibration: object) -> dict[str, list[str]]:
    found = calibration.get(FINGERPRINTS) if isinstance(calibration, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    return {
        str(name): [prints] if isinstance(prints, str) else list(prints)
        for name, prints in found.items()
        if isinstance(prints, (str, list))
    }
