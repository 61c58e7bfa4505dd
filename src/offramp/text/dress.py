"""What a tokenizer does around its vocabulary: before, after, and back to text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tokenizers
from tokenizers import Regex, decoders, normalizers, pre_tokenizers, processors

from offramp.text.families import BYTE_LEVEL, SENTENCEPIECE, WORDPIECE, Family

SPACE = "\u2581"
"""The letter that stands for a space in SentencePiece's pieces."""


class Spaces(NamedTuple):
    """What a SentencePiece model does with spaces."""

    charsmap: bytes = b""
    add_prefix: bool = True
    remove_extra: bool = True
    byte_fallback: bool = False


class Dress(NamedTuple):
    """The steps around a vocabulary; None for a step that is not taken."""

    normalizer: Any
    pre_tokenizer: Any
    post_processor: Any
    decoder: Any

    def put_on(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Give the steps to a tokenizer."""
        for name, step in self._asdict().items():
            if step is not None:
                setattr(tokenizer, name, step)

    def is_worn_by(self, tokenizer: tokenizers.Tokenizer) -> bool:
        """Whether a tokenizer takes these steps and no others."""
        return all(
            state(step) == state(getattr(tokenizer, name)) for name, step in self._asdict().items()
        )


def state(step: Any) -> Any:
    """A step as tokenizer.json has it."""
    return None if step is None else json.loads(step.__getstate__())


def dress(
    family: Family,
    special: Mapping[str, str],
    number: Callable[[str], int | None],
    settings: Mapping[str, Any],
    spaces: Spaces,
) -> Dress:
    """A family's steps. `special` is role -> token, and `number` gives a token's id."""
    cls, sep = special["cls_token"], special["sep_token"]
    ids = {token: number(token) or 0 for token in (cls, sep)}
    if family.kind == SENTENCEPIECE:
        return Dress(
            _letters(family, settings, spaces),
            _words(spaces),
            _template(family, cls, sep, ids),
            _to_text(spaces),
        )
    trim, prefix = bool(settings.get("trim_offsets", True)), _prefix_space(settings)
    roberta = processors.RobertaProcessing((sep, ids[sep]), (cls, ids[cls]), trim, prefix)
    if family.kind == BYTE_LEVEL:
        return Dress(
            None,
            pre_tokenizers.ByteLevel(add_prefix_space=prefix),
            roberta,
            decoders.ByteLevel(),
        )
    accents = settings.get("strip_accents")
    return Dress(
        normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
            strip_accents=accents if isinstance(accents, bool) else None,
            lowercase=bool(settings.get("do_lower_case", True)),
        ),
        pre_tokenizers.BertPreTokenizer(),
        processors.RobertaProcessing((sep, ids[sep]), (cls, ids[cls]), True, False)
        if family.double_separator
        else _template(family, cls, sep, ids),
        decoders.WordPiece(prefix="##"),
    )


def expected_model(family: Family, special: Mapping[str, str], unknown: int) -> dict[str, Any]:
    """What transformers' class for a family takes the model's settings to be, vocabulary aside."""
    if family.kind == WORDPIECE:
        return {
            "type": "WordPiece",
            "unk_token": special["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        }
    if family.kind == BYTE_LEVEL:
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
        }
    return {"type": "Unigram", "unk_id": unknown, "byte_fallback": False}


def _prefix_space(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("add_prefix_space", False))


def _template(family: Family, cls: str, sep: str, ids: dict[str, int]) -> Any:
    # Lists and not strings: a token may have a space or a colon in it.
    second = 0 if family.double_separator else 1
    between = [sep, sep] if family.double_separator else [sep]
    return processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", *between, f"$B:{second}", f"{sep}:{second}"],
        special_tokens=list(ids.items()),
    )


def _letters(family: Family, settings: Mapping[str, Any], spaces: Spaces) -> Any:
    steps: list[Any] = []
    if family.tokenizer_class == "AlbertTokenizer":
        steps += [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not settings.get("keep_accents", False):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if settings.get("do_lower_case", True):
            steps.append(normalizers.Lowercase())
    if spaces.charsmap:
        steps.append(normalizers.Precompiled(spaces.charsmap))
    if spaces.remove_extra and not spaces.add_prefix:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    elif spaces.add_prefix and not spaces.remove_extra:
        # Metaspace adds no space where there is one; these models have one more there too.
        steps += [normalizers.Replace(" ", SPACE), normalizers.Prepend(SPACE)]
    if family.tokenizer_class == "AlbertTokenizer" or len(steps) > 1:
        return normalizers.Sequence(steps)
    return steps[0] if steps else None


def _words(spaces: Spaces) -> Any:
    metaspace = _metaspace(pre_tokenizers.Metaspace, spaces)
    if spaces.add_prefix and spaces.remove_extra:
        return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    return metaspace


def _to_text(spaces: Spaces) -> Any:
    metaspace = _metaspace(decoders.Metaspace, spaces)
    if spaces.byte_fallback:
        return decoders.Sequence([decoders.ByteFallback(), metaspace])
    return metaspace


def _metaspace(kind: Any, spaces: Spaces) -> Any:
    return kind(replacement=SPACE, prepend_scheme="always" if spaces.add_prefix else "never")
