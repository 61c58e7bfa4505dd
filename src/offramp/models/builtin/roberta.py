"""The built-in names of RoBERTa, XLM-RoBERTa and CamemBERT, which differ in their vocabularies."""

from __future__ import annotations

from offramp.models.builtin.table import BASE, LARGE, ONE_SCORE, Settings, family, labels, sizes


def _roberta(vocabulary: int, network: Settings = BASE, positions: int = 514) -> Settings:
    """Positions start after the padding token's, so that two of them are never used."""
    return {
        **network,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    }


_ROBERTA_BASE, _ROBERTA_LARGE = _roberta(50265), _roberta(50265, LARGE)
_DISTILROBERTA = _roberta(50265, sizes(768, 6, 12))
_MNLI = labels("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
_THREE = labels("LABEL_0", "LABEL_1", "LABEL_2")
_MOOD = labels("negative", "neutral", "positive")

ROBERTA = family(
    "roberta",
    [
        ("roberta-base", "FacebookAI", _ROBERTA_BASE),
        ("roberta-large", "FacebookAI", _ROBERTA_LARGE),
        ("roberta-large-mnli", "FacebookAI", {**_ROBERTA_LARGE, **_MNLI}),
        ("distilroberta-base", "distilbert", _DISTILROBERTA),
        ("roberta-base-squad2", "deepset", _ROBERTA_BASE),
        ("twitter-roberta-base-sentiment", "cardiffnlp", {**_ROBERTA_BASE, **_THREE}),
        ("twitter-roberta-base-sentiment-latest", "cardiffnlp", {**_ROBERTA_BASE, **_MOOD}),
        ("codebert-base", "microsoft", _ROBERTA_BASE),
        ("all-distilroberta-v1", "sentence-transformers", _DISTILROBERTA),
        ("all-roberta-large-v1", "sentence-transformers", _ROBERTA_LARGE),
    ],
)

_XLM_BASE, _XLM_LARGE = _roberta(250002), _roberta(250002, LARGE)
_XLM_LONG = _roberta(250002, LARGE, positions=8194)

XLM_ROBERTA = family(
    "xlm-roberta",
    [
        ("xlm-roberta-base", "FacebookAI", _XLM_BASE),
        ("xlm-roberta-large", "FacebookAI", _XLM_LARGE),
        ("paraphrase-multilingual-mpnet-base-v2", "sentence-transformers", _XLM_BASE),
        ("multilingual-e5-base", "intfloat", _XLM_BASE),
        ("multilingual-e5-large", "intfloat", _XLM_LARGE),
        ("bge-m3", "BAAI", _XLM_LONG),
        ("bge-reranker-base", "BAAI", {**_XLM_BASE, **ONE_SCORE}),
        ("bge-reranker-v2-m3", "BAAI", {**_XLM_LONG, **ONE_SCORE}),
    ],
)

_FRENCH = 32005

CAMEMBERT = family(
    "camembert",
    [
        ("camembert-base", "almanach", {**_roberta(_FRENCH), "bos_token_id": 5, "eos_token_id": 6}),
        ("camembert-large", "almanach", _roberta(_FRENCH, LARGE)),
        ("distilcamembert-base", "cmarkea", _roberta(_FRENCH, sizes(768, 6, 12))),
    ],
)
