"""PyTorch's .bin read as data: torch's own tensors, and nothing executed."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings, strategies as st
from stored_cases import TORCH_KINDS, assert_same, bits, numbers, tensors

from offramp import BertForSequenceClassification, CheckpointError, OfframpError
from offramp.checkpoints.stored import in_memory
from offramp.checkpoints.torch_file import read_torch, write_torch
from offramp.models.tensors import TORCH_TYPES, as_stored

BASE = torch.arange(24.0)
TENSORS = {
    "plain": torch.arange(6.0).reshape(2, 3),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "permuted": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
    # Four of one memory
    "all of it": BASE,
    "a part": BASE[4:10].reshape(2, 3),
    "every other column": BASE.reshape(4, 6)[:, ::2],
    "turned, of it": BASE.reshape(4, 6).T,
    "eight dimensions": torch.arange(4.0**8).reshape((4,) * 8),
    "one number": torch.tensor(3.5),
    "one of many": BASE[7],
    "one row, repeated once": torch.arange(4).expand(1, -1),
    "none": torch.zeros(0, 4),
    "none of some": BASE[3:3],
    "learns": torch.ones(2, requires_grad=True),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "frozen": torch.nn.Parameter(torch.ones(2, 3).T, requires_grad=False),
    "größe.重み": torch.ones(1),
    **{f"{dtype}": torch.arange(-3, 3).reshape(2, 3).to(dtype).T for dtype in TORCH_TYPES.values()},
}
ZIP, LEGACY = True, False


def saved(path: Path, value: Any, zipped: bool = ZIP, **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def with_constants(value: dict[str, Any]) -> OrderedDict[str, Any]:
    return OrderedDict({**value, "epoch": 3, "loss": 0.5, "by": "us", "best": None, "done": True})


# What is read


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_tensors_are_torch_s_own(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "x.bin", with_constants(TENSORS), zipped)
    found = read_torch(path, allow_legacy=not zipped)
    assert list(found) == list(TENSORS)
    expected = torch.load(path, weights_only=True)
    assert_same(found, {name: as_stored(expected[name]) for name in TENSORS})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = saved(tmp_path / "x.bin", with_constants(TENSORS), pickle_protocol=protocol)
    assert_same(read_torch(path), {name: as_stored(tensor) for name, tensor in TENSORS.items()})


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_a_module_s_state(tmp_path: Path, zipped: bool) -> None:
    """On which torch hangs the versions of its modules; with its hooks' parameters or without."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    for keep in (True, False):
        state = module.state_dict(keep_vars=keep)
        path = saved(tmp_path / "x.bin", state, zipped)
        found = read_torch(path, allow_legacy=True)
        assert_same(found, {name: as_stored(tensor) for name, tensor in state.items()})


def test_one_memory_of_two_names_is_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.bin", {"a": BASE, "b": BASE.reshape(4, 6)[1:]})
    found = read_torch(path)
    assert np.shares_memory(found["a"].array, found["b"].array)


def test_a_part_of_a_large_memory_is_a_view_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.bin", {"w": torch.full((1 << 16,), 5, dtype=torch.uint8)[::2]})
    found, copied = read_torch(path), in_memory(read_torch(path))
    where = path.read_bytes().index(b"\x05" * (1 << 16))
    with path.open("r+b") as file:
        file.seek(where)
        file.write(b"\x07")
    assert found["w"].array[0] == 7
    assert copied["w"].array[0] == 5


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_a_write_is_the_process_s_own(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "x.bin", {"w": torch.zeros(3)}, zipped)
    before = path.read_bytes()
    found = read_torch(path, allow_legacy=True)["w"].array
    found += 1
    assert found.tolist() == [1.0] * 3
    assert path.read_bytes() == before


def test_the_old_format_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.bin", {"w": torch.ones(2)}, LEGACY)
    with pytest.raises(CheckpointError, match="allow_legacy_pickle=True") as caught:
        read_torch(path)
    assert caught.value.kind == "legacy"
    assert caught.value.offset == 0
    assert_same(read_torch(path, allow_legacy=True), {"w": as_stored(torch.ones(2))})


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("old_names", [False, True])
def test_a_model_as_transformers_wrote_it(shards: bool, old_names: bool, tmp_path: Path) -> None:
    """One file or two with an index; norms under their names of now, or of before 2019."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=10,
    )
    theirs = transformers.BertForSequenceClassification(config).eval()
    config.save_pretrained(tmp_path)
    state = dict(theirs.state_dict())
    if old_names:
        for new, old in (
            ("LayerNorm.weight", "LayerNorm.gamma"),
            ("LayerNorm.bias", "LayerNorm.beta"),
        ):
            state = {name.replace(new, old): tensor for name, tensor in state.items()}
    if shards:
        names, index = list(state), {}
        for n, part in enumerate((names[:20], names[20:]), start=1):
            file = f"pytorch_model-0000{n}-of-00002.bin"
            torch.save({name: state[name] for name in part}, tmp_path / file)
            index.update(dict.fromkeys(part, file))
        text = str({"metadata": {}, "weight_map": index}).replace("'", '"')
        (tmp_path / "pytorch_model.bin.index.json").write_text(text)
    else:
        torch.save(state, tmp_path / "pytorch_model.bin")
    ours = BertForSequenceClassification.from_pretrained(tmp_path)
    for name, tensor in theirs.state_dict().items():
        if name in ours.state_dict():
            assert torch.equal(ours.state_dict()[name], tensor), name
    ids = torch.tensor([[1, 5, 7, 2]])
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)


# What is written


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every kind of number in every layout, bit for bit."""
    path, expected = tmp_path / "x.bin", tensors(TORCH_KINDS)
    write_torch(path, expected)
    for found in (read_torch(path), in_memory(read_torch(path))):
        assert_same(found, expected)
        assert list(found) == list(expected)


@pytest.mark.parametrize("mmap", [True, False])
def test_torch_reads_what_is_written(tmp_path: Path, mmap: bool) -> None:
    path, expected = tmp_path / "x.bin", tensors(TORCH_KINDS)
    write_torch(path, expected)
    found = torch.load(path, weights_only=True, mmap=mmap)
    assert list(found) == list(expected)
    assert all(type(tensor) is torch.Tensor and tensor.is_contiguous() for tensor in found.values())
    assert_same({name: as_stored(tensor) for name, tensor in found.items()}, expected)


def test_no_tensors(tmp_path: Path) -> None:
    write_torch(tmp_path / "x.bin", {})
    assert torch.load(tmp_path / "x.bin", weights_only=True) == {}
    assert read_torch(tmp_path / "x.bin") == {}


@pytest.mark.parametrize("kind", ["U16", "U32", "U64"])
def test_a_kind_that_torch_has_no_storage_of(tmp_path: Path, kind: str) -> None:
    with pytest.raises(OfframpError, match=kind):
        write_torch(tmp_path / "x.bin", {"w": numbers(kind, (2,))})
    assert list(tmp_path.iterdir()) == []


# What is refused


class Asks:
    """What a pickle of it would call when it is executed."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


def assert_refused(path: Path, *kinds: str, allow_legacy: bool = True) -> None:
    """And nothing named `planted` is there."""
    with pytest.raises(CheckpointError, match=f"{path.name} is refused") as caught:
        read_torch(path, allow_legacy=allow_legacy)
    assert caught.value.kind in kinds
    assert caught.value.file == str(path)
    assert not (path.parent / "planted").exists()


VALUES: dict[str, Callable[[Asks], Any]] = {
    "a call": lambda call: {"w": call},
    "a call in a list": lambda call: {"w": torch.ones(2), "x": [call]},
    "a call in a parameter's hooks": lambda call: {
        "w": Asks(torch._utils._rebuild_parameter, torch.ones(2), True, call)
    },
    "a call alone": lambda call: call,
    "sparse": lambda _: {"w": torch.ones(2).to_sparse()},
    "on no device": lambda _: {"w": torch.empty(2, device="meta")},
    "complex": lambda _: {"w": torch.ones(2, dtype=torch.complex64)},
    "of eight bits": lambda _: {"w": torch.ones(2).to(torch.float8_e4m3fn)},
    "of unsigned numbers": lambda _: {"w": torch.ones(2, dtype=torch.uint16)},
    "one number many times": lambda _: {"w": torch.ones(1).expand(1000)},
    "one row many times": lambda _: {"w": torch.ones(4).expand(1000, 4)},
    "numbers that overlap": lambda _: {"w": torch.arange(9.0).unfold(0, 4, 1)},
    "nine dimensions": lambda _: {"w": torch.ones((1,) * 9)},
    "a list": lambda _: [torch.ones(2)],
    "a tensor": lambda _: torch.ones(2),
    "a module": lambda _: torch.nn.Linear(2, 2),
    "dictionaries in one another": lambda _: {"state_dict": {"w": torch.ones(2)}},
    "a memory": lambda _: {"w": torch.ones(2).untyped_storage()},
    "an array": lambda _: {"w": np.ones(2)},
    "a kind of number": lambda _: {"w": torch.ones(2), "dtype": torch.float32},
    "numbers as names": lambda _: {0: torch.ones(2)},
    "a name that is a path": lambda _: {"../w": torch.ones(2)},
    "a name with a NUL": lambda _: {"a\0b": torch.ones(2)},
}


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
@pytest.mark.parametrize("name", VALUES)
def test_what_is_no_state_is_refused_and_does_nothing(
    name: str, zipped: bool, tmp_path: Path
) -> None:
    value = VALUES[name](Asks(os.mkdir, str(tmp_path / "planted")))
    assert_refused(saved(tmp_path / "x.bin", value, zipped), "pickle", "zip", "unsupported")


def rezipped(source: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> bytes:
    """The archive with some entries changed, or left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(buffer, "w", **options) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return buffer.getvalue()


def replaced(old: bytes, new: bytes, end: str = "data.pkl") -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(end):
            return content
        assert old in content
        return content.replace(old, new, 1)

    return change


SIZES, STEPS = b"K\x02K\x03\x86q\x08", b"K\x03K\x01\x86"
FAR = b"\x8a\x08" + struct.pack("<q", 1 << 61)
PICKLES: dict[str, tuple[bytes, bytes]] = {
    "larger than its memory": (SIZES, b"K\x03K\x03\x86q\x08"),
    "much larger": (SIZES, FAR + b"K\x03\x86q\x08"),
    "sizes below zero": (SIZES, b"J\xfe\xff\xff\xffK\x03\x86q\x08"),
    "sizes that are a list": (SIZES, b"]q\x08"),
    "sizes that are halves": (SIZES, b"G?\xe0\0\0\0\0\0\0K\x03\x86q\x08"),
    "no rows of 2^61": (SIZES, b"K\x00" + FAR + b"\x86q\x08"),
    "longer steps": (STEPS, b"K\x04K\x01\x86"),
    "steps of nothing": (STEPS, b"K\x00K\x00\x86"),
    "steps that overlap": (STEPS, b"K\x01K\x01\x86"),
    "steps backwards": (STEPS, b"J\xfd\xff\xff\xffK\x01\x86"),
    "steps without end": (STEPS, FAR + b"K\x01\x86"),
    "one step": (STEPS, b"K\x01\x85"),
    "before its memory": (b"QK\x00", b"QJ\xff\xff\xff\xff"),
    "behind its memory": (b"QK\x00", b"QK\x01"),
    "far behind its memory": (b"QK\x00", b"Q" + FAR),
    "no place": (b"QK\x00", b"QN"),
    "another kind of memory": (b"ctorch\nFloatStorage", b"ctorch\nQInt8Storage"),
    "larger numbers": (b"ctorch\nFloatStorage", b"ctorch\nDoubleStorage"),
    "memory that is a command": (b"ctorch\nFloatStorage", b"cos\nsystem"),
    "memory that is a text": (b"ctorch\nFloatStorage\n", b"X\x01\x00\x00\x00F"),
    "memory by another word": (b"storage", b"module_"),
    "another memory": (b"X\x03\x00\x00\x00cpu", b"0X\x01\x00\x00\x009X\x03\x00\x00\x00cpu"),
    "another way to make tensors": (b"ctorch._utils\n_rebuild_tensor_v2", b"cos\nsystem"),
    "a command": (b"ccollections\nOrderedDict\n", b"cos\nsystem\nX\x01\x00\x00\x00a\x85R0N0"),
    "more after it": (b"q\rs.", b"q\rs.."),
}


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
@pytest.mark.parametrize("name", PICKLES)
def test_a_tensor_that_lies_is_refused(name: str, zipped: bool, tmp_path: Path) -> None:
    sound = saved(tmp_path / "sound.bin", {"w": torch.arange(6.0).reshape(2, 3)}, zipped)
    change = replaced(*PICKLES[name], end="data.pkl" if zipped else "")
    raw = rezipped(sound, change) if zipped else change("", sound.read_bytes())
    (tmp_path / "x.bin").write_bytes(raw)
    assert_refused(tmp_path / "x.bin", "pickle", "zip", "truncated")


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_a_single_row_may_have_any_step(zipped: bool, tmp_path: Path) -> None:
    """Since it is never taken, and torch writes what it has."""
    sound = saved(tmp_path / "x.bin", {"w": torch.ones(9).as_strided((1, 3), (1 << 40, 2))}, zipped)
    assert read_torch(sound, allow_legacy=True)["w"].array.tolist() == [[1.0] * 3]
    far = saved(tmp_path / "x.bin", {"w": torch.ones(9).as_strided((1, 3), (1 << 61, 2))}, zipped)
    try:
        assert read_torch(far, allow_legacy=True)["w"].array.tolist() == [[1.0] * 3]
    except CheckpointError as error:
        assert "step" in str(error) or "shape" in str(error)


def duplicated(sound: Path, end: str) -> bytes:
    """With a second entry of one name behind the first."""
    buffer = io.BytesIO(sound.read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith(end))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(name, archive.read(name))
    return buffer.getvalue()


def added(sound: Path, name: str, content: bytes = b"") -> bytes:
    buffer = io.BytesIO(sound.read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def in_the_list(sound: Path, at: int, layout: str, value: int) -> bytes:
    """A number changed in the list's entry of the tensor's memory."""
    raw = bytearray(sound.read_bytes())
    name = raw.rindex(b"sound/data/0")
    struct.pack_into(layout, raw, name - 46 + at, value)
    return bytes(raw)


ZIPS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "no pickle": (
        lambda sound: rezipped(sound, lambda n, c: None if n.endswith("data.pkl") else c),
        "0 files data.pkl",
    ),
    "no memory": (
        lambda sound: rezipped(sound, lambda n, c: None if n.endswith("data/0") else c),
        "is not there",
    ),
    "two pickles": (lambda sound: added(sound, "other/data.pkl", b"\x80\x02}."), "2 files data"),
    "two of one name": (lambda sound: duplicated(sound, "data/0"), "in it twice"),
    "two pickles of one name": (lambda sound: duplicated(sound, "data.pkl"), "in it twice"),
    "a program": (lambda sound: added(sound, "sound/constants.pkl"), "TorchScript"),
    "deflated": (
        lambda sound: rezipped(sound, lambda _, c: c, compression=zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "said to be deflated": (lambda sound: in_the_list(sound, 10, "<H", 8), "is compressed"),
    "said to be encrypted": (lambda sound: in_the_list(sound, 8, "<H", 1), "is compressed"),
    "a size past the file": (
        lambda sound: in_the_list(sound, 24, "<I", 1 << 30),
        "another where it lies",
    ),
    "in the middle of another": (
        lambda sound: in_the_list(sound, 42, "<I", 7),
        "where the one before it ends",
    ),
    "past the file": (
        lambda sound: in_the_list(sound, 42, "<I", 1 << 30),
        "where the one before it ends",
    ),
    "one in another": (
        lambda sound: in_the_list(sound, 42, "<I", 0),
        "where the one before it ends",
    ),
    "another name where it lies": (
        lambda sound: sound.read_bytes().replace(b"sound/data/0", b"sound/data/1", 1),
        "another where it lies",
    ),
    "a checksum that differs": (
        lambda sound: sound.read_bytes().replace(b"FloatStorage", b"flOATsTORAGE", 1),
        "its checksum differs",
    ),
    "big-endian": (
        lambda sound: rezipped(sound, replaced(b"little", b"big", "byteorder")),
        "not little-endian",
    ),
    "a note at its end": (lambda sound: sound.read_bytes() + b"note", "no zip, or ends too"),
    "no entries": (lambda sound: b"PK\5\6" + bytes(18), "0 files data.pkl"),
    "two letters": (lambda sound: b"PK", "no zip, or ends too early"),
    "letters of a zip": (lambda sound: b"PK\3\4" + bytes(100), "no zip, or ends too early"),
    "a pickle": (lambda sound: pickle.dumps({"w": Asks(os.mkdir, "planted")}), "no file of torch"),
    "nothing": (lambda sound: b"", "it is empty"),
    "text": (lambda sound: b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
}


@pytest.mark.parametrize("name", ZIPS)
def test_a_zip_that_is_not_sound_is_refused(name: str, tmp_path: Path) -> None:
    make, message = ZIPS[name]
    sound = saved(tmp_path / "sound.bin", {"w": torch.arange(6.0).reshape(2, 3)})
    (tmp_path / "x.bin").write_bytes(make(sound))
    assert_refused(tmp_path / "x.bin", "zip", "truncated", "unsupported", allow_legacy=False)
    with pytest.raises(CheckpointError, match=message):
        read_torch(tmp_path / "x.bin")


def count(number: int) -> tuple[bytes, bytes]:
    return struct.pack("<q", 6) + bytes(4), struct.pack("<q", number) + bytes(4)


KEYS = b"]q\x00X"
LEGACIES: dict[str, tuple[bytes, bytes]] = {
    "another version": (b"M\xe9\x03.", b"M\xea\x03."),
    "big-endian": (b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
    "no order of bytes": (b"little_endianq", b"LITTLE_ENDIANq"),
    "fewer numbers": count(5),
    "more numbers": count(7),
    "numbers below zero": count(-1),
    "numbers without end": count((1 << 63) - 1),
    "keys that are no list": (KEYS, b"}q\x00X"),
    "keys that are numbers": (KEYS, b"]q\x00K\x01aX"),
    "a key of nobody": (KEYS, b"]q\x00X\x01\x00\x00\x00ja" + b"X"),
}


@pytest.mark.parametrize("name", LEGACIES)
def test_an_old_file_that_is_not_sound_is_refused(name: str, tmp_path: Path) -> None:
    sound = saved(tmp_path / "sound.bin", {"w": torch.arange(6.0).reshape(2, 3)}, LEGACY)
    (tmp_path / "x.bin").write_bytes(replaced(*LEGACIES[name], end="")("", sound.read_bytes()))
    assert_refused(tmp_path / "x.bin", "pickle", "zip", "truncated", "unsupported")


@pytest.mark.parametrize("name", ["nothing after the magic number", "more after it"])
def test_an_old_file_that_is_longer_or_shorter(name: str, tmp_path: Path) -> None:
    raw = saved(tmp_path / "sound.bin", {"w": torch.ones(2)}, LEGACY).read_bytes()
    (tmp_path / "x.bin").write_bytes(raw[:15] if name.startswith("nothing") else raw + b"\0")
    assert_refused(tmp_path / "x.bin", "pickle", "zip", "truncated")


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_a_file_cut_off_anywhere(tmp_path: Path, zipped: bool) -> None:
    whole = saved(tmp_path / "whole.bin", {"w": torch.ones(2)}, zipped).read_bytes()
    path = tmp_path / "x.bin"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_torch(path, allow_legacy=True)


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_a_damaged_file_raises_nothing_but_checkpoint_errors(
    tmp_path: Path, zipped: bool, data: st.DataObject
) -> None:
    sound = saved(tmp_path / "sound.bin", {"w": torch.ones(2, 2)}, zipped)
    damaged = bytearray(sound.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.bin"
    path.write_bytes(damaged)
    try:
        for stored in read_torch(path, allow_legacy=True).values():
            bits(stored)
    except CheckpointError as error:
        assert str(path) in str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_a_damaged_pickle_in_a_sound_zip(tmp_path: Path, data: st.DataObject) -> None:
    """Which the checksum would otherwise keep from being looked at."""

    def damage(name: str, content: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return content
        damaged = bytearray(content)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        return bytes(damaged)

    path = tmp_path / "x.bin"
    path.write_bytes(rezipped(saved(tmp_path / "sound.bin", {"w": torch.ones(2, 2)}), damage))
    try:
        for stored in read_torch(path).values():
            bits(stored)
    except CheckpointError as error:
        assert str(path) in str(error)
