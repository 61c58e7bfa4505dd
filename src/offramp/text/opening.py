"""Which of a directory's files a tokenizer is read from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from offramp.errors import DataError, ModelNotFoundError
from offramp.text.building import build
from offramp.text.charsmap import charsmap_fault, normalizer_charsmap
from offramp.text.families import (
    BYTE_LEVEL,
    FAMILIES,
    SENTENCEPIECE,
    WORDPIECE,
    is_family_class,
    vocabulary_files,
)
from offramp.text.files import file_bytes, file_text
from offramp.text.normalizing import apply_settings, growth_fault

FILE = "tokenizer.json"


def open_tokenizer(
    directory: Path, settings: Mapping[str, Any], name: str | None
) -> tuple[tokenizers.Tokenizer, str | None]:
    """The tokenizer of a directory and its family, of which `name` is what the files say.

    ModelNotFoundError where there is none, DataError where it is not sound.
    """
    whole = directory / FILE
    if whole.is_file():
        tokenizer = _from_file(whole)
        if is_family_class(settings.get("tokenizer_class")):
            apply_settings(tokenizer, settings)
        return tokenizer, name
    if whole.is_symlink() or whole.exists():  # a download that was cut off, say: not passed over
        raise DataError(f"{whole} is no file, or a link that leads to none. Fetch it again.")
    if name is not None:
        files = vocabulary_files(directory, FAMILIES[name].kind)
        if files is not None:
            return build(FAMILIES[name], files, settings), name
    # Chinese RoBERTas come with BERT's vocabulary: what lies there is what counts.
    for kind in (WORDPIECE, BYTE_LEVEL, SENTENCEPIECE):
        files = vocabulary_files(directory, kind)
        if files is not None:
            likely = _likely(kind, files[0])
            return build(FAMILIES[likely], files, settings), likely
    raise ModelNotFoundError(
        f"{directory} has no tokenizer. Expected {FILE} or vocab.txt, vocab.json with merges.txt, "
        "spiece.model or sentencepiece.bpe.model beside the weights."
    )


def _from_file(path: Path) -> tokenizers.Tokenizer:
    content = file_bytes(path)
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
        fault = charsmap_fault(normalizer_charsmap(tokenizer)) or growth_fault(tokenizer)
        if fault:
            raise ValueError(fault)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a bare Exception, or a Rust panic, which is none
        raise DataError(f"{path} cannot be read: {error}.") from error
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None  # or a text would be cut otherwise in every call
    return tokenizer


def _likely(kind: str, path: Path) -> str:
    """The family of a vocabulary of which no file says more than its name does."""
    if kind == BYTE_LEVEL:
        return "roberta"
    if kind == WORDPIECE:
        tokens = {line.strip() for line in file_text(path).split("\n")}
        return "mpnet" if "<s>" in tokens and "[CLS]" not in tokens else "bert"
    if path.name == "spiece.model":
        return "albert"
    raise DataError(
        f"{path} may be XLM-RoBERTa's or CamemBERT's, which number its pieces differently. Add a "
        'config.json with {"model_type": "xlm-roberta"} or {"model_type": "camembert"}.'
    )
