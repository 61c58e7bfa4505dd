"""Whether SentencePiece's compiled table of letters can be looked up without leaving it.

The table is a length, a double-array trie of 32-bit units (darts-clone's), and the replacements,
parted by NUL bytes. The `tokenizers` library follows the units without looking at where they lead,
and a file may be written so that it ends the process's call with a Rust panic, which no
`except Exception` catches. So each step that can be taken is checked here first.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import numpy as np
import tokenizers

_WORD = 4  # bytes
_IS_VALUE = 1 << 31
_HAS_VALUE = 1 << 8


def charsmap_fault(table: bytes) -> str | None:
    """What is wrong with the table, or None. An empty one changes nothing and is sound."""
    if not table:
        return None
    size = int.from_bytes(table[:_WORD], "little")
    if len(table) < _WORD or size % _WORD or not 0 < size <= len(table) - _WORD:
        return "the table of letters is cut off"
    units = np.frombuffer(table, "<u4", count=size // _WORD, offset=_WORD).astype(np.int64)
    try:
        texts = table[_WORD + size :].decode("utf-8").encode("utf-8")
    except UnicodeDecodeError:
        return "the replacements in the table of letters are not UTF-8"
    is_value = units >= _IS_VALUE
    if not len(units) or is_value[0]:  # the library follows the root whatever it says
        return "the table of letters has no root"
    # From a unit its offset leads to a block, and any byte of the text to a unit of that block.
    blocks = np.arange(len(units)) ^ ((units >> 10) << ((units & 512) >> 6))
    if ((blocks | 255) >= len(units))[~is_value].any():
        return "the table of letters leads outside of itself"
    values = units[blocks[~is_value & (units & _HAS_VALUE > 0)]] & (_IS_VALUE - 1)
    # A replacement has to start at a letter, not inside of one.
    starts = (np.frombuffer(texts, np.uint8) & 0xC0) != 0x80
    if (values >= len(texts)).any() or not starts[values].all():
        return "the table of letters names a replacement that is not there"
    return None


def normalizer_charsmap(tokenizer: tokenizers.Tokenizer) -> bytes:
    """The table that a tokenizer's normalizer holds; empty where it holds none.

    ValueError where the tokenizer says what cannot be.
    """
    if tokenizer.normalizer is None:
        return b""
    steps: list[Any] = [json.loads(tokenizer.normalizer.__getstate__())]
    for step in steps:  # which grows
        if step.get("type") == "Precompiled":
            try:
                return base64.b64decode(step.get("precompiled_charsmap", ""), validate=True)
            except binascii.Error as error:
                raise ValueError(f"the table of letters is not base64 ({error})") from error
        steps += step.get("normalizers", ())
    return b""
