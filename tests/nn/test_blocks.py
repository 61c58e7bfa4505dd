"""Activations against their formulas, in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from offramp.nn.activations import ACTIVATIONS
from offramp.nn.blocks import EncoderLayer
from offramp.nn.layout import Packed


def tanh_gelu(x: float) -> float:
    """Hendrycks and Gimpel 2016, the approximation that GPT-2 and the first BERT code use."""
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS = {
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "gelu_new": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "swish": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
}


def test_every_activation_has_its_formula_here() -> None:
    assert sorted(ACTIVATIONS) == sorted(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_activation_is_its_formula(name: str) -> None:
    points = torch.linspace(-4, 4, 33, dtype=torch.float64)
    expected = torch.tensor([FORMULAS[name](x) for x in points.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](points), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lengths", [[3, 3, 5], [1, 1, 1], [1, 4], [6], [2, 7, 7, 2]])
def test_one_token_of_each_row_is_what_the_whole_layer_gives(lengths: list[int]) -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(12, 3, 20).eval()
    layout = Packed.of(torch.tensor(lengths))
    hidden = torch.randn(layout.n_tokens, 12)
    whole = layer(hidden, layout)
    for tokens_R in (layout.starts_R, layout.starts_R + layout.lengths_R - 1):
        found = layer(hidden, layout, queries=tokens_R)
        torch.testing.assert_close(found, whole[tokens_R], rtol=1e-5, atol=1e-6)
