"""One file or several with an index: transformers' names, and no index that lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from offramp import BertConfig, BertForMaskedLM, CheckpointError, ConfigError, ModelNotFoundError
from offramp.checkpoints.weights import given_weights, open_weights, with_variant, write_weights

FILE = "model.safetensors"
TENSORS = {name: torch.full((100,), float(n)) for n, name in enumerate("abcd")}  # 400 bytes each


def all_of(directory: Path, variant: str | None = None) -> dict[str, torch.Tensor]:
    weights = open_weights(directory, FILE, variant)
    return weights.read({name: name for name in weights.header})


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("size", [None, 400, 800, 1000, "1KB", "5GB", 1])
def test_what_is_written_is_read(tmp_path: Path, size: int | str | None, variant: str) -> None:
    write_weights(tmp_path, TENSORS, FILE, variant, size)
    found = all_of(tmp_path, variant)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    if size in (None, "5GB"):
        assert names(tmp_path) == [with_variant(FILE, variant)]
    else:
        shards = len(names(tmp_path)) - 1
        assert shards == {400: 4, 800: 2, 1000: 2, "1KB": 2, 1: 4}[size]
        assert all(p.stat().st_size < 1300 for p in tmp_path.glob("*.safetensors"))
    with pytest.raises(ModelNotFoundError):
        all_of(tmp_path, "bf16")


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


def broken(directory: Path, **changes: Any) -> None:
    """An index over two shards, one part of it changed."""
    split = split_torch_state_dict_into_shards(TENSORS, max_shard_size=800)
    for shard, held in split.filename_to_tensors.items():
        save_file({name: TENSORS[name] for name in held}, directory / shard)
    index: Any = {"metadata": {}, "weight_map": dict(split.tensor_to_filename)}
    index["weight_map"].update(changes.pop("weight_map", {}))
    for name in changes.pop("without", ()):
        del index["weight_map"][name]
    index.update(changes)
    (directory / f"{FILE}.index.json").write_text(json.dumps(index))


OTHER = "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"weight_map": {"a": f"../{OTHER}"}}, "no file beside the index"),
        ({"weight_map": {"a": "/etc/passwd"}}, "no file beside the index"),
        ({"weight_map": {"a": f"x/{OTHER}"}}, "no file beside the index"),
        ({"weight_map": {"a": ".."}}, "no file beside the index|cannot be read"),
        ({"weight_map": {"a": ""}}, "no file beside the index"),
        ({"weight_map": {"a": 3}}, "no file beside the index"),
        ({"weight_map": {"a": OTHER}}, "disagree on a"),
        ({"weight_map": {"e": OTHER}}, "disagree on e"),
        ({"without": ["b"]}, "disagree on b"),
        ({"weight_map": {"a": "absent.safetensors"}}, "absent.safetensors|disagree"),
    ],
)
def test_an_index_that_lies(tmp_path: Path, changes: dict[str, Any], message: str | None) -> None:
    broken(tmp_path, **changes)
    if message is None:
        assert all_of(tmp_path).keys() == TENSORS.keys()
        return
    with pytest.raises((CheckpointError, ModelNotFoundError), match=message):
        all_of(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', "[" * 100_000, "\xff"])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / f"{FILE}.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match="is not an index of weights"):
        all_of(tmp_path)


def test_two_saves_in_one_directory_are_refused(tmp_path: Path) -> None:
    write_weights(tmp_path, TENSORS, FILE, max_shard_size=400)
    write_weights(tmp_path, TENSORS, FILE)
    with pytest.raises(CheckpointError, match="two saves"):
        all_of(tmp_path)


@pytest.mark.parametrize(
    "size", [0, -1, True, "", "many", "5", 2.5, "0GB", "-5GB", "infGB", "nanMB"]
)
def test_a_size_that_is_none(tmp_path: Path, size: Any) -> None:
    with pytest.raises(ConfigError, match="max_shard_size"):
        write_weights(tmp_path, TENSORS, FILE, max_shard_size=size)
    assert names(tmp_path) == []


@pytest.mark.parametrize("variant", ["", "../x", "a/b", "a b", "a.b", 3])
def test_a_variant_that_is_none(variant: Any) -> None:
    with pytest.raises(ConfigError, match="variant"):
        with_variant(FILE, variant)


def test_given_tensors_are_copied() -> None:
    tensors = {"a": torch.zeros(3)}
    found = given_weights(tensors).read({"a": "b"})
    found["b"] += 1
    assert not tensors["a"].any()
    with pytest.raises(CheckpointError, match=r"state_dict\['a'\] is a list"):
        given_weights({"a": [1.0]})  # type: ignore[dict-item]


def test_a_config_class_is_not_needed(tmp_path: Path) -> None:
    BertConfig(**tiny()).save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match="model.safetensors"):
        open_weights(tmp_path, FILE)
