"""Faults of transformers 5.23 and PaddleNLP 2.8 that users met there; none is here.

Those of names, threads and resizing have their tests beside the rest of their subject too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import IDS, MASK, TINY
from torch import Tensor, nn

import offramp
from offramp import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    BertPreTrainedModel,
    PretrainedModel,
    register_base_model,
)
from offramp.models.config import configuration


@configuration
class OtherConfig(BertConfig):
    model_type = "other"


class OtherPreTrainedModel(PretrainedModel):
    """A second family, as RoBERTa is one beside BERT: the same parts under another prefix."""

    config_class = OtherConfig
    base_model_prefix = "other"
    config: OtherConfig

    def _init_weights(self, module: nn.Module) -> None:
        BertPreTrainedModel._init_weights(self, module)  # type: ignore[arg-type]


@register_base_model
class OtherModel(OtherPreTrainedModel):
    def __init__(self, config: OtherConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.init_weights()


def test_one_family_s_directory_is_not_another_s_model(tmp_path: Path) -> None:
    """transformers returns a random RobertaModel for BERT's files, with a warning."""
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(offramp.ConfigError, match="holds a 'bert' model"):
        OtherModel.from_pretrained(tmp_path)
    with pytest.raises(offramp.CheckpointError, match="nothing was loaded"):
        OtherModel.from_pretrained(tmp_path, config=OtherConfig(**TINY))
    values = json.loads((tmp_path / "config.json").read_text())
    del values["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(offramp.CheckpointError, match="nothing was loaded"):
        OtherModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForPreTraining])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [17, 29])
def test_resized_then_saved_then_loaded_is_equal(
    kind: Any, tied: bool, size: int, tmp_path: Path
) -> None:
    """transformers ties again, or loses the head, with tie_word_embeddings=False."""
    torch.manual_seed(0)
    model = kind(BertConfig(**TINY, tie_word_embeddings=tied)).eval()
    model.resize_token_embeddings(size)
    head = model.get_output_embeddings()
    assert (head.weight is model.get_input_embeddings().weight) is tied
    assert len(head.bias) == len(model.cls["predictions"].bias) == size  # Paddle's decoder_bias
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    ids = IDS.clamp(max=size - 1)
    torch.testing.assert_close(again(ids, MASK)[0], model(ids, MASK)[0])
    assert again.config.vocab_size == size


def test_new_rows_have_the_model_s_spread() -> None:
    """PaddleNLP's are of the framework's default, sqrt(6 / (V + D)) or so wide."""
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**{**TINY, "initializer_range": 0.02}))
    model.resize_token_embeddings(4000)
    new = model.get_input_embeddings().weight[TINY["vocab_size"] :]
    assert new.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(new.mean().item()) < 0.001


class Eps(BertPreTrainedModel):
    """PaddleNLP's models set the norms' epsilon in their initialiser."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.init_weights()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.LayerNorm):
            module.eps = 0.25

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.norm(self.bert(input_ids, attention_mask).last_hidden_state)
        return found


def test_an_epsilon_that_the_initialiser_sets_is_there_after_loading(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Eps(BertConfig(**TINY)).eval()
    assert model.norm.eps == 0.25
    model.save_pretrained(tmp_path)
    again = Eps.from_pretrained(tmp_path)
    assert {m.eps for m in again.modules() if isinstance(m, nn.LayerNorm)} == {0.25}
    torch.testing.assert_close(again(IDS, MASK), model(IDS, MASK))


class Head(BertForSequenceClassification):
    def __init__(self, config: BertConfig, width: int, scale: float = 1.0) -> None:
        super().__init__(config)
        self.scale = scale
        self.more = nn.Linear(config.num_labels, width)
        self.init_weights()


@pytest.mark.filterwarnings("ignore::offramp.NewWeightsWarning")
def test_arguments_by_position_reach_init_and_are_saved(tmp_path: Path) -> None:
    """PaddleNLP drops them in from_pretrained; neither ancestor saves them."""
    BertForSequenceClassification(BertConfig(**TINY)).save_pretrained(tmp_path / "plain")
    model = Head.from_pretrained(tmp_path / "plain", False, None, 5, 0.5)
    assert (model.more.out_features, model.scale) == (5, 0.5)
    model.save_pretrained(tmp_path / "own")
    again = Head.from_pretrained(tmp_path / "own")
    assert (again.more.out_features, again.scale) == (5, 0.5)
    with pytest.raises(TypeError, match=r"from_pretrained\(name, False, None, 3\)"):
        Head.from_pretrained(tmp_path / "own", 3)  # type: ignore[call-overload]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_loading_leaves_the_default_type_and_the_random_numbers(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    BertModel(BertConfig(**TINY)).to(dtype).save_pretrained(tmp_path)
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float16)
    try:
        model = BertModel.from_pretrained(tmp_path)
        assert torch.get_default_dtype() is torch.float16
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.dtype is dtype
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForPreTraining])
def test_an_untied_head_of_an_old_file_keeps_its_bias(kind: Any, tmp_path: Path) -> None:
    """transformers 4.38 writes it as cls.predictions.bias alone; 5.23 makes a new one, of zeros."""
    torch.manual_seed(0)
    model = kind(BertConfig(**TINY, tie_word_embeddings=False)).eval()
    with torch.no_grad():
        model.cls["predictions"].decoder.bias.normal_()
    state = dict(model.state_dict())
    old = {name: t for name, t in state.items() if name != "cls.predictions.decoder.bias"}
    old["cls.predictions.bias"] = state["cls.predictions.decoder.bias"]
    again, report = kind.from_pretrained(
        _saved(model, tmp_path), state_dict=old, output_loading_info=True
    )
    torch.testing.assert_close(again(IDS, MASK)[0], model(IDS, MASK)[0])
    assert report.copied == {"cls.predictions.decoder.bias": "cls.predictions.bias"}
    assert "copied" in str(report)
    del old["cls.predictions.decoder.weight"]
    with pytest.raises(offramp.CheckpointError, match="decoder.weight is missing"):
        kind.from_pretrained(tmp_path, state_dict=old)


def _saved(model: PretrainedModel, directory: Path) -> Path:
    model.save_pretrained(directory)
    return directory
