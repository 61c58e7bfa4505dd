"""Vocabularies, positions and attention heads of another size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import IDS, TINY
from torch import nn

import offramp
from offramp import BertConfig, BertForMaskedLM, BertModel, ConfigError


def masked_lm(**changes: Any) -> BertForMaskedLM:
    model = BertForMaskedLM(BertConfig(**TINY | changes)).eval()
    with torch.no_grad():  # a bias that is all zeros would hide a mistake
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [25, 12])
def test_words_come_and_go_at_the_end(size: int, tied: bool, tmp_path: Path) -> None:
    model = masked_lm(tie_word_embeddings=tied)
    before = model(IDS).logits
    table = model.resize_token_embeddings(size)
    assert table is model.get_input_embeddings()
    assert (table.num_embeddings, model.config.vocab_size) == (size, size)
    decoder = model.get_output_embeddings()
    assert (decoder.out_features, len(decoder.bias), len(model.cls["predictions"].bias)) == (
        size,
    ) * 3
    assert (decoder.weight is table.weight) == tied
    after = model(IDS).logits
    kept = min(size, 20)
    torch.testing.assert_close(after[..., :kept], before[..., :kept], rtol=1e-6, atol=1e-6)
    assert torch.isfinite(after).all()
    model.save_pretrained(tmp_path)
    again = BertForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(IDS).logits, after)
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(theirs(IDS).logits, after, rtol=1e-5, atol=1e-5)


def test_new_rows_are_the_model_s_own_or_the_mean() -> None:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**TINY))
    old = model.get_input_embeddings().weight.detach().clone()
    fresh = model.resize_token_embeddings(2020).weight.detach()
    assert torch.equal(fresh[:20], old)
    assert fresh[20:].std().item() == pytest.approx(0.5, rel=0.05)  # initializer_range
    model = BertModel(BertConfig(**TINY))
    old = model.get_input_embeddings().weight.detach().clone()
    fresh = model.resize_token_embeddings(23, init="mean").weight.detach()
    torch.testing.assert_close(fresh[20:], old.mean(0).expand(3, 8))


def test_multiples_and_none() -> None:
    model = BertModel(BertConfig(**TINY))
    table = model.get_input_embeddings()
    assert model.resize_token_embeddings() is table
    assert model.resize_token_embeddings(20) is table
    assert model.resize_token_embeddings(pad_to_multiple_of=8).num_embeddings == 24
    assert model.resize_token_embeddings(25, pad_to_multiple_of=8).num_embeddings == 32


@pytest.mark.parametrize("size", [0, -1, 2.5, "30", True])
def test_a_vocabulary_has_a_row(size: Any) -> None:
    model = BertModel(BertConfig(**TINY))
    with pytest.raises(ConfigError, match="at least 1"):
        model.resize_token_embeddings(size)
    assert model.config.vocab_size == 20


def test_the_padding_token_is_not_cut_off() -> None:
    model = BertModel(BertConfig(**TINY, pad_token_id=15))
    with pytest.raises(ConfigError, match="pad_token_id 15"):
        model.resize_token_embeddings(10)
    assert model.get_input_embeddings().num_embeddings == 20


def test_type_and_frozen_stay() -> None:
    model = BertModel(BertConfig(**TINY)).to(torch.bfloat16)
    model.get_input_embeddings().weight.requires_grad_(False)
    weight = model.resize_token_embeddings(30).weight
    assert (weight.dtype, weight.requires_grad) == (torch.bfloat16, False)


def test_a_task_s_config_follows_and_saves(tmp_path: Path) -> None:
    model = offramp.BertForSequenceClassification(BertConfig(**TINY)).eval()
    model.resize_token_embeddings(33)
    model.resize_position_embeddings(14)
    model.save_pretrained(tmp_path)
    again = offramp.BertForSequenceClassification.from_pretrained(tmp_path)
    assert (again.config.vocab_size, again.config.max_position_embeddings) == (33, 14)
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("init", ["new", "interpolate"])
def test_positions(init: Any, tmp_path: Path) -> None:
    model = BertModel(BertConfig(**TINY)).eval()
    old = model.embeddings.position_embeddings.weight.detach().clone()
    model.resize_position_embeddings(19, init)
    fresh = model.embeddings.position_embeddings.weight.detach()
    assert fresh.shape == (19, 8)
    if init == "new":
        assert torch.equal(fresh[:10], old)
    else:  # ten points over nineteen: every second one is old, the others lie halfway
        torch.testing.assert_close(fresh[::2], old)
        torch.testing.assert_close(fresh[1::2], (old[1:] + old[:-1]) / 2)
    model(torch.ones(1, 19, dtype=torch.int64))
    model.resize_position_embeddings(4)
    assert torch.equal(model.embeddings.position_embeddings.weight, fresh[:4])
    with pytest.raises(offramp.InputError, match="positions for 4"):
        model(torch.ones(1, 5, dtype=torch.int64))
    for wrong in (0, -3, 2.0, True):
        with pytest.raises(ConfigError, match="at least 1"):
            model.resize_position_embeddings(wrong)  # type: ignore[arg-type]


def test_embeddings_can_be_replaced() -> None:
    model = masked_lm()
    fresh = nn.Embedding(20, 8)
    model.set_input_embeddings(fresh)
    assert model.get_input_embeddings() is fresh
    assert model.get_output_embeddings().weight is fresh.weight
    body = BertModel(BertConfig(**TINY))
    assert body.get_output_embeddings() is None
    with pytest.raises(NotImplementedError, match="no output embeddings"):
        body.set_output_embeddings(nn.Linear(8, 20))
    with pytest.raises(TypeError, match="takes a module"):
        body.set_input_embeddings(torch.ones(3))  # type: ignore[arg-type]

    class Bare(offramp.PretrainedModel):
        def __init__(self) -> None:
            super().__init__(offramp.PretrainedConfig())

    for use in (
        lambda model: model.get_input_embeddings(),
        lambda model: model.resize_position_embeddings(3),
        lambda model: model.prune_heads({0: [1]}),
        lambda model: model.gradient_checkpointing_enable(),
    ):
        with pytest.raises(NotImplementedError, match="Bare has no"):
            use(Bare())


def test_pruned_heads_are_heads_that_say_nothing(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = BertModel(BertConfig(**TINY)).eval()
    silent = BertModel(BertConfig(**TINY)).eval()
    silent.load_state_dict(model.state_dict())
    out = {0: [1, 3], 1: [0]}
    for layer, heads in out.items():
        for head in heads:  # what a head adds is its values through these columns
            columns = slice(2 * head, 2 * head + 2)
            silent.encoder.layer[layer].attention.output.dense.weight.data[:, columns] = 0
    model.prune_heads({0: [1], 1: [0]})
    model.prune_heads({0: [1, 3]})
    assert model.config.pruned_heads == {0: [1, 3], 1: [0]}
    assert model.encoder.layer[0].attention.self.query.weight.shape == (4, 8)
    expected = silent(IDS).last_hidden_state
    torch.testing.assert_close(model(IDS).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path)
    assert torch.equal(again(IDS).last_hidden_state, model(IDS).last_hidden_state)
    again.prune_heads({1: [2]})
    assert again.encoder.layer[1].attention.self.heads == [1, 3]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({2: [0]}, "the layers are 0 to 1"),
        ({0: [4]}, "heads 0 to 3"),
        ({0: [0, 1, 2, 3]}, "at least one"),
    ],
)
def test_heads_that_cannot_go(heads: dict[int, list[int]], message: str) -> None:
    model = BertModel(BertConfig(**TINY))
    with pytest.raises(ConfigError, match=message):
        model.prune_heads(heads)
    assert model.config.pruned_heads == {}


def test_numbers_by_hand() -> None:
    model = masked_lm()
    width, inner = 8, 12
    embedding = 20 * width + 10 * width + 2 * width + 2 * width
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    head = width * width + width + 2 * width + 20  # the words themselves are the embedding's
    total = embedding + 2 * layer + head
    assert model.num_parameters() == total
    assert model.get_memory_footprint() == 4 * total
    tables = 20 * width + 10 * width + 2 * width
    assert model.num_parameters(exclude_embeddings=True) == total - tables
    model.get_input_embeddings().weight.requires_grad_(False)
    assert model.num_parameters(only_trainable=True) == total - 20 * width
    assert model.to(torch.bfloat16).get_memory_footprint() == 2 * total


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model = masked_lm(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    gradients = []
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    model.bert.encoder.layer[0].intermediate.register_forward_hook(count)
    for on in (False, True):
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        assert model.is_gradient_checkpointing == on
        model.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert calls == 3  # once, and once more in the backward pass
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    with pytest.raises(ConfigError, match="non-reentrant"):
        model.gradient_checkpointing_enable({"use_reentrant": True})


def test_every_other_layer_can_be_checkpointed() -> None:
    """Counted as transformers counts them: the first, and each `every_n_layers` on."""
    model = BertModel(BertConfig(**TINY | {"num_hidden_layers": 5}))
    layers = model.encoder.layer
    model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=2)
    assert [layer.checkpointed for layer in layers] == [True, False, True, False, True]
    assert model.is_activation_checkpointing
    model.gradient_checkpointing_enable()
    assert all(layer.checkpointed for layer in layers)
    model.activation_checkpointing_disable()
    assert not model.is_activation_checkpointing
    with pytest.raises(ConfigError, match="every_n_layers"):
        model.gradient_checkpointing_enable(every_n_layers=0)
    with pytest.raises(ConfigError, match="offload"):
        model.activation_checkpointing_enable(offload=True)


def test_gradients_reach_the_words_of_a_frozen_model() -> None:
    model = BertModel(BertConfig(**TINY)).requires_grad_(False)
    assert not model(IDS).last_hidden_state.requires_grad
    model.enable_input_require_grads()
    model.enable_input_require_grads()
    assert model(IDS).last_hidden_state.requires_grad
    assert model.get_input_embeddings().weight.grad is None
    model.disable_input_require_grads()
    model.disable_input_require_grads()
    assert not model(IDS).last_hidden_state.requires_grad
