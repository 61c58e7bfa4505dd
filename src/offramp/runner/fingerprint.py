"""A number that two models share if they are the same: settings, weights and tokenizer."""

from __future__ import annotations

import hashlib
import json

import torch

from offramp.exits.attach import exits_of
from offramp.runner.text_model import TextModel


def fingerprint(owner: TextModel) -> str:
    """The SHA-256 of all that answers depend on, wherever and in whatever files it lies."""
    model, tokenizer = owner.model, owner.tokenizer
    criterion = exits_of(model).criterion.to_dict() if hasattr(model, "exits") else None
    about = [type(owner).__name__, model.config.to_dict(), criterion, tokenizer.max_length]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    digest.update(tokenizer.to_json().encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
