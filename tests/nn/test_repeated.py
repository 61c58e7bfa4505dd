"""Layers without values are copies of the first one's structure: none of it is shared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from offramp.nn.blocks import EncoderLayer, repeated


def layer() -> nn.Module:
    return EncoderLayer(8, 2, 16, norm_eps=1e-5, dropout=0.1, attention_dropout=0.2)


def parts(module: nn.Module) -> list[object]:
    """All that a module and those inside could share with another's."""
    tensors = [id(tensor) for tensor in module.parameters()]
    containers = [
        id(value)
        for inner in module.modules()
        for value in vars(inner).values()
        if isinstance(value, (dict, list, set))
    ]
    return [*tensors, *containers, *map(id, module.modules())]


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_each_is_as_if_made_alone_and_shares_nothing(device: str) -> None:
    with torch.device(device):
        layers, alone = repeated(3, layer), layer()
    assert [str(one) for one in layers] == [str(alone)] * 3
    for one in layers:
        found = {n: (p.shape, p.device, p.requires_grad) for n, p in one.named_parameters()}
        expected = {n: (p.shape, p.device, p.requires_grad) for n, p in alone.named_parameters()}
        assert found == expected
        assert [vars(m).keys() for m in one.modules()] == [vars(m).keys() for m in alone.modules()]
    everything = [part for one in layers for part in parts(one)]
    assert len(set(everything)) == len(everything)


def test_a_layer_with_buffers_is_made_anew() -> None:
    """A buffer may have values that its constructor gives it."""
    made = []

    def norm() -> nn.Module:
        made.append(nn.BatchNorm1d(3, device="meta"))
        return made[-1]

    assert list(repeated(2, norm)) == made
    assert len(made) == 2
