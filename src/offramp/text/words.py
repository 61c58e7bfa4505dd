"""A tokenizer for texts that come as words."""

from __future__ import annotations

import json
from typing import Any

import tokenizers


def taking_words(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer that gives a word of a list the tokens that it has inside of a text.

    Byte-level BPE takes the space before a word as a part of it, and a word of a list has none:
    without `add_prefix_space` all would be read as the inside of one long word.
    """
    parts = json.loads(tokenizer.to_str())
    found = [*_steps(parts.get("pre_tokenizer"), "pretokenizers")]
    found += _steps(parts.get("post_processor"), "processors")
    changed = False
    for step in found:
        if step.get("add_prefix_space") is False:
            step["add_prefix_space"] = changed = True
    return tokenizers.Tokenizer.from_str(json.dumps(parts)) if changed else tokenizer


def _steps(step: Any, inner: str) -> list[dict[str, Any]]:
    """A step and the steps inside of it."""
    if not isinstance(step, dict):
        return []
    return [step, *(s for part in step.get(inner, ()) for s in _steps(part, inner))]
