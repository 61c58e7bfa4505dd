"""Which save of a directory is read: one, or an error that names both."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stored_cases import numbers

from offramp.checkpoints.file_names import PADDLE_FILE, SAFETENSORS_FILE, TORCH_FILE
from offramp.checkpoints.finding import find_save
from offramp.checkpoints.paddle_file import write_paddle
from offramp.checkpoints.renames import Row
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.weights import Reading
from offramp.checkpoints.writing import write_weights
from offramp.errors import CheckpointError, ConfigError, ModelNotFoundError

FORMATS = (SAFETENSORS_FILE, TORCH_FILE, PADDLE_FILE)
INDICES = tuple(f"{file}.index.json" for file in FORMATS)
ROWS = (Row("lin.{p}", "dense.{p}", True), Row("layer_norm.{p}", "LayerNorm.{p}"))


def tensors(**changes: Stored | None) -> dict[str, Stored]:
    """A model by our names; None takes one away."""
    plain = {
        "words.weight": numbers("F32", (9, 4), 1),
        "dense.weight": numbers("F32", (4, 4), 2),
        "dense.bias": numbers("F32", (4,), 3),
        "LayerNorm.weight": numbers("F32", (4,), 4),
    }
    changed = plain | {name.replace("_", "."): stored for name, stored in changes.items()}
    return {name: stored for name, stored in changed.items() if stored is not None}


def as_paddle(own: dict[str, Stored]) -> dict[str, Stored]:
    """The same by PaddleNLP's names, its linear layer's matrix the other way round."""
    theirs = {
        "words.weight": "words.weight",
        "dense.weight": "lin.weight",
        "dense.bias": "lin.bias",
        "LayerNorm.weight": "layer_norm.weight",
    }
    turned = {"dense.weight": Stored(own["dense.weight"].dtype, own["dense.weight"].array.T)}
    return {theirs.get(name, name): stored for name, stored in (own | turned).items()}


def write(directory: Path, file: str, own: dict[str, Stored], size: int | None = None) -> None:
    found = as_paddle(own) if file == PADDLE_FILE else own
    write_weights(directory, found, file, max_shard_size=size)


def ambiguous(directory: Path, *named: str, **options: object) -> None:
    with pytest.raises(CheckpointError, match="which are two saves") as caught:
        find_save(directory, rows=ROWS, **options)  # type: ignore[arg-type]
    assert caught.value.kind == "ambiguous"
    for name in named:
        assert name in str(caught.value)
    assert str(directory) in str(caught.value)
    assert caught.value.file is not None


# One save


@pytest.mark.parametrize("size", [None, 100])
@pytest.mark.parametrize("file", FORMATS)
def test_the_one_that_is_there(tmp_path: Path, file: str, size: int | None) -> None:
    write(tmp_path, file, tensors(), size)
    assert find_save(tmp_path) == tmp_path / (file if size is None else f"{file}.index.json")


@pytest.mark.parametrize("file", FORMATS)
def test_a_variant_is_another_save(tmp_path: Path, file: str) -> None:
    write_weights(tmp_path, tensors(), file, variant="fp16")
    write_weights(tmp_path, tensors(), file, variant="bf16", max_shard_size=100)
    stem, _, suffix = file.partition(".")
    assert find_save(tmp_path, variant="fp16").name == f"{stem}.fp16.{suffix}"
    assert find_save(tmp_path, variant="bf16").name == f"{file}.index.bf16.json"
    write_weights(tmp_path, tensors(dense_bias=numbers("F32", (4,))), file)
    assert find_save(tmp_path, variant="fp16").name == f"{stem}.fp16.{suffix}"
    assert find_save(tmp_path).name == file
    with pytest.raises(ConfigError, match="variant"):
        find_save(tmp_path, variant="../x")


def test_a_file_of_one_s_own_name(tmp_path: Path) -> None:
    write_weights(tmp_path, tensors(), "encoder.safetensors")
    assert find_save(tmp_path, "encoder.safetensors") == tmp_path / "encoder.safetensors"
    with pytest.raises(ModelNotFoundError):
        find_save(tmp_path)


def test_none_is_there(tmp_path: Path) -> None:
    wanted = "expected model.safetensors or pytorch_model.bin or model_state.pdparams"
    with pytest.raises(ModelNotFoundError, match=wanted) as caught:
        find_save(tmp_path)
    assert "Beside" not in str(caught.value)
    with pytest.raises(ModelNotFoundError):
        find_save(tmp_path / "nowhere")


def test_what_is_beside_is_told(tmp_path: Path) -> None:
    write_weights(tmp_path, tensors(), variant="fp16")
    (tmp_path / "tf_model.h5").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(ModelNotFoundError) as caught:
        find_save(tmp_path)
    assert str(caught.value).endswith("Beside it: model.fp16.safetensors, tf_model.h5.")
    with pytest.raises(ModelNotFoundError, match=r"expected model\.bf16\.safetensors or pytorch"):
        find_save(tmp_path, variant="bf16")


def test_shards_without_their_index(tmp_path: Path) -> None:
    write(tmp_path, SAFETENSORS_FILE, tensors(), 100)
    (tmp_path / INDICES[0]).unlink()
    with pytest.raises(ModelNotFoundError, match="Beside it: model-00001-of"):
        find_save(tmp_path)


def test_a_link_to_nothing_is_there(tmp_path: Path) -> None:
    """It is not passed over for another format's: reading it says what is wrong."""
    (tmp_path / SAFETENSORS_FILE).symlink_to("nowhere")
    assert find_save(tmp_path) == tmp_path / SAFETENSORS_FILE
    write(tmp_path, TORCH_FILE, tensors())
    with pytest.raises(CheckpointError) as caught:
        find_save(tmp_path)
    assert caught.value.kind == "missing"


# Two of one format


@pytest.mark.parametrize("file", FORMATS)
def test_a_file_and_an_index(tmp_path: Path, file: str) -> None:
    write(tmp_path, file, tensors(), 100)
    write(tmp_path, file, tensors())
    ambiguous(tmp_path, file, f"{file}.index.json")


@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.parametrize("size", [None, 100])
def test_shards_that_no_index_names(tmp_path: Path, file: str, size: int | None) -> None:
    write(tmp_path, file, tensors(), size)
    stem, _, suffix = file.partition(".")
    stray = f"{stem}-00007-of-00009.{suffix}"
    (tmp_path / stray).write_bytes(b"")
    ambiguous(tmp_path, stray, file if size is None else f"{file}.index.json")
    if file == SAFETENSORS_FILE:
        ambiguous(tmp_path, stray, use_safetensors=True)


def test_shards_of_a_variant_are_not_strays(tmp_path: Path) -> None:
    write(tmp_path, SAFETENSORS_FILE, tensors())
    write_weights(tmp_path, tensors(), variant="fp16", max_shard_size=100)
    assert find_save(tmp_path) == tmp_path / SAFETENSORS_FILE


# Two formats


@pytest.mark.parametrize("sizes", [(None, None, None), (100, None, 100), (None, 100, 100)])
@pytest.mark.parametrize("without", [None, *FORMATS])
def test_formats_that_agree(
    tmp_path: Path, without: str | None, sizes: tuple[int | None, ...]
) -> None:
    """The same save two or three times: safetensors come first, then PyTorch's."""
    for file, size in zip(FORMATS, sizes, strict=True):
        if file != without:
            write(tmp_path, file, tensors(), size)
    first = 1 if without == SAFETENSORS_FILE else 0
    wanted = FORMATS[first] if sizes[first] is None else INDICES[first]
    assert find_save(tmp_path, rows=ROWS) == tmp_path / wanted


TWICE = numbers("F32", (9, 4), 1)
SAME: dict[str, dict[str, Stored | None]] = {
    "a tied matrix a second time": {"decoder_weight": TWICE},
    "a tied vector a second time": {"decoder_bias": numbers("F32", (4,), 3)},
    "an old buffer": {"position_ids": Stored("I64", np.arange(5).reshape(1, 5))},
    "a flag": {"done": Stored("BOOL", np.array(True))},
}


@pytest.mark.parametrize("file", FORMATS[1:])
@pytest.mark.parametrize("name", SAME)
def test_what_does_not_make_another_save(tmp_path: Path, name: str, file: str) -> None:
    for one, other in ((tensors(), tensors(**SAME[name])), (tensors(**SAME[name]), tensors())):
        write(tmp_path, SAFETENSORS_FILE, one)
        write(tmp_path, file, other)
        assert find_save(tmp_path, rows=ROWS) == tmp_path / SAFETENSORS_FILE


DIFFERENT: dict[str, tuple[dict[str, Stored | None], str]] = {
    "one more": ({"pooler_weight": numbers("F32", (4, 4), 9)}, "pooler.weight is in one alone"),
    "one less": ({"words_weight": None}, "words.weight is in one alone"),
    "another name": (
        {"dense_bias": None, "linear_bias": numbers("F32", (4,), 9)},
        "is in one alone",
    ),
    "another shape": ({"words_weight": numbers("F32", (8, 4), 1)}, "words.weight is F32"),
    "another kind": ({"words_weight": numbers("F16", (9, 4), 1)}, "words.weight is F"),
    "another bias": ({"dense_bias": numbers("F32", (4,), 9)}, "dense.bias has other numbers"),
    "another norm": ({"LayerNorm_weight": numbers("F32", (4,), 9)}, "LayerNorm.weight has other"),
}


@pytest.mark.parametrize("file", FORMATS[1:])
@pytest.mark.parametrize("name", DIFFERENT)
def test_formats_that_differ(tmp_path: Path, name: str, file: str) -> None:
    changes, message = DIFFERENT[name]
    for one, other in ((tensors(), tensors(**changes)), (tensors(**changes), tensors())):
        write(tmp_path, SAFETENSORS_FILE, one)
        write(tmp_path, file, other)
        ambiguous(tmp_path, SAFETENSORS_FILE, file, message, "use_safetensors")
        assert find_save(tmp_path, use_safetensors=True) == tmp_path / SAFETENSORS_FILE
        assert find_save(tmp_path, use_safetensors=False) == tmp_path / file


def test_two_that_are_not_safetensors(tmp_path: Path) -> None:
    write(tmp_path, TORCH_FILE, tensors())
    write(tmp_path, PADDLE_FILE, tensors(dense_bias=numbers("F32", (4,), 9)))
    ambiguous(tmp_path, TORCH_FILE, PADDLE_FILE)
    ambiguous(tmp_path, TORCH_FILE, PADDLE_FILE, use_safetensors=False)
    with pytest.raises(ModelNotFoundError, match=r"expected model\.safetensors, or an index"):
        find_save(tmp_path, use_safetensors=True)


def test_a_format_that_is_not_asked_for_is_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path, SAFETENSORS_FILE, tensors())
    for file in FORMATS[1:]:
        (tmp_path / file).write_bytes(b"nothing of the kind")
    assert find_save(tmp_path, use_safetensors=True) == tmp_path / SAFETENSORS_FILE
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is refused"):
        find_save(tmp_path)


def test_bfloat16_that_paddle_writes_as_uint16(tmp_path: Path) -> None:
    own = {name: numbers("BF16", stored.shape) for name, stored in tensors().items()}
    write(tmp_path, SAFETENSORS_FILE, own)
    write(tmp_path, PADDLE_FILE, own)
    ambiguous(tmp_path, "BF16", "U16")
    told = Reading(uint16_is_bfloat16=True)
    assert find_save(tmp_path, rows=ROWS, options=told) == tmp_path / SAFETENSORS_FILE


def test_looking_gives_no_leave_to_load(tmp_path: Path) -> None:
    """torch's old format is compared, and reading it still has to be asked for."""
    state = {name: torch.from_numpy(stored.array) for name, stored in tensors().items()}
    torch.save(state, tmp_path / TORCH_FILE, _use_new_zipfile_serialization=False)
    write(tmp_path, SAFETENSORS_FILE, tensors())
    assert find_save(tmp_path) == tmp_path / SAFETENSORS_FILE
    (tmp_path / SAFETENSORS_FILE).unlink()
    assert find_save(tmp_path) == tmp_path / TORCH_FILE


def test_a_hostile_file_beside_does_nothing(tmp_path: Path) -> None:
    class Asks:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "planted"),)

    write(tmp_path, SAFETENSORS_FILE, tensors())
    (tmp_path / PADDLE_FILE).write_bytes(pickle.dumps({"words.weight": Asks()}))
    with pytest.raises(CheckpointError, match=r"model_state\.pdparams is refused"):
        find_save(tmp_path)
    assert not (tmp_path / "planted").exists()
    write_paddle(tmp_path / PADDLE_FILE, as_paddle(tensors()))
    assert find_save(tmp_path, rows=ROWS) == tmp_path / SAFETENSORS_FILE
