"""The last layer is run for the tokens that an answer reads, unless somebody looks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity_families import FAMILIES
from tiny import IDS, MASK
from torch import Tensor, nn

import offramp

TASKS = ("ForSequenceClassification", "ForMultipleChoice")


def seen_by_last_layer(model: Any) -> list[tuple[int, ...]]:
    """Where the shapes go of what the last layer's norm takes; a hook would change them."""
    shapes: list[tuple[int, ...]] = []
    norm = [m for m in model.base_model.modules() if isinstance(m, nn.LayerNorm)][-1]
    forward = norm.forward

    def recorded(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return forward(x)

    norm.forward = recorded
    return shapes


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Electra", "MPNet"])
def test_the_last_layer_answers_for_first_tokens(family: str) -> None:
    torch.manual_seed(0)
    config = getattr(offramp, f"{family}Config")(**FAMILIES[family].tiny)
    model = getattr(offramp, f"{family}ForSequenceClassification")(config).eval()
    shapes = seen_by_last_layer(model)
    found = model(IDS + 2, MASK).logits
    assert shapes[-1] == (len(IDS), config.hidden_size)
    whole = model(IDS + 2, MASK, output_hidden_states=True).logits
    assert shapes[-1][0] > len(IDS)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "task"), [(f, t) for f in FAMILIES for t in TASKS if f + t in offramp.__all__]
)
def test_gradients_are_those_of_all_tokens(family: str, task: str) -> None:
    torch.manual_seed(0)
    config = getattr(offramp, f"{family}Config")(**FAMILIES[family].tiny)
    model = getattr(offramp, family + task)(config).double().eval()
    ids = (IDS + 2)[:, None] if task == "ForMultipleChoice" else IDS + 2
    gradients = []
    for look in (False, True):
        loss = model(ids, output_hidden_states=look).logits.square().sum()
        gradients.append(torch.autograd.grad(loss, [*model.parameters()], allow_unused=True))
    for one, two in zip(*gradients, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_a_hook_sees_all_tokens() -> None:
    model = offramp.BertForSequenceClassification(
        offramp.BertConfig(**FAMILIES["Bert"].tiny)
    ).eval()
    seen: list[Tensor] = []
    layer = model.bert.encoder.layer[-1]
    layer.register_forward_hook(lambda module, args, output: seen.append(output))
    model(IDS, MASK)
    assert seen[0].shape == (int(MASK.sum()), model.config.hidden_size)
