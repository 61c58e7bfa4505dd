"""ALBERT's built-in names."""

from __future__ import annotations

from offramp.models.builtin.table import BASE, CHINESE, LARGE, Settings, family, sizes

_XLARGE, _XXLARGE = sizes(2048, 24, 16), sizes(4096, 12, 64)


def _albert(network: Settings, activation: str, dropout: float = 0.0) -> Settings:
    return {
        **network,
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_act": activation,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }


def _albert_zh(network: Settings, activation: str = "relu") -> Settings:
    return {**_albert(network, activation), "vocab_size": CHINESE}


_TINY_ZH, _SMALL_ZH = (_albert_zh(sizes(*size, 12), "gelu") for size in ((312, 4), (384, 6)))
_XXLARGE_ZH = _albert_zh(sizes(4096, 12, 16))

ALBERT = family(
    "albert",
    [
        ("albert-base-v1", "albert", _albert(BASE, "gelu", 0.1)),
        ("albert-large-v1", "albert", _albert(LARGE, "gelu", 0.1)),
        ("albert-xlarge-v1", "albert", _albert(_XLARGE, "gelu", 0.1)),
        ("albert-xxlarge-v1", "albert", _albert(_XXLARGE, "gelu")),
        ("albert-base-v2", "albert", _albert(BASE, "gelu_new")),
        ("albert-large-v2", "albert", _albert(LARGE, "gelu_new")),
        ("albert-xlarge-v2", "albert", _albert(_XLARGE, "gelu_new")),
        ("albert-xxlarge-v2", "albert", _albert(_XXLARGE, "gelu_new")),
        ("albert-chinese-tiny", "voidful/albert_chinese_tiny", _TINY_ZH),
        ("albert-chinese-small", "voidful/albert_chinese_small", _SMALL_ZH),
        ("albert-chinese-base", "voidful/albert_chinese_base", _albert_zh(BASE)),
        ("albert-chinese-large", "voidful/albert_chinese_large", _albert_zh(LARGE)),
        ("albert-chinese-xlarge", "voidful/albert_chinese_xlarge", _albert_zh(_XLARGE)),
        ("albert-chinese-xxlarge", "voidful/albert_chinese_xxlarge", _XXLARGE_ZH),
    ],
)
