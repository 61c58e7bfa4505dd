"""What tells one family's tokenizer from another's: a table, and how a directory is found in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORDPIECE, BYTE_LEVEL, SENTENCEPIECE = "WordPiece", "byte-level BPE", "SentencePiece"

FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    # kind: the sets of files that it may lie in, by the names of transformers and the original's
    WORDPIECE: (("vocab.txt",),),
    BYTE_LEVEL: (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")),
    SENTENCEPIECE: (("spiece.model",), ("sentencepiece.bpe.model",)),
}

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""What a special token can be for, in the order in which transformers adds them."""

_BERT = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}


@dataclass(frozen=True)
class Family:
    """A family's tokenizer, where its files do not say otherwise."""

    tokenizer_class: str
    """The class of transformers that reads it."""
    kind: str
    special: Mapping[str, str]
    double_separator: bool = False
    """Pairs are `<s> A </s></s> B </s>`, of type 0 all; else `[CLS] A [SEP] B [SEP]`, of 0, 1."""
    mask_takes_space: bool = True
    """The mask stands for a word with the space before it."""
    head: tuple[tuple[str, float], ...] = ()
    """Pieces and scores that stand in the place of a SentencePiece file's first (fairseq's ids)."""
    replaced: int = 0
    """How many of the file's pieces `head` stands in the place of; the mask is then the last id."""
    extra: tuple[str, ...] = field(default=())
    """Special tokens without a role."""


_BERT_FAMILY = Family("BertTokenizer", WORDPIECE, _BERT, mask_takes_space=False)

FAMILIES: dict[str, Family] = {
    # model_type: its tokenizer
    "bert": _BERT_FAMILY,
    "distilbert": _BERT_FAMILY,
    "electra": _BERT_FAMILY,
    "ernie": _BERT_FAMILY,
    "mpnet": Family(
        "MPNetTokenizer", WORDPIECE, {**_ROBERTA, "unk_token": "[UNK]"}, double_separator=True
    ),
    "roberta": Family("RobertaTokenizer", BYTE_LEVEL, _ROBERTA, double_separator=True),
    "albert": Family(
        "AlbertTokenizer",
        SENTENCEPIECE,
        {
            **_BERT,
            "bos_token": "[CLS]",
            "eos_token": "[SEP]",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
        },
    ),
    "xlm-roberta": Family(
        "XLMRobertaTokenizer",
        SENTENCEPIECE,
        _ROBERTA,
        double_separator=True,
        head=(("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)),
        replaced=3,
    ),
    "camembert": Family(
        "CamembertTokenizer",
        SENTENCEPIECE,
        _ROBERTA,
        double_separator=True,
        head=(
            ("<s>NOTUSED", 0.0),
            ("<pad>", 0.0),
            ("</s>NOTUSED", 0.0),
            ("<unk>", 0.0),
            ("<unk>NOTUSED", -100.0),
        ),
        replaced=1,
        extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
    ),
}

_CLASSES = {
    **{family.tokenizer_class: name for name, family in reversed(FAMILIES.items())},
    "DistilBertTokenizer": "distilbert",
    "ElectraTokenizer": "electra",
    "ErnieTokenizer": "ernie",
    "RobertaBPETokenizer": "roberta",  # PaddleNLP's
}

_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Families that number positions from the padding token's id + 1: 514 positions hold 512 tokens.

MPNet's is 1, whatever its configuration says."""


def is_family_class(name: object) -> bool:
    """Whether a name is that of a family's tokenizer, and not of one for any tokenizer.json."""
    return isinstance(name, str) and name.removesuffix("Fast") in _CLASSES


def family_name(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """The family that tokenizer_config.json's class, or else config.json's model_type, names."""
    for said in (settings.get("tokenizer_class"), config.get("tokenizer_class")):
        if is_family_class(said):
            return _CLASSES[str(said).removesuffix("Fast")]
    said = config.get("model_type")
    return said if isinstance(said, str) and said in FAMILIES else None


def vocabulary_files(directory: Path, kind: str) -> tuple[Path, ...] | None:
    """The files of a vocabulary of this kind, where all of them lie in the directory."""
    for names in FILES[kind]:
        if all((directory / name).is_file() for name in names):
            return tuple(directory / name for name in names)
    return None


def position_limit(config: Mapping[str, Any], name: str | None) -> int | None:
    """How many tokens a model of this configuration has positions for, where it says so."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or isinstance(positions, bool):
        return None
    family = config.get("model_type", name)
    if family not in _POSITIONS_AFTER_PADDING:
        return positions
    padding = 1 if family == "mpnet" else config.get("pad_token_id", 1)
    return positions - (padding if isinstance(padding, int) else 1) - 1
