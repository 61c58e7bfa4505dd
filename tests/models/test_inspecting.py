"""`offramp.inspect`, held against transformers' own counts and Python's own pickle."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from paddle_saves import CLASSES, FORMATS, OLD, PADDLE, unpickled
from safetensors.numpy import save_file
from safetensors.torch import load_file
from tiny import TINY

import offramp
from offramp import BertConfig, BertForSequenceClassification
from offramp.checkpoints.tables import paddle_rows
from offramp.checkpoints.weights import open_save

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "samples"
STATE = "model_state.pdparams"


def transformers_model(name: str) -> Any:
    kind = getattr(transformers, name)
    return kind(kind.config_class(**TINY))


@pytest.mark.parametrize(
    "name", ["BertForMaskedLM", "ErnieModel", "RobertaForSequenceClassification", "AlbertModel"]
)
@pytest.mark.parametrize("shards", [None, "2KB"])
def test_numbers_are_transformers_own(name: str, shards: str | None, tmp_path: Path) -> None:
    model = transformers_model(name)
    model.save_pretrained(tmp_path, **({} if shards is None else {"max_shard_size": shards}))
    found = offramp.inspect(tmp_path)
    assert found.parameters == model.num_parameters()
    assert found.dtypes == {"F32": model.num_parameters()}
    assert (found.model_type, found.architectures) == (model.config.model_type, (name,))
    assert (found.dialect, found.exits, found.source) == ("own", None, str(tmp_path))
    assert all(getattr(model.config, key) == value for key, value in found.settings.items())
    assert found.settings["hidden_size"] == TINY["hidden_size"]
    files = {p.name: p.stat().st_size for p in tmp_path.glob("model*")}
    assert found.files == files
    assert (len(files) > 1) is (shards is not None)
    state = model.state_dict()
    for tensor in found.tensors:
        assert tensor.own_name == tensor.name
        assert tensor.shape == tuple(state[tensor.name].shape)
        assert tensor.name in load_file(tmp_path / tensor.file)
    assert len(found.tensors) == len(list(model.parameters()))


def test_a_bin_with_several_types(tmp_path: Path) -> None:
    """torch writes what is tied under both names; an older buffer is no parameter of the model."""
    model = transformers_model("BertForMaskedLM").half()
    state = model.state_dict() | {"bert.embeddings.position_ids": torch.arange(10)[None]}
    torch.save(state, tmp_path / "pytorch_model.bin")
    found = offramp.inspect(tmp_path)
    assert found.dtypes == {"F16": sum(t.numel() for t in model.state_dict().values()), "I64": 10}
    assert found.parameters == sum(found.dtypes.values())
    assert {t.name: t.shape for t in found.tensors} == {n: tuple(t.shape) for n, t in state.items()}
    assert (found.model_type, found.architectures, found.settings) == (None, (), {})


@pytest.mark.parametrize("save", CLASSES)
def test_a_paddle_save_by_both_names(save: str) -> None:
    arrays = unpickled(PADDLE / save / STATE)
    found = offramp.inspect(PADDLE / save)
    assert found.dialect == "paddle"
    assert found.architectures == (save.partition("/")[2],)
    used = [t for t in found.tensors if not t.name.endswith("position_ids")]
    assert {t.name: t.shape for t in used} == {
        name: array.shape for name, array in arrays.items() if not name.endswith("position_ids")
    }
    rows = paddle_rows(save.split("_")[0].split("/")[0], found.architectures[0])
    weights = open_save(PADDLE / save / STATE, rows)  # whose names test_paddle_names.py looks at
    assert {t.own_name for t in used} == weights.tensors.keys()
    assert all(weights.foreign.get(t.own_name, t.own_name) == t.name for t in used)


def test_a_tensor_that_is_not_used_is_in_the_file_all_the_same() -> None:
    found = offramp.inspect(PADDLE / "albert/AlbertModel")
    arrays = unpickled(PADDLE / "albert/AlbertModel" / STATE)
    assert {t.name for t in found.tensors} == arrays.keys()
    assert found.parameters == sum(array.size for array in arrays.values())


@pytest.mark.parametrize("save", [*OLD, "formats/sharded", "formats/parts", "formats/bfloat16"])
def test_other_files_of_paddle(save: str) -> None:
    found = offramp.inspect(PADDLE / save)
    assert found.dialect == "paddle"
    assert found.files == {
        path.name: path.stat().st_size for path in (PADDLE / save).glob("model_state*")
    }
    weights = {t.dtype for t in found.tensors if not t.name.endswith("position_ids")}
    assert weights == {"BF16" if "bfloat16" in save else "F32"}


@pytest.mark.parametrize(
    ("save", "family"), [("2.3.4/AlbertModel", "albert"), ("2.3.4/RobertaForMaskedLM", "roberta")]
)
def test_the_family_of_an_older_save(save: str, family: str) -> None:
    """model_config.json names a class and no model_type."""
    found = offramp.inspect(PADDLE / save)
    assert found.model_type == family
    own = {t.own_name for t in found.tensors}
    assert not any(re.search(r"(embeddings|attention)\.layer_norm", name) for name in own)


def test_one_file(tmp_path: Path) -> None:
    """Without a config.json beside it too."""
    file = PADDLE / "bert/BertForMaskedLM" / STATE
    whole = offramp.inspect(file.parent)
    beside = offramp.inspect(file)
    assert beside.source == str(file)
    assert beside.to_dict() == {**whole.to_dict(), "source": str(file)}
    shutil.copy(file, tmp_path / "weights.pdparams")
    alone = offramp.inspect(tmp_path / "weights.pdparams")
    assert (alone.model_type, alone.settings) == (None, {})
    assert [(t.name, t.own_name) for t in alone.tensors] == [
        (t.name, t.own_name) for t in whole.tensors
    ]
    shard = FORMATS / "sharded/model_state-00001-of-00004.pdparams"
    assert {t.name for t in offramp.inspect(shard).tensors} == unpickled(shard).keys()
    with pytest.raises(offramp.CheckpointError, match="a static graph's") as caught:
        offramp.inspect(FORMATS / "program.pdparams")
    assert caught.value.kind == "unsupported"


def test_exits(tmp_path: Path) -> None:
    model = BertForSequenceClassification(BertConfig(**TINY))
    offramp.add_exits(model, depths=[1])
    model.save_pretrained(tmp_path)
    found = offramp.inspect(tmp_path)
    assert found.exits is not None
    assert found.exits == json.loads((tmp_path / "config.json").read_text())["exits"]
    assert found.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["deebert", "pabee_bert"])
def test_exits_of_research_code(name: str) -> None:
    """Found by the tensors: config.json says plain BERT."""
    directory = SAMPLES / f"{name}_tiny"
    if not directory.is_dir():
        pytest.skip(f"{directory} is absent")
    found = offramp.inspect(directory)
    assert found.dialect == name.partition("_")[0]
    assert found.exits is not None
    assert found.exits["depths"] == [1, 2, 3]


def test_a_tensor_is_told_of_once() -> None:
    directory = SAMPLES / "pabee_bert_tiny"
    if not directory.is_dir():
        pytest.skip(f"{directory} is absent")
    found = offramp.inspect(directory)
    state = torch.load(directory / "pytorch_model.bin", weights_only=True)
    assert sorted(t.name for t in found.tensors) == sorted(state)
    assert found.parameters == sum(tensor.numel() for tensor in state.values())


@pytest.mark.parametrize("save", ["bert/BertForMaskedLM", "formats/sharded", "2.3.4/BertModel"])
def test_all_of_it_as_json(save: str) -> None:
    found = offramp.inspect(PADDLE / save)
    values = json.loads(json.dumps(found.to_dict()))
    assert len(values["tensors"]) == len(found.tensors)
    for tensor in found.tensors:
        told = values["tensors"][tensor.name]
        assert told == {
            "own_name": tensor.own_name,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "file": tensor.file,
        }
    assert values["parameters"] == found.parameters


# ---------------------------------------------------------------------- refusals


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(offramp.ModelNotFoundError, match="does not exist"):
        offramp.inspect(tmp_path / "absent")
    with pytest.raises(offramp.ModelNotFoundError, match="holds no weights"):
        offramp.inspect(tmp_path)
    for name in ("lod.pdparams", "binary.pdparams"):
        with pytest.raises(offramp.CheckpointError) as raised:
            offramp.inspect(FORMATS / name)
        assert raised.value.kind == "unsupported"
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    assert offramp.inspect(tmp_path).tensors == ()
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(offramp.CheckpointError):
        offramp.inspect(tmp_path)


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-of-this-name/x"])
def test_what_is_no_path(name: str) -> None:
    with pytest.raises(offramp.OfframpError):
        offramp.inspect(name)


def test_a_program_s_parameters_are_told_from_safetensors() -> None:
    with pytest.raises(offramp.CheckpointError) as raised:
        offramp.inspect(FORMATS / "inference.pdiparams")
    assert raised.value.kind == "unsupported"


# ---------------------------------------------------------------------- cost

LOOK = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
import offramp
from pathlib import Path

def most_resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

small, large = sys.argv[1:]
offramp.inspect(small)
before = most_resident()
found = offramp.inspect(large)
print(most_resident() - before, found.parameters)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
@pytest.mark.parametrize("file", ["w.safetensors", "w.bin", "w.pdparams"])
def test_numbers_are_not_read(file: str, tmp_path: Path) -> None:
    """Of 64 MiB little comes into memory (a page may have 2), in a process that has no torch."""

    def write(directory: str, count: int) -> Path:
        (tmp_path / directory).mkdir()
        path = tmp_path / directory / file
        arrays = {f"w{n}": np.ones((4, count), np.float32) for n in range(2)}
        if file == "w.safetensors":
            save_file(arrays, path)
        elif file == "w.bin":
            torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
        else:
            path.write_bytes(pickle.dumps(arrays, 4))
        return path

    small, large = write("small", 1), write("large", 1 << 21)
    command = [sys.executable, "-W", "error", "-c", LOOK, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    more, parameters = map(int, done.stdout.split())
    assert parameters == 1 << 24
    assert more < 16 << 20, f"{more} bytes more in memory"
