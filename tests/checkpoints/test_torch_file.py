"""PyTorch's .bin read as data: torch's own tensors, and nothing executed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings, strategies as st

from offramp import BertForSequenceClassification, CheckpointError
from offramp.checkpoints.torch_file import read_torch

BASE = torch.arange(24.0)
TENSORS = {
    "plain": torch.arange(6.0).reshape(2, 3),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "a part": BASE[4:10].reshape(2, 3),
    "another part": BASE.reshape(4, 6)[:, ::2],
    "one number": torch.tensor(3.5),
    "none": torch.zeros(0, 4),
    "repeated": torch.tensor([1.0]).expand(3),
    **{
        str(dtype): torch.ones(2, 2, dtype=dtype)
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool)
    },
}


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def test_tensors_are_torch_s_own(tmp_path: Path) -> None:
    value = OrderedDict({**TENSORS, "epoch": 3, "parameter": torch.nn.Parameter(torch.ones(2))})
    found = read_torch(saved(tmp_path / "x.bin", value))
    assert list(found) == [*TENSORS, "parameter"]
    expected = torch.load(tmp_path / "x.bin", weights_only=True)
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


def test_a_write_is_the_process_s_own(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.bin", {"w": torch.zeros(3)})
    before = path.read_bytes()
    found = read_torch(path)["w"]
    found += 1
    assert found.tolist() == [1.0] * 3
    assert path.read_bytes() == before


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


class Marker:
    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


def rezipped(source: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> bytes:
    """The archive with some entries changed, or left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(buffer, "w", **options) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return buffer.getvalue()


def replaced(old: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return content
        assert old in content
        return content.replace(old, new, 1)

    return change


def without(end: str) -> Callable[[str, bytes], bytes | None]:
    return lambda name, content: None if name.endswith(end) else content


@pytest.mark.parametrize(
    "name",
    [
        "a call",
        "a call in a state",
        "another's tensor",
        "a list",
        "no memory",
        "no pickle",
        "deflated",
        "larger than its memory",
        "before its memory",
        "another kind of memory",
        "big-endian",
        "two of one name",
        "of before 1.6",
        "a pickle",
        "nothing",
        "text",
    ],
)
def test_a_hostile_file_is_refused_and_does_nothing(name: str, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    sound = saved(tmp_path / "sound.bin", {"w": torch.arange(6.0).reshape(2, 3)})
    call = Marker(os.mkdir, str(planted))
    path = tmp_path / "x.bin"
    makers: dict[str, Callable[[], Any]] = {
        "a call": lambda: torch.save({"w": call}, path),
        "a call in a state": lambda: torch.save({"w": torch.ones(2), "x": [call]}, path),
        "another's tensor": lambda: torch.save({"w": torch.ones(2).to_sparse()}, path),
        "a list": lambda: torch.save([torch.ones(2)], path),
        "no memory": lambda: path.write_bytes(rezipped(sound, without("data/0"))),
        "no pickle": lambda: path.write_bytes(rezipped(sound, without("data.pkl"))),
        "deflated": lambda: path.write_bytes(
            rezipped(sound, lambda _, content: content, compression=zipfile.ZIP_DEFLATED)
        ),
        "larger than its memory": lambda: path.write_bytes(
            rezipped(sound, replaced(b"K\x02K\x03\x86", b"K\x03K\x03\x86"))
        ),
        "before its memory": lambda: path.write_bytes(
            rezipped(sound, replaced(b"QK\x00", b"QJ\xff\xff\xff\xff"))
        ),
        "another kind of memory": lambda: path.write_bytes(
            rezipped(sound, replaced(b"ctorch\nFloatStorage", b"ctorch\nQInt8Storage"))
        ),
        "big-endian": lambda: path.write_bytes(
            rezipped(sound, lambda n, c: b"big" if n.endswith("byteorder") else c)
        ),
        "two of one name": lambda: two_of_one_name(path, sound),
        "of before 1.6": lambda: torch.save(
            {"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False
        ),
        "a pickle": lambda: path.write_bytes(pickle.dumps({"w": call})),
        "nothing": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text("version https://git-lfs.github.com/spec/v1"),
    }
    makers[name]()
    with pytest.raises(CheckpointError, match=r"x\.bin"):
        read_torch(path)
    assert not planted.exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def two_of_one_name(path: Path, sound: Path) -> None:
    with zipfile.ZipFile(sound) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data/0"))
    path.write_bytes(sound.read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(name, b"x" * 24)


def test_a_file_cut_off_anywhere(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.bin", {"w": torch.ones(2)}).read_bytes()
    path = tmp_path / "x.bin"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_torch(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_a_damaged_file_raises_nothing_but_checkpoint_errors(
    tmp_path: Path, data: st.DataObject
) -> None:
    damaged = bytearray(saved(tmp_path / "sound.bin", {"w": torch.ones(2, 2)}).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.bin"
    path.write_bytes(damaged)
    try:
        for tensor in read_torch(path).values():
            tensor.clone()
    except CheckpointError as error:
        assert str(path) in str(error)
