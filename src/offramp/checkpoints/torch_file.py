"""PyTorch's pytorch_model.bin: tensors as views of the file, its pickle read as data.

What `torch.save` writes, a zip since torch 1.6 and three pickles in a row before:
https://docs.pytorch.org/docs/stable/notes/serialization.html. torch is not needed to read it.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offramp.checkpoints.checked_file import UnsoundError, reading
from offramp.checkpoints.content import Array, file_bytes, settled
from offramp.checkpoints.inert_pickle import Call, Name, Outside, parse_pickle
from offramp.checkpoints.pickle_writer import PickleWriter
from offramp.checkpoints.stored import (
    TYPES,
    Stored,
    check_name,
    check_shape,
    check_sizes,
)
from offramp.errors import CheckpointError

_STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
}
_REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_NAMES = frozenset(
    {*_STORAGES, *_REBUILD, "torch._utils._rebuild_parameter", "collections.OrderedDict"}
)
"""All that a file may name."""
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of its magic number
_LITTLE = np.frombuffer(b"little", np.uint8)
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # of a zip's entry: APPNOTE.TXT 4.3.7
_END = struct.Struct("<4s4H2IH")  # of a zip
_LONG_END = struct.Struct("<4sQ2H2I4Q4sIQI")  # the same in 64 bits, and where that lies
_SIZES_FOLLOW, _UTF8 = 0x8, 0x800  # an entry's flags
_LONGEST_EXTRA = 8192  # bytes beside an entry's name: torch pads with them, to 64
_NO_PATH = re.compile(r"[\x00-\x1f\\\\]|^/|(^|/)\.\.(/|$)|^$")
_LONGEST_DIRECTORY = 4_000_000  # bytes; that of a thousand tensors has a hundred thousand

Find = Callable[[str, Any], "tuple[str, Array]"]
"""(kind of storage, its key) to (name of its type, its bytes)."""


def read_torch(path: Path, *, allow_legacy: bool = False) -> dict[str, Stored]:
    """The tensors of a file by name: views of its mapping.

    Numbers and texts beside them are left out. Files of before torch 1.6 are read, as data like
    the others, with `allow_legacy`. Raises CheckpointError for a file that is neither, or that
    holds anything else.
    """
    with reading(path, "zip", "Expected what torch.save(model.state_dict(), path) writes."):
        content = file_bytes(path)
        start = content[: len(_LEGACY_START)].tobytes()
        if start.startswith(b"PK"):
            value, find = _of_zip(path, content)
        elif start == _LEGACY_START:
            if not allow_legacy:
                raise UnsoundError(
                    "it is in torch's format of before 1.6. Pass allow_legacy_pickle=True to read "
                    "it (as data: nothing in it is executed), or take the model's safetensors",
                    0,
                    "legacy",
                )
            value, find = _of_legacy(content)
        else:
            raise UnsoundError("it is no file of torch's", 0)
        if type(value) is not dict:
            raise UnsoundError(f"it holds a {type(value).__name__}", kind="pickle")
        found: dict[str, Stored] = {}
        views: dict[tuple[Any, ...], Stored] = {}  # what is tied is one memory under two names
        left = len(content)
        for name, item in value.items():
            if type(item) in (bool, int, float, str, type(None)):
                continue
            check_name(name)
            stored = _tensor(name, item, find)
            same = (stored.array.ctypes.data, stored.dtype, stored.shape, stored.array.strides)
            flags = stored.array.flags
            shared = same in views and flags.c_contiguous and flags.aligned  # nor ever copied
            left -= 0 if shared else stored.nbytes
            found[name] = views.setdefault(same, stored)
        if left < 0:
            raise UnsoundError("what its names stand for is more than the file holds")
        return found


def write_torch(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Write the zip that `torch.load` reads: a dictionary of tensors."""
    storages = {kind: storage for storage, kind in _STORAGES.items()}
    for name, stored in tensors.items():
        if stored.dtype not in storages:
            raise CheckpointError(
                f"{name} has type {stored.dtype}, which PyTorch's file has no storage for; "
                f"expected one of {', '.join(storages)}.",
                kind="unsupported",
            )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("archive/data.pkl", "w") as file:
            pickle = PickleWriter(file, protocol=2)
            pickle.begin_dict()
            for number, (name, stored) in enumerate(tensors.items()):
                pickle.text(name)
                pickle.named("torch._utils", "_rebuild_tensor_v2")
                pickle.write(b"((")
                pickle.text("storage")
                pickle.named(*storages[stored.dtype].rsplit(".", 1))
                pickle.text(str(number))
                pickle.text("cpu")
                pickle.number(stored.array.size)
                pickle.write(b"tQ")
                pickle.number(0)
                pickle.numbers(stored.shape)
                pickle.numbers(_steps(stored.shape))
                pickle.flag(False)
                pickle.named("collections", "OrderedDict")
                pickle.write(b")RtR")
            pickle.end_dict()
            pickle.stop()
        archive.writestr("archive/byteorder", b"little")
        for number, stored in enumerate(tensors.values()):
            info = zipfile.ZipInfo(f"archive/data/{number}")
            long = stored.nbytes >= 1 << 31
            info.extra = _padding(archive.start_dir + len(info.filename) + 20 * long)
            with archive.open(info, "w", force_zip64=long) as file:
                file.write(settled(stored.array).reshape(-1).view("u1").data)
        archive.writestr("archive/version", b"3\n")


def _padding(at: int) -> bytes:
    """What is written beside an entry's name, so that its bytes begin at a multiple of 64."""
    length = -(at + _LOCAL_HEADER.size + 4) % 64
    return struct.pack("<2H", 0x4246, length) + bytes(length)  # torch's own mark, "FB"


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))


# ---------------------------------------------------------------------- the zip


def _of_zip(path: Path, content: Array) -> tuple[Any, Find]:
    entries = dict(_entries(path, content))
    pickles = [name for name in entries if name.endswith("data.pkl")]
    if len(pickles) != 1:
        raise UnsoundError(f"{len(pickles)} files data.pkl in it; expected one")
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "constants.pkl" in entries:
        raise UnsoundError("it is a TorchScript program", kind="unsupported")
    if entries.get(folder + "byteorder", _LITTLE)[:7].tobytes() != b"little":
        raise UnsoundError("numbers that are not little-endian", kind="unsupported")
    value, end = parse_pickle(entries[pickles[0]], names=_NAMES, outside=True)
    if end != len(entries[pickles[0]]):
        raise UnsoundError("bytes follow the end of data.pkl", kind="pickle")

    def find(kind: str, key: Any) -> tuple[str, Array]:
        found = entries.get(f"{folder}data/{key}") if type(key) is str else None
        if kind not in _STORAGES or found is None:
            raise UnsoundError(f"a tensor in a {kind} that is not there")
        return _STORAGES[kind], found

    return value, find


def _entries(path: Path, content: Array) -> Iterator[tuple[str, Array]]:
    """The names and bytes of a zip's entries, which lie one after the other from its first byte."""
    count, listed_at = _end(content)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise UnsoundError(f"it is no zip that can be read ({error})") from None
    if len(infos) != count:
        raise UnsoundError(f"it lists {len(infos)} entries and says {count}", listed_at)
    seen: set[str] = set()
    at = 0
    for info in infos:
        name = info.filename
        if name in seen or not name or _NO_PATH.search(info.orig_filename):
            raise UnsoundError(f"{name[:60]!r} is in it twice, or is no name", info.header_offset)
        seen.add(name)
        if info.header_offset != at:
            raise UnsoundError(f"{name[:60]} does not lie where the one before it ends", at)
        start = _start(content, info)
        at = start + info.file_size
        if at > listed_at:
            raise UnsoundError(f"{name[:60]} lies outside the file", start, "truncated")
        found = content[start:at]
        if name.endswith(".pkl") and zlib.crc32(found.data) != info.CRC:
            raise UnsoundError(f"{name[:60]} was changed: its checksum differs", start)
        yield name, found
        at = _after(content, info, at)
    if at != listed_at:
        raise UnsoundError("bytes that are nobody's follow its entries", at)


def _end(content: Array) -> tuple[int, int]:
    """How many entries there are, and where their list begins: APPNOTE.TXT 4.3.14 to 4.3.16.

    A list so long that reading it takes much memory is refused, before it is read.
    """
    at = len(content) - _END.size
    if at < 0 or content[at : at + 4].tobytes() != b"PK\x05\x06":
        raise UnsoundError("it is no zip, or ends too early", len(content), "truncated")
    _, *disks, here, count, size, start, comment = _END.unpack(content[at:].tobytes())
    numbers = [here, count, size, start]
    long = content[max(at - _LONG_END.size, 0) : at].tobytes()
    if long[56:60] == b"PK\x06\x07":  # the true numbers are in a longer record before it
        mark, length, _, _, *more, _, disk, place, n_disks = _LONG_END.unpack(long)
        at -= _LONG_END.size
        short, numbers = numbers, more[2:]
        full = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        agree = all(x in (y, z) for x, y, z in zip(short, numbers, full, strict=True))
        disks += [*more[:2], disk, n_disks - 1]
        if mark != b"PK\x06\x06" or length != 44 or place != at or not agree:
            raise UnsoundError("its end is not sound", at)
    here, count, size, start = numbers
    if any(disks) or comment or here != count or start + size != at:
        raise UnsoundError("its end does not say what is before it", at)
    if size > _LONGEST_DIRECTORY:
        raise UnsoundError(f"a list of entries of {size} bytes", start)
    return count, start


def _start(content: Array, info: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin, as its own header says, which must say what the list says."""
    at = info.header_offset
    header = content[at : at + _LOCAL_HEADER.size].tobytes()
    if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise UnsoundError(f"{info.filename[:60]} is not where the zip says", at)
    _, _, flags, method, _, _, crc, packed, size, *lengths = _LOCAL_HEADER.unpack(header)
    place = at + _LOCAL_HEADER.size
    name = content[place : place + lengths[0]].tobytes()
    stated = (info.CRC, info.file_size, info.file_size)
    said = (
        crc,
        *(
            n if own == 0xFFFFFFFF else own
            for own, n in zip((packed, size), stated[1:], strict=True)
        ),
    )
    later = bool(flags & _SIZES_FOLLOW) and (crc, packed, size) == (0, 0, 0)
    if (
        name != info.orig_filename.encode()
        or (flags, method) != (info.flag_bits, zipfile.ZIP_STORED)
        or flags & ~(_SIZES_FOLLOW | _UTF8)
        or info.compress_type != zipfile.ZIP_STORED
        or info.compress_size != info.file_size
        or not (later or said == stated)
        or lengths[1] > _LONGEST_EXTRA
    ):
        raise UnsoundError(
            f"{info.filename[:60]} is compressed or encrypted, or is another where it lies", at
        )
    return place + int(lengths[0]) + int(lengths[1])


def _after(content: Array, info: zipfile.ZipInfo, at: int) -> int:
    """Where the next entry begins: after a record of checksum and sizes, where there is one."""
    if not info.flag_bits & _SIZES_FOLLOW:
        return at
    record = content[at : at + 24].tobytes()
    for layout in ("<4sI2I", "<4sI2Q"):
        length = struct.calcsize(layout)
        if len(record) < length or record[:4] != b"PK\x07\x08":
            break
        if struct.unpack(layout, record[:length])[1:] == (info.CRC, info.file_size, info.file_size):
            return at + length
    raise UnsoundError(f"{info.filename[:60]} is not followed by its sizes", at)


# ---------------------------------------------------------------------- before 1.6


def _of_legacy(content: Array) -> tuple[Any, Find]:
    """Four pickles (magic number, version, machine, tensors), keys, then memory by key."""
    at = len(_LEGACY_START)
    version, at = parse_pickle(content, at, names=())
    machine, at = parse_pickle(content, at, names=())
    if type(version) is not int or version != 1001 or type(machine) is not dict:
        raise UnsoundError("another version of torch's old format", kind="unsupported")
    if machine.get("little_endian") is not True:
        raise UnsoundError("numbers that are not little-endian", kind="unsupported")
    value, at = parse_pickle(content, at, names=_NAMES, outside=True)
    keys, at = parse_pickle(content, at, names=())
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise UnsoundError("no list of its storages", at, "pickle")
    kinds = dict(_storage_kinds(value))
    storages: dict[str, tuple[str, Array]] = {}
    for key in keys:
        if key in storages or key not in kinds:
            raise UnsoundError("a storage that is there twice, or is nobody's", at, "pickle")
        if at + 8 > len(content):
            raise UnsoundError("it ends too early", len(content), "truncated")
        (count,) = struct.unpack("<q", content[at : at + 8].tobytes())
        length = count * TYPES[kinds[key]].itemsize
        at += 8
        if not 0 <= length <= len(content) - at:
            raise UnsoundError(f"it lacks a storage of {count} numbers", at, "truncated")
        storages[key] = kinds[key], content[at : at + length]
        at += length
    if at != len(content):
        raise UnsoundError("bytes follow its end", at)

    def find(kind: str, key: Any) -> tuple[str, Array]:
        found = storages.get(key) if type(key) is str else None
        if found is None or _STORAGES.get(kind) != found[0]:
            raise UnsoundError(f"a tensor in a {kind} that is not there")
        return found

    return value, find


def _storage_kinds(value: Any) -> Iterator[tuple[str, str]]:
    for item in value.values() if type(value) is dict else ():
        key = _outside(item)
        named = len(key) > 2 and type(key[1]) is Name and type(key[2]) is str
        if named and key[1].name in _STORAGES:
            yield key[2], _STORAGES[key[1].name]


# ---------------------------------------------------------------------- a tensor


def _outside(item: Any) -> tuple[Any, ...]:
    """What a tensor's record says of its storage; nothing for what is no tensor."""
    item = _of_parameter(item)
    stored = item.args[0] if type(item) is Call and item.args else None
    return stored.key if type(stored) is Outside else ()


def _of_parameter(item: Any) -> Any:
    parameter = type(item) is Call and item.of == "torch._utils._rebuild_parameter"
    if parameter and len(item.args) == 3 and _is_empty(item.args[2]):  # no hooks
        return item.args[0]
    return item


def _is_empty(value: Any) -> bool:
    return type(value) is dict and not value


def _tensor(name: str, item: Any, find: Find) -> Stored:
    item = _of_parameter(item)
    if type(item) is not Call or item.of not in _REBUILD:
        told = f"a call of {item.of}" if type(item) is Call else f"a {type(item).__name__}"
        raise UnsoundError(f"{name} is {told}; expected tensors alone", kind="pickle")
    key = _outside(item)
    if (
        len(item.args) < 4
        or len(key) not in (5, 6)
        or type(key[0]) is not str
        or key[0] != "storage"
        or type(key[1]) is not Name
        or (len(key) == 6 and key[5] is not None)  # a view of another storage
        or not all(map(_is_empty, item.args[5:]))  # hooks
    ):
        raise UnsoundError(f"{name} is a tensor without memory", kind="pickle")
    dtype, content = find(key[1].name, key[2])
    if type(key[4]) is not int or key[4] * TYPES[dtype].itemsize != len(content):
        raise UnsoundError(f"{name} lies in a storage of another length", kind="pickle")
    kind = np.dtype(TYPES[dtype])
    (offset,) = check_sizes(item.args[1:2])
    shape = check_shape(item.args[2] if type(item.args[2]) is tuple else None)
    steps = check_sizes(item.args[3] if type(item.args[3]) is tuple else None)
    if len(steps) != len(shape):
        raise UnsoundError(f"{name} has {len(shape)} sizes and {len(steps)} steps", kind="pickle")
    # No number may be met twice, or a few bytes could stand for any amount of memory.
    if 0 in shape:
        return Stored(dtype, np.empty(shape, kind))
    steps = tuple(step if size > 1 else 1 for size, step in zip(shape, steps, strict=True))
    count, least = len(content) // kind.itemsize, 1
    for step, size in sorted(zip(steps, shape, strict=True)):
        if size > 1 and step < least:
            raise UnsoundError(f"{name} has steps {list(steps)}, which meet numbers twice")
        least = max(least, step * size)
    last = offset + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    if last >= count:
        raise UnsoundError(f"{name} of shape {list(shape)} does not lie in its memory")
    strides = tuple(step * kind.itemsize for step in steps)
    return Stored(dtype, np.ndarray(shape, kind, content.data, offset * kind.itemsize, strides))
