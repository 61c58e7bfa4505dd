"""Changes of a safetensors file by its header's entries."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from random import Random
from typing import Any

from fuzzing import json_changes
from fuzzing.byte_changes import INTEGERS, change_bytes, one_in
from offramp.checkpoints.stored import TYPES

SIZES = (0, 1, 2, 3, 4, 8, -1, *(2**bits for bits in (31, 32, 61, 62, 63, 64)), 2**62 - 1)
"""What may stand in a shape."""
NAMES = (
    *("", ".", "..", "../x", "a/../b", "/x", "a\0b", "a\nb", "x" * 1000, "x" * 1001, "é" * 600),
    *("__metadata__", "a.gamma", "a.weight", "a.beta", "bert.embeddings.LayerNorm.weight"),
    *("transformer.encoder.layers.0.linear1.weight", "embeddings.layer_norm.weight", "\ud800"),
    *("{n}", "{0}", "a" * 1024 + ".gamma", "StructuredToParameterName@@", "\x1b[2J", "a" * 1025),
    "😀",
)
"""A tensor's."""
_DTYPES = (*TYPES, "F8_E4M3", "F8_E5M2", "C64", "F4", "f32", "float32", "O", "")
_ODD: tuple[Any, ...] = (
    *(None, True, 1.0, 0.5, "1", "", [], {}, [1], [[1]], {"a": 1}, 10**39, 10**41),
)
_CHANGES = (
    *("swap", "dtype", "shape", "shape", "offsets", "offsets", "name", "odd", "lack", "order"),
    *("copy", "empty", "delete", "metadata"),
)


def parts(content: bytes) -> tuple[bytes, bytes]:
    """The header and the data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def change(rng: Random, halves: tuple[bytes, bytes], pool: tuple[bytes, bytes]) -> bytes:
    header, data = halves
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        if one_in(rng, 4):
            header = json_changes.change(rng, *map(json_changes.parts, (header, pool[0])))
        else:
            with suppress(ValueError, RecursionError):  # no JSON any more
                header = _changed(rng, json.loads(header))
    length = len(header)
    if one_in(rng, 12):
        length = rng.choice((length - 1, length + 1, length + len(data), *INTEGERS))
    if one_in(rng, 12):
        data = change_bytes(rng, data, header)
    return (length & (1 << 64) - 1).to_bytes(8, "little") + header + data


def _changed(rng: Random, header: Any) -> bytes:
    """The header with one of its entries changed; a name may come to stand in it twice."""
    pairs = [[name, entry] for name, entry in header.items()] if type(header) is dict else []
    whole = [pair for pair in pairs if _is_whole(pair[1])]
    if not whole:
        return json.dumps(header).encode()
    _change_pairs(rng, pairs, rng.choice(whole), rng.choice(whole))
    entries = (json.dumps(name) + ":" + json.dumps(entry) for name, entry in pairs)
    return b"{" + ",".join(entries).encode() + b"}" + b" " * rng.choice((0, 0, 1, 8))


def _is_whole(entry: Any) -> bool:
    if type(entry) is not dict or "dtype" not in entry:
        return False
    places = entry.get("data_offsets")
    return type(entry.get("shape")) is type(places) is list and len(places) == 2


def _change_pairs(rng: Random, pairs: list[Any], pair: list[Any], other: list[Any]) -> None:
    """`pairs` are [name, entry], and `pair` and `other` two of them."""
    entry = pair[1]
    match rng.choice(_CHANGES):
        case "swap":
            key = rng.choice(("data_offsets", "data_offsets", "shape", "dtype"))
            entry[key], other[1][key] = other[1][key], entry[key]
        case "dtype":
            entry["dtype"] = rng.choice(_ODD if one_in(rng, 10) else _DTYPES)
        case "shape":
            _reshape(rng, entry)
        case "offsets":
            _move(rng, entry)
        case "name":
            pair[0] = rng.choice((*NAMES, other[0]))
        case "odd":
            entry[rng.choice(("dtype", "shape", "data_offsets", "more", ""))] = rng.choice(_ODD)
        case "lack":
            del entry[rng.choice(list(entry))]
        case "order":
            rng.shuffle(pairs)
        case "copy":
            pairs.append([rng.choice((*NAMES, "new")), copy.deepcopy(entry)])
        case "empty":  # takes no bytes, and is sound if its sizes are
            place = rng.choice((*entry["data_offsets"], 0))
            shape = [rng.choice(SIZES) for _ in range(rng.choice((0, 1, 2, 7)))]
            shape.insert(rng.randint(0, len(shape)), 0)
            new = {"dtype": "F32", "shape": shape, "data_offsets": [place, place]}
            pairs.append(["empty", new])
        case "delete":
            pairs.remove(pair)
        case "metadata":
            about: Any = {"format": rng.choice(("pt", "np", "x" * 5000, *_ODD))}
            pairs.insert(0, ["__metadata__", rng.choice((about, *_ODD))])


def _reshape(rng: Random, entry: dict[str, Any]) -> None:
    shape = entry["shape"]
    match rng.randrange(5):
        case 0:
            rng.shuffle(shape)
        case 1:
            shape[:0] = [1] * rng.choice((1, 2, 7, 8, 9, 100))
        case 2 if shape:
            shape[rng.randrange(len(shape))] = rng.choice((*SIZES, *_ODD))
        case 3:  # its product wraps round to the same number, or is 0
            shape += rng.choice(([1 << 32, 1 << 32], [0]))
        case _:
            shape.insert(rng.randint(0, len(shape)), rng.choice(SIZES))


def _move(rng: Random, entry: dict[str, Any]) -> None:
    places = entry["data_offsets"]
    match rng.randrange(4):
        case 0:
            places.reverse()
        case 1:
            by = rng.choice((-8, -4, -1, 1, 4, 8, 1 << 32, 1 << 63))
            places[:] = [place + by if type(place) is int else 0 for place in places]
        case _:
            places[rng.randrange(2)] = rng.choice((*SIZES, *_ODD))
