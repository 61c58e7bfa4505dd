"""A live transformers model in and out: equal outputs, and one set of weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tiny import IDS, MASK, TINY
from torch import nn

import offramp
from offramp import from_transformers, to_transformers

CLASSES = (
    "BertModel",
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
)


def theirs_of(name: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**TINY, "initializer_range": 0.5, **settings})
    return getattr(transformers, name)(config).eval()


def first(output: Any) -> torch.Tensor:
    found = output[0]
    return found[MASK.bool()] if found.dim() > 1 and found.shape[:2] == MASK.shape else found


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("tied", [True, False])
def test_in_and_out_are_equal_and_share_each_weight(name: str, tied: bool) -> None:
    theirs = theirs_of(name, tie_word_embeddings=tied)
    ours = from_transformers(theirs)
    assert type(ours) is getattr(offramp, name)
    assert not ours.training
    torch.testing.assert_close(first(ours(IDS, MASK)), first(theirs(IDS, MASK)), atol=1e-5, rtol=0)
    back = to_transformers(ours)
    assert type(back) is type(theirs)
    torch.testing.assert_close(first(back(IDS, MASK)), first(theirs(IDS, MASK)), atol=0, rtol=0)
    for one in (ours, back):
        shared = dict(one.named_parameters(remove_duplicate=False))
        for path, parameter in theirs.named_parameters(remove_duplicate=False):
            assert shared[path] is parameter, path


def test_training_one_trains_the_other() -> None:
    theirs = theirs_of("BertForSequenceClassification", num_labels=3).train()
    ours = from_transformers(theirs)
    assert ours.training
    before = ours.eval()(IDS, MASK).logits
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    theirs(IDS, MASK, labels=torch.tensor([0, 2])).loss.backward()
    optimizer.step()
    after = ours(IDS, MASK).logits
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, theirs.eval()(IDS, MASK).logits, atol=1e-5, rtol=0)


def test_without_pooler_both_ways() -> None:
    theirs = transformers.BertModel(transformers.BertConfig(**TINY), add_pooling_layer=False)
    ours = from_transformers(theirs)
    assert ours.pooler is None
    assert to_transformers(ours).pooler is None


def test_labels_and_multiple_choice_travel() -> None:
    names = {0: "no", 1: "yes"}
    theirs = theirs_of("BertForMultipleChoice", id2label=names)
    ours = from_transformers(theirs)
    assert ours.config.labels == ["no", "yes"]
    choices = IDS[:, None].repeat(1, 3, 1)
    torch.testing.assert_close(
        ours(choices, MASK[:, None].repeat(1, 3, 1)).logits,
        theirs(choices, MASK[:, None].repeat(1, 3, 1)).logits,
        atol=1e-5,
        rtol=0,
    )
    assert to_transformers(ours).config.id2label == names


def test_exits_stay_behind() -> None:
    torch.manual_seed(0)
    model = offramp.BertForSequenceClassification(offramp.BertConfig(**TINY)).eval()
    offramp.add_exits(model)
    theirs = to_transformers(model)
    assert not any("exits" in name for name, _ in theirs.named_parameters())
    torch.testing.assert_close(theirs(IDS, MASK).logits, model(IDS, MASK).logits, atol=1e-5, rtol=0)


def test_what_cannot_cross_is_named() -> None:
    class Mine(offramp.BertForSequenceClassification):
        pass

    with pytest.raises(offramp.ConfigError, match="offramp has no Linear"):
        from_transformers(nn.Linear(2, 2))
    config = offramp.BertConfig(**TINY)
    with pytest.raises(offramp.ConfigError, match="transformers has no Mine"):
        to_transformers(Mine(config))
    pruned = offramp.BertForSequenceClassification(config)
    pruned.prune_heads({0: [1]})
    with pytest.raises(offramp.ConfigError, match="pruned"):
        to_transformers(pruned)


def test_what_transformers_untied_by_hand_is_not_tied() -> None:
    theirs = theirs_of("BertForMaskedLM")
    theirs.cls.predictions.decoder.weight = nn.Parameter(torch.randn(20, 8))
    with pytest.raises(offramp.CheckpointError, match="ties into"):
        from_transformers(theirs)


def test_parameters_of_a_model_that_came_in_are_kept() -> None:
    theirs = theirs_of("BertForSequenceClassification")
    ours = from_transformers(theirs)
    ours.post_init()
    assert ours.classifier.weight is theirs.classifier.weight
    torch.testing.assert_close(ours(IDS, MASK).logits, theirs(IDS, MASK).logits, atol=1e-5, rtol=0)
