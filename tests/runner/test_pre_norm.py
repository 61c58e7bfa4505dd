"""Peeks in a pre-norm encoder: layers normalise what they read, and exits read a norm of their own.

Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture".
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from exit_models import ResidualConfig, random_rows
from torch import Tensor, nn

from offramp.exits.attach import add_exits
from offramp.exits.criteria import Entropy, logits_entropy
from offramp.models.base import PretrainedModel
from offramp.models.flow import Flow, LayerStack, PeekableStack
from offramp.models.inputs import Inputs
from offramp.nn.blocks import Heads, KeysValues
from offramp.nn.pooling import pool_first
from offramp.runner import peeks
from offramp.runner.peeks import LeaveRates
from offramp.runner.run import Runner
from offramp.runner.sweep import every_exit
from offramp.text.tokenizer import Encoded


class PreNormLayer(nn.Module):
    """x + heads(norm(x)), and y + perceptron(norm(y)) of that."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads, self.out = Heads(width, 2, 0.0), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def rest(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        hidden = hidden + self.out(mixed)
        return hidden + self.narrow(torch.tanh(self.wide(self.between(hidden))))


class PreNormStack(nn.Module):
    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            PreNormLayer(config.hidden_size) for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    def start(self, inputs: Inputs) -> Flow:
        return Flow(self.words(inputs.ids), inputs.layout, inputs.row_ids_R, inputs.positions)

    def keys_values(self, flow: Flow, i: int) -> KeysValues:
        layer = cast(PreNormLayer, self.layers[i])
        return layer.heads.keys_values(layer.before(flow.hidden))

    def step(
        self, flow: Flow, i: int, queries: Tensor | None = None, known: KeysValues | None = None
    ) -> Flow:
        layer, seen = cast(PreNormLayer, self.layers[i]), flow.hidden
        hidden = seen if queries is None else seen[queries]
        normed = layer.before(seen)
        asking = normed if queries is None else normed[queries]
        mixed = layer.heads.mix(normed, flow.layout, asking, known=known)
        passed = layer.rest(hidden, mixed)
        return flow.advanced(passed) if queries is None else flow.narrowed(passed, queries)

    def finish(self, flow: Flow) -> Flow:
        return replace(flow, hidden=self.norm(flow.hidden))

    def pool(self, flow: Flow) -> Tensor:
        return pool_first(flow.hidden, flow.layout)


class PreNormForSequenceClassification(PretrainedModel):
    config_class = ResidualConfig
    base_model_prefix = "body"
    reads_first = True

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__(config)
        self.body = PreNormStack(config)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    @property
    def stack(self) -> LayerStack:
        return self.body

    def logits(self, flow: Flow) -> Tensor:
        logits_RC: Tensor = self.head(self.body.pool(flow))
        return logits_RC


def by_hand(model: PreNormForSequenceClassification, row: Encoded, depth: int) -> Tensor:
    """What the ramp after `depth` layers answers, written out for one row, [C]."""
    hidden = model.body.words(torch.from_numpy(row.ids))
    for module in model.body.layers[:depth]:
        layer, width = cast(PreNormLayer, module), hidden.shape[1]
        normed = layer.before(hidden)
        query, key, value = (
            linear(normed).view(len(normed), 2, width // 2).transpose(0, 1)
            for linear in (layer.heads.query, layer.heads.key, layer.heads.value)
        )
        shares = (query @ key.mT / (width // 2) ** 0.5).softmax(-1)
        hidden = layer.rest(hidden, (shares @ value).transpose(0, 1).reshape(len(normed), width))
    ramp, read = model.exits.ramp(depth), 0 if model.exits.ramp(depth).pooler == "first" else -1
    answer: Tensor = ramp.answer(model.body.norm(hidden)[read])
    return answer


@pytest.mark.parametrize("pooler", ["first", "last"])
def test_a_peek_is_the_whole_layer_s_token(pooler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = PreNormForSequenceClassification(ResidualConfig(num_labels=3)).eval().double()
    nn.init.normal_(model.body.words.weight)
    add_exits(model, pooler=pooler).eval()
    for ramp in model.exits.values():
        nn.init.normal_(ramp.classifier.weight)
    assert isinstance(model.stack, PeekableStack)
    rows, met, asked = random_rows(40, longest=12, vocabulary=20), set[int](), list[int]()
    monkeypatch.setattr(peeks, "worth_a_peek", lambda n_rows, n_tokens: 0.0)
    monkeypatch.setattr(LeaveRates, "expected", lambda self, depth, unknown: 1.0)
    own = PreNormStack.keys_values
    monkeypatch.setattr(
        PreNormStack, "keys_values", lambda self, flow, i: asked.append(i) or own(self, flow, i)
    )
    entropies = logits_entropy(every_exit(model, rows).logits_ERC[0]).sort().values
    for threshold in entropies[4::8]:
        found = Runner(model, criterion=Entropy(threshold.item() + 1e-6)).run(rows)
        for row, logits_C, depth in zip(rows, found.logits_RC, found.exit_layers_R, strict=True):
            if depth < 4:
                expected = by_hand(model, row, int(depth))
                torch.testing.assert_close(logits_C, expected, rtol=1e-9, atol=1e-9)
            met.add(int(depth))
    assert len(met) > 2
    assert {0, 1} <= set(asked)
