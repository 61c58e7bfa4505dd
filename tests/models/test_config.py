"""Configurations: checks, files, and labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

import offramp
from offramp import BertConfig, BertForSequenceClassification, ConfigError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bert"


def write(folder: Path, values: object) -> Path:
    text = values if isinstance(values, str) else json.dumps(values)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


def tiny() -> dict[str, Any]:
    values = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


# Keywords


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("hidden_sise", "hidden_size"), ("n_labels", "num_labels"), ("hidden_acts", "hidden_act")],
)
def test_an_unknown_keyword_names_the_nearest(wrong: str, meant: str) -> None:
    for make in (
        lambda: BertConfig(**{wrong: 3}),
        lambda: BertConfig.from_pretrained(GOLDEN, **{wrong: 3}),
        lambda: BertForSequenceClassification.from_pretrained(GOLDEN, **{wrong: 3}),
    ):
        with pytest.raises(offramp.UnknownOptionError, match=f"Bert.*{wrong!r}.*{meant!r}"):
            make()
    with pytest.raises(TypeError):  # what Python itself raises for an unknown keyword
        BertConfig(**{wrong: 3})


@pytest.mark.parametrize("name", ["attribute_map", "sub_configs", "model_types"])
def test_what_belongs_to_the_class_is_no_keyword(name: str) -> None:
    for make in (
        lambda: BertConfig(**{name: {}}),
        lambda: BertForSequenceClassification.from_pretrained(GOLDEN, **{name: {}}),
    ):
        with pytest.raises(offramp.UnknownOptionError, match=name):
            make()


def test_a_configuration_is_built_again_from_its_dictionary() -> None:
    config = BertConfig(hidden_size=24, id2label={0: "no", 1: "yes"})
    assert BertConfig(**config.to_dict()) == BertConfig(**config.to_diff_dict()) == config
    with pytest.raises(ConfigError, match="model_type 'bert' and no other"):
        BertConfig(model_type="roberta")


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        BertConfig(30522)  # type: ignore[misc]


def test_config_or_changes_and_not_both() -> None:
    config = BertConfig.from_pretrained(GOLDEN)
    with pytest.raises(ConfigError, match="config= or hidden_act="):
        offramp.BertModel.from_pretrained(GOLDEN, config=config, hidden_act="relu")


# Checks

WHOLE = [0, -1, 1.5, "8", None, True, float("nan"), 2**40, 10**30]
SHARE = [-0.1, 1.1, "0.1", True, float("nan"), float("inf")]

BAD: dict[str, list[Any]] = {
    "vocab_size": WHOLE,
    "hidden_size": WHOLE,
    "num_hidden_layers": WHOLE,
    "num_attention_heads": WHOLE,
    "intermediate_size": WHOLE,
    "max_position_embeddings": WHOLE,
    "type_vocab_size": WHOLE,
    "num_labels": WHOLE,
    "hidden_act": ["gellu", None, 3, ["gelu"]],
    "hidden_dropout_prob": [*SHARE, None],
    "attention_probs_dropout_prob": [*SHARE, None],
    "classifier_dropout": SHARE,
    "initializer_range": [-1, "0.02", None],
    "layer_norm_eps": [-1e-12, "1e-12", None],
    "pad_token_id": [-1, 0.5, "0"],
    "mask_padding": ["yes", None],
    "position_embedding_type": ["relative_key", "relative_key_query", None],
    "pool_act": ["relu", None],
    "is_decoder": [True, "no"],
    "add_cross_attention": [True],
    "problem_type": ["ranking", 3],
    "output_hidden_states": ["yes", None],
    "output_attentions": ["yes", None],
    "return_dict": ["yes", None],
    "attn_implementation": ["flash_attention_2", None],
    "is_encoder_decoder": [True],
    "tie_word_embeddings": ["yes", None],
}


@pytest.mark.parametrize("field", BAD)
def test_a_bad_value_is_refused_when_set(field: str) -> None:
    config = BertConfig()
    before = getattr(config, field)
    for value in BAD[field]:
        with pytest.raises(ConfigError, match=rf"BertConfig\.{field} must be .*; got "):
            BertConfig(**{field: value})
        with pytest.raises(ConfigError, match=rf"BertConfig\.{field} must be .*; got "):
            setattr(config, field, value)
    assert getattr(config, field) == before


def test_every_field_with_a_check_is_tried() -> None:
    checked = [n for n, f in BertConfig.__dataclass_fields__.items() if "check" in f.metadata]
    assert sorted(checked) == sorted(BAD)


def test_a_bad_value_in_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hidden_size must be a whole number .*got '16'"):
        BertConfig.from_pretrained(write(tmp_path, tiny() | {"hidden_size": "16"}))


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_are_refused(tmp_path: Path, kind: str) -> None:
    write(tmp_path, tiny() | {"position_embedding_type": kind})
    for cls in (BertConfig, offramp.BertModel):
        with pytest.raises(ConfigError, match=f"position_embedding_type.*'absolute'.*{kind}"):
            cls.from_pretrained(tmp_path)


def test_fields_are_checked_together_when_a_model_is_built_and_saved(tmp_path: Path) -> None:
    for changes, message in (
        ({"hidden_size": 10, "num_attention_heads": 4}, "hidden_size 10 .* num_attention_heads 4"),
        ({"vocab_size": 5, "pad_token_id": 5}, "pad_token_id 5 .* vocabulary of 5"),
    ):
        config = BertConfig(**changes)
        with pytest.raises(ConfigError, match=message):
            config.validate()
        with pytest.raises(ConfigError, match=message):
            offramp.BertModel(config)
    model = offramp.BertModel.from_pretrained(GOLDEN)
    model.config.num_attention_heads = 3
    with pytest.raises(ConfigError, match="num_attention_heads is 3"):
        model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"num_labels": 5}, {"hidden_size": 32}, {"vocab_size": 99}])
def test_a_structural_change_under_a_live_model_is_an_error_at_save(
    tmp_path: Path, changes: dict[str, int]
) -> None:
    model = BertForSequenceClassification.from_pretrained(GOLDEN)
    for name, value in changes.items():
        setattr(model.config, name, value)
    with pytest.raises(ConfigError, match=next(iter(changes))):
        model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_json_cannot_hold_is_an_error_at_save(tmp_path: Path) -> None:
    model = offramp.BertModel.from_pretrained(GOLDEN)
    model.config.extra["reward"] = {1, 2}
    with pytest.raises(ConfigError, match="reward"):
        model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# Labels


def test_labels_and_their_number_follow_one_another() -> None:
    config = BertConfig(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    config.id2label = {0: "no", 1: "yes"}
    assert (config.num_labels, config.labels) == (2, ["no", "yes"])
    assert config.label2id == {"no": 0, "yes": 1}
    config.num_labels = 2
    assert config.labels == ["no", "yes"], "the same number keeps the names"
    config.num_labels = 1
    assert config.labels == ["LABEL_0"]


def test_labels_may_be_given_the_other_way_round(tmp_path: Path) -> None:
    names, numbers = {0: "no", 1: "yes", 2: "?"}, {"no": 0, "yes": 1, "?": 2}
    write(tmp_path, tiny())
    for config in (
        BertConfig(label2id=numbers),
        BertConfig(id2label=names, label2id=numbers, num_labels=3),
        BertConfig(label2id={"no": "0", "yes": "1", "?": "2"}),
        BertConfig.from_pretrained(tmp_path, label2id=numbers),
        BertConfig.from_pretrained(tmp_path, id2label=names, label2id=numbers),
        BertForSequenceClassification.from_pretrained(
            GOLDEN, id2label=names, label2id=numbers, ignore_mismatched_sizes=True
        ).config,
    ):
        assert (config.id2label, config.label2id, config.num_labels) == (names, numbers, 3)
    config.label2id = {"a": 1, "b": 0}
    assert config.id2label == {0: "b", 1: "a"}


@pytest.mark.parametrize("numbers", [{}, {"a": 1}, {"a": 0, "b": 0}, {"a": "x"}, ["a"], 3])
def test_numbers_of_labels_count_the_classes(numbers: Any) -> None:
    with pytest.raises(ConfigError, match=r"(label2id|id2label) must give"):
        BertConfig(label2id=numbers)
    with pytest.raises(ConfigError, match=r"(label2id|id2label) must give"):
        BertConfig().label2id = numbers


def test_labels_that_contradict_their_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="turned round"):
        BertConfig(id2label={0: "no", 1: "yes"}, label2id={"no": 1, "yes": 0})
    with pytest.raises(ConfigError, match="num_labels=5 contradicts"):
        BertConfig(num_labels=5, label2id={"no": 1, "yes": 0})


def test_labels_may_come_in_any_order_and_as_text() -> None:
    config = BertConfig(id2label={"1": "yes", "0": "no"})  # type: ignore[dict-item]
    assert config.labels == ["no", "yes"]
    assert list(config.to_dict()["id2label"].items()) == [("0", "no"), ("1", "yes")]


@pytest.mark.parametrize("labels", [{}, {1: "a"}, {0: "a", 2: "b"}, {-1: "a", 0: "b"}])
def test_labels_number_the_classes(labels: dict[int, str]) -> None:
    with pytest.raises(ConfigError, match="id2label must give classes numbered 0, 1, 2"):
        BertConfig(id2label=labels)


@pytest.mark.parametrize("labels", [{"first": "a"}, ["a", "b"], 3])
def test_labels_of_another_shape_are_a_config_error(labels: Any) -> None:
    with pytest.raises(ConfigError, match="id2label"):
        BertConfig(id2label=labels)


def test_labels_and_a_number_that_contradict_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_labels"):
        BertConfig(num_labels=5, id2label={0: "no", 1: "yes"})


def test_labels_of_a_file_give_way_to_a_keyword(tmp_path: Path) -> None:
    write(tmp_path, tiny() | {"id2label": {"0": "no", "1": "yes"}})
    assert BertConfig.from_pretrained(tmp_path).labels == ["no", "yes"]
    assert BertConfig.from_pretrained(tmp_path, num_labels=2).labels == ["no", "yes"]
    assert BertConfig.from_pretrained(tmp_path, num_labels=3).labels == [
        "LABEL_0",
        "LABEL_1",
        "LABEL_2",
    ]
    named = BertConfig.from_pretrained(tmp_path, id2label={0: "a", 1: "b", 2: "c"})
    assert (named.num_labels, named.labels) == (3, ["a", "b", "c"])


def test_a_file_may_give_the_number_alone(tmp_path: Path) -> None:
    values = {k: v for k, v in tiny().items() if k not in ("id2label", "label2id")}
    assert BertConfig.from_pretrained(write(tmp_path, values | {"num_labels": 4})).num_labels == 4


# Files


def test_unknown_keys_of_a_file_are_kept_and_written_back(tmp_path: Path) -> None:
    values = tiny() | {
        "custom": {"nested": [1, 2]},
        "labels": "a key named as a property is",
        "extra": "a key named as a field is",
        "quantization_config": None,
    }
    config = BertConfig.from_pretrained(write(tmp_path, values))
    assert config.extra["custom"] == {"nested": [1, 2]}
    written = json.loads(config.to_json())
    assert {key: written[key] for key in values} == values
    again = BertConfig.from_pretrained(write(tmp_path, config.to_json()))
    assert again == config
    assert again.to_json() == config.to_json()


def test_json_by_transformers_names(tmp_path: Path) -> None:
    config = BertConfig(hidden_size=24, vocab_size=7)
    assert json.loads(config.to_json_string()) == config.to_diff_dict()
    assert config.to_json_string(use_diff=False) == config.to_json()
    for use_diff in (True, False):
        config.to_json_file(tmp_path / "any.json", use_diff)
        assert BertConfig.from_json_file(tmp_path / "any.json") == config
    with pytest.raises(offramp.ModelNotFoundError, match=r"none\.json"):
        BertConfig.from_json_file(tmp_path / "none.json")
    assert list(config) == list(config.to_dict())
    assert config.get_text_config(decoder=True) is config


def test_numbers_that_do_not_go_together_may_be_written_but_not_built(tmp_path: Path) -> None:
    config = BertConfig(hidden_size=37)
    config.save_pretrained(tmp_path)
    again = BertConfig.from_pretrained(tmp_path)
    assert again == config
    with pytest.raises(ConfigError, match="hidden_size 37"):
        offramp.BertModel(again)


def test_a_configuration_does_not_share_what_the_file_held() -> None:
    values = tiny() | {"custom": [1]}
    config = BertConfig.from_dict(values)
    values["custom"].append(2)
    config.to_dict()["custom"].append(3)
    assert config.extra["custom"] == [1]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "vocab_size": st.integers(1, 10**6),
            "num_attention_heads": st.sampled_from([1, 2, 4]),
            "hidden_dropout_prob": st.floats(0, 1),
            "classifier_dropout": st.none() | st.floats(0, 1),
            "problem_type": st.sampled_from([None, "regression"]),
            "id2label": st.lists(st.text(), min_size=1, unique=True).map(
                lambda names: dict(enumerate(names))
            ),
        },
    )
)
def test_a_file_gives_back_what_was_written(values: dict[str, Any]) -> None:
    config = BertConfig(**values)
    again = BertConfig.from_dict(json.loads(config.to_json()))
    assert again == config
    for name, value in values.items():
        assert getattr(again, name) == value


def test_a_fresh_configuration_says_nothing_of_exits() -> None:
    assert "exits" not in BertConfig().to_dict()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    for cls in (BertConfig, offramp.BertModel):
        with pytest.raises(offramp.ModelNotFoundError, match=r"nowhere does not exist"):
            cls.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(OSError, match="nowhere"):
        BertConfig.from_pretrained(str(tmp_path / "nowhere"))


def test_a_directory_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(offramp.ModelNotFoundError, match=r"no config\.json"):
        BertConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(offramp.ModelNotFoundError, match=r"no config\.json"):
        BertConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "{'model_type': 'bert'}", '{"a": 1,}', "\udcff"])
def test_a_configuration_that_is_not_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=r"config\.json is not valid JSON"):
        BertConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("values", [[], 3, "bert", None])
def test_a_configuration_that_is_no_object(tmp_path: Path, values: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"must hold a JSON object; it holds a"):
        BertConfig.from_pretrained(tmp_path)


def test_a_model_of_another_type(tmp_path: Path) -> None:
    write(tmp_path, tiny() | {"model_type": "gpt2"})
    for cls in (BertConfig, offramp.BertModel):
        with pytest.raises(ConfigError, match="'gpt2' model and BertConfig is for 'bert'"):
            cls.from_pretrained(tmp_path)


def test_a_file_that_does_not_say_its_type_is_taken_at_its_word(tmp_path: Path) -> None:
    values = {key: value for key, value in tiny().items() if key != "model_type"}
    assert BertConfig.from_pretrained(write(tmp_path, values)).to_dict()["model_type"] == "bert"
