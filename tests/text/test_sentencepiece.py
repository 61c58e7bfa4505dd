"""SentencePiece's file is read as it is written, and a bad one is refused, whatever is in it."""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from family_kit import GOLDEN, TEXTS

from offramp.errors import DataError, UnsupportedError
from offramp.text.charsmap import charsmap_fault, normalizer_charsmap
from offramp.text.sentencepiece import read_sentencepiece
from offramp.text.tokenizer import Tokenizer

EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
MODELS = sorted(GOLDEN.glob("*.model"))


# A writer of protobuf's wire format, written from its specification and used by these tests alone.
def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def real(field: int, value: float) -> bytes:
    return varint(field << 3 | 5) + struct.pack("<f", value)


def piece(text: str | bytes, score: float = 0.0, kind: int | None = None) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    body = block(1, raw) + real(2, score)
    return block(1, body + (b"" if kind is None else number(3, kind)))


HEAD = piece("<unk>", 0.0, 2) + piece("<s>", 0.0, 3) + piece("</s>", 0.0, 3)
BODY = HEAD + piece("\u2581a", -1.5) + piece("b", -2.25) + piece("\u2581", -3.0)


def read(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "spiece.model"
    path.write_bytes(content)
    return read_sentencepiece(path)


def opened(tmp_path: Path, content: bytes) -> Tokenizer:
    (tmp_path / "config.json").write_text('{"model_type": "xlm-roberta"}')
    (tmp_path / "sentencepiece.bpe.model").write_bytes(content)
    return Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_golden_files_say_what_the_library_says(path: Path) -> None:
    said, found = EXPECTED[path.stem], read_sentencepiece(path)
    assert found.pieces == said["pieces"]
    assert found.scores == said["scores"]
    assert found.unknown == said["unknown"]
    assert [i for i, kind in enumerate(found.kinds) if kind == 3] == said["control"]
    assert found.algorithm == (2 if "bpe" in path.stem else 1)
    assert found.byte_fallback == ("bytes" in path.stem)
    assert found.add_dummy_prefix == (path.stem != "no_prefix")
    assert found.remove_extra_whitespaces == (path.stem != "keep_spaces")
    assert found.escape_whitespaces and not found.space_is_a_suffix and found.charsmap


def test_golden_files_by_protobuf_itself() -> None:
    pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    from transformers.utils import sentencepiece_model_pb2_new as schema

    for path in MODELS:
        said, found = schema.ModelProto(), read_sentencepiece(path)
        said.ParseFromString(path.read_bytes())
        assert found.pieces == [p.piece for p in said.pieces]
        assert found.kinds == [p.type for p in said.pieces]
        assert found.charsmap == said.normalizer_spec.precompiled_charsmap
        assert found.add_dummy_prefix == said.normalizer_spec.add_dummy_prefix
        assert found.algorithm == said.trainer_spec.model_type


def test_written_by_hand(tmp_path: Path) -> None:
    unread = number(4, 300) + block(45, b"<unk>") + real(10, 0.5) + varint(12 << 3 | 1) + bytes(8)
    trainer = block(2, number(3, 1) + unread + number(35, 1))
    normalizer = block(3, block(1, b"identity") + number(4, 0))
    found = read(tmp_path, BODY + trainer + normalizer + block(4, b"self test") + number(200, 1))
    assert found.pieces == ["<unk>", "<s>", "</s>", "\u2581a", "b", "\u2581"]
    assert found.scores == [0.0, 0.0, 0.0, -1.5, -2.25, -3.0]
    assert found.kinds == [2, 3, 3, 1, 1, 1]
    assert (found.unknown, found.byte_fallback, found.remove_extra_whitespaces) == (0, True, False)
    assert (found.algorithm, found.charsmap, found.add_dummy_prefix) == (1, b"", True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 pieces for unknown"),
        (piece("a"), "0 pieces for unknown"),
        (HEAD + piece("?", 0.0, 2), "2 pieces for unknown"),
        (BODY + piece("b"), "there twice"),
        (BODY + piece(""), "an empty piece"),
        (BODY + piece(b"\xff\xfe"), "not UTF-8"),
        (BODY + piece(b"\xed\xa0\x80"), "not UTF-8"),  # a surrogate
        (BODY + piece("x", float("nan")), "score of a piece is nan"),
        (BODY + piece("x", float("inf")), "score of a piece is inf"),
        (BODY + piece("x", 0.0, 0), "of kind 0"),
        (BODY + piece("x", 0.0, 7), "of kind 7"),
        (BODY + piece("x", 0.0, 2**64 - 1), "of kind 18446744073709551615"),
        (BODY[:-1], "beyond the end"),
        (BODY + b"\x0a", "does not end"),
        (BODY + b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "beyond the end"),
        (BODY + b"\x0a" + b"\xff" * 20, "does not end"),
        (BODY + b"\x0b", "wire type 3"),
        (BODY + b"\x0c", "wire type 4"),
        (BODY + b"\x0e", "wire type 6"),
        (BODY + b"\x00\x00", "number 0"),
        (BODY + number(1, 5), "pieces is of wire type 0; expected 2"),
        (BODY + real(3, 1.0), "normalizer_spec is of wire type 5"),
        (BODY + block(1, number(1, 5)), "piece is of wire type 0"),
        (BODY + block(1, block(1, b"x") + number(2, 5)), "score is of wire type 0"),
        (BODY + block(1, block(1, b"x") + varint(2 << 3 | 5) + b"\0\0"), "beyond the end"),
        (BODY + block(2, block(3, b"x")), "algorithm is of wire type 2"),
        (BODY + block(3, number(2, 5)), "charsmap is of wire type 0"),
        (BODY + block(3, block(2, b"abc")), "cut off"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert "spiece.model" in str(caught.value) and "byte" in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_sentencepiece(tmp_path / "absent")
    with pytest.raises(DataError, match="is a directory"):
        read_sentencepiece(tmp_path)
    monkeypatch.setattr("offramp.text.sentencepiece._MOST_BYTES", 10)
    with pytest.raises(DataError, match="longer than 10 bytes"):
        read(tmp_path, BODY)
    monkeypatch.undo()
    monkeypatch.setattr("offramp.text.sentencepiece._MOST_PIECES", 3)
    with pytest.raises(DataError, match="more than 3 pieces"):
        read(tmp_path, BODY)


@pytest.mark.parametrize(
    "trainer", [number(3, 3), number(3, 4), number(3, 99), number(24, 1)], ids=str
)
def test_models_of_another_sort_are_refused(trainer: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="expected a unigram or BPE"):
        opened(tmp_path, BODY + block(2, trainer))


def test_a_file_whose_first_pieces_are_others(tmp_path: Path) -> None:
    swapped = piece("<s>", 0.0, 3) + piece("<unk>", 0.0, 2) + piece("</s>", 0.0, 3) + piece("x")
    with pytest.raises(DataError, match="first piece"):
        opened(tmp_path, swapped)
    with pytest.raises(DataError, match="name of a special token"):
        opened(tmp_path, BODY + piece("<mask>", -9.0))


def charsmap(units: list[int], texts: bytes = b"x\0") -> bytes:
    return struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + texts


LEAF, HAS_LEAF = 1 << 31, 1 << 8


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (b"\0", "cut off"),
        (b"\0\0\0\0", "cut off"),
        (struct.pack("<I", 400) + bytes(8), "cut off"),
        (struct.pack("<I", 6) + bytes(16), "cut off"),
        (charsmap([0] * 255), "outside"),
        (charsmap([1 << 20] + [0] * 255), "outside"),
        (charsmap([0xFFFFFFFF & ~LEAF] + [0] * 255), "outside"),
        (charsmap([HAS_LEAF | 1 << 10, LEAF | 9] + [0] * 254), "not there"),
        (charsmap([HAS_LEAF | 1 << 10, LEAF | 1] + [0] * 254, "é\0".encode()), "not there"),
        (charsmap([0] * 256, b"\xff\0"), "not UTF-8"),
        (charsmap([HAS_LEAF | 1 << 10, LEAF] + [0] * 254), None),
        (b"", None),
    ],
)
def test_tables_of_letters(table: bytes, fault: str | None, tmp_path: Path) -> None:
    found = charsmap_fault(table)
    assert (found is None) if fault is None else (fault in str(found))
    if fault is not None:
        with pytest.raises(DataError, match=fault):
            read(tmp_path, BODY + block(3, block(2, table)))


def test_an_unsound_table_in_tokenizer_json_is_refused(tmp_path: Path) -> None:
    # The library takes the table and panics at the first text, past every `except Exception`.
    ours = opened(tmp_path, (GOLDEN / "unigram.model").read_bytes())
    ours.save_pretrained(tmp_path)
    made = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert normalizer_charsmap(made) == read_sentencepiece(GOLDEN / "unigram.model").charsmap
    bad = tokenizers.normalizers.Precompiled(charsmap([1 << 20] + [0] * 255))
    for step in (bad, tokenizers.normalizers.Sequence([tokenizers.normalizers.NFC(), bad])):
        made.normalizer = step
        made.save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(DataError, match="leads outside"):
            Tokenizer.from_pretrained(tmp_path)


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def drop(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 40)]


def grow(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start:start] = rng.randbytes(rng.randrange(1, 12))


def length(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data)) :][:10] = b"\xff" * 9 + b"\x01"


def end(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def copy(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data += data[start : start + rng.randrange(200)]


def unit(data: bytearray, rng: random.Random) -> None:
    # In the table of letters, which is most of these files.
    start = rng.randrange(max(1, len(data) - 4))
    data[start : start + 4] = struct.pack("<I", rng.getrandbits(32))


CHANGES: list[Callable[[bytearray, random.Random], None]] = [
    flip, flip, flip, drop, grow, length, end, copy, unit, unit,
]  # fmt: skip


def test_damaged_files_are_refused_or_read_and_never_more(tmp_path: Path) -> None:
    rng = random.Random(7)
    sound = [path.read_bytes() for path in MODELS if path.stem != "albert"]
    sound.append(BODY + block(3, block(2, charsmap([HAS_LEAF | 1 << 10, LEAF] + [0] * 254))))
    refused = accepted = 0
    tracemalloc.start()
    start = time.monotonic()
    for _ in range(1500):
        data = bytearray(rng.choice(sound))
        for _ in range(rng.randrange(1, 4)):
            rng.choice(CHANGES)(data, rng)
            data = data or bytearray(b"\n")
        try:
            tokenizer = opened(tmp_path, bytes(data))
        except (DataError, UnsupportedError):
            refused += 1
            continue
        tokenizer.tokenize(TEXTS)  # a panic of the library would end the test
        accepted += 1
    assert time.monotonic() - start < 120
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()
    assert refused > 300 and accepted > 100
