"""Zips put together by hand, so that a header can say what no archiver would.

The format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_LOCAL = ("signature", "needs", "flags", "method", "time", "date", "crc", "stored", "size")
_CENTRAL = ("signature", "made_by", *_LOCAL[1:])
IN_64_BITS = {"here": 0xFFFF, "entries": 0xFFFF, "length": 2**32 - 1, "offset": 2**32 - 1}
"""What the end says where `zip64_end` has the numbers."""
_END = ("signature", "disk", "first_disk", "here", "entries", "length", "offset", "comment")
Lies = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A file in the archive, and what its two headers say that is not so.

    The lies are by the names in `_LOCAL` and `_CENTRAL`; `name` and `extra` too, and `offset` in
    the central one.
    """

    name: str
    content: bytes
    local: Lies = field(default_factory=dict)
    central: Lies = field(default_factory=dict)


def lying(entry: Entry, **lies: Any) -> Entry:
    """The entry with both headers saying the same untruth."""
    return Entry(entry.name, entry.content, {**entry.local, **lies}, {**entry.central, **lies})


def zipped(
    entries: Iterable[Entry],
    *,
    prefix: bytes = b"",
    comment: bytes = b"",
    end: Lies | None = None,
    before_end: bytes = b"",
) -> bytes:
    """The archive; contents begin at multiples of 64, as torch has them."""
    body, directory, count = bytearray(prefix), bytearray(), 0
    for entry in entries:
        truth = {
            "needs": 20,
            "made_by": 20,
            "flags": 0,
            "method": 0,
            "time": 0,
            "date": 33,
            "crc": zlib.crc32(entry.content),
            "stored": len(entry.content),
            "size": len(entry.content),
            "name": entry.name.encode(),
            "extra": b"",
            "offset": len(body),
        }
        start = len(body) + 30 + len(truth["name"]) + 4
        padding = bytes(-start % 64)
        padded = b"FB" + struct.pack("<H", len(padding)) + padding
        here = {**truth, "signature": 0x04034B50, "extra": padded, **entry.local}
        body += struct.pack("<I5H3I", *(here[key] for key in _LOCAL))
        body += struct.pack("<2H", len(here["name"]), len(here["extra"]))
        body += here["name"] + here["extra"] + entry.content
        directory += record({**truth, **entry.central})
        count += 1
    truth = {
        "here": count,
        "entries": count,
        "length": len(directory),
        "offset": len(body),
        "comment": len(comment),
    }
    return bytes(body + directory) + before_end + ending({**truth, **(end or {})}) + comment


def record(values: Lies) -> bytes:
    """What the directory says of one entry."""
    there = {"signature": 0x02014B50, **values}
    fixed = struct.pack("<I6H3I", *(there[key] for key in _CENTRAL))
    lengths = struct.pack("<5H", len(there["name"]), len(there["extra"]), 0, 0, 0)
    place = struct.pack("<2I", 0, there["offset"])
    return fixed + lengths + place + bytes(there["name"]) + bytes(there["extra"])


def ending(values: Lies) -> bytes:
    """The end of the directory."""
    told = {"signature": 0x06054B50, "disk": 0, "first_disk": 0, **values}
    return struct.pack("<I4H2IH", *(told[key] for key in _END))


def zip64_extra(*numbers: int) -> bytes:
    """The extra field with the 64-bit size, stored size and offset of an entry, in this order."""
    return struct.pack("<2H", 1, 8 * len(numbers)) + struct.pack(f"<{len(numbers)}Q", *numbers)


def zip64_end(entries: int, length: int, offset: int, at: int) -> bytes:
    """The 64-bit end of the directory, and its locator, which says that it begins at byte `at`."""
    record = struct.pack(
        "<IQ2H2I4Q", 0x06064B50, 44, 45, 45, 0, 0, entries, entries, length, offset
    )
    return record + struct.pack("<2IQI", 0x07064B50, 0, at, 1)
