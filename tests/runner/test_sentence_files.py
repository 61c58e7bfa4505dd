"""sentence-transformers' files that are not sound, or ask for what is not here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from task_models import write_model

import offramp
from offramp.errors import CheckpointError, ConfigFileError, OfframpError, UnsupportedError
from offramp.models.bert import BertModel

BASE = "sentence_transformers.models."
BODY = {"idx": 0, "name": "0", "path": "", "type": BASE + "Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": BASE + "Pooling"}
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": BASE + "Dense"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A sound embedder with a Dense; each test spoils one file."""
    place = write_model(tmp_path / "model", BertModel)
    write(place / "modules.json", [BODY, POOLING, DENSE])
    write(place / "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    write(place / "2_Dense/config.json", {"in_features": 32, "out_features": 3})
    torch.save(
        {"linear.weight": torch.ones(3, 32), "linear.bias": torch.zeros(3)},
        place / "2_Dense/pytorch_model.bin",
    )
    return place


def write(path: Path, values: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(values if isinstance(values, str) else json.dumps(values))


def test_as_it_is_it_loads(directory: Path) -> None:
    assert offramp.load(directory).embed(["oslo"]).shape == (1, 3)


def module(**changes: Any) -> dict[str, Any]:
    return {**DENSE, **changes}


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ([BODY, POOLING, module(type=BASE + "LSTM")], UnsupportedError, r"models\.LSTM"),
        ([BODY, POOLING, module(type="os.system")], UnsupportedError, r"os\.system"),
        ([BODY, POOLING, module(type="evil.Dense")], UnsupportedError, r"evil\.Dense"),
        ([BODY, POOLING, module(kwargs={"task": "x"})], UnsupportedError, "'task': 'x'"),
        ([BODY, DENSE], UnsupportedError, "Transformer, Dense"),
        ([POOLING, BODY], UnsupportedError, "Pooling, Transformer"),
        ([BODY, POOLING, POOLING], UnsupportedError, "Pooling, Pooling"),
        ([BODY], CheckpointError, "no list of 2"),
        ([BODY, *[POOLING] * 40], CheckpointError, "no list of 2"),
        ({}, CheckpointError, "no list of 2"),
        ([BODY, 3], CheckpointError, "3 is no module"),
        ([BODY, {"type": BASE + "Pooling"}], CheckpointError, "no `type` and `path`"),
        ([BODY, module(path=3)], CheckpointError, "no `type` and `path`"),
        ("[", CheckpointError, "no JSON"),
        ("[" * 5000, CheckpointError, "no JSON"),
        ("[" + " " * 200_000, CheckpointError, "longer than"),
    ],
)
def test_tables_that_are_refused(
    directory: Path, table: object, error: type[OfframpError], message: str
) -> None:
    write(directory / "modules.json", table)
    with pytest.raises(error, match=message):
        offramp.load(directory)


@pytest.mark.parametrize(
    "path", ["../outside", "/tmp", "1_Pooling/../../outside", "..", "..\\outside", "a\0b"]
)
def test_folders_outside_are_refused(directory: Path, path: str) -> None:
    outside = directory.parent / "outside"
    write(outside / "config.json", {"pooling_mode_mean_tokens": True})
    write(directory / "modules.json", [BODY, {**POOLING, "path": path}])
    with pytest.raises(CheckpointError, match="no folder inside"):
        offramp.load(directory)


@pytest.mark.parametrize("link", ["1_Pooling", "1_Pooling/config.json", "modules.json"])
def test_links_outside_are_refused(directory: Path, link: str) -> None:
    outside = directory.parent / "outside"
    (directory / link).rename(outside)
    (directory / link).symlink_to(outside)
    with pytest.raises(CheckpointError, match="outside"):
        offramp.load(directory)


@pytest.mark.parametrize(
    ("file", "values", "error", "message"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode_weightedmean_tokens": True},
            UnsupportedError,
            "weightedmean",
        ),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_mean_tokens": True},
            UnsupportedError,
            "mean_sqrt_len_tokens",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "sum"}, UnsupportedError, "sum"),
        ("1_Pooling/config.json", {"pooling_mode_sum": True}, UnsupportedError, "mode_sum"),
        ("1_Pooling/config.json", {"pooling_mode": 3}, ConfigFileError, "pooling_mode 3"),
        ("1_Pooling/config.json", {"pooling_mode": [[]]}, UnsupportedError, r"\[\]"),
        ("1_Pooling/config.json", [], ConfigFileError, "object"),
        ("sentence_bert_config.json", {"max_seq_length": "9"}, ConfigFileError, "'9'"),
        (
            "sentence_bert_config.json",
            {"transformer_task": "fill-mask"},
            UnsupportedError,
            "fill-mask",
        ),
        ("sentence_bert_config.json", {"max_seq_length": 0}, ConfigFileError, "max_seq_length"),
        ("sentence_bert_config.json", {"do_lower_case": 1}, ConfigFileError, "do_lower_case"),
        ("config_sentence_transformers.json", {"prompts": {"a": 3}}, ConfigFileError, "prompts"),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": "query"},
            ConfigFileError,
            "'query'",
        ),
        ("2_Dense/config.json", {"in_features": "32"}, ConfigFileError, "'32'"),
        ("2_Dense/config.json", {"in_features": 32, "out_features": 0}, ConfigFileError, "0"),
        (
            "2_Dense/config.json",
            {"in_features": 32, "out_features": 3, "activation_function": "os.system"},
            UnsupportedError,
            r"os\.system",
        ),
        (
            "2_Dense/config.json",
            {"in_features": 32, "out_features": 3, "activation_function": []},
            UnsupportedError,
            "activation",
        ),
        (
            "2_Dense/config.json",
            {"in_features": 32, "out_features": 3, "use_residual": True},
            UnsupportedError,
            "use_residual",
        ),
        (
            "2_Dense/config.json",
            {"in_features": 32, "out_features": 3, "module_input_name": "token_embeddings"},
            UnsupportedError,
            "token_embeddings",
        ),
        (
            "2_Dense/config.json",
            {"in_features": 32, "out_features": 3, "bias": False},
            CheckpointError,
            "linear.bias",
        ),
        (
            "2_Dense/config.json",
            {"in_features": 32, "out_features": 4},
            CheckpointError,
            r"\(4, 32\)",
        ),
    ],
)
def test_settings_that_are_refused(
    directory: Path, file: str, values: object, error: type[OfframpError], message: str
) -> None:
    write(directory / file, values)
    with pytest.raises(error, match=message):
        offramp.load(directory)


def test_a_normalize_of_tokens_is_refused(directory: Path) -> None:
    normalize = {"idx": 2, "name": "2", "path": "2_Normalize", "type": BASE + "Normalize"}
    write(directory / "modules.json", [BODY, POOLING, normalize])
    assert offramp.load(directory).layout.normalize
    write(directory / "2_Normalize/config.json", {"module_input_name": "token_embeddings"})
    with pytest.raises(UnsupportedError, match="module_input_name 'token_embeddings'"):
        offramp.load(directory)


def test_a_table_that_leads_nowhere_is_no_table_that_is_absent(directory: Path) -> None:
    (directory / "modules.json").unlink()
    (directory / "modules.json").symlink_to("gone.json")
    with pytest.raises(CheckpointError, match="modules.json"):
        offramp.load(directory)


def test_a_folder_that_is_not_there(directory: Path) -> None:
    (directory / "1_Pooling" / "config.json").unlink()
    with pytest.raises(OfframpError, match="1_Pooling"):
        offramp.load(directory)


def test_weights_that_run_code_are_refused(directory: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("code of a checkpoint ran",))

    torch.save({"linear.weight": Bomb()}, directory / "2_Dense/pytorch_model.bin")
    with pytest.raises(CheckpointError):
        offramp.load(directory)
