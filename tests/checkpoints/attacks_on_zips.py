"""Attacks on PyTorch's .bin: a zip of a pickle and the tensors' memory, or the older file that is
no zip.

What `torch.save` writes: https://docs.pytorch.org/docs/stable/notes/serialization.html.
"""

from __future__ import annotations

import io
import lzma
import pickle
import pickletools
import struct
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import opcodes as op
import torch
from attack_kit import (
    BAIT,
    LOADS,
    SIZES,
    WEIGHT,
    Attack,
    Builder,
    Contents,
    Sound,
    cuts,
    refused,
    rows,
    save as save_any,
    sound_safetensors,
    sound_torch,
    tensor,
    tensors,
    torch_entries,
)
from zip_bytes import IN_64_BITS, Entry, ending, lying, record, zip64_end, zip64_extra, zipped

ZIP = refused("zip", "truncated")
NO_ZIP = refused("zip", "truncated", "legacy", "pickle")
"""For what may be taken for a broken zip or for the older format."""
PICKLE = refused("pickle", "truncated")
VIEW = refused("pickle", "zip", "tensors", "truncated")
"""For a tensor that is not in its storage."""
KIND = refused("pickle", "tensors", "unsupported", "zip")
"""For tensors that are no dense numbers."""
OLD = refused("legacy")
BAD_OLD = refused("legacy", "pickle", "truncated", "tensors", "unsupported", "zip")
FILL = refused("tensors")
NAME = refused("pickle", "tensors", "zip")

FILE = "pytorch_model.bin"
ALLOWED = {"allow_legacy_pickle": True}
SYSTEM = op.call(op.name("os", "system"), BAIT)
DATA, STORAGE = "data.pkl", "data/0"
"""The pickle, and the storage of `WEIGHT`."""
Entries: TypeAlias = dict[str, Entry]


# ---------------------------------------------------------------- ways to spoil a file


def save(make: Callable[[Sound], Contents], **config: Any) -> Builder:
    return save_any(make, FILE, **config)


def archive(edit: Callable[[Entries], object], **options: Any) -> Builder:
    """The zip's entries edited in place; `options` are of the zip as a whole."""

    def make(sound: Sound) -> bytes:
        entries = torch_entries(sound)
        edit(entries)
        return zipped(entries.values(), **options)

    return save(make)


def without(name: str) -> Builder:
    return archive(lambda entries: entries.pop(name))


def content(name: str, change: Callable[[bytes], bytes]) -> Builder:
    """What one entry holds, changed."""

    def edit(entries: Entries) -> None:
        entries[name] = Entry(entries[name].name, change(entries[name].content))

    return archive(edit)


def more(name: str, content: bytes = b"x" * 32) -> Builder:
    """One entry more."""
    return archive(lambda entries: entries.update({"more": Entry(name, content)}))


def local(name: str, /, **lies: Any) -> Builder:
    """What one entry's own header says."""

    def edit(entries: Entries) -> None:
        entries[name] = Entry(entries[name].name, entries[name].content, local=lies)

    return archive(edit)


def central(name: str, /, **lies: Any) -> Builder:
    """What the directory says of one entry."""

    def edit(entries: Entries) -> None:
        entries[name] = Entry(entries[name].name, entries[name].content, central=lies)

    return archive(edit)


def both(name: str, /, **lies: Any) -> Builder:
    """What both say of one entry."""
    return archive(lambda entries: entries.update({name: lying(entries[name], **lies)}))


def packed(method: int, pack: Callable[[bytes], bytes], *names: str) -> Builder:
    """Entries compressed, as their headers say."""

    def edit(entries: Entries) -> None:
        for name in names or list(entries):
            whole = entries[name]
            lies = {"method": method, "size": len(whole.content), "crc": zlib.crc32(whole.content)}
            entries[name] = lying(Entry(whole.name, pack(whole.content)), **lies)

    return archive(edit)


def deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


def end(**lies: Any) -> Builder:
    """What the end of the directory says."""
    return archive(lambda entries: None, end=lies)


def changed(change: Callable[[bytes], bytes]) -> Builder:
    return save(lambda sound: change(sound_torch(sound)))


def beside(value: Any) -> Builder:
    """One thing more in the pickle's dictionary."""
    return save(lambda sound: sound_torch(sound, data=tensors(sound, extra=value)))


def weight(value: Any, **config: Any) -> Builder:
    """`WEIGHT` is something else."""
    return save(lambda sound: sound_torch(sound, data=tensors(sound, **{WEIGHT: value})), **config)


def view(**lies: Any) -> Builder:
    """`WEIGHT`'s tensor with untruths."""
    return weight(tensor(**lies))


def then(*parts: bytes) -> Builder:
    """The sound dictionary on the pickle's stack, and instructions after it."""
    return save(
        lambda sound: sound_torch(sound, data=op.pickled(tensors(sound)[2:-1], *parts, protocol=2))
    )


def by_torch(value: Callable[[dict[str, torch.Tensor]], Any], **options: Any) -> Builder:
    """What torch itself writes of `value`, made from the sound weights."""

    def make(sound: Sound) -> bytes:
        file = io.BytesIO()
        weights = {name: torch.from_numpy(array) for name, array in sound.arrays.items()}
        torch.save(value(weights), file, **options)
        return file.getvalue()

    return save(make)


def many_entries(sound: Sound) -> bytes:
    """A directory of 300,000 files that are all one and the same, of no length."""
    file = zipped([Entry("archive/data.pkl", b"")])
    at = file.index(b"PK\x01\x02")
    fields = dict.fromkeys(("flags", "method", "time", "crc", "stored", "size", "offset"), 0)
    one = record(fields | {"made_by": 20, "needs": 20, "date": 33, "name": bytes(8), "extra": b""})
    directory = b"".join(b"%b%08d" % (one[:-8], n) for n in range(300_000))
    last = zip64_end(300_000, len(directory), at, at + len(directory))
    return file[:at] + directory + last + ending({**IN_64_BITS, "comment": 0})


def lying_zip64(entries: int, more: int) -> Callable[[Sound], bytes]:
    """A 64-bit end of the directory, of so many entries and `more` bytes than there are."""

    def make(sound: Sound) -> bytes:
        plain = sound_torch(sound)
        at = plain.index(b"PK\x01\x02")
        size = plain.index(b"PK\x05\x06") - at
        last = zip64_end(entries, size + more, at, at + size)
        return zipped(torch_entries(sound).values(), before_end=last, end=IN_64_BITS)

    return make


def one_in_another(sound: Sound) -> bytes:
    """The directory has a storage within another file, where it does lie, header and all."""
    entries = torch_entries(sound)
    inner = zipped([entries["data/1"]])
    inner = inner[: inner.index(b"PK\x01\x02")]
    entries["outer"] = Entry("archive/data/outer", inner)
    # Once to know where the inner one lies, and once to say so.
    place = zipped(entries.values()).rindex(inner)
    entries["data/1"] = Entry(
        entries["data/1"].name, entries["data/1"].content, central={"offset": place}
    )
    return zipped(entries.values())


def with_metadata(weights: dict[str, torch.Tensor]) -> Any:
    """A module's state, on whose dictionary torch hangs its versions."""
    state = OrderedDict(weights)
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return state


def in_one_storage(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    flat = torch.cat([weight.ravel() for weight in weights.values()])
    parts = flat.split([weight.numel() for weight in weights.values()])
    return {
        name: part.view(weight.shape)
        for part, (name, weight) in zip(parts, weights.items(), strict=True)
    }


def by_columns(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.T.contiguous().T if v.dim() == 2 else v for k, v in weights.items()}


def old_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A norm's numbers as they were called before 2019."""
    for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
        weights = {name.replace(new, old): weight for name, weight in weights.items()}
    return weights


# What the older format begins with, and its parts: torch/serialization.py, _legacy_save.
MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM_INFO = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


def legacy(sound: Sound, data: bytes | None = None, **lies: Any) -> bytes:
    """The older file; `magic`, `version`, `info`, `keys` and `sizes` in place of what is so."""
    numbers = [str(n) for n in range(len(sound.arrays))]
    start = (
        lies.get("magic", MAGIC),
        lies.get("version", 1001),
        lies.get("info", SYSTEM_INFO),
    )
    parts = [op.pickled(op.of(part), protocol=2) for part in start]
    parts.append(tensors(sound, view=(None,)) if data is None else data)
    parts.append(op.pickled(op.of(lies.get("keys", numbers)), protocol=2))
    for number, array in zip(numbers, sound.arrays.values(), strict=True):
        size = lies.get("sizes", {}).get(number, array.size)
        parts.append(struct.pack("<Q", size % 2**64) + array.tobytes())
    return b"".join(parts)


def old(value: Callable[[Sound], Contents] | None = None, **lies: Any) -> Builder:
    return save(value or (lambda sound: legacy(sound, **lies)))


def old_beside(value: Any) -> Builder:
    """One thing more in the older file's dictionary."""
    return save(lambda sound: legacy(sound, tensors(sound, view=(None,), extra=value)))


def old_key(key: Any) -> Builder:
    return save(
        lambda sound: legacy(
            sound,
            op.pickled(tensors(sound, view=(None,))[2:-1], op.of(key), b"K\x01s", protocol=2),
        )
    )


def old_cuts(sound: Sound) -> Iterator[tuple[str, bytes]]:
    """Before, at and after the end of each pickle and of each storage."""
    whole = legacy(sound)
    places, at = [0, 1, len(whole) - 1], io.BytesIO(whole)
    for _ in range(5):
        pickle_end = _end_of_pickle(at)
        places += [pickle_end - 1, pickle_end, pickle_end + 1]
    for array in sound.arrays.values():
        at.seek(8 + array.nbytes, io.SEEK_CUR)
        places += [at.tell() - 1, at.tell(), at.tell() + 7]
    return cuts(whole, sorted({place for place in places if place < len(whole)}))


def _end_of_pickle(file: io.BytesIO) -> int:
    for _ in pickletools.genops(file):
        pass
    return file.tell()


def tar(sound: Sound) -> bytes:
    """The format before that one, of 2016."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            told = tarfile.TarInfo(name)
            told.size = 4
            archive.addfile(told, io.BytesIO(b"\x80\x02N."))
    return file.getvalue()


def zip_cuts(sound: Sound) -> Iterator[tuple[str, bytes]]:
    """At every seventh byte, and at the last ones."""
    whole = sound_torch(sound)
    return cuts(whole, [*range(0, len(whole), 41), *range(len(whole) - 60, len(whole))])


# ---------------------------------------------------------------- the table

WHOLE = [
    Attack("cut off", save(zip_cuts), NO_ZIP),
    Attack(
        "a byte cut off, the file and a configuration given",
        changed(lambda whole: whole[:-1]),
        NO_ZIP,
        opens=FILE,
        options={"config": SIZES},
    ),
    *rows(
        "{} under the name of the weights",
        save,
        NO_ZIP,
        {
            "nothing": lambda sound: b"",
            "an empty zip": lambda sound: zipped([]),
            "a text": lambda sound: b"version https://git-lfs.github.com/spec/v1\n",
            "a page of the web": lambda sound: b"<!DOCTYPE html><html>404</html>",
            "a megabyte of zeros": lambda sound: bytes(2**20),
            "a megabyte of the end's beginning": lambda sound: b"PK\x05\x06" * 2**18,
            "a safetensors file": sound_safetensors,
            "a pickle of arrays": lambda sound: pickle.dumps(dict(sound.arrays)),
            "a pickle of os.system": lambda sound: op.pickled(SYSTEM),
            "a zip of arrays, numpy's": lambda sound: zipped(
                [Entry("a.npy", b"\x93NUMPY\x01\x00")]
            ),
        },
    ),
    *rows(
        "{} before the zip",
        lambda prefix: archive(lambda entries: None, prefix=prefix),
        NO_ZIP,
        {
            "a byte": b"\0",
            "a program": b"#!/bin/sh\nmkdir planted\n",
            "a pickle of os.system": op.pickled(SYSTEM),
        },
    ),
    Attack("a zip before the zip", save(lambda sound: 2 * sound_torch(sound)), ZIP),
    *rows(
        "{} that the offsets do not count",
        lambda prefix: changed(lambda whole: prefix + whole),
        NO_ZIP,
        {"10 bytes before the zip": b"x" * 10, "a line before the zip": b"#!/bin/sh\n"},
    ),
    *rows(
        "{} after the zip",
        lambda more: changed(lambda whole: whole + more),
        ZIP,
        {"a byte": b"\0", "a megabyte": bytes(2**20), "a pickle": op.pickled(SYSTEM)},
    ),
    Attack(
        "a comment that is an end of another directory",
        archive(lambda entries: None, comment=zipped([])),
        ZIP,
    ),
    Attack(
        "a comment of 65,535 beginnings",
        archive(lambda entries: None, comment=(b"PK\x05\x06" * 2**14)[:65_535]),
        ZIP,
    ),
    Attack("a comment said to be longer", end(comment=100), ZIP),
]

ENDS = [
    *rows(
        "an end of the directory that says {}",
        lambda lies: end(**lies),
        ZIP,
        {
            "that there is no file": {"here": 0, "entries": 0},
            "that there are more files": {"here": 60_000, "entries": 60_000},
            "that there is one file fewer": {"here": 25, "entries": 25},
            "that the directory has no length": {"length": 0},
            "that the directory is longer than the file": {"length": 2**31},
            "that the directory begins past the file": {"offset": 2**31},
            "that the directory begins at 0": {"offset": 0},
            "that it is on another disk": {"disk": 1},
            "that the numbers are 64 bits long, which are not there": IN_64_BITS,
        },
    ),
    Attack("a 64-bit end that says 2^60 files", save(lying_zip64(2**60, 0)), ZIP),
    Attack("a 64-bit end that says a directory of 2^62", save(lying_zip64(26, 2**62)), ZIP),
    Attack(
        "a 64-bit end whose place is past the file",
        archive(
            lambda entries: None, before_end=zip64_end(26, 100, 0, 2**62), end={"offset": 2**32 - 1}
        ),
        ZIP,
    ),
    Attack("300,000 files that are one", save(many_entries), ZIP),
]

HEADERS = [
    Attack("all deflated", packed(8, deflate), ZIP),
    Attack("a storage deflated", packed(8, deflate, STORAGE), ZIP),
    Attack("the pickle deflated", packed(8, deflate, DATA), ZIP),
    Attack(
        "a storage that is a gigabyte, deflated",
        packed(8, lambda content: deflate(bytes(2**24)), STORAGE),
        ZIP,
    ),
    Attack("all by lzma", packed(14, lambda content: lzma.compress(content)), ZIP),
    Attack("a method that there is not", both(STORAGE, method=99), ZIP),
    Attack("a storage that its own header says is deflated", local(STORAGE, method=8), ZIP),
    Attack("encrypted", both(STORAGE, flags=1), ZIP),
    Attack("the pickle encrypted", both(DATA, flags=1), ZIP),
    Attack("encrypted strongly", both(STORAGE, flags=0x41), ZIP),
    Attack("a patch in place of a file", both(STORAGE, flags=0x20), ZIP),
    Attack("of a later format", both(STORAGE, needs=99), ZIP),
    Attack("a storage twice", more("archive/data/0"), ZIP),
    Attack("the pickle twice", more("archive/data.pkl", op.pickled(SYSTEM)), ZIP),
    Attack("two pickles", more("other/data.pkl", op.pickled(SYSTEM)), ZIP),
    Attack("no pickle", without(DATA), ZIP),
    Attack("a pickle in no folder", central(DATA, name=b"data.pkl"), ZIP),
    Attack("no storage", without(STORAGE), VIEW),
    *rows(
        "a file called {}",
        more,
        ZIP,
        {
            "../x": "../x",
            "/etc/passwd": "/etc/passwd",
            r"..\x": "..\\x",
            "what NUL is in": "archive/data/0\0.txt",
            "nothing": "",
            "archive/../archive/data/0": "archive/../archive/data/0",
        },
    ),
    *rows(
        "the directory says of a storage {}",
        lambda lies: central(STORAGE, **lies),
        ZIP,
        {
            "another name": {"name": b"archive/data/00"},
            "a name that is not UTF-8": {"name": b"archive/data/\xff", "flags": 0x800},
            "a larger size": {"size": 64, "stored": 64},
            "a size past the file": {"size": 2**31, "stored": 2**31},
            "two sizes": {"size": 2**31},
            "a smaller size": {"size": 16, "stored": 16},
            "another checksum": {"crc": 1},
            "the place of another file": {"offset": 0},
            "a place where nothing begins": {"offset": 7},
            "a place past the file": {"offset": 2**31},
            "the place of the end": {"offset": 2**32 - 2},
            "a 64-bit place past the file": {"offset": 2**32 - 1, "extra": zip64_extra(2**62)},
            "a 64-bit place of 2^64 - 1": {"offset": 2**32 - 1, "extra": zip64_extra(2**64 - 1)},
            "a 64-bit size of 2^62": {
                "size": 2**32 - 1,
                "stored": 2**32 - 1,
                "extra": zip64_extra(2**62, 2**62),
            },
            "a 64-bit size that is not there": {"size": 2**32 - 1, "stored": 2**32 - 1},
            "a 64-bit size of two bytes": {"size": 2**32 - 1, "extra": b"\x01\x00\x02\x00ab"},
            "more beside than there is": {"extra": b"\x01\x00\xff\xff"},
            "another signature": {"signature": 0x02014B51},
        },
    ),
    *rows(
        "a storage's own header says {}",
        lambda lies: local(STORAGE, **lies),
        ZIP,
        {
            "another name": {"name": b"archive/data/1"},
            "a longer name": {"name": b"archive/data/0" + b"x" * 70},
            "a larger size": {"size": 2**31, "stored": 2**31},
            "a smaller size": {"size": 4, "stored": 4},
            "another checksum": {"crc": 1},
            "another signature": {"signature": 0x04034B51},
            "more beside than the file is long": {"extra": b"\0" * 65_535},
        },
    ),
    Attack("the pickle's checksum is another", both(DATA, crc=1), ZIP),
    Attack("the pickle's own size is another", local(DATA, size=4, stored=4), ZIP),
    Attack("a storage in another file", save(one_in_another), ZIP),
]

RECORDS = [
    *rows(
        "numbers that are {}",
        lambda order: content("byteorder", lambda old: order),
        refused("zip", "unsupported"),
        {
            "big-endian": b"big",
            "in no order": b"",
            "in an unknown order": b"middle",
            "little-endian and a megabyte": b"little" + bytes(2**20),
        },
    ),
    Attack(
        "TorchScript",
        archive(
            lambda entries: entries.update(
                {
                    name: Entry(f"archive/{name}", text)
                    for name, text in {
                        "constants.pkl": op.pickled(op.of(())),
                        "code/__torch__.py": b"import os; os.mkdir('planted')",
                    }.items()
                }
            )
        ),
        refused("zip", "unsupported"),
    ),
    Attack("a pickle of TorchScript", beside(op.call(op.name("__torch__", "Model"))), PICKLE),
    *rows(
        "data.pkl is {}",
        lambda data: content(DATA, lambda old: data),
        PICKLE,
        {
            "empty": b"",
            "a text": b"not a pickle",
            "cut off": b"\x80\x02}",
            "a list": op.pickled(op.of([tensor()])),
            "a tensor": op.pickled(tensor()),
            "None": op.pickled(op.of(None)),
            "os.system": op.pickled(SYSTEM),
            "of protocol 0": b"(dp0\n.",
            "another zip": zipped([]),
        },
    ),
    Attack("an empty dictionary", content(DATA, lambda old: op.pickled(op.of({}))), NAME),
    Attack("data.pkl and more after it", content(DATA, lambda old: old + b"\0"), PICKLE),
    Attack(
        "data.pkl and another after it",
        content(DATA, lambda old: old + op.pickled(SYSTEM)),
        PICKLE,
    ),
]

FOREIGN = [
    *rows(
        "{} in data.pkl",
        beside,
        PICKLE,
        {
            "os.system": SYSTEM,
            "os.system by OBJ": op.Ops(b"(" + op.name("os", "system") + BAIT + b"o"),
            "os.system by INST": op.Ops(b"(" + BAIT + b"ios\nsystem\n"),
            "os.system by NEWOBJ": op.Ops(op.name("os", "system") + op.of((BAIT,)) + b"\x81"),
            "builtins.eval": op.call(op.name("builtins", "eval"), "1"),
            "builtins.getattr": op.call(op.name("builtins", "getattr"), "a", "b"),
            "builtins.set": op.call(op.name("builtins", "set"), [1]),
            "torch.load": op.call(op.name("torch", "load"), FILE),
            "torch.hub.load": op.call(op.name("torch.hub", "load"), "a/b", "c"),
            "torch.serialization.load": op.call(op.name("torch.serialization", "load"), FILE),
            "torch._utils._rebuild_tensor_v2.__globals__": op.stacked(
                "torch._utils", "_rebuild_tensor_v2.__globals__"
            ),
            "torch / _utils._rebuild_tensor_v2": op.call(
                op.stacked("torch", "_utils._rebuild_tensor_v2")
            ),
            "a layer of a network": op.Ops(
                op.name("torch.nn.modules.linear", "Linear") + b")\x81" + op.of({}) + b"b"
            ),
            "torch.jit._pickle.build_intlist": op.call(
                op.name("torch.jit._pickle", "build_intlist"), [1]
            ),
            "numpy's arrays": op.array(np.zeros(8, "<f4")),
            "a large torch.Size": op.call(op.name("torch", "Size"), [2**60] * 3),
            "an ordered dictionary of a bomb": op.call(
                op.name("collections", "OrderedDict"), op.shared_tuple()
            ),
            "a counter": op.call(op.name("collections", "Counter"), "aa"),
            "a default dictionary": op.call(
                op.name("collections", "defaultdict"), op.name("os", "getcwd")
            ),
            "EXT1": op.Ops(b"\x82\x01"),
            "PERSID": op.Ops(b"P0\n"),
            "a memo that is not there": op.Ops(b"h\xff"),
            "a text of 4 GiB": op.Ops(b"X\xff\xff\xff\xff"),
            "lists 100,000 deep": op.Ops(b"]" * 100_000 + b"a" * 99_999),
            "a tuple of 2^60 things": op.shared_tuple(),
            "a list that holds itself": op.Ops(b"]q\xffh\xffa"),
        },
    ),
    *rows(
        "a key that is {}",
        lambda key: then(op.of(key), b"K\x01s"),
        PICKLE,
        {
            "a deep tuple, which kills torch's own reader": op.deep_tuple(),
            "a tuple of 2^60 things": op.shared_tuple(),
            "a number": 1,
            "a list": [1],
            "a tensor": tensor(),
        },
    ),
    Attack("one name twice", then(op.of(WEIGHT), tensor(), b"s"), NAME),
    Attack(
        "a call in the dictionary's own attributes",
        then(b"}", op.of("_metadata"), SYSTEM, b"sb"),
        PICKLE,
    ),
    Attack("a whole model", by_torch(lambda weights: torch.nn.Linear(2, 2)), PICKLE),
    Attack("a call in place of a weight", weight(SYSTEM), PICKLE),
    Attack("a list in place of a weight", weight([1.0] * 8), NAME),
    Attack("a number in place of a weight", weight(8.0), NAME),
]

SPARSE = op.name("torch._utils", "_rebuild_sparse_tensor")
VIEWS = [
    *rows(
        "a tensor {}",
        lambda lies: view(**lies),
        VIEW,
        {
            "larger than its storage": {"shape": (9,)},
            "of 2^60 numbers": {"shape": (2**60,)},
            "of 2^96 numbers": {"shape": (2**32,) * 3, "stride": (0, 0, 1)},
            "that begins in the middle": {"offset": 1},
            "that begins before its storage": {"offset": -1},
            "that begins past its storage": {"offset": 2**62},
            "that begins 2^64 further on, which is nowhere": {"offset": 2**64},
            "that begins at a truth value": {"offset": False},
            "that begins at a fraction": {"offset": 0.0},
            "that goes backwards": {"stride": (-1,), "offset": 7},
            "that goes in steps of 2^62": {"stride": (2**62,)},
            "whose steps wrap around in 64 bits": {"shape": (2, 4), "stride": (2**63, 1)},
            "that goes in two steps": {"stride": (1, 1)},
            "that goes in no step": {"stride": ()},
            "in steps of a fraction": {"stride": (1.0,)},
            "of a negative size": {"shape": (-8,)},
            "of a fraction": {"shape": (8.0,)},
            "of truth values' size": {"shape": (True, 8), "stride": (8, 1)},
            "of a list for its shape": {"shape": [8]},
            "of a number for its shape": {"shape": 8},
            "of a text for its shape": {"shape": "8"},
            "of nine dimensions": {"shape": (1,) * 8 + (8,), "stride": (8,) * 8 + (1,)},
            "of a deep tuple for its shape": {"shape": op.deep_tuple()},
            "of 2^60 things for its shape": {"shape": op.shared_tuple()},
            "that its storage is said to be larger for": {"shape": (9,), "numel": 9},
            "whose storage is said to be of 2^62": {"numel": 2**62},
            "whose storage is said to be of less than nothing": {"numel": -8},
            "in a storage that is not there": {"key": "999"},
            "in a storage outside": {"key": "../../archive/data/0"},
            "in a storage by a number": {"key": 0},
            "in a storage by a deep tuple": {"key": op.deep_tuple()},
            "in a storage by a tuple of 2^60 things": {"key": op.shared_tuple()},
            "in no storage": {"stored": ("storage",)},
            "in a storage without a size": {
                "stored": ("storage", op.name("torch", "FloatStorage"), "0", "cpu")
            },
            "in a module": {"stored": ("module", op.name("torch", "FloatStorage"), "0", "cpu", 8)},
            "in a storage of a text's type": {"stored": ("storage", "FloatStorage", "0", "cpu", 8)},
            "in a storage of os.system": {
                "stored": ("storage", op.name("os", "system"), "0", "cpu", 8)
            },
            "in a storage of wider numbers": {"kind": "DoubleStorage"},
            "in a storage of quantised numbers": {"kind": "QInt8Storage"},
            "in a storage of complex numbers": {"kind": "ComplexFloatStorage"},
            "in a storage of no such type": {"kind": "Storage"},
        },
    ),
    Attack("a storage shorter than the tensor", content(STORAGE, lambda old: old[:-4]), VIEW),
    Attack("a storage of no byte", content(STORAGE, lambda old: b""), VIEW),
    Attack("a storage longer than it is said to be", content(STORAGE, lambda old: 2 * old), VIEW),
    Attack(
        "a billion words that are four bytes",
        save(
            lambda s: sound_torch(
                s,
                data=tensors(
                    s,
                    **{"embeddings.word_embeddings.weight": tensor((10**9, 8), (0, 0), key="0")},
                ),
            ),
            vocab_size=10**9,
        ),
        VIEW,
    ),
]

KINDS = [
    *rows(
        "a weight {}",
        weight,
        KIND,
        {
            "in a rebuilding of nothing": op.call(op.name("torch._utils", "_rebuild_tensor_v2")),
            "quantised": op.call(
                op.name("torch._utils", "_rebuild_qtensor"),
                *(tensor(), 0, (8,), (1,), (op.name("torch", "per_tensor_affine"), 1.0, 0)),
            ),
            "that is sparse": op.call(SPARSE, op.name("torch", "sparse_coo"), (tensor(), tensor())),
            "without values": op.call(
                op.name("torch._utils", "_rebuild_meta_tensor_no_storage"), None, (8,), (1,), False
            ),
            "of a class that wraps it": op.call(
                op.name("torch._utils", "_rebuild_wrapper_subclass"), op.name("os", "system")
            ),
            "of numpy's on another device": op.call(
                op.name("torch._utils", "_rebuild_device_tensor_from_numpy"), 1, 2, 3, 4
            ),
            "of a type of one's own": op.call(
                op.name("torch._tensor", "_rebuild_from_type_v2"),
                *(op.name("os", "system"), op.name("torch", "Tensor"), (), {}),
            ),
            "that is a storage": op.Ops(
                op.of(("storage", op.name("torch", "FloatStorage"), "0", "cpu", 8)) + b"Q"
            ),
        },
    ),
    *rows(
        "{}",
        by_torch,
        KIND,
        {
            "sparse weights": lambda weights: {k: v.to_sparse() for k, v in weights.items()},
            "weights of integers": lambda weights: {k: v.long() for k, v in weights.items()},
            "weights of truth values": lambda weights: {k: v.bool() for k, v in weights.items()},
            "complex weights": lambda weights: {k: v.to(torch.cfloat) for k, v in weights.items()},
            "weights in eight bits": lambda weights: {
                k: v.to(torch.float8_e4m3fn) for k, v in weights.items()
            },
            "weights without values": lambda weights: {k: v.to("meta") for k, v in weights.items()},
            "a list of weights": lambda weights: list(weights.values()),
        },
    ),
    Attack(
        "a weight missing",
        by_torch(lambda weights: {k: v for k, v in weights.items() if k != WEIGHT}),
        FILL,
    ),
    Attack(
        "a weight more",
        by_torch(lambda weights: {**weights, "encoder.layer.1.output.dense.bias": weights[WEIGHT]}),
        FILL,
    ),
    Attack(
        "a weight under its name of now and of before",
        by_torch(
            lambda weights: {
                **weights,
                "embeddings.LayerNorm.gamma": weights["embeddings.LayerNorm.weight"],
            }
        ),
        FILL,
    ),
    Attack(
        "a weight called ../../x",
        by_torch(lambda weights: {**weights, "../../x.position_ids": weights[WEIGHT]}),
        NAME,
    ),
    Attack(
        "a weight called by what NUL is in",
        by_torch(lambda weights: {**weights, "a\0b.position_ids": weights[WEIGHT]}),
        NAME,
    ),
]

LEGACY = [
    Attack("the older format, not allowed", old(), OLD),
    Attack(
        "torch's own older format, not allowed",
        by_torch(lambda weights: weights, _use_new_zipfile_serialization=False),
        OLD,
    ),
    Attack("the older format of os.system, not allowed", old_beside(SYSTEM), OLD),
    Attack("the oldest format, a tar", save(tar), BAD_OLD),
    *(
        Attack(f"the older format, allowed: {name}", build, BAD_OLD, options=ALLOWED)
        for name, build in {
            "a tar": save(tar),
            "cut off": old(old_cuts),
            "another magic number": old(magic=1),
            "a magic number that is a text": old(magic="1"),
            "a magic number that is os.system": old(magic=SYSTEM),
            "another version": old(version=1000),
            "big-endian": old(info={**SYSTEM_INFO, "little_endian": False}),
            "no information": old(info=None),
            "information that is os.system": old(info=SYSTEM),
            "keys that are not there": old(keys=[str(n) for n in range(100)]),
            "keys too few": old(keys=["0"]),
            "no keys": old(keys=[]),
            "a key twice": old(keys=["0"] * 23),
            "keys that are numbers": old(keys=list(range(23))),
            "keys that are os.system": old(keys=SYSTEM),
            "keys that are a deep tuple": old(keys=[op.deep_tuple()]),
            "a storage said to be larger": old(sizes={"22": 100}),
            "a storage said to be of 2^62": old(sizes={"0": 2**62}),
            "a storage said to be of less than nothing": old(sizes={"0": -1}),
            "a storage said to be smaller": old(sizes={"0": 4}),
            "more after it": save(lambda sound: legacy(sound) + b"\0"),
            "os.system": old_beside(SYSTEM),
            "os.system by OBJ": old_beside(op.Ops(b"(" + op.name("os", "system") + BAIT + b"o")),
            "builtins.eval": old_beside(op.call(op.name("builtins", "eval"), "1")),
            "a layer of a network": old_beside(
                op.Ops(op.name("torch.nn.modules.linear", "Linear") + b")\x81" + op.of({}) + b"b")
            ),
            "a deep tuple as a key, which kills torch's own reader": old_key(op.deep_tuple()),
            "a tuple of 2^60 things as a key": old_key(op.shared_tuple()),
            "a tensor larger than its storage": old_beside(tensor((9,), view=(None,))),
            "a tensor that begins before its storage": old_beside(tensor(offset=-1, view=(None,))),
            "a view of a storage, past it": old_beside(tensor(view=(("1", 4, 8),))),
            "a storage that is not there": old_beside(tensor(key="999", view=(None,))),
            "a list": save(lambda s: legacy(s, op.pickled(op.of([1]), protocol=2))),
            "a pickle of os.system alone": save(lambda sound: op.pickled(SYSTEM)),
            "a pickle of arrays alone": save(lambda sound: pickle.dumps(dict(sound.arrays), 2)),
            "nothing": save(lambda sound: b""),
        }.items()
    ),
    Attack(
        "a zip that is deflated, the older format allowed",
        packed(8, deflate),
        ZIP,
        options=ALLOWED,
    ),
]

SOUND = [
    Attack("as written by hand", save(sound_torch), LOADS),
    Attack(
        "the file and a configuration given",
        save(sound_torch),
        LOADS,
        opens=FILE,
        options={"config": SIZES},
    ),
    Attack("as torch writes it", by_torch(dict), LOADS),
    Attack("no order of bytes, as torch 1 has it", without("byteorder"), LOADS),
    Attack("no version", without("version"), LOADS),
    Attack(
        "other files beside",
        archive(
            lambda entries: entries.update(
                {
                    name: Entry(f"archive/{name}", content)
                    for name, content in {
                        ".data/serialization_id": b"0" * 40,
                        ".format_version": b"1",
                        ".storage_alignment": b"64",
                    }.items()
                }
            )
        ),
        LOADS,
    ),
    Attack(
        "the files in another order",
        archive(lambda entries: entries.update({DATA: entries.pop(DATA)})),
        LOADS,
    ),
    Attack(
        "a model's own dictionary, with its attributes",
        by_torch(with_metadata),
        LOADS,
    ),
    Attack(
        "parameters",
        by_torch(lambda weights: {k: torch.nn.Parameter(v) for k, v in weights.items()}),
        LOADS,
    ),
    Attack(
        "tensors in one storage",
        by_torch(in_one_storage),
        LOADS,
    ),
    Attack(
        "tensors that lie by columns",
        by_torch(by_columns),
        LOADS,
    ),
    Attack(
        "norms as they were called before 2019",
        by_torch(old_names),
        LOADS,
    ),
    Attack(
        "positions of old transformers",
        by_torch(lambda w: {**w, "embeddings.position_ids": torch.arange(10)[None]}),
        LOADS,
    ),
    Attack("numbers and texts beside", by_torch(lambda w: {**w, "epoch": 3, "of": "a"}), LOADS),
    Attack("half precision", by_torch(lambda w: {k: v.half() for k, v in w.items()}), LOADS),
    Attack("bfloat16", by_torch(lambda w: {k: v.bfloat16() for k, v in w.items()}), LOADS),
    Attack("double precision", by_torch(lambda w: {k: v.double() for k, v in w.items()}), LOADS),
    Attack("the older format, allowed", old(), LOADS, options=ALLOWED),
    Attack(
        "torch's own older format, allowed",
        by_torch(lambda weights: weights, _use_new_zipfile_serialization=False),
        LOADS,
        options=ALLOWED,
    ),
    Attack("a zip, the older format allowed", save(sound_torch), LOADS, options=ALLOWED),
]

ROWS: list[Attack] = [
    *WHOLE,
    *ENDS,
    *HEADERS,
    *RECORDS,
    *FOREIGN,
    *VIEWS,
    *KINDS,
    *LEGACY,
    *SOUND,
]
