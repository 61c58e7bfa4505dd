"""Linear layers laid out for the processor: torch's own in float64, and a row equals itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exit_models import random_rows, tiny_model
from torch import Tensor, nn

from offramp.exits.criteria import Entropy
from offramp.nn.activations import ACTIVATIONS
from offramp.nn.prepared import PreparedLinear, activated, added, can_prepare
from offramp.runner.prepare import prepare
from offramp.runner.run import Runner

if not can_prepare(torch.float32):
    pytest.skip("this torch or processor has no such operators", allow_module_level=True)

WIDTHS = [(1, 1), (7, 5), (8, 12), (32, 64), (384, 2), (384, 1536), (768, 768)]
SHAPES = [(1,), (2,), (17,), (300,), (3, 5), (1, 1), (1, 4), (4, 1), (0,), (0, 3), (2, 0), ()]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def exact(linear: nn.Linear, x: Tensor) -> Tensor:
    bias = None if linear.bias is None else linear.bias.double()
    return F.linear(x.double(), linear.weight.double(), bias)


def assert_close(found: Tensor, expected: Tensor, width: int) -> None:
    """Within float32's rounding of sums of `width` products of about 1 / sqrt(width) each."""
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    bound = 4e-7 * (2 + width**0.5)
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_it_is_torch_s_linear_layer(
    widths: tuple[int, int], shape: tuple[int, ...], bias: bool
) -> None:
    linear = nn.Linear(*widths, bias=bias)
    x, residual = torch.randn(*shape, widths[0]), torch.randn(*shape, widths[1])
    before, residual_before = x.clone(), residual.clone()
    one = PreparedLinear(linear)
    expected = exact(linear, x)
    assert_close(one(x), expected, widths[0])
    assert_close(one.added(x, residual), expected + residual.double(), widths[0])
    assert_close(one.activated(x, F.gelu), F.gelu(expected), widths[0])
    assert torch.equal(x, before)
    assert torch.equal(residual, residual_before)


@pytest.mark.parametrize("rows", [0, 1, 2, 17])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str, rows: int) -> None:
    linear, act = nn.Linear(24, 40), ACTIVATIONS[name]
    x = torch.randn(rows, 24) * 3
    expected = act(exact(linear, x))
    assert_close(PreparedLinear(linear).activated(x, act), expected, 24)
    # The function chooses the way, and both give the same.
    assert_close(activated(PreparedLinear(linear), x, act), expected, 24)
    assert_close(activated(linear, x, act), expected, 24)


def test_an_activation_that_is_not_fused() -> None:
    linear, x = nn.Linear(24, 40), torch.randn(5, 24)
    assert_close(PreparedLinear(linear).activated(x, F.elu), F.elu(exact(linear, x)), 24)


def test_added_of_either_layer_and_dropout() -> None:
    linear, x, residual = nn.Linear(24, 40), torch.randn(5, 24), torch.randn(5, 40)
    expected = exact(linear, x) + residual.double()
    assert_close(added(linear, x, residual), expected, 24)
    assert_close(added(PreparedLinear(linear), x, residual), expected, 24)
    assert torch.equal(added(linear, x, residual, nn.Dropout(1.0)), residual)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.t().contiguous().t(),
    "every second row": lambda x: x.repeat_interleave(2, 0)[::2],
    "a part of each row": lambda x: torch.cat([x, x + 1], -1)[:, : x.shape[1]],
    "expanded": lambda x: x[:1].expand(len(x), -1),
    "from an odd place": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x),
    "a slice of tokens": lambda x: torch.cat([x, x])[3 : 3 + len(x)],
}


@pytest.mark.parametrize("rows", [1, 2, 17])
@pytest.mark.parametrize("view", VIEWS)
def test_inputs_as_they_lie(view: str, rows: int) -> None:
    linear = nn.Linear(24, 40)
    x, residual = VIEWS[view](torch.randn(rows, 24)), VIEWS[view](torch.randn(rows, 40))
    one = PreparedLinear(linear)
    assert_close(one(x), exact(linear, x), 24)
    assert_close(one.added(x, residual), exact(linear, x) + residual.double(), 24)
    assert_close(one.activated(x, F.tanh), exact(linear, x).tanh(), 24)


@pytest.mark.parametrize("view", VIEWS)
def test_weights_as_they_lie(view: str) -> None:
    linear, x = nn.Linear(24, 40), torch.randn(5, 24)
    linear.weight = nn.Parameter(VIEWS[view](torch.randn(40, 24) / 5), requires_grad=False)
    assert_close(PreparedLinear(linear)(x), exact(linear, x), 24)


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, False), (False, True)])
@pytest.mark.parametrize("rows", [0, 1, 2, 17])
def test_several_side_by_side(biases: tuple[bool, bool], rows: int) -> None:
    layers = [nn.Linear(24, 40, bias=biases[0]), nn.Linear(24, 16, bias=biases[1])]
    third, x = nn.Linear(24, 1), torch.randn(rows, 24)
    both = PreparedLinear(*layers, third)
    assert (both.in_features, both.out_features) == (24, 57)
    expected = torch.cat([exact(layer, x) for layer in (*layers, third)], -1)
    assert_close(both(x), expected, 24)


# Widths of all-MiniLM-L6-v2 and BERT-base: projections, the perceptron's halves, ramps, answers.
BODIES = [
    (width, out)
    for body, inner in ((384, 1536), (768, 3072))
    for width, out in (
        (body, body),
        (body, 2 * body),
        (body, 3 * body),
        (body, inner),
        (inner, body),
        (body, 2),
    )
]
COUNTS = (1, 2, 3, 4, 7, 8, 9, 16, 17, 31, 33, 64, 100, 129, 255, 300)


@pytest.mark.parametrize("widths", [*BODIES, (384, 128), (1536, 128), (32, 64), (7, 5)], ids=str)
def test_a_row_s_product_does_not_depend_on_how_many_there_are(widths: tuple[int, int]) -> None:
    one = PreparedLinear(nn.Linear(*widths))
    x, residual = torch.randn(301, widths[0]), torch.randn(301, widths[1])
    ways: dict[str, Callable[[slice], Tensor]] = {
        "forward": lambda rows: one(x[rows]),
        "added": lambda rows: one.added(x[rows], residual[rows]),
        **{
            name: lambda rows, act=act: one.activated(x[rows], act)  # type: ignore[misc]
            for name, act in ACTIVATIONS.items()
        },
    }
    for name, way in ways.items():
        everything = way(slice(0, 301))
        for count in COUNTS:
            for start in (0, 301 - count):
                rows = slice(start, start + count)
                assert torch.equal(way(rows), everything[rows]), (name, count, start)


def test_a_row_s_product_does_not_depend_on_the_batch_s_shape() -> None:
    one = PreparedLinear(nn.Linear(384, 1536))
    x = torch.randn(60, 384)
    for shape in ((60, 1), (4, 15), (1, 60)):
        assert torch.equal(one(x.view(*shape, 384)).flatten(0, 1), one(x))
    assert torch.equal(one(x[7]), one(x)[7])


def test_it_has_the_layer_s_own_parameters() -> None:
    linear = nn.Linear(24, 40)
    one = PreparedLinear(linear)
    assert dict(one.named_parameters()).keys() == {"weight", "bias"}
    assert one.weight is linear.weight
    assert one.bias is linear.bias
    assert isinstance(one, nn.Linear)
    assert (one.in_features, one.out_features) == (24, 40)
    assert str(one) == "PreparedLinear(in_features=24, out_features=40, bias=True)"


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("bias", [True, False])
def test_copies(copied: Callable[[Any], Any], bias: bool) -> None:
    x = torch.randn(5, 24)
    for times in (1, 2):
        linear = nn.Linear(24, 40, bias=bias)
        one = PreparedLinear(*[linear] * times)
        other = copied(one)
        assert torch.equal(other(x), one(x))
        linear.weight.zero_()
        assert torch.equal(other(x), one(x))


# ---------------------------------------------------------------------------------------------
# Where the operators are not what they should be.


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.complex64]
)
def test_other_types_are_not_prepared(dtype: torch.dtype) -> None:
    assert not can_prepare(dtype)


@pytest.fixture
def asked_anew() -> Iterator[None]:
    can_prepare.cache_clear()
    yield
    can_prepare.cache_clear()


def test_finding_out_leaves_torch_s_generator_alone(asked_anew: None) -> None:
    before = torch.random.get_rng_state()
    assert can_prepare(torch.float32)
    assert torch.equal(before, torch.random.get_rng_state())


def test_finding_out_under_other_defaults(asked_anew: None) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert can_prepare(torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)


OPERATORS = torch.ops.mkldnn


def _absent(*_: Any) -> Any:
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")


def _refused(*_: Any) -> Any:
    raise RuntimeError("could not create a primitive")


def _other_signature(x: Tensor, weight: Tensor) -> Tensor:
    return x


def _without_activation(x: Tensor, packed: Tensor, bias: Tensor, *_: Any) -> Tensor:
    product: Tensor = OPERATORS._linear_pointwise(x, packed, bias, "none", [], "")
    return product


def _without_bias(x: Tensor, packed: Tensor, bias: Tensor, *rest: Any) -> Tensor:
    product: Tensor = OPERATORS._linear_pointwise(x, packed, None, *rest)
    return product


def _in_two_parts(x: Tensor, residual: Tensor, packed: Tensor, *rest: Any) -> Tensor:
    total: Tensor = OPERATORS._linear_pointwise.binary(x, residual, packed, *rest)
    return total[: len(total) // 2]


def _no_numbers(x: Tensor, *_: Any) -> Tensor:
    return x.new_full((len(x), 24), torch.nan)


class _Pointwise:
    """The operator with one of its two kernels exchanged."""

    def __init__(self, unary: Callable[..., Any] | None, binary: Callable[..., Any] | None) -> None:
        self.unary = OPERATORS._linear_pointwise if unary is None else unary
        self.binary = OPERATORS._linear_pointwise.binary if binary is None else binary

    def __call__(self, *args: Any) -> Any:
        return self.unary(*args)


BROKEN: dict[str, dict[str, Any]] = {
    "no operators": {},
    "no layout": {"_linear_pointwise": _Pointwise(None, None)},
    "layout refused": {
        "_linear_pointwise": _Pointwise(None, None),
        "_reorder_linear_weight": _refused,
    },
    "absent": {"_linear_pointwise": _Pointwise(_absent, None)},
    "refused": {"_linear_pointwise": _Pointwise(_refused, None)},
    "another signature": {"_linear_pointwise": _Pointwise(_other_signature, None)},
    "no activation": {"_linear_pointwise": _Pointwise(_without_activation, None)},
    "no bias": {"_linear_pointwise": _Pointwise(_without_bias, None)},
    "no binary": {"_linear_pointwise": _Pointwise(None, _absent)},
    "half of the rows": {"_linear_pointwise": _Pointwise(None, _in_two_parts)},
    "NaN": {"_linear_pointwise": _Pointwise(_no_numbers, None)},
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_operators_prepare_nothing(
    how: str, monkeypatch: pytest.MonkeyPatch, asked_anew: None
) -> None:
    model, rows = tiny_model(2), random_rows(9)
    expected = Runner(model, criterion=Entropy(0.4), prepare=False).run(rows)
    operators = BROKEN[how]
    if operators and "_reorder_linear_weight" not in operators and how != "no layout":
        operators = {**operators, "_reorder_linear_weight": OPERATORS._reorder_linear_weight}
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operators))
    assert not can_prepare(torch.float32)
    assert prepare(model) is model
    found = Runner(model, criterion=Entropy(0.4)).run(rows)
    assert torch.equal(found.logits_RC, expected.logits_RC)
    assert torch.equal(found.exit_layers_R, expected.exit_layers_R)


def test_without_onednn_nothing_is_prepared(
    monkeypatch: pytest.MonkeyPatch, asked_anew: None
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = tiny_model(2)
    assert prepare(model) is model
