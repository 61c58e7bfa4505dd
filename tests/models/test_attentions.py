"""Asked-for attentions, and masks of BERT's heads; `test_head_mask` has every family's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from offramp import BertConfig, BertForSequenceClassification, BertModel

TINY: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "initializer_range": 0.5,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
IDS = torch.tensor([[1, 5, 7, 2], [1, 9, 2, 0], [3, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])


def test_attentions_are_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.BertModel(
        transformers.BertConfig(**TINY, attn_implementation="eager")
    ).eval()
    theirs.save_pretrained(tmp_path)
    ours = BertModel.from_pretrained(tmp_path)
    expected = theirs(IDS, MASK, output_attentions=True, output_hidden_states=True)
    found = ours(IDS, MASK, output_attentions=True, output_hidden_states=True)
    real = MASK.bool()
    assert len(found.attentions) == 3
    for one, two in zip(found.attentions, expected.attentions, strict=True):
        one, two = (x.transpose(1, 2)[real] for x in (one, two))
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    for one, two in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(one[real], two[real], atol=1e-5, rtol=1e-5)
    assert ours(IDS, MASK).attentions is None
    # Looking changes nothing: the fast way gives the same.
    torch.testing.assert_close(
        ours(IDS, MASK).last_hidden_state, found.last_hidden_state, atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_a_masked_head_is_scaled(shape: tuple[int, ...]) -> None:
    """transformers 4.38, BertSelfAttention: probabilities times the mask, before the values.

    A head's part of the layer's output is linear in them, so scaling its columns of the output
    projection does the same.
    """
    torch.manual_seed(0)
    model = BertModel(BertConfig(**TINY)).eval()
    mask = torch.rand(shape)
    scaled = BertModel(BertConfig(**TINY)).eval()
    scaled.load_state_dict(model.state_dict())
    for layer, of_layer in zip(scaled.encoder.layer, mask.expand(3, 4), strict=True):
        layer.attention.output.dense.weight.data *= of_layer.repeat_interleave(2)
    expected = scaled(IDS, MASK).last_hidden_state
    found = model(IDS, MASK, head_mask=mask).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_head_mask_of_zeros_is_pruning() -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**TINY)).eval()
    mask = torch.ones(3, 4)
    mask[0, 1] = mask[2, 3] = 0
    expected = model(IDS, MASK, head_mask=mask).logits
    model.prune_heads({0: [1], 2: [3]})
    torch.testing.assert_close(model(IDS, MASK).logits, expected, atol=1e-5, rtol=1e-5)
    # The mask counts heads as they were before pruning.
    mask[1, 2] = 0
    found = model(IDS, MASK, head_mask=mask, output_attentions=True)
    assert [attention.shape[1] for attention in found.attentions] == [3, 4, 3]
    assert not found.attentions[1][:, 2].any()


def test_attention_dropout_is_in_force_while_training() -> None:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**TINY | {"attention_probs_dropout_prob": 0.5})).train()
    seen = model(IDS, MASK, output_attentions=True).attentions[0]
    assert (seen[0] == 0).float().mean() > 0.2
    assert (model.eval()(IDS, MASK, output_attentions=True).attentions[0][0] > 0).all()


def test_a_head_mask_works_under_gradient_checkpointing() -> None:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**TINY)).train()
    gradients = []
    for on in (False, True):
        if on:
            model.gradient_checkpointing_enable()
        mask = torch.full((3, 4), 0.5, requires_grad=True)
        output = model(IDS, MASK, head_mask=mask, output_attentions=True)
        assert len(output.attentions) == 3
        output.last_hidden_state.square().sum().backward()
        gradients.append(mask.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_eager_attention_is_the_same_and_can_be_switched(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**TINY)).eval()
    model.save_pretrained(tmp_path)
    fast = model(IDS, MASK, output_hidden_states=True)
    seen: list[bool] = []
    first = model.bert.encoder.layer[0].attention.self
    first.register_forward_hook(lambda module, args, output: seen.append(args[0].dim() == 3))
    model(IDS, MASK)
    model.set_attn_implementation("eager")
    open_ = model(IDS, MASK, output_hidden_states=True)
    assert seen == [False, True], "packed, then padded"
    torch.testing.assert_close(open_.logits, fast.logits, atol=1e-6, rtol=1e-5)
    for one, two in zip(open_.hidden_states, fast.hidden_states, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
    assert open_.attentions is None
    model.save_pretrained(tmp_path)
    assert "attn_implementation" not in (tmp_path / "config.json").read_text()
    again = BertForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager")
    assert again.config.attn_implementation == "eager"
    with pytest.raises(ValueError, match="one of 'sdpa', 'eager'; got 'flash'"):
        model.set_attn_implementation("flash")
