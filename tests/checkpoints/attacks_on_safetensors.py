"""Attacks on safetensors files: https://huggingface.co/docs/safetensors/index#format"""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from attack_kit import (
    LOADS,
    SIZES,
    WEIGHT,
    Array,
    Attack,
    Builder,
    Sound,
    cuts,
    refused,
    rows,
    safetensors,
    save,
    sound_safetensors,
    sound_torch,
    write_config,
)

HEADER = refused("header")
CUT = refused("truncated", "header")
NAME = refused("header", "tensors")
FILL = refused("tensors")
TYPE = refused("header", "tensors", "unsupported")
"""For a type that the format may have and weights do not."""

AFTER = "pooler.dense.weight"
"""The tensor that lies after `WEIGHT`: 8 x 8 numbers in bytes 32 to 288."""
LIMIT = 25 * 2**20
"""Bytes of the longest header."""
Edit: TypeAlias = Callable[[dict[str, Any]], object]


# ---------------------------------------------------------------- ways to spoil a file


def said(length: int) -> Builder:
    """A header that is said to be so long."""
    return save(lambda sound: safetensors(sound.header(), sound.data(), length))


def said_longer(by: int) -> Builder:
    def make(sound: Sound) -> bytes:
        text = json.dumps(sound.header()).encode()
        return safetensors(text, sound.data(), len(text) + by)

    return save(make)


def text(change: Callable[[bytes], bytes]) -> Builder:
    """The header's text changed."""
    return save(
        lambda sound: safetensors(change(json.dumps(sound.header()).encode()), sound.data())
    )


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """What `text` takes: `old` in the header, where it stands first, is `new`."""
    return lambda header: header.replace(old, new, 1)


def header(edit: Edit, more: bytes = b"") -> Builder:
    """The header's mapping edited in place; `more` bytes at the end of the data."""

    def make(sound: Sound) -> bytes:
        mapping = sound.header()
        edit(mapping)
        return safetensors(mapping, sound.data() + more)

    return save(make)


def whole_entry(value: Any) -> Builder:
    """`WEIGHT`'s entry replaced."""
    return header(lambda mapping: mapping.update({WEIGHT: value}))


def entry(**changes: Any) -> Builder:
    """`WEIGHT`'s entry with other values; a key that is `...` goes."""

    def edit(mapping: dict[str, Any]) -> None:
        changed = mapping[WEIGHT] | changes
        mapping[WEIGHT] = {key: value for key, value in changed.items() if value is not ...}

    return header(edit)


def beside(name: str, content: bytes = bytes(4), **changes: Any) -> Builder:
    """One tensor more, which but for its name and the changes is as it should be: one number."""

    def edit(mapping: dict[str, Any]) -> None:
        end = max(entry["data_offsets"][1] for entry in mapping.values())
        place = [end, end + len(content)]
        mapping[name] = {"dtype": "F32", "shape": [1], "data_offsets": place, **changes}

    return header(edit, content)


def metadata(value: Any) -> Builder:
    return header(lambda mapping: mapping.update(__metadata__=value))


def moved(by: int, first: int = 0) -> Edit:
    """Tensors from the `first` on lie `by` bytes further on than they do."""

    def edit(mapping: dict[str, Any]) -> None:
        for entry in list(mapping.values())[first:]:
            entry["data_offsets"] = [place + by for place in entry["data_offsets"]]

    return edit


def longer_entry(mapping: dict[str, Any]) -> None:
    """A tensor that has more bytes than numbers, and the others after those."""
    moved(4, first=1)(mapping)
    mapping[WEIGHT]["data_offsets"] = [0, 36]


def all_at_once(mapping: dict[str, Any]) -> None:
    """Every tensor where the first one lies."""
    for entry in mapping.values():
        begin, end = entry["data_offsets"]
        entry["data_offsets"] = [0, end - begin]


def reordered(order: Callable[[list[str]], list[str]]) -> Builder:
    """The entries of the header in another order than the tensors lie in."""

    def make(sound: Sound) -> bytes:
        mapping = sound.header()
        return safetensors({name: mapping[name] for name in order(list(mapping))}, sound.data())

    return save(make)


def weights_of(
    dtype: str, convert: Callable[[Array], Array], only: str = ""
) -> Callable[[Sound], bytes]:
    """The same numbers in another type; those of the tensors whose names begin with `only`."""

    def make(sound: Sound) -> bytes:
        mapping, data = sound.header(), b""
        for name, array in sound.arrays.items():
            other = name.startswith(only)
            content = (convert(array) if other else array).tobytes()
            place = [len(data), len(data) + len(content)]
            mapping[name] |= {"dtype": dtype if other else "F32", "data_offsets": place}
            data += content
        return safetensors(mapping, data)

    return make


def as_type(word: str) -> Callable[[Array], Array]:
    return lambda array: array.astype(word)


def upper_half(array: Array) -> Array:
    """bfloat16: the first two bytes of a float."""
    return (array.view(np.uint32) >> 16).astype(np.uint16)


def unfilled(size: int, start: bytes) -> Builder:
    """A file that begins so and is a hole from there on: its length costs nothing on the disk."""

    def build(directory: Path, sound: Sound) -> None:
        write_config(directory, sound)
        with (directory / "model.safetensors").open("wb") as file:
            file.write(start)
            file.truncate(size)

    return build


def large_vocabulary(directory: Path, sound: Sound) -> None:
    """A file as it should be, but of 2^25 words, whose gibibyte is a hole."""
    name = "embeddings.word_embeddings.weight"
    others = [other for other in sound.arrays if other != name]
    mapping, data = sound.header(others), sound.data(others)
    place = [len(data), len(data) + 2**30]
    mapping[name] = {"dtype": "F32", "shape": [2**25, 8], "data_offsets": place}
    content = safetensors(mapping, data)
    unfilled(len(content) + 2**30, content)(directory, sound)


def tiny_cuts(sound: Sound) -> Iterator[tuple[str, bytes]]:
    return cuts(safetensors(sound.header([WEIGHT]), sound.data([WEIGHT])))


def header_cuts(sound: Sound) -> Iterator[tuple[str, bytes]]:
    whole = sound_safetensors(sound)
    return cuts(whole, range(0, 8 + int.from_bytes(whole[:8], "little"), 7))


def border_cuts(sound: Sound) -> Iterator[tuple[str, bytes]]:
    """At each tensor's first byte, one before and one after."""
    whole = sound_safetensors(sound)
    start = 8 + int.from_bytes(whole[:8], "little")
    borders = accumulate((array.nbytes for array in sound.arrays.values()), initial=start)
    near = {place + step for place in borders for step in (-1, 0, 1)}
    return cuts(whole, sorted(place for place in near if place < len(whole)))


def many(copies: bytes) -> Callable[[Sound], bytes]:
    """A header of 24 million bytes, under the limit, that is a list of ever the same few."""
    count = 24_000_000 // (len(copies) + 1)
    return lambda sound: safetensors(b'{"x":[' + b",".join([copies] * count) + b"]}")


def many_entries(sound: Sound) -> bytes:
    entries = (b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(250_000))
    return safetensors(b"{" + b",".join(entries) + b"}")


# ---------------------------------------------------------------- the table

CUT_OFF = [
    Attack("a tiny file cut off at every byte", save(tiny_cuts), CUT),
    Attack("a header of many tensors cut off at every seventh byte", save(header_cuts), CUT),
    Attack("cut off at every tensor's border", save(border_cuts), CUT),
    Attack("a byte cut off", save(lambda sound: sound_safetensors(sound)[:-1]), CUT),
    Attack(
        "a byte cut off, opened as half precision",
        save(lambda sound: sound_safetensors(sound)[:-1]),
        CUT,
        options={"dtype": "float16"},
    ),
    Attack(
        "a byte cut off, the file and a configuration given",
        save(lambda sound: sound_safetensors(sound)[:-1]),
        CUT,
        opens="model.safetensors",
        options={"config": SIZES},
    ),
    Attack("a header and no data", save(lambda sound: safetensors(sound.header())), CUT),
    Attack("nothing", save(lambda sound: b""), CUT),
]

LENGTHS = [
    *rows(
        "a header of length {}",
        said,
        CUT,
        {
            "0": 0,
            "1": 1,
            "2": 2,
            "10^6, past the file": 10**6,
            "2^31": 2**31,
            "2^32": 2**32,
            "2^63 - 1": 2**63 - 1,
            "2^63": 2**63,
            "2^64 - 8, which overflows with the 8 bytes before it": 2**64 - 8,
            "2^64 - 1": 2**64 - 1,
        },
    ),
    Attack("a header said to be a byte shorter", said_longer(-1), CUT),
    Attack("a header said to reach into the data", said_longer(32), CUT),
    Attack("a header of 25 MiB and a byte", text(lambda t: t.ljust(LIMIT + 1)), HEADER),
    Attack(
        "a header of 500 MB that the file does have",
        unfilled(10**9, struct.pack("<Q", 5 * 10**8) + b"{"),
        HEADER,
    ),
    Attack("a gigabyte of zeros", unfilled(10**9, b""), CUT),
]

JSON = [
    *rows(
        "a header that is {}",
        text,
        HEADER,
        {
            "no JSON": lambda t: b"not JSON at all",
            "not UTF-8": replaced(b"pooler", b"pool\xffr"),
            "UTF-8 with a mark of byte order": lambda t: b"\xef\xbb\xbf" + t,
            "UTF-16": lambda t: t.decode().encode("utf-16"),
            "UTF-32": lambda t: t.decode().encode("utf-32"),
            "a list": lambda t: b"[" + t + b"]",
            "a text": lambda t: json.dumps(t.decode()).encode(),
            "a number": lambda t: b"1",
            "null": lambda t: b"null",
            "two documents": lambda t: t + b"{}",
            "in single quotes": lambda t: t.replace(b'"', b"'"),
            "ended by a comma": lambda t: t[:-1] + b",}",
            "commented": lambda t: b"{/**/" + t[1:],
            "after a space": lambda t: b" " + t,
            "padded with zeros": lambda t: t + bytes(8),
            "not a number in an offset": replaced(b"[0, 32]", b"[NaN, 32]"),
            "not a number in the metadata": replaced(b"{", b'{"__metadata__": {"a": NaN}, '),
            "infinite in an offset": replaced(b"[0, 32]", b"[0, Infinity]"),
            "infinite in an offset, as 1e400": replaced(b"[0, 32]", b"[0, 1e400]"),
            "of 5,000 digits in an offset": replaced(b"[0, 32]", b"[0, " + b"9" * 5000 + b"]"),
            "nested 100,000 lists deep": lambda t: b"[" * 100_000,
            "nested 100,000 entries deep": lambda t: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
            "nested 100,000 deep in a shape": replaced(b"[8]", b"[" * 100_000 + b"]" * 100_000),
            "one text without an end": lambda t: b'{"' + b"a" * 100_000,
            "empty, before data": lambda t: b"{}",
        },
    ),
    Attack("an empty header, and no data", save(lambda sound: safetensors({})), NAME),
    # Parsed, each of these takes many times its length.
    Attack("24 MB of empty lists", save(many(b"[]")), HEADER),
    Attack("24 MB of empty mappings", save(many(b"{}")), HEADER),
    Attack("24 MB of numbers", save(many(b"9999")), HEADER),
    Attack("a quarter million empty tensors", save(many_entries), NAME),
]

OFFSETS = [
    *rows(
        "data_offsets {}",
        lambda value: entry(data_offsets=value),
        HEADER,
        {
            "reversed": [32, 0],
            "before the data": [-32, 0],
            "with a negative end": [0, -32],
            "both negative": [-64, -32],
            "as fractions": [0.0, 32.0],
            "as truth values": [False, True],
            "as texts": ["0", "32"],
            "of 2^63": [2**63, 2**63 + 32],
            "of 2^64, which is 0 in 64 bits": [2**64, 2**64 + 32],
            "of 10^300": [0, 10**300],
            "that are null": None,
            "that are a number": 32,
            "that are a text": "0,32",
            "that are a mapping": {"0": 0, "1": 32},
            "that are none": [],
            "of one number": [32],
            "of three numbers": [0, 32, 64],
            "of null": [None, None],
            "in a list": [[0, 32]],
            "of no length": [0, 0],
            "too short for the shape": [0, 28],
            "that overlap with the next": [4, 36],
        },
    ),
    *rows(
        "data_offsets {}",
        lambda value: entry(data_offsets=value),
        CUT,
        {
            "past the file": [10**6, 10**6 + 32],
            "that end past the file": [0, 10**6],
        },
    ),
    Attack("more bytes than the shape takes", header(longer_entry, bytes(4)), HEADER),
    Attack(
        "two tensors in one place",
        header(lambda mapping: mapping.update({"embeddings.position_ids": mapping[WEIGHT]})),
        HEADER,
    ),
    Attack("all tensors in one place", header(all_at_once), HEADER),
    Attack("a hole between two tensors", header(moved(16, first=1), bytes(16)), HEADER),
    Attack("a hole before the first tensor", header(moved(8), bytes(8)), HEADER),
    *rows(
        "{} after the data",
        lambda more: header(lambda mapping: None, more),
        HEADER,
        {
            "a byte": b"\0",
            "a megabyte": bytes(2**20),
            "a pickle": pickle.dumps({"a": 1}),
        },
    ),
    Attack("another such file after the data", save(lambda s: 2 * sound_safetensors(s)), HEADER),
]

SHAPES = [
    *rows(
        "a shape {}",
        lambda value: entry(shape=value),
        HEADER,
        {
            "smaller than the bytes": [7],
            "larger than the bytes": [9],
            "of a single number": [],
            "of 2^96 numbers": [2**32, 2**32, 2**32],
            "of 2^64 + 8 numbers, which are 8 in 64 bits": [2**64 + 8],
            "of 2^64 + 8 numbers, as a product": [8, 2**61 + 1],
            "negative": [-8],
            "negative twice": [-2, -4],
            "in fractions": [8.0],
            "in truth values": [True, 8],
            "in texts": ["8"],
            "that is null": None,
            "that is a number": 8,
            "that is a text": "8",
            "that is an empty text": "",
            "that is an empty mapping": {},
            "in a list": [[8]],
            "of null": [None],
            "of nine dimensions": [1] * 8 + [8],
            "of 65 dimensions": [1] * 64 + [8],
            "of 100,000 dimensions": [1] * 99_999 + [8],
            "with 0 among its sizes": [8, 0],
            "of 10^300": [10**300],
        },
    ),
    Attack(
        "2^64 numbers in no byte, which are none in 64 bits",
        beside("x.position_ids", b"", shape=[2**32, 2**32]),
        NAME,
    ),
    Attack("2^63 times nothing", beside("x.position_ids", b"", shape=[2**63, 0]), NAME),
]

DTYPES = [
    *rows(
        "a dtype {}",
        lambda value: entry(dtype=value),
        HEADER,
        {
            "that there is not": "F33",
            "in small letters": "f32",
            "of torch's": "torch.float32",
            "with a NUL": "F32\0",
            "with a space": "F32 ",
            "that is empty": "",
            "that is null": None,
            "that is a number": 32,
            "that is a list": ["F32"],
            "that is a mapping": {"F32": 1},
            "wider than the bytes": "F64",
            "narrower than the bytes": "F16",
        },
    ),
    *rows(
        "a weight of {}",
        lambda bits: entry(dtype=bits[0], shape=[256 // bits[1]]),
        TYPE,
        {name: (name, bits) for name, bits in (("F4", 4), ("F6_E2M3", 8), ("F8_E8M0", 8))},
    ),
    *rows(
        "weights of {}",
        save,
        TYPE,
        {
            "I64": weights_of("I64", as_type("<i8")),
            "I32": weights_of("I32", as_type("<i4")),
            "U16, as Paddle has bfloat16": weights_of("U16", upper_half),
            "U8": weights_of("U8", as_type("u1")),
            "BOOL": weights_of("BOOL", as_type("?")),
            "F8_E4M3": weights_of("F8_E4M3", as_type("u1")),
            "C64": weights_of("C64", as_type("<c8")),
            "I32, where one alone is such": weights_of("I32", as_type("<i4"), only=WEIGHT),
        },
    ),
]

ENTRIES = [
    *rows(
        "an entry that is {}",
        whole_entry,
        HEADER,
        {
            "null": None,
            "a list": ["F32", [8], [0, 32]],
            "a text": "F32",
            "a number": 8,
            "empty": {},
        },
    ),
    Attack("an entry without dtype", entry(dtype=...), HEADER),
    Attack("an entry without shape", entry(shape=...), HEADER),
    Attack("an entry without data_offsets", entry(data_offsets=...), HEADER),
    Attack("an entry with a key more", entry(data_path="/etc/passwd"), HEADER),
    Attack("an entry with a key in capitals", entry(dtype=..., DTYPE="F32"), HEADER),
    *rows(
        "{}",
        text,
        HEADER,
        {
            "an entry with one key twice": replaced(b"{", b'{"x": {"dtype": "F32", "dtype": 1}, '),
            "an entry with two shapes": replaced(b'[8], "data', b'[8], "shape": [4, 2], "data'),
            "one entry twice": lambda t: t[:-1] + b", " + t[1:].partition(b"}")[0] + b"}}",
            "one name twice": replaced(b"pooler.dense.weight", b"pooler.dense.bias"),
            "one name twice, spelt otherwise": replaced(
                b"pooler.dense.weight", rb"\u0070ooler.dense.bias"
            ),
        },
    ),
]

NAMES = [
    # `position_ids` of any module are dropped, so that it is the name that must be refused.
    *rows(
        "a tensor called {}",
        lambda name: beside(name + ".position_ids"),
        NAME,
        {
            "../../x": "../../x",
            "/etc/passwd": "/etc/passwd",
            "what NUL is in": "a\0b",
            "what a line's end is in": "a\nb",
            "what an escape of a terminal is in": "\x1b[2J",
            "10,000 letters": "a" * 10_000,
            "half of a surrogate pair": "\ud800",
        },
    ),
    *rows(
        "a tensor called {}",
        beside,
        NAME,
        {
            "nothing": "",
            "as a weight, with a space": WEIGHT + " ",
            "as a weight, in Cyrillic letters": WEIGHT.replace("o", "\u043e"),
            "as no weight of this model": "encoder.layer.1.attention.self.query.weight",
        },
    ),
    Attack("an empty tensor of no module", beside("x", b"", shape=[0]), FILL),
    Attack("a weight under two names", beside("bert." + WEIGHT, bytes(32), shape=[8]), FILL),
    Attack(
        "a weight missing",
        save(lambda s: sound_safetensors(s, [name for name in s.arrays if name != AFTER])),
        FILL,
    ),
    Attack("a weight of a gibibyte", large_vocabulary, FILL),
    Attack(
        "a weight the wrong way round",
        header(lambda m: m["encoder.layer.0.output.dense.weight"].update(shape=[12, 8])),
        FILL,
    ),
]

METADATA = [
    *rows(
        "metadata that is {}",
        metadata,
        HEADER,
        {
            "a list": ["format", "pt"],
            "a text": "pt",
            "a number": 1,
            "a mapping to a number": {"format": 1},
            "a mapping to null": {"format": None},
            "a mapping to a list": {"format": ["pt"]},
            "a mapping to a mapping": {"format": {"format": "pt"}},
            "a tensor": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
        },
    ),
    # The library takes it for none.
    Attack("metadata that is null", metadata(None), refused("header", loads=True)),
    *rows(
        "metadata {}",
        text,
        HEADER,
        {
            "twice": replaced(b"{", b'{"__metadata__": {}, "__metadata__": {}, '),
            "with a name twice": replaced(b"{", b'{"__metadata__": {"a": "b", "a": "c"}, '),
        },
    ),
]

OTHER_FILES = rows(
    "{} under the name of the weights",
    save,
    CUT,
    {
        "a pickle": lambda sound: pickle.dumps(dict(sound.arrays)),
        "a zip of PyTorch's": sound_torch,
        "a packed file": lambda sound: gzip.compress(sound_safetensors(sound)),
        "a page of the web": lambda sound: b"<!DOCTYPE html><html>404</html>",
        "a pointer of git-lfs": lambda sound: b"version https://git-lfs.github.com/spec/v1\n",
        "a program": lambda sound: b"\x7fELF\x02\x01\x01" + bytes(4096),
        "a megabyte of ones": lambda sound: b"\xff" * 2**20,
    },
)

SOUND = [
    Attack("as written by hand", save(sound_safetensors), LOADS),
    Attack(
        "the file and a configuration given",
        save(sound_safetensors),
        LOADS,
        opens="model.safetensors",
        options={"config": SIZES},
    ),
    Attack("entries in reverse order", reordered(lambda names: names[::-1]), LOADS),
    Attack("entries in alphabetical order", reordered(sorted), LOADS),
    Attack("letters of a name escaped", text(replaced(b"pooler.", rb"\u0070ooler.")), LOADS),
    Attack("1,000 spaces after the header", text(lambda t: t + b" " * 1000), LOADS),
    Attack("many lines", text(lambda t: json.dumps(json.loads(t), indent=4).encode()), LOADS),
    Attack("no metadata", header(lambda mapping: None), LOADS),
    Attack("metadata last", header(lambda mapping: mapping.update(__metadata__={"a": "b"})), LOADS),
    *rows(
        "metadata {}",
        metadata,
        LOADS,
        {
            "that is empty": {},
            "of PaddleNLP": {"format": "np"},
            "of any text": {"format": "pt", "a\nb": "\u4e2d\u6587 \0 ../..", "": ""},
            "of a megabyte": {"x": "x" * 2**20},
        },
    ),
    Attack(
        "the positions of old transformers, which are integers",
        beside("embeddings.position_ids", bytes(80), dtype="I64", shape=[1, 10]),
        LOADS,
    ),
    Attack(
        "an empty tensor of another class's head",
        beside("classifier.weight", b"", shape=[0, 8]),
        LOADS,
    ),
    Attack("half precision", save(weights_of("F16", as_type("<f2"))), LOADS),
    Attack("bfloat16", save(weights_of("BF16", upper_half)), LOADS),
    Attack("double precision", save(weights_of("F64", as_type("<f8"))), LOADS),
    Attack(
        "two precisions, opened as one",
        save(weights_of("BF16", upper_half, only="encoder")),
        LOADS,
        options={"dtype": "float32"},
    ),
]

ROWS: list[Attack] = [
    *CUT_OFF,
    *LENGTHS,
    *JSON,
    *OFFSETS,
    *SHAPES,
    *DTYPES,
    *ENTRIES,
    *NAMES,
    *METADATA,
    *OTHER_FILES,
    *SOUND,
]
