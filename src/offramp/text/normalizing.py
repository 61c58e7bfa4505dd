"""What a tokenizer.json does to a text before it looks for tokens: held to bounds, and to what
tokenizer_config.json says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers
from tokenizers import normalizers, pre_tokenizers

_MOST_GROWTH = 64
"""How many times as long a text may become; compatibility forms of Unicode need 18."""
_LOWERCASE = {
    # tokenizer_config.json's name: the normalizer's
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def growth_fault(tokenizer: tokenizers.Tokenizer) -> str | None:
    """What is wrong with steps that make a text longer again and again, or None."""
    growth = 1.0
    for step in _steps(json.loads(tokenizer.to_str()).get("normalizer")):
        if step.get("type") == "Prepend" and len(str(step.get("prepend"))) > _MOST_GROWTH:
            return f"it puts more than {_MOST_GROWTH} letters before each text"
        if step.get("type") == "Replace":
            pattern = step.get("pattern")
            text = pattern.get("String") if isinstance(pattern, dict) else None
            growth *= max(len(str(step.get("content"))) / max(len(text or "x"), 1), 1)
    if growth > _MOST_GROWTH:
        return f"it replaces letters by others, {growth:.0f} times as many in all"
    return None


def apply_settings(tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
    """Let what tokenizer_config.json states explicitly hold, as transformers' classes do.

    Of a normalizer of BERT's it is lower case, accents and Chinese characters; of byte-level BPE
    whether a space goes before a text.
    """
    normalizer = tokenizer.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        for setting, own in _LOWERCASE.items():
            if isinstance(settings.get(setting), bool):
                setattr(normalizer, own, settings[setting])
        tokenizer.normalizer = normalizer
    splitter, space = tokenizer.pre_tokenizer, settings.get("add_prefix_space")
    if isinstance(splitter, pre_tokenizers.ByteLevel) and isinstance(space, bool):
        splitter.add_prefix_space = space
        tokenizer.pre_tokenizer = splitter


def _steps(normalizer: Any) -> Iterator[Mapping[str, Any]]:
    """A normalizer's steps one by one, those of sequences inside sequences too."""
    left = [normalizer]
    while left:
        step = left.pop()
        if isinstance(step, dict):
            yield step
            inside = step.get("normalizers")
            left += reversed(inside) if isinstance(inside, list) else []
