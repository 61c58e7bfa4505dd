"""A configuration under its other names, and what of it is not the default."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest

from offramp import BertConfig, ConfigError, PretrainedConfig, UnknownOptionError


def test_another_name_is_the_field() -> None:
    config = BertConfig(num_classes=4, dropout=0.3)
    assert (config.num_labels, config.num_classes) == (4, 4)
    assert (config.classifier_dropout, config.dropout) == (0.3, 0.3)
    config.num_classes = 3
    assert (config.num_labels, len(config.labels)) == (3, 3)
    with pytest.raises(ConfigError, match="num_labels must be"):
        config.num_classes = 0
    assert "num_classes" not in config.to_dict()
    assert BertConfig(num_classes=3, num_labels=3).num_labels == 3
    with pytest.raises(ConfigError, match="two names of one setting"):
        BertConfig(num_classes=3, num_labels=4)
    with pytest.raises(UnknownOptionError, match=r"'num_classes'|'num_labels'"):
        BertConfig(num_clases=3)


def test_a_file_under_other_names(tmp_path: Path) -> None:
    values = {"model_type": "bert", "num_classes": 5, "dropout": 0.2, "hidden_size": 24}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    config = BertConfig.from_pretrained(tmp_path)
    assert (config.num_labels, config.classifier_dropout) == (5, 0.2)
    assert config.extra == {}


def test_keys_of_the_file_can_be_read_and_others_not() -> None:
    config = BertConfig.from_dict({"task_specific": {"a": 1}})
    assert config.task_specific == {"a": 1}
    with pytest.raises(AttributeError, match="'hidden_size'"):
        _ = config.hiden_size
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config


def test_what_differs_from_the_defaults() -> None:
    assert BertConfig().to_diff_dict() == {"model_type": "bert"}
    config = BertConfig.from_dict({"hidden_size": 36, "own": 1})
    assert config.to_diff_dict() == {"model_type": "bert", "hidden_size": 36, "own": 1}
    assert BertConfig.from_dict(config.to_diff_dict()) == config


def test_save_pretrained_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    BertConfig(hidden_size=24).save_pretrained(tmp_path)
    BertConfig(hidden_size=36).save_pretrained(tmp_path)
    assert BertConfig.from_pretrained(tmp_path).hidden_size == 36
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert PretrainedConfig().to_diff_dict() == {"model_type": ""}


@pytest.mark.parametrize("value", [3, {"a": [1]}, {0: 1}, {0: ["x"]}])
def test_pruned_heads_are_lists_by_layer(value: object) -> None:
    with pytest.raises(ConfigError, match="pruned_heads"):
        BertConfig(pruned_heads=value)  # type: ignore[arg-type]
    assert BertConfig(pruned_heads={"1": [2, 0]}).pruned_heads == {1: [0, 2]}  # type: ignore[dict-item]


def test_what_is_set_is_written() -> None:
    """As transformers' tools set `config.use_cache`: a key that is no field is kept."""
    config = BertConfig.from_dict({"task": {"a": 1}})
    config.task = {"a": 2}
    config.use_cache = False
    values = config.to_dict()
    assert (values["task"], values["use_cache"]) == ({"a": 2}, False)
    assert (config.task, config.use_cache) == ({"a": 2}, False)
    again = BertConfig.from_dict(values)
    assert again.to_dict() == values


def test_the_values_of_another_family_are_refused(tmp_path: Path) -> None:
    for make in (
        lambda: BertConfig.from_dict({"model_type": "roberta"}),
        lambda: BertConfig.from_json_file(tmp_path / "x.json"),
    ):
        (tmp_path / "x.json").write_text('{"model_type": "roberta"}')
        with pytest.raises(ConfigError, match="'roberta' model"):
            make()


def test_label2id_alone_gives_the_labels() -> None:
    config = BertConfig.from_dict({"label2id": {"yes": 1, "no": 0, "maybe": 2}})
    assert config.labels == ["no", "yes", "maybe"]


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": NaN}', '{"a": {"b": -Infinity}}', "[" * 100_000]
)
def test_a_file_that_says_two_things_or_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="not valid JSON"):
        BertConfig.from_pretrained(tmp_path)


def test_nan_is_not_written(tmp_path: Path) -> None:
    config = BertConfig()
    config.score = float("nan")
    with pytest.raises(ConfigError, match="score cannot be written"):
        config.save_pretrained(tmp_path)
