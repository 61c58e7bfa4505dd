"""A `tokenizers.Tokenizer` from the vocabulary files that a family's models come with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from offramp.errors import DataError, UnsupportedError
from offramp.text.dress import Spaces, dress
from offramp.text.families import BYTE_LEVEL, SENTENCEPIECE, WORDPIECE, Family
from offramp.text.files import check_size, file_text, read_json
from offramp.text.sentencepiece import (
    BPE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
    read_sentencepiece,
)
from offramp.text.special import add_special, special_tokens


def build(
    family: Family, files: tuple[Path, ...], settings: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """The tokenizer of a family's vocabulary files. DataError for those that are not sound."""
    special = special_tokens(family, settings)
    spaces = Spaces()
    own: list[tokenizers.AddedToken] = []
    try:
        if family.kind == WORDPIECE:
            model: Any = _wordpiece(files[0], special["unk_token"])
        elif family.kind == BYTE_LEVEL:
            model = _byte_level(*files)
        else:
            found = read_sentencepiece(files[0])
            model, spaces, own = _sentencepiece(found, family, special, files[0])
        tokenizer = tokenizers.Tokenizer(model)
        for role in ("cls_token", "sep_token", "unk_token"):
            # Without them the first text, or the first unknown word, would be an error.
            if tokenizer.token_to_id(special[role]) is None:
                raise ValueError(f"{special[role]} is not in it")
        dress(family, special, tokenizer.token_to_id, settings, spaces).put_on(tokenizer)
        tokenizer.add_tokens(own)
        add_special(tokenizer, family, settings)
    except (DataError, UnsupportedError):
        raise
    except Exception as error:  # the library raises TypeError and bare Exceptions
        raise DataError(
            f"{' and '.join(map(str, files))}: not the {_WHAT[family.kind]} of a "
            f"{family.tokenizer_class}: {error}. The special tokens are those that "
            "tokenizer_config.json names, "
            f"{', '.join(dict.fromkeys(family.special.values()))} by default."
        ) from error
    return tokenizer


_WHAT = {
    WORDPIECE: "BERT vocabulary (one token a line, UTF-8)",
    BYTE_LEVEL: "byte-level BPE vocabulary (JSON) with its merges (one a line)",
    SENTENCEPIECE: "SentencePiece model",
}


def _wordpiece(path: Path, unknown: str) -> models.WordPiece:
    check_size(path)
    vocabulary = models.WordPiece.read_file(str(path))
    if vocabulary and all("\t" in token for token in vocabulary):
        # ERNIE 1.0's lines are a token, a tab, and the token's id.
        vocabulary = {token.split("\t")[0]: i for token, i in vocabulary.items()}
    return models.WordPiece(vocabulary, unk_token=unknown)


def _byte_level(vocabulary_path: Path, merges_path: Path) -> models.BPE:
    vocabulary = read_json(vocabulary_path)
    if not all(isinstance(i, int) and 0 <= i < 2**32 for i in vocabulary.values()):
        raise ValueError(f"{vocabulary_path.name} is not an object of tokens and their ids")
    merges: list[tuple[str, str]] = []
    for line, content in enumerate(file_text(merges_path).split("\n"), start=1):
        content = content.rstrip("\r")
        if not content or (line == 1 and content.startswith("#version")):
            continue
        left, space, right = content.partition(" ")
        if not (left and space and right) or " " in right:
            raise ValueError(f"line {line} of {merges_path.name} is not two pieces: {content!r}")
        merges.append((left, right))
    return models.BPE(
        vocab=vocabulary,
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix="",
        fuse_unk=False,
    )


def _sentencepiece(
    found: SentencePieceModel, family: Family, special: Mapping[str, str], path: Path
) -> tuple[Any, Spaces, list[tokenizers.AddedToken]]:
    """The model, what it does with spaces, and the tokens that are never split."""
    if (
        found.algorithm not in (UNIGRAM, BPE)
        or found.space_is_a_suffix
        or not found.escape_whitespaces
    ):
        raise UnsupportedError(
            f"{path} is of words or characters, or has its spaces at the ends of pieces; "
            "expected a unigram or BPE model with spaces before words. Convert it to "
            "tokenizer.json where its own library is installed."
        )
    scores = found.scores
    if family.tokenizer_class == "AlbertTokenizer":
        # ALBERT cuts the comma off a number; a piece that has both is to be the last resort.
        scores = [
            score - 100 if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit() else score
            for piece, score in zip(found.pieces, scores, strict=True)
        ]
    pairs = list(zip(found.pieces, scores, strict=True))
    unknown, unknown_piece = found.unknown, found.pieces[found.unknown]
    own = [
        tokenizers.AddedToken(piece, normalized=False, special=kind == CONTROL)
        for piece, kind in zip(found.pieces, found.kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    if family.head:
        if found.unknown != 0 or len(pairs) <= family.replaced:
            raise ValueError("its first piece is not the one for unknown text")
        given = dict(zip((p for p, _ in family.head), family.head, strict=True))
        for role, default in family.special.items():
            if default in given and special[role] != default:
                given[default] = (special[role], given[default][1])
        dropped = {piece for piece, _ in pairs[: family.replaced]}
        pairs = [*given.values(), *pairs[family.replaced :], (special["mask_token"], 0.0)]
        unknown, unknown_piece = 3, special["unk_token"]
        own = [token for token in own if token.content not in dropped]
        if len({piece for piece, _ in pairs}) < len(pairs):
            raise ValueError("it has a piece of the name of a special token")
    spaces = Spaces(
        found.charsmap,
        found.add_dummy_prefix,
        found.remove_extra_whitespaces,
        found.byte_fallback,
    )
    if found.algorithm == UNIGRAM:
        return models.Unigram(pairs, unknown, found.byte_fallback), spaces, own
    model = models.BPE(
        vocab={piece: i for i, (piece, _) in enumerate(pairs)},
        merges=_merges(found),
        unk_token=unknown_piece,
        fuse_unk=True,
        byte_fallback=found.byte_fallback,
    )
    return model, spaces, own


def _merges(found: SentencePieceModel) -> list[tuple[str, str]]:
    """The merges of a BPE model, which its file has as scores: the best piece is merged first.

    A piece stands for all the ways in which two others make it up.
    """
    usable = {
        piece: (-score, i)
        for i, (piece, score, kind) in enumerate(
            zip(found.pieces, found.scores, found.kinds, strict=True)
        )
        if kind in (NORMAL, UNUSED)  # an unused piece is a step on the way to others
    }
    merges = [
        (rank, piece[:cut], piece[cut:])
        for piece, rank in usable.items()
        for cut in range(1, len(piece))
        if piece[:cut] in usable and piece[cut:] in usable
    ]
    merges.sort(key=lambda merge: merge[0])  # stable: cuts stay from left to right
    return [(left, right) for _, left, right in merges]
