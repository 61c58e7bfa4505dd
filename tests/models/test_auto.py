"""The class that a checkpoint is of: by its tensors, its model_type, its architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import IDS, MASK, TINY

import offramp
from offramp import AutoConfig, AutoModel, AutoModelForSequenceClassification, BertConfig
from offramp.models import registry

TASKS = [name for name in offramp.__all__ if name.startswith("AutoModel")]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.BertConfig(**TINY, num_labels=3)
    transformers.BertForSequenceClassification(config).eval().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.filterwarnings("ignore::offramp.NewWeightsWarning")
def test_each_task_is_bert_s_class(name: str, saved: Path) -> None:
    auto = getattr(offramp, name)
    expected = getattr(offramp, f"Bert{name.removeprefix('AutoModel') or 'Model'}")
    assert type(auto.from_pretrained(saved, num_labels=2, ignore_mismatched_sizes=True)) is expected
    assert type(auto.from_config(BertConfig(**TINY))) is expected
    with pytest.raises(offramp.ConfigError, match=rf"{name}\.from_pretrained"):
        auto()


def test_outputs_and_options_are_the_class_s_own(saved: Path) -> None:
    theirs = transformers.BertForSequenceClassification.from_pretrained(saved).eval()
    model, report = AutoModelForSequenceClassification.from_pretrained(
        saved, output_loading_info=True, hidden_dropout_prob=0.3
    )
    assert report.initialised == ()
    assert model.config.hidden_dropout_prob == 0.3
    torch.testing.assert_close(model(IDS, MASK).logits, theirs(IDS, MASK).logits, atol=1e-5, rtol=0)
    assert AutoModel.from_pretrained(saved.parent, False, "saved").config.hidden_size == 8


def test_without_a_model_type_architectures_or_tensors_tell(saved: Path) -> None:
    rewrite(saved, model_type=None)
    assert type(AutoModel.from_pretrained(saved)) is offramp.BertModel
    rewrite(saved, architectures=None)
    assert type(AutoModel.from_pretrained(saved)) is offramp.BertModel
    assert type(AutoConfig.from_pretrained(saved)) is BertConfig
    (saved / "model.safetensors").unlink()
    with pytest.raises(offramp.ConfigError, match="does not say what it is"):
        AutoConfig.from_pretrained(saved)
    rewrite(saved, architectures=["BertForMaskedLM"])
    assert type(AutoConfig.from_pretrained(saved)) is BertConfig


def test_an_unknown_type_lists_the_known(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    rewrite(saved, model_type="mamba")
    for auto in (AutoConfig, AutoModel):
        with pytest.raises(offramp.ConfigError, match=r"'mamba'.*bert"):
            auto.from_pretrained(saved)
    with pytest.raises(offramp.ConfigError, match=r"'mamba'.*bert"):
        AutoConfig.for_model("mamba")
    assert AutoConfig.for_model("bert", vocab_size=7).vocab_size == 7


def test_tensors_are_believed_before_the_configuration(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.FAMILIES, "other", registry.Family("Other", "other"))
    rewrite(saved, model_type="other", architectures=["OtherModel"])
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    assert type(model) is offramp.BertForSequenceClassification
    assert model.config.num_labels == 3


def test_a_bare_body_of_two_families_is_refused(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(**TINY)
    transformers.RobertaModel(config).save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is offramp.RobertaModel
    rewrite(tmp_path, model_type="bert")
    for opened in (AutoModel.from_pretrained, offramp.load):
        with pytest.raises(offramp.ConfigError, match=r"'bert'.*RobertaModel.*two families"):
            opened(tmp_path)
    rewrite(tmp_path, model_type="xlm-roberta")  # which computes the same
    assert type(AutoModel.from_pretrained(tmp_path)) is offramp.XLMRobertaModel
    rewrite(tmp_path, model_type="bert", architectures=["BertModel"])
    assert type(AutoModel.from_pretrained(tmp_path)) is offramp.BertModel


def test_a_task_that_a_family_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(offramp.ConfigError, match="There is no BertForRhymes.*BertForMaskedLM"):
        registry.find_class("bert", "ForRhymes")


def test_arguments_of_init_in_the_wrong_place() -> None:
    with pytest.raises(TypeError, match=r"AutoModel\.from_pretrained\(name, False, None, 3\)"):
        AutoModel.from_pretrained("x", 3)
    with pytest.raises(TypeError, match=r"BertModel\.from_pretrained\(name, False, None, 3\)"):
        offramp.BertModel.from_pretrained("x", False, 3)
    with pytest.raises(offramp.ConfigError, match="takes a configuration; got None"):
        AutoModel.from_config(None)


def test_built_in_names(tmp_path: Path) -> None:
    assert AutoConfig.from_pretrained("bert-large-cased", num_labels=4).num_hidden_layers == 24
    with pytest.raises(offramp.HubError, match="hf download google-bert/bert-base-cased"):
        AutoModel.from_pretrained("bert-base-cased", cache_dir=tmp_path)
