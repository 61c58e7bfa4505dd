"""SentencePiece's model file, without protobuf.

The file is one protobuf message (https://protobuf.dev/programming-guides/encoding/) whose fields
are given in https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto.
What is read here are its pieces and what a tokenizer does before it looks for them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offramp.errors import DataError
from offramp.text.charsmap import charsmap_fault
from offramp.text.files import file_bytes

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""What a piece is: `SentencePiece.Type`."""

UNIGRAM, BPE = 1, 2
"""`TrainerSpec.ModelType`. Files of words (3) and of characters (4) are of no use to a model."""

_MOST_BYTES = 64 * 2**20  # XLM-R's 250,000 pieces take 5 MB
_MOST_PIECES = 4_000_000

_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5  # wire types; groups (3, 4) are of protobuf 1


@dataclass(frozen=True)
class SentencePieceModel:
    """What a SentencePiece file says. Lists have one entry a piece."""

    pieces: list[str]
    scores: list[float]
    kinds: list[int]
    unknown: int
    """The number of the piece that stands for what no other piece covers."""
    algorithm: int = UNIGRAM
    byte_fallback: bool = False
    space_is_a_suffix: bool = False
    charsmap: bytes = b""
    """What replaces which letters, compiled (`offramp.text.charsmap`); empty for nothing."""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


class _UnsoundError(Exception):
    """What is wrong, and at which byte."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """The model in a file. DataError for whatever is not a sound one."""
    content = file_bytes(path, _MOST_BYTES)
    try:
        return _model(content)
    except _UnsoundError as error:
        raise DataError(
            f"{path} is not a sound SentencePiece model: {error} (byte {error.offset}). "
            "Fetch the file again."
        ) from None


# Fields: number -> (name, wire type). What is not listed is passed over.
_MODEL = {1: ("pieces", _LENGTH), 2: ("trainer_spec", _LENGTH), 3: ("normalizer_spec", _LENGTH)}
_PIECE = {1: ("piece", _LENGTH), 2: ("score", _FOUR), 3: ("type", _VARINT)}
_TRAINER = {
    3: ("algorithm", _VARINT),
    24: ("space_is_a_suffix", _VARINT),
    35: ("byte_fallback", _VARINT),
}
_NORMALIZER = {
    2: ("charsmap", _LENGTH),
    3: ("add_dummy_prefix", _VARINT),
    4: ("remove_extra_whitespaces", _VARINT),
    5: ("escape_whitespaces", _VARINT),
}


def _model(data: bytes) -> SentencePieceModel:
    pieces: list[str] = []
    scores: list[float] = []
    kinds: list[int] = []
    values: dict[str, Any] = {}
    for name, value, start in _fields(data, 0, len(data), _MODEL):
        if name == "pieces":
            if len(pieces) == _MOST_PIECES:
                raise _UnsoundError(f"more than {_MOST_PIECES} pieces", start)
            piece, score, kind = _piece(data, start, value)
            pieces.append(piece)
            scores.append(score)
            kinds.append(kind)
        elif name == "trainer_spec":
            values |= {
                known: found if known == "algorithm" else bool(found)
                for known, found, _ in _fields(data, start, value, _TRAINER)
            }
        else:
            for known, found, at in _fields(data, start, value, _NORMALIZER):
                values[known] = data[at:found] if known == "charsmap" else bool(found)
                fault = charsmap_fault(values[known]) if known == "charsmap" else None
                if fault:
                    raise _UnsoundError(fault, at)
    if len(set(pieces)) < len(pieces):
        raise _UnsoundError("a piece is there twice", len(data))
    if kinds.count(UNKNOWN) != 1:
        raise _UnsoundError(
            f"{kinds.count(UNKNOWN)} pieces for unknown text, where there is to be one", len(data)
        )
    return SentencePieceModel(pieces, scores, kinds, kinds.index(UNKNOWN), **values)


def _piece(data: bytes, start: int, end: int) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for name, value, at in _fields(data, start, end, _PIECE):
        if name == "piece":
            try:
                text = data[at:value].decode("utf-8")
            except UnicodeDecodeError:
                raise _UnsoundError("a piece is not UTF-8", at) from None
        elif name == "score":
            score = value
        else:
            kind = value
    if not text:
        raise _UnsoundError("an empty piece", start)
    if not math.isfinite(score):
        raise _UnsoundError(f"the score of a piece is {score}", start)
    if not NORMAL <= kind <= BYTE:
        raise _UnsoundError(f"a piece is of kind {kind}, which there is not", start)
    return text, score, kind


def _fields(
    data: bytes, start: int, end: int, known: dict[int, tuple[str, int]]
) -> Iterator[tuple[str, Any, int]]:
    """The known fields of the message in data[start:end]: name, value, and where it starts.

    The value of bytes (and of a message) is where they end.
    """
    at = start
    while at < end:
        tag_at = at
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        field_start = at
        value: Any
        if wire == _LENGTH:
            length, field_start = _varint(data, at, end)
            at = value = field_start + length
        elif wire == _VARINT:
            value, at = _varint(data, at, end)
        elif wire == _FOUR:
            at += 4
            value = struct.unpack_from("<f", data, field_start)[0] if at <= end else None
        elif wire == _EIGHT:
            at += 8
            value = None
        else:
            raise _UnsoundError(f"a field of wire type {wire}", tag_at)
        if number == 0:
            raise _UnsoundError("a field of number 0", tag_at)
        if at > end:
            raise _UnsoundError("a field goes beyond the end of what holds it", tag_at)
        if number in known:
            name, expected = known[number]
            if wire != expected:
                raise _UnsoundError(
                    f"the field {name} is of wire type {wire}; expected {expected}", tag_at
                )
            yield name, value, field_start


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    for position in range(at, min(at + 10, end)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), position + 1
        shift += 7
    raise _UnsoundError("a number does not end", at)
