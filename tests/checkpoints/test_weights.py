"""The tensors of one save by our names: one file, or several with an index that does not lie."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from stored_cases import assert_same, numbers, save, small

from offramp import BertConfig, BertForMaskedLM, CheckpointError, ConfigError, ModelNotFoundError
from offramp.checkpoints.paddle_file import write_paddle
from offramp.checkpoints.renames import Row
from offramp.checkpoints.safetensors_file import write_safetensors
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.torch_file import write_torch
from offramp.checkpoints.weights import Reading, open_save, read_file, read_index
from offramp.checkpoints.writing import write_weights
from offramp.models.tensors import as_stored, given_weights
from offramp.storage.manifest import MANIFEST_FILE

WRITERS = {
    "model.safetensors": write_safetensors,
    "pytorch_model.bin": write_torch,
    "model_state.pdparams": write_paddle,
}
FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TENSORS = {name: torch.full((100,), float(n)) for n, name in enumerate("abcd")}  # 400 bytes each
STORED = {name: as_stored(tensor) for name, tensor in TENSORS.items()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != MANIFEST_FILE)


# One file


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("file", WRITERS)
def test_a_file_by_its_name(tmp_path: Path, file: str, mmap: bool) -> None:
    WRITERS[file](tmp_path / file, STORED)
    found = open_save(tmp_path / file, options=Reading(mmap=mmap))
    assert_same(found.tensors, STORED)
    assert_same(read_file(tmp_path / file), STORED)
    assert found.source == str(tmp_path / file)
    assert found.files == dict.fromkeys(STORED, tmp_path / file)
    assert found.foreign == {}
    assert found.turned == frozenset()
    assert not found.given


def test_a_file_of_another_format_than_its_name_says(tmp_path: Path) -> None:
    for one in WRITERS:
        for other in WRITERS.keys() - {one}:
            WRITERS[one](tmp_path / other, STORED)
            with pytest.raises(CheckpointError, match="Expected") as caught:
                open_save(tmp_path / other)
            assert caught.value.file == str(tmp_path / other)


def test_torch_s_old_format_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError) as caught:
        open_save(path)
    assert caught.value.kind == "legacy"
    assert_same(open_save(path, options=Reading(allow_legacy_pickle=True)).tensors, STORED)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for file in (*WRITERS, INDEX):
        with pytest.raises(CheckpointError, match="cannot be read") as caught:
            open_save(tmp_path / file)
        assert caught.value.kind == "missing"


# Names


ROWS = (
    Row("enc.{n}.lin.{p}", "encoder.layer.{n}.dense.{p}", True),
    Row("old_norm.{p}", "norm.{p}", read_only=True),
    Row("table.{p}", "table.{p}", True),
    Row("ids", None),
)


def paddle(**changes: Stored) -> dict[str, Stored]:
    return {
        "enc.3.lin.weight": numbers("F32", (2, 3)),
        "enc.3.lin.bias": numbers("F32", (3,)),
        "old_norm.weight": numbers("F32", (4,)),
        "table.weight": numbers("F32", (2, 2)),
        "unknown": numbers("F32", (5, 6)),
        "ids": numbers("I64", (7,)),
        **changes,
    }


def test_paddle_s_names_and_matrices(tmp_path: Path) -> None:
    theirs, path = paddle(), tmp_path / "model_state.pdparams"
    write_paddle(path, theirs)
    found = open_save(path, ROWS)
    ours = {
        "encoder.layer.3.dense.weight": Stored("F32", theirs["enc.3.lin.weight"].array.T),
        "encoder.layer.3.dense.bias": theirs["enc.3.lin.bias"],
        "norm.weight": theirs["old_norm.weight"],
        "table.weight": Stored("F32", theirs["table.weight"].array.T),
        "unknown": theirs["unknown"],
    }
    assert_same(found.tensors, ours)
    assert found.dialect == "paddle"
    assert found.foreign == {
        "encoder.layer.3.dense.weight": "enc.3.lin.weight",
        "encoder.layer.3.dense.bias": "enc.3.lin.bias",
        "norm.weight": "old_norm.weight",
    }
    assert found.turned == {"encoder.layer.3.dense.weight", "table.weight"}
    assert found.files == dict.fromkeys(ours, path)


def test_our_names_are_not_renamed(tmp_path: Path) -> None:
    """The rows are PaddleNLP's, and a file is that by its name or by names that no other has."""
    write_safetensors(tmp_path / FILE, paddle())
    found = open_save(tmp_path / FILE, ROWS)
    assert found.dialect == "own"
    assert_same(found.tensors, paddle())
    paddles = {"bert.encoder.layers.0.self_attn.q_proj.bias": numbers("F32", (2,))}
    write_safetensors(tmp_path / FILE, paddle(**paddles))
    found = open_save(tmp_path / FILE, ROWS)
    assert found.dialect == "paddle"
    assert "encoder.layer.3.dense.weight" in found.tensors


def test_what_norms_were_called_before_2019(tmp_path: Path) -> None:
    write_safetensors(tmp_path / FILE, small("x.LayerNorm.gamma", "x.LayerNorm.beta", "y.weight"))
    found = open_save(tmp_path / FILE, ROWS)
    assert found.dialect == "old"
    assert list(found.tensors) == [*sorted(found.tensors)]
    assert found.foreign == {
        "x.LayerNorm.weight": "x.LayerNorm.gamma",
        "x.LayerNorm.bias": "x.LayerNorm.beta",
    }
    assert "y.weight" in found.tensors


def test_one_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    theirs = paddle(**{"norm.weight": numbers("F32", (4,))})
    for file in ("model_state.pdparams", "other.pdparams"):
        write_paddle(tmp_path / file, theirs)
        with pytest.raises(CheckpointError, match=r"norm\.weight a second time") as caught:
            open_save(tmp_path / file, ROWS)
        assert caught.value.file == str(tmp_path / file)
    write_safetensors(tmp_path / FILE, small("x.LayerNorm.gamma", "x.LayerNorm.weight"))
    with pytest.raises(CheckpointError, match=r"LayerNorm\.weight a second time"):
        open_save(tmp_path / FILE)


def test_uint16_is_bfloat16_where_it_is_said(tmp_path: Path) -> None:
    """In a .pdparams: of another format's uint16 it is known what it is."""
    whole = numbers("U16", (2, 3))
    write_paddle(tmp_path / "x.pdparams", {"w": whole, "ids": numbers("I64", (2,))})
    write_safetensors(tmp_path / FILE, {"w": whole})
    told = Reading(uint16_is_bfloat16=True)
    assert open_save(tmp_path / "x.pdparams").tensors["w"].dtype == "U16"
    found = open_save(tmp_path / "x.pdparams", options=told).tensors
    assert_same(found, {"w": Stored("BF16", whole.array), "ids": numbers("I64", (2,))})
    assert open_save(tmp_path / FILE, options=told).tensors["w"].dtype == "U16"
    # Also of an array in parts.
    flat = whole.array.reshape(-1)
    pieces = {"w@@.0": Stored("U16", flat[:4]), "w@@.1": Stored("U16", flat[4:])}
    write_paddle(tmp_path / "parts.pdparams", pieces)
    assert open_save(tmp_path / "parts.pdparams", options=told).tensors["w@@.0"].dtype == "BF16"


# Several files and their index


@pytest.mark.parametrize("file", WRITERS)
def test_shards_of_every_format(tmp_path: Path, file: str) -> None:
    write_weights(tmp_path, STORED, file, max_shard_size=800)
    found = open_save(tmp_path / f"{file}.index.json")
    assert_same(found.tensors, STORED)
    stem, _, suffix = file.partition(".")
    assert {name: path.name for name, path in found.files.items()} == {
        **dict.fromkeys("ab", f"{stem}-00001-of-00002.{suffix}"),
        **dict.fromkeys("cd", f"{stem}-00002-of-00002.{suffix}"),
    }


def test_paddle_s_names_in_shards(tmp_path: Path) -> None:
    write_weights(tmp_path, paddle(), "model_state.pdparams", max_shard_size=40)
    assert len(names(tmp_path)) > 3
    found = open_save(tmp_path / "model_state.pdparams.index.json", ROWS)
    write_paddle(tmp_path / "one.pdparams", paddle())
    whole = open_save(tmp_path / "one.pdparams", ROWS)
    assert_same(found.tensors, whole.tensors)
    assert found.turned == whole.turned
    assert found.foreign == whole.foreign


def tiny() -> dict[str, Any]:
    return {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_variants_are_transformers(tmp_path: Path, variant: str | None) -> None:
    """Each reads what the other wrote, and the files have the same names."""
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**tiny()))
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB", variant=variant)
    ours = BertForMaskedLM.from_pretrained(tmp_path / "theirs", variant=variant)
    ours.save_pretrained(tmp_path / "ours", max_shard_size="100KB", variant=variant)
    assert names(tmp_path / "ours") == [
        n for n in names(tmp_path / "theirs") if n != "generation_config.json"
    ]
    assert len(names(tmp_path / "ours")) > 3
    again = transformers.BertForMaskedLM.from_pretrained(tmp_path / "ours", variant=variant)
    expected = theirs.state_dict()
    for found in (ours.state_dict(), again.state_dict()):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def broken(directory: Path, **changes: Any) -> Path:
    """An index over two shards, one part of it changed."""
    split = split_torch_state_dict_into_shards(TENSORS, max_shard_size=800)
    for shard, held in split.filename_to_tensors.items():
        save_file({name: TENSORS[name] for name in held}, directory / shard)
    index: Any = {"metadata": {}, "weight_map": dict(split.tensor_to_filename)}
    index["weight_map"].update(changes.pop("weight_map", {}))
    for name in changes.pop("without", ()):
        del index["weight_map"][name]
    index.update(changes)
    (directory / INDEX).write_text(json.dumps(index))
    return directory / INDEX


OTHER = "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"metadata": {"total_size": "?"}, "more": [1]}, None),
        ({"weight_map": {"a": f"../{OTHER}"}}, "no file beside the index"),
        ({"weight_map": {"a": "/etc/passwd"}}, "no file beside the index"),
        ({"weight_map": {"a": f"x/{OTHER}"}}, "no file beside the index"),
        ({"weight_map": {"a": f"./{OTHER}"}}, "no file beside the index"),
        ({"weight_map": {"a": f"..\\{OTHER}"}}, "no file beside the index"),
        ({"weight_map": {"a": f"{OTHER}\0"}}, "no file beside the index"),
        ({"weight_map": {"a": ".."}}, "no file beside the index"),
        ({"weight_map": {"a": "."}}, "no file beside the index"),
        ({"weight_map": {"a": ""}}, "no file beside the index"),
        ({"weight_map": {"a": 3}}, "no file beside the index"),
        ({"weight_map": {"a": [OTHER]}}, "no file beside the index"),
        ({"weight_map": {"a": None}}, "no file beside the index"),
        ({"weight_map": {"a": INDEX}}, "no file beside the index"),
        ({"weight_map": {"a": "x" * 300}}, "no file beside the index"),
        ({"weight_map": {"a": "é" * 200}}, "no file beside the index|cannot be read"),
        ({"weight_map": {"a": "\ud800"}}, "no file beside the index|cannot be followed"),
        ({"weight_map": {"../a": OTHER}}, "a tensor is called"),
        ({"weight_map": {"a\0": OTHER}}, "a tensor is called"),
        ({"weight_map": {"a": OTHER}}, "disagree on a"),
        ({"weight_map": {"e": OTHER}}, "disagree on e"),
        ({"without": ["b"]}, "disagree on b"),
        ({"weight_map": {"a": "absent.safetensors"}}, "absent.safetensors cannot be read|disagree"),
        ({"weight_map": {"e": "absent.safetensors"}}, "absent.safetensors cannot be read"),
    ],
)
def test_an_index_that_lies(tmp_path: Path, changes: dict[str, Any], message: str | None) -> None:
    index = broken(tmp_path, **changes)
    if message is None:
        assert_same(open_save(index).tensors, STORED)
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        open_save(index)
    assert caught.value.kind in ("index", "missing", "outside")


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    index = broken(tmp_path)
    save_file({name: TENSORS[name] for name in "acd"}, tmp_path / OTHER)
    with pytest.raises(CheckpointError, match="disagree on a: .* one file that holds it"):
        open_save(index)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": null}',
        '{"weight_map": {"a": "x", "a": "y"}}',
        '{"weight_map": {"a": "x"}, "weight_map": {"a": "x"}}',
        '{"weight_map": {"a": "x"}, "size": NaN}',
        '{"weight_map": {"a": "x"}',
        "[" * 100_000,
        '{"weight_map":' * 50 + "1" + "}" * 50,
        "\xff",
        '\xef\xbb\xbf{"weight_map": {"a": "x"}}',
    ],
)
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"index\.json is refused: .*weight_map") as caught:
        read_index(tmp_path / INDEX)
    assert caught.value.kind == "index"
    assert caught.value.file == str(tmp_path / INDEX)


def test_an_index_longer_than_any(tmp_path: Path) -> None:
    with (tmp_path / INDEX).open("wb") as file:
        file.truncate(25_000_001)
    with pytest.raises(CheckpointError, match="longer than 25000000 bytes"):
        read_index(tmp_path / INDEX)


def test_a_shard_that_is_another_format(tmp_path: Path) -> None:
    """What a file is its own name says, not the index's."""
    write_torch(tmp_path / "x.bin", small("a"))
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "x.bin"}}')
    assert_same(open_save(tmp_path / INDEX).tensors, small("a"))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "config.json"}}')
    with pytest.raises(CheckpointError, match=r"config\.json is refused"):
        open_save(tmp_path / INDEX)


# Somebody's own tensors


def test_given_tensors_are_copied() -> None:
    """As tensors they are the same memory; a model that is made of them has its own."""
    tensors = {"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.bfloat16)}
    weights = given_weights(tensors)
    assert weights.given
    assert np.shares_memory(weights.tensors["a"].array, tensors["a"].numpy())
    assert weights.tensors["b"].dtype == "BF16"
    model = BertForMaskedLM(BertConfig(**tiny()))
    other = BertForMaskedLM.from_pretrained(
        None, config=model.config, state_dict=model.state_dict()
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": [1.0]}, r"state_dict\['a'\] is a list"),
        ({3: torch.ones(1)}, r"state_dict\[3\] is a Tensor"),
        ({"a": torch.empty(2, device="meta")}, "on the meta device"),
        ({"a": torch.ones(2).to_sparse()}, "is sparse"),
        ([torch.ones(2)], "got a list"),
    ],
)
def test_what_is_no_state_dict(given: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        given_weights(given)


def test_a_config_class_is_not_needed(tmp_path: Path) -> None:
    BertConfig(**tiny()).save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match="model.safetensors"):
        BertForMaskedLM.from_pretrained(tmp_path)
    with pytest.raises((ConfigError, ModelNotFoundError)):
        BertForMaskedLM.from_pretrained(tmp_path, variant="fp16")


# Without torch


def test_torch_is_not_needed(tmp_path: Path) -> None:
    """To read any of the formats, and to write them."""
    for file, write in WRITERS.items():
        write(tmp_path / file, STORED)
    torch.save(TENSORS, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    save(tmp_path / "x.safetensors", "a")
    program = f"""
import sys
sys.modules["torch"] = None  # an import of it is an error
from pathlib import Path
import offramp.checkpoints.weights, offramp.checkpoints.finding, offramp.checkpoints.writing
directory = Path({str(tmp_path)!r})
options = offramp.checkpoints.weights.Reading(allow_legacy_pickle=True)
for file in {[*WRITERS, "old.bin"]!r}:
    found = offramp.checkpoints.weights.open_save(directory / file, (), options).tensors
    assert [stored.array[0] for stored in found.values()] == [0, 1, 2, 3], found
    name = "out" + Path(file).suffix
    offramp.checkpoints.writing.write_weights(directory, found, name, max_shard_size=800)
assert offramp.checkpoints.finding.find_save(directory) == directory / "model.safetensors"
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("torch", "transformers")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == "['torch']\n"
