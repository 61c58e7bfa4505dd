"""What reading a file takes: at most what the file is long and 64 MiB, whatever is in it."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offramp.checkpoints.safetensors_file import write_safetensors
from offramp.checkpoints.stored import Stored

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's count of a process's memory"
)
BESIDE = 64 << 20


def grown(path: Path, *options: str) -> dict[str, Any]:
    """What memory_reader.py says, its bound checked."""
    reader = Path(__file__).with_name("memory_reader.py")
    done = subprocess.run(
        [sys.executable, str(reader), str(path), *options], capture_output=True, text=True
    )
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    over = found["grown"] - path.stat().st_size
    assert over <= BESIDE, f"{over / 2**20:.0f} MiB more than the file of {path.stat().st_size}"
    return found


# Files that are sound: so long that holding them twice would be seen


def arrays(count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Matrices of 4 MB and a vector."""
    rng = np.random.default_rng(0)
    found = {f"layer.{n}.weight": rng.random((1000, 1000), np.float32) for n in range(count)}
    return {**found, "bias": np.ones(1000, np.float32)}


def in_parts(count: int) -> dict[str, Any]:
    """One array of all, in pieces of 40 MB."""
    flat = np.concatenate([array.reshape(-1) for array in arrays(count).values()])
    pieces = {f"w@@.{n}": piece for n, piece in enumerate(np.array_split(flat, 3))}
    about = {"OriginShape": (len(flat) // 1000, 1000), "slices": list(pieces)}
    return {**pieces, "UnpackBigParamInfor@@": {"w": about}}


def pickled(path: Path, value: Any, protocol: int) -> None:
    with path.open("wb") as file:
        pickle.dump(value, file, protocol)


def saved(path: Path, zipped: bool) -> None:
    state = {name: torch.from_numpy(array) for name, array in arrays(30).items()}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)


# Of protocol 2 a file is half as long again as its numbers are.
FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "safetensors": (
        "x.safetensors",
        lambda path: write_safetensors(path, {n: Stored("F32", a) for n, a in arrays(30).items()}),
    ),
    "torch": ("x.bin", lambda path: saved(path, True)),
    "torch before 1.6": ("x.bin", lambda path: saved(path, False)),
    "paddle, protocol 2": ("x.pdparams", lambda path: pickled(path, arrays(24), 2)),
    "paddle, protocol 4": ("x.pdparams", lambda path: pickled(path, arrays(30), 4)),
    "paddle, in parts": ("x.pdparams", lambda path: pickled(path, in_parts(30), 3)),
}


@pytest.fixture(scope="module", params=FILES)
def sound(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A file of some 120 MB."""
    file, write = FILES[request.param]
    path = tmp_path_factory.mktemp(request.param.replace(" ", "_"), numbered=False) / file
    write(path)
    assert 110_000_000 < path.stat().st_size < 140_000_000
    yield path
    path.unlink()


def skip_parts(sound: Path, turned: str) -> None:
    if turned == "turned" and "parts" in sound.parent.name:
        pytest.skip("one matrix as long as the file is there twice while it is turned")


@pytest.mark.parametrize("turned", ["as-it-is", "turned"])
def test_a_mapped_file_is_in_memory_once(sound: Path, turned: str) -> None:
    """Also where every matrix has to be copied, since it lies the other way round."""
    skip_parts(sound, turned)
    assert grown(sound, turned, "mapped")["numbers"] >= 24_001_000


@pytest.mark.parametrize("turned", ["as-it-is", "turned"])
def test_a_copied_file_is_in_memory_once(sound: Path, turned: str) -> None:
    """What `mmap=False` asks for, also of a Paddle model's matrices."""
    skip_parts(sound, turned)
    assert grown(sound, turned, "copied")["numbers"] >= 24_001_000


# Files that are not: each instruction makes something that is larger than itself


def repeated(*parts: bytes, times: int) -> bytes:
    return b"\x80\x04" + b"".join(parts) * times + b"."


def entries(count: int) -> list[bytes]:
    """Entries of a zip's list of its contents: APPNOTE.TXT 4.3.12."""
    head = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *[0] * 7, 7, *[0] * 6)
    return [head + b"%07x" % number for number in range(count)]


def zip_of(count: int, *, hidden: bool) -> bytes:
    """A zip of so many entries; `hidden` says so in its record of 64 bits alone."""
    start, content = b"PK\3\4" + bytes(26), b"".join(entries(count))
    at, size = len(start), len(content)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at + size, 1)
    short = (1, 53) if hidden else (0xFFFF, 0xFFFFFFFF)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, short[0], short[0], short[1], at, 0)
    return start + content + record + locator + end


def zip_with(name: str, length: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}.")
            archive.writestr(name, bytes(length))

    return write


def of(raw: Callable[[], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(raw())

    return write


LONG = b"X" + struct.pack("<I", 1025) + b"a" * 1025
HOSTILE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "names of globals": (
        "x.pdparams",
        of(lambda: repeated(b"c", b"a" * 254, b"\n", b"b" * 254, b"\n", times=250_000)),
    ),
    "long numbers": ("x.pdparams", of(lambda: repeated(b"\x8a\xff", b"\x7f" * 255, times=390_000))),
    "long texts": ("x.pdparams", of(lambda: repeated(LONG, times=100_000))),
    "wide texts": (
        "x.pdparams",
        of(lambda: repeated(b"\x8c\x14" + b"a" * 16 + "🙂".encode(), times=390_000)),
    ),
    "empty bytes": ("x.pdparams", of(lambda: repeated(b"C\x00", times=390_000))),
    "dictionaries": ("x.pdparams", of(lambda: repeated(b"}", times=390_000))),
    "tuples in tuples": ("x.pdparams", of(lambda: repeated(b")" + b"\x85" * 390_000, times=1))),
    "what it remembers": ("x.pdparams", of(lambda: repeated(b"]\x94", times=195_000))),
    "entries of a zip": ("x.bin", of(lambda: zip_of(70_000, hidden=False))),
    "more entries of a zip": ("x.bin", of(lambda: zip_of(600_000, hidden=False))),
    "hidden entries of a zip": ("x.bin", of(lambda: zip_of(600_000, hidden=True))),
    "an order of bytes without end": ("x.bin", zip_with("a/byteorder", 100_000_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_would_take_more_is_refused_before(name: str, tmp_path: Path) -> None:
    file, write = HOSTILE[name]
    write(tmp_path / file)
    try:
        assert file in grown(tmp_path / file, "as-it-is", "mapped")["refused"]
    finally:
        (tmp_path / file).unlink()  # a few are of hundreds of megabytes
