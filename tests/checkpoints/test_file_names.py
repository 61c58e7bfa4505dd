"""Names of a save's files are transformers' and PaddleNLP's."""

from __future__ import annotations

from typing import Any

import pytest

from offramp import ConfigError
from offramp.checkpoints.file_names import (
    PADDLE_FILE,
    SAFETENSORS_FILE,
    TORCH_FILE,
    WEIGHTS,
    is_index,
    replaced_by,
    weights_files,
    with_variant,
)


@pytest.mark.parametrize(
    ("file", "one", "index"),
    [  # transformers.utils: SAFE_WEIGHTS_NAME, WEIGHTS_NAME and their _add_variant
        (SAFETENSORS_FILE, "model.fp16.safetensors", "model.safetensors.index.fp16.json"),
        (TORCH_FILE, "pytorch_model.fp16.bin", "pytorch_model.bin.index.fp16.json"),
        (PADDLE_FILE, "model_state.fp16.pdparams", "model_state.pdparams.index.fp16.json"),
    ],
)
def test_a_variant_stands_before_the_last_suffix(file: str, one: str, index: str) -> None:
    assert weights_files(file, "fp16") == (one, index)
    assert weights_files(file) == (file, f"{file}.index.json")
    for name in (one, index, file, f"{file}.index.json"):
        assert WEIGHTS.fullmatch(name)
        assert is_index(name) == (".index." in name)


@pytest.mark.parametrize("variant", ["", "../x", "a/b", "a b", "a.b", "a\n", 3])
def test_a_variant_that_is_none(variant: Any) -> None:
    with pytest.raises(ConfigError, match="variant"):
        with_variant(SAFETENSORS_FILE, variant)


@pytest.mark.parametrize(
    "name", ["config.json", "model.onnx", "my_model.safetensors", "training_args.bin", "model.json"]
)
def test_what_is_no_model_s_weights(name: str) -> None:
    assert not WEIGHTS.fullmatch(name)
    assert not is_index(name)
    assert not replaced_by(SAFETENSORS_FILE).fullmatch(name)


def test_a_variant_s_save_leaves_the_others() -> None:
    mine = [
        "model.fp16.safetensors",
        "model.fp16-00001-of-00002.safetensors",
        "model.safetensors.index.fp16.json",
    ]
    others = ["model.safetensors", "model.bf16.safetensors", "model.safetensors.index.json"]
    assert all(replaced_by(SAFETENSORS_FILE, "fp16").fullmatch(name) for name in mine)
    assert not any(replaced_by(SAFETENSORS_FILE, "fp16").fullmatch(name) for name in others)
    everything = [*mine, *others, "pytorch_model.bin", "model_state-00001-of-00002.pdparams"]
    assert all(replaced_by(SAFETENSORS_FILE).fullmatch(name) for name in everything)
