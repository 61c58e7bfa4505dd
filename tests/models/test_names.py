"""What `from_pretrained`'s first argument may be, and the tables of built-in names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import IDS, MASK, TINY

import offramp
import offramp.hub.names
from offramp import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    BertPreTrainedModel,
    PretrainedModel,
    Source,
)
from offramp.models import registry
from offramp.models.builtin import FAMILIES
from offramp.models.names import model_directory

ALL_MINILM = "all-MiniLM-L6-v2"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(**TINY)).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def logits(model: BertForSequenceClassification) -> torch.Tensor:
    return model(IDS, MASK).logits


# The tables


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Counted by their authors: Devlin et al. 2019 (110M, 340M), Turc et al. 2019 (4.4M to 41.7M);
    # here to the last one, as transformers 5.23 counts the same configuration.
    [
        ("bert-base-uncased", 109_482_240),
        ("bert-large-uncased", 335_141_888),
        ("bert-base-cased", 108_310_272),
        ("bert-base-multilingual-cased", 177_853_440),
        ("bert-base-chinese", 102_267_648),
        ("bert-tiny", 4_385_920),
        (ALL_MINILM, 22_713_216),
    ],
)
def test_a_built_in_configuration_has_the_known_size(name: str, parameters: int) -> None:
    config = BertConfig.from_pretrained(name)
    with torch.device("meta"):
        assert BertModel(config).num_parameters() == parameters


def test_the_tables_are_whole_and_belong_together() -> None:
    for model_type, family in FAMILIES.items():
        assert family.configurations.keys() == family.sources.keys()
        for name, settings in family.configurations.items():
            assert settings["model_type"] == model_type
            if model_type in registry.FAMILIES:
                registry.find_config_class(model_type).from_dict(settings).validate()
            assert offramp.hub.names.is_hub_name(family.sources[name].hub_id or "")
    for cls in (BertPreTrainedModel, BertModel, BertForMaskedLM):
        assert set(cls.pretrained_resource_files_map) == set(cls.resource_files_names)
        assert cls.pretrained_init_configuration == FAMILIES["bert"].configurations


def test_the_list_of_names_is_a_property_of_class_and_instance() -> None:
    names = BertModel.model_name_list
    assert {"bert-base-uncased", "bert-large-cased", ALL_MINILM} <= set(names)
    assert BertModel(BertConfig(**TINY)).model_name_list == names
    assert PretrainedModel.model_name_list == []
    names.clear()
    assert BertModel.model_name_list, "a list of its own each time"


@pytest.mark.parametrize(
    "change",
    [
        lambda: BertModel.pretrained_init_configuration.update(x={}),
        lambda: BertModel.pretrained_init_configuration["bert-tiny"].update(vocab_size=1),
        lambda: BertModel.pretrained_init_configuration.__setitem__("x", {}),
        lambda: BertModel.pretrained_init_configuration["bert-tiny"].__setitem__("vocab_size", 1),
        lambda: BertModel.pretrained_resource_files_map["model_state"].__setitem__("x", "y"),
        lambda: BertModel.resource_files_names.__setitem__("model_state", "x.safetensors"),
    ],
)
def test_no_caller_can_change_a_table(change: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        change()
    assert BertConfig.from_pretrained("bert-tiny").vocab_size == 30522


def test_a_configuration_of_a_name_is_ones_own() -> None:
    first = BertConfig.from_pretrained("bert-tiny", num_labels=5)
    first.extra["mine"] = 1
    first.pruned_heads = {0: [0]}
    second = BertConfig.from_pretrained("bert-tiny")
    assert (second.num_labels, second.extra, second.pruned_heads) == (2, {}, {})


def test_a_subclass_has_tables_of_its_own(saved: Path) -> None:
    class Mine(BertForSequenceClassification):
        pretrained_init_configuration = {"mine": {**TINY, "model_type": "bert"}}
        pretrained_resource_files_map = {"model_state": {"mine": Source(mirrors=(str(saved),))}}

    expected = logits(BertForSequenceClassification.from_pretrained(saved))
    assert Mine.model_name_list == ["mine"]
    torch.testing.assert_close(logits(Mine.from_pretrained("mine")), expected, atol=0, rtol=0)
    (saved / "config.json").unlink()  # a mirror of the weights alone: the table has the rest
    torch.testing.assert_close(logits(Mine.from_pretrained("mine")), expected, atol=0, rtol=0)
    with pytest.raises(TypeError):
        Mine.pretrained_init_configuration["mine"]["vocab_size"] = 3  # type: ignore[index]
    with pytest.raises(offramp.ModelNotFoundError, match="Did you mean 'mine'"):
        Mine.from_pretrained("mines")


def test_tables_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(offramp.ConfigError, match="must stand both in"):
        type("A", (BertModel,), {"pretrained_init_configuration": {"lonely": {}}})
    with pytest.raises(offramp.ConfigError, match="resource_files_names"):
        type("A", (BertModel,), {"resource_files_names": {"model_state": "weights.bin"}})
    with pytest.raises(offramp.ConfigError, match="has the keys of resource_files_names"):
        type("A", (BertModel,), {"pretrained_resource_files_map": {}})


def test_a_wrong_checksum_of_a_source_is_refused(saved: Path) -> None:
    class Mine(BertForSequenceClassification):
        pretrained_init_configuration = {"mine": {**TINY, "model_type": "bert"}}
        pretrained_resource_files_map = {
            "model_state": {"mine": Source(mirrors=(str(saved),), sha256="0" * 64)}
        }

    with pytest.raises(offramp.HubError, match="sha256"):
        Mine.from_pretrained("mine")


# The order


def test_a_directory_comes_before_a_built_in_name(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, "bert-base-uncased")
    model = BertForSequenceClassification.from_pretrained("bert-base-uncased")
    assert model.config.hidden_size == TINY["hidden_size"]
    assert BertConfig.from_pretrained("bert-base-uncased").hidden_size == TINY["hidden_size"]


def test_one_file_of_weights(saved: Path, tmp_path: Path) -> None:
    expected = logits(BertForSequenceClassification.from_pretrained(saved))
    file = saved / "model.safetensors"
    load = BertForSequenceClassification.from_pretrained
    torch.testing.assert_close(logits(load(file)), expected)
    alone = tmp_path / "alone.safetensors"
    shutil.copy(file, alone)
    config = BertConfig(**TINY)
    torch.testing.assert_close(logits(load(alone, config=config)), expected)
    with pytest.raises(offramp.ModelNotFoundError, match="config.json"):
        load(alone)
    with pytest.raises(offramp.ConfigError, match="is one file"):
        load(file, variant="fp16")


def test_a_built_in_name_from_an_installed_package() -> None:
    try:
        folder = model_directory(ALL_MINILM)
    except offramp.HubError as error:
        pytest.skip(str(error))
    model, report = BertModel.from_pretrained(ALL_MINILM, output_loading_info=True)
    assert report.initialised == ()
    stated = json.loads((folder / "config.json").read_text())
    table = BertModel.pretrained_init_configuration[ALL_MINILM]
    assert {name: stated[name] for name in table} == dict(table)
    assert model.config.hidden_size == 384


def test_a_community_name_from_the_cache(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache as huggingface_hub lays it out: refs, snapshots of links, blobs."""
    cache = tmp_path / "cache"
    repository = cache / "models--some--one"
    snapshot = repository / "snapshots" / ("a" * 40)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(saved.iterdir())):
        shutil.copy(file, repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(repository / "blobs" / str(number))
    expected = logits(BertForSequenceClassification.from_pretrained(saved))
    load = BertForSequenceClassification.from_pretrained
    for options in ({}, {"from_hf_hub": True}, {"local_files_only": True}):
        torch.testing.assert_close(
            logits(load("some/one", cache_dir=cache, **options)), expected, atol=0, rtol=0
        )
    monkeypatch.setenv("OFFRAMP_MIRRORS", str(tmp_path / "mirrors"))
    shutil.copytree(saved, tmp_path / "mirrors" / "some" / "other")
    torch.testing.assert_close(logits(load("some/other", cache_dir=cache)), expected)
    with pytest.raises(offramp.HubError, match="hf download some/other"):
        load("some/other", from_hf_hub=True, cache_dir=cache)  # a mirror is not the hub
    with pytest.raises(offramp.HubError, match="no directory here, nor a built-in name"):
        load("some/third", cache_dir=cache)


@pytest.mark.parametrize("lacks", ["model-00002-of-00004.safetensors", "config.json"])
def test_half_of_a_model_in_the_cache_is_passed_over(
    lacks: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BertForSequenceClassification.from_pretrained(saved)
    model.save_pretrained(saved, max_shard_size="1KB")
    assert (saved / "model.safetensors.index.json").exists()
    shutil.copytree(saved, tmp_path / "mirrors" / "some" / "one")
    repository = tmp_path / "cache" / "models--some--one"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(saved, repository / "snapshots" / ("a" * 40))
    removed = next(iter((repository / "snapshots").rglob(lacks[:11] + "*")))
    removed.unlink()
    load = BertForSequenceClassification.from_pretrained
    with pytest.raises(offramp.HubError, match="hf download some/one"):
        load("some/one", cache_dir=tmp_path / "cache")
    monkeypatch.setenv("OFFRAMP_MIRRORS", str(tmp_path / "mirrors"))
    found = load("some/one", cache_dir=tmp_path / "cache")
    torch.testing.assert_close(logits(found), logits(model))


def test_a_checksum_is_of_one_file(saved: Path) -> None:
    class Mine(BertForSequenceClassification):
        pretrained_init_configuration = {"mine": {**TINY, "model_type": "bert"}}
        pretrained_resource_files_map = {
            "model_state": {"mine": Source(mirrors=(str(saved),), sha256="0" * 64)}
        }

    model = BertForSequenceClassification.from_pretrained(saved)
    model.save_pretrained(saved, variant="fp16")
    model.save_pretrained(saved / "sharded", max_shard_size="1KB")
    for options in ({"variant": "fp16"}, {"subfolder": "sharded"}):
        with pytest.raises(offramp.HubError, match="not the one file whose sha256 is known"):
            Mine.from_pretrained("mine", **options)


def test_a_table_s_labels_and_lists_are_ones_own(saved: Path) -> None:
    class Mine(BertForSequenceClassification):
        pretrained_init_configuration = {
            "mine": {**TINY, "id2label": {"0": "no", "1": "yes"}, "task": {"names": ["a"]}}
        }
        pretrained_resource_files_map = {"model_state": {"mine": Source(mirrors=(str(saved),))}}

    (saved / "config.json").unlink()
    config = Mine.from_pretrained("mine").config
    assert config.labels == ["no", "yes"]
    config.extra["task"]["names"].append("b")
    assert Mine.from_pretrained("mine").config.extra["task"] == {"names": ["a"]}


@pytest.mark.parametrize(
    "source",
    [
        {"hub_id": "https://x.org/a"},
        {"hub_id": "owner/name.git"},
        {"hub_id": "owner/nämé"},
        {"hub_id": "owner/name-"},
        {"package": "no.such"},
        {"package": "carrier/../up"},
    ],
)
def test_a_source_that_cannot_be(source: dict[str, str]) -> None:
    with pytest.raises(offramp.ConfigError):
        Source(**source)


def test_from_hf_hub_leaves_directories_and_built_in_names_alone(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, "some/one")
    load = BertForSequenceClassification.from_pretrained
    assert load("some/one")
    for name in ("some/one", ALL_MINILM):
        with pytest.raises(offramp.HubError, match="the hub cache"):
            load(name, from_hf_hub=True, cache_dir=tmp_path / "cache")
    with pytest.raises(offramp.ModelNotFoundError, match="no name on the hub"):
        load(str(saved), from_hf_hub=True)


def test_a_download_that_is_put_in_place_is_used(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(hub_id: str, request: Any, select: Any) -> Path:
        assert hub_id == "some/one"
        listing = [*(p.name for p in saved.iterdir()), "pytorch_model.bin", "README.md"]
        assert sorted(select(listing)) == ["config.json", "model.safetensors"]
        return saved

    monkeypatch.setattr(offramp.hub.names, "download", download)
    model = BertForSequenceClassification.from_pretrained("some/one", cache_dir=tmp_path)
    expected = BertForSequenceClassification.from_pretrained(saved)
    torch.testing.assert_close(logits(model), logits(expected), atol=0, rtol=0)


def test_a_subfolder_stays_inside(saved: Path) -> None:
    load = BertForSequenceClassification.from_pretrained
    assert load(saved.parent, False, "saved")
    for subfolder in ("..", "../saved", str(saved)):
        with pytest.raises(offramp.ConfigError, match="inside the model's directory"):
            load(saved, subfolder=subfolder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert-base-uncasd", "Did you mean 'bert-base-uncased'"),
        ("/no/such/place", "does not exist"),
        ("../no", "does not exist"),
        ("x" * 5000, "does not exist"),
    ],
)
def test_a_name_that_is_nothing(name: str, message: str) -> None:
    with pytest.raises(offramp.ModelNotFoundError, match=message):
        BertModel.from_pretrained(name)
    with pytest.raises(offramp.ModelNotFoundError, match=message):
        BertConfig.from_pretrained(name)
