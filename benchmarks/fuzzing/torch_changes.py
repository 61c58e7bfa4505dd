"""Changes of both of torch's formats: a zip by its entries and fields, and pickles in a row."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from random import Random
from typing import Any

from fuzzing import pickle_changes
from fuzzing.byte_changes import INTEGERS, change_bytes, change_list, one_in, packed

_NAMES = (
    *(b"archive/data/0", b"archive/data/1", b"archive/data.pkl", b"data.pkl", b"x/data.pkl", b""),
    *(b"archive/byteorder", b"archive/constants.pkl", b"../data/0", b"archive/data/0\0x", b"\xff"),
    *(b"archive/data/", b"archive/version", "archive/data/é".encode(), b"a" * 5000, b"/data.pkl"),
)
# The numbers of a zip's records, in the order of its specification (APPNOTE.TXT, 4.3), as struct's.
_LOCAL = "HHHHHIIIHH"
_CENTRAL = "HHHHHHIIIHHHHHII"
_END = "HHHHIIH"
_END_64 = "QHHIIQQQQ"
_LOCATOR = "IQI"


@dataclass
class Entry:
    """One of a zip's; `local` and `central` are fields of its two headers that are set to lie."""

    name: bytes
    data: bytes
    local: dict[int, int] = field(default_factory=dict)
    central: dict[int, int] = field(default_factory=dict)
    local_extra: bytes = b""
    central_extra: bytes = b""
    deflate: bool = False


@dataclass
class Archive:
    """A zip to be written; `end` and `end_64` are fields of its last records set to lie."""

    entries: list[Entry]
    end: dict[int, int] = field(default_factory=dict)
    end_64: dict[int, int] | None = None
    """None: without zip64's records."""
    tail: bytes = b""


def parts(content: bytes) -> list[Any]:
    """A zip's (name, instructions or data in one piece); of the other format the instructions."""
    if not content.startswith(b"PK"):
        return pickle_changes.parts(content, pickles=5)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        found = [(info.filename.encode(), archive.read(info)) for info in infos]
    return [
        (name, pickle_changes.parts(data) if name.endswith(b"data.pkl") else [data])
        for name, data in found
    ]


def change(rng: Random, own: list[Any], pool: list[Any]) -> bytes:
    if isinstance(own[0], bytes):
        return pickle_changes.change(rng, own, pool)
    archive = Archive([Entry(name, b"".join(pieces)) for name, pieces in own])
    by_pickle = rng.random() < 0.65
    if by_pickle:
        at = next(at for at, (name, _) in enumerate(own) if name.endswith(b"data.pkl"))
        other = next(pieces for name, pieces in pool if name.endswith(b"data.pkl"))
        archive.entries[at].data = pickle_changes.change(rng, own[at][1], other)
    if not by_pickle or one_in(rng, 3):
        for _ in range(rng.choice((1, 1, 2, 3))):
            _change_once(rng, archive)
    if one_in(rng, 12) and archive.end_64 is None:
        archive.end_64 = {}
    return zipped(archive)


def _change_once(rng: Random, archive: Archive) -> None:
    entries = archive.entries
    entry = rng.choice(entries) if entries else Entry(b"x", b"")
    names = (*_NAMES, *(entry.name for entry in entries))
    odd = rng.choice((*INTEGERS, len(entry.data) - 1, len(entry.data) + 1))
    match rng.randrange(11):
        case 0:
            change_list(
                rng,
                entries,
                lambda rng: Entry(rng.choice(names), rng.randbytes(rng.randrange(40))),
            )
        case 1:
            entry.name = rng.choice(names)
        case 2:
            entry.data = change_bytes(rng, entry.data, rng.choice(_NAMES))
        case 3:
            entry.local[rng.randrange(len(_LOCAL))] = odd
        case 4 | 5:
            entry.central[rng.randrange(len(_CENTRAL))] = odd
        case 6:
            archive.end[rng.randrange(len(_END))] = odd
        case 7:  # an extra field, zip64's among them, whose sizes lie
            sizes = b"".join(packed(rng, 8, rng.choice(INTEGERS)) for _ in range(3))
            extra = struct.pack("<HH", rng.choice((1, 1, 0x4246)), rng.choice((24, 16, 8, 99)))
            entry.central_extra = extra + sizes
            entry.central |= dict.fromkeys(rng.sample((7, 8, 15), 2), 0xFFFFFFFF)
        case 8:
            entry.local_extra = rng.randbytes(rng.choice((1, 4, 64)))
        case 9:
            entry.deflate = True
        case 10:
            archive.end_64 = {rng.randrange(len(_END_64)): odd}
            archive.tail = rng.choice((b"", b"", b"comment", b"PK\x05\x06" + bytes(18)))


def zipped(archive: Archive) -> bytes:
    """A zip whose checksums and sizes are right where nothing else was asked for.

    Written here, since zipfile writes none that lies.
    """
    out, directory = bytearray(), bytearray()
    for entry in archive.entries:
        data = entry.data
        if entry.deflate:
            packer = zlib.compressobj(wbits=-15)
            data = packer.compress(data) + packer.flush()
        method, checksum = (8 if entry.deflate else 0), zlib.crc32(entry.data)
        sizes = [checksum, len(data), len(entry.data), len(entry.name)]
        extras = len(entry.local_extra), len(entry.central_extra)
        central = [20, 20, 0, method, 0, 0, *sizes, extras[1], 0, 0, 0, 0, len(out)]
        directory += _record(b"PK\x01\x02", _CENTRAL, central, entry.central)
        directory += entry.name + entry.central_extra
        local = [20, 0, method, 0, 0, *sizes, extras[0]]
        out += _record(b"PK\x03\x04", _LOCAL, local, entry.local)
        out += entry.name + entry.local_extra + data
    start, count, end = len(out), len(archive.entries), archive.end
    out += directory
    if archive.end_64 is not None:
        at = len(out)
        values = [44, 45, 45, 0, 0, count, count, len(directory), start]
        out += _record(b"PK\x06\x06", _END_64, values, archive.end_64)
        out += _record(b"PK\x06\x07", _LOCATOR, [0, at, 1], {})
        end = {4: 0xFFFFFFFF, 5: 0xFFFFFFFF, **end}
    values = [0, 0, count, count, len(directory), start, len(archive.tail)]
    out += _record(b"PK\x05\x06", _END, values, end)
    return bytes(out + archive.tail)


def _record(magic: bytes, layout: str, values: list[int], lies: dict[int, int]) -> bytes:
    """A record of a zip, with some of its numbers set to others; all are cut to their widths."""
    for at, value in lies.items():
        values[at] = value
    bits = {"H": 16, "I": 32, "Q": 64}
    cut = (value & (1 << bits[code]) - 1 for code, value in zip(layout, values, strict=True))
    return magic + struct.pack("<" + layout, *cut)
