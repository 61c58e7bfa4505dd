"""ELECTRA's built-in names."""

from __future__ import annotations

from offramp.models.builtin.table import BASE, CHINESE, ENGLISH, LARGE, Settings, family, sizes


def _electra(network: Settings, embedding: int, vocabulary: int = ENGLISH) -> Settings:
    return {**network, "vocab_size": vocabulary, "embedding_size": embedding}


_SMALL_NETWORK = sizes(256, 12, 4)
_SMALL = _electra(_SMALL_NETWORK, 128)
_BASE = _electra(BASE, 768)
_LARGE = _electra(LARGE, 1024)
_SMALL_ZH = _electra(_SMALL_NETWORK, 128, CHINESE)
_BASE_ZH = _electra(BASE, 768, CHINESE)

ELECTRA = family(
    "electra",
    [
        ("electra-small-discriminator", "google", _SMALL),
        ("electra-base-discriminator", "google", _BASE),
        ("electra-large-discriminator", "google", _LARGE),
        ("electra-small-generator", "google", _SMALL),
        ("electra-base-generator", "google", _electra(_SMALL_NETWORK, 768)),
        ("electra-large-generator", "google", _electra(sizes(256, 24, 4), 1024)),
        ("electra-small", "google/electra-small-discriminator", _SMALL),
        ("electra-base", "google/electra-base-discriminator", _BASE),
        ("electra-large", "google/electra-large-discriminator", _LARGE),
        ("chinese-electra-small", "hfl/chinese-electra-small-discriminator", _SMALL_ZH),
        ("chinese-electra-base", "hfl/chinese-electra-base-discriminator", _BASE_ZH),
    ],
)
