"""Pickles written by hand: names that every reader knows, and arrays straight from their memory.

Python's own writer would name numpy's functions as this numpy calls them, which numpy 1 does not
know, and copy each array. https://docs.python.org/3/library/pickletools.html lists the
instructions.
"""

from __future__ import annotations

import struct
from typing import IO

from offramp.checkpoints.content import Array, settled

_SHORT_TUPLES = {1: b"\x85", 2: b"\x86", 3: b"\x87"}


class PickleWriter:
    """Values one after the other, each left on the reader's stack for what comes next."""

    def __init__(self, file: IO[bytes], protocol: int) -> None:
        self.file = file
        self.protocol = protocol
        self.write(b"\x80", bytes([protocol]))

    def write(self, *parts: bytes) -> None:
        self.file.write(b"".join(parts))

    def begin_dict(self) -> None:
        self.write(b"}(")

    def end_dict(self) -> None:
        self.write(b"u")

    def stop(self) -> None:
        self.write(b".")

    def text(self, text: str) -> None:
        raw = text.encode()
        self.write(b"X", struct.pack("<I", len(raw)), raw)

    def number(self, value: int) -> None:
        if value < 1 << 31:
            self.write(b"J", struct.pack("<i", value))
        else:
            raw = value.to_bytes(9, "little")
            self.write(b"\x8a", bytes([len(raw)]), raw)

    def flag(self, value: bool) -> None:
        self.write(b"\x88" if value else b"\x89")

    def numbers(self, values: tuple[int, ...]) -> None:
        """A tuple of whole numbers."""
        self.write(b"(")
        for value in values:
            self.number(value)
        self.write(b"t")

    def tuple_of(self, count: int) -> None:
        """The last values, of which there are one to three, as a tuple."""
        self.write(_SHORT_TUPLES[count])

    def named(self, module: str, name: str) -> None:
        """A function or class."""
        self.write(b"c", module.encode(), b"\n", name.encode(), b"\n")

    def array(self, array: Array) -> None:
        """A numpy array as numpy 1 writes it, which numpy 2 reads too."""
        array = settled(array)
        self.named("numpy.core.multiarray", "_reconstruct")
        self.named("numpy", "ndarray")
        self.numbers((0,))
        self.write(b"C\x01b\x87R(")  # (ndarray, (0,), b"b"): called; then its state
        self.number(1)
        self.numbers(array.shape)
        self.named("numpy", "dtype")
        self.text(array.dtype.str[1:])
        self.flag(False)
        self.flag(True)
        self.write(b"\x87R(")
        self.number(3)
        self.text("|" if array.itemsize == 1 else "<")
        self.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff")
        self.number(0)
        self.write(b"tb")
        self.flag(False)
        self.write(b"\x8e", struct.pack("<Q", array.nbytes))
        self.file.write(array.reshape(-1).view("u1").data)
        self.write(b"tb")
