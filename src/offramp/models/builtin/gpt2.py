"""GPT-2's built-in names."""

from __future__ import annotations

from typing import Any

from offramp.models.builtin.table import family


def _sizes(width: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"n_embd": width, "n_layer": layers, "n_head": heads}
    return {"vocab_size": 50257, "n_positions": 1024, **sizes}


GPT2 = family(
    "gpt2",
    [
        ("gpt2", "openai-community", _sizes(768, 12, 12)),
        ("gpt2-medium", "openai-community", _sizes(1024, 24, 16)),
        ("gpt2-large", "openai-community", _sizes(1280, 36, 20)),
        ("gpt2-xl", "openai-community", _sizes(1600, 48, 25)),
        ("distilgpt2", "distilbert", _sizes(768, 6, 12)),
    ],
)
