"""A number that two models share if they are the same: settings, weights and tokenizer."""

from __future__ import annotations

import hashlib
import json

from offramp.exits.calibration.certificate import update_with_weights
from offramp.exits.container import exits_of
from offramp.runner.text_model import TextModel
from offramp.text.tokenizer import Tokenizer


def fingerprint(owner: TextModel) -> str:
    """The SHA-256 of all that answers depend on, wherever and in whatever files it lies."""
    model, tokenizer = owner.model, owner.tokenizer
    criterion = exits_of(model).criterion.to_dict() if hasattr(model, "exits") else None
    about = [type(owner).__name__, model.config.to_dict(), criterion, tokenizer.max_length]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    digest.update(tokenizer.to_json().encode())
    update_with_weights(digest, model)
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """The SHA-256 of what makes ids of texts, and of how many it keeps."""
    digest = hashlib.sha256(str(tokenizer.max_length).encode())
    digest.update(tokenizer.to_json().encode())
    return digest.hexdigest()
