"""Linear layers made ready for inference on a CPU, by oneDNN's kernels.

torch's own linear layer goes to the BLAS library, reads the weight as it lies, and leaves the
activation and the residual to passes over memory of their own. Here the weight is laid out once as
the kernel reads it, and what follows is done while the product is in registers. A row of a product
does not depend on how many other rows there are, so that a batch gives each row what it would have
alone, to the last bit.

The operators are those that torch's compiler emits for frozen weights, and are not documented.
`can_prepare` tries them first; where they are absent or wrong, nothing is prepared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from offramp.nn.activations import ACTIVATIONS

Activation = Callable[[Tensor], Tensor]

_FUSED: dict[Activation, tuple[str, str]] = {
    ACTIVATIONS["gelu"]: ("gelu", "none"),
    ACTIVATIONS["gelu_new"]: ("gelu", "tanh"),
    ACTIVATIONS["gelu_pytorch_tanh"]: ("gelu", "tanh"),
    ACTIVATIONS["relu"]: ("relu", ""),
    ACTIVATIONS["silu"]: ("swish", ""),
    ACTIVATIONS["tanh"]: ("tanh", ""),
}
"""What the operator calls an activation, and its variant."""


class PreparedLinear(nn.Linear):
    """A linear layer for inference, of one layer or of several that read the same input.

    Several have their outputs side by side. The laid-out weight is a copy: it does not follow the
    parameters of the layers that it was made of.
    """

    def __init__(self, *linears: nn.Linear) -> None:
        nn.Module.__init__(self)
        first = linears[0]
        # Of several there is the laid-out copy alone, and no other one.
        self._several = linears[: 0 if len(linears) == 1 else None]
        for name in ("weight", "bias"):
            self.register_parameter(name, None if self._several else getattr(first, name))
        self.out_features = sum(linear.out_features for linear in linears)
        self.in_features = first.in_features
        self.training = first.training
        self._lay_out()

    def forward(self, input: Tensor) -> Tensor:
        """The product and the bias, [.., out_features]."""
        return self._product(input, "none", "")

    def activated(self, x: Tensor, activation: Activation) -> Tensor:
        """`activation` of what `forward` gives."""
        name, variant = _FUSED.get(activation, ("none", ""))
        product = self._product(x, name, variant)
        return activation(product) if name == "none" else product

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        """What `forward` gives, and `residual` [.., out_features] added."""
        if _is_one_row(x):
            return self._product(x, "none", "") + residual
        operator = torch.ops.mkldnn._linear_pointwise.binary
        total: Tensor = operator(x, residual, self._packed, self._fused_bias, "add")
        return total

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lay_out()

    def _lay_out(self) -> None:
        weight, self._fused_bias = self._values()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def _values(self) -> tuple[Tensor, Tensor | None]:
        """The weight and the bias, of several layers side by side."""
        if not self._several:
            return self.weight.detach(), None if self.bias is None else self.bias.detach()
        weight = torch.cat([linear.weight.detach() for linear in self._several])
        return weight, torch.cat([_bias_of(linear) for linear in self._several])

    def _product(self, x: Tensor, activation: str, variant: str) -> Tensor:
        if x.dim() == 1:
            return self._product(x[None], activation, variant)[0]
        # For a single row there is another kernel, which adds up in another order.
        rows = torch.cat([x, x]) if _is_one_row(x) else x
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._packed, self._fused_bias, activation, [], variant
        )
        return product[: len(x)]


class Int8Linear(PreparedLinear):
    """A prepared linear layer whose products are of eight-bit whole numbers.

    Each output's weights have a scale, found once. Each row of the input has one of its own, found
    as it comes, so that its answer does not depend on the rows beside it. The error is about a
    hundredth of the output's spread (1.6 without instructions for eight bits).
    """

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        """What `forward` gives, and `residual` [.., out_features] added."""
        return self._product(x, "none", "").add_(residual)

    def _lay_out(self) -> None:
        weight, bias = self._values()
        self._scale_O = weight.abs().amax(1).clamp_(min=torch.finfo(weight.dtype).tiny).div_(127)
        whole = (weight / self._scale_O[:, None]).round_().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(whole, None)
        self._zeros_O = torch.zeros(len(weight), dtype=torch.int64)
        self._added_O = weight.new_zeros(len(weight)) if bias is None else bias
        # Without these instructions pairs of products are added up in sixteen bits: inputs are
        # whole numbers from 1 to 127 then, in place of 255, with 64 for zero.
        self._most, self._zero = (127, 128) if torch.cpu._is_vnni_supported() else (63, 64)

    def _product(self, x: Tensor, activation: str, variant: str) -> Tensor:
        if not x.numel():
            return x.new_zeros(*x.shape[:-1], self.out_features)
        flat = x.reshape(-1, x.shape[-1])
        scale_T1 = flat.abs().amax(-1, keepdim=True).clamp_(min=1e-30).div_(self._most)
        # At 2^23 a float's last bits count ones: they are the rounded number, from `_zero` on.
        # (torch turns floats into uint8 five times as slowly.)
        rounded = (flat * scale_T1.reciprocal()).add_(2.0**23 + self._zero)
        whole = rounded.view(torch.int32).to(torch.uint8)
        product = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, self._zero, self._packed, self._scale_O, self._zeros_O,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        total = torch.addcmul(self._added_O, product, scale_T1, out=product)
        if activation == "tanh":
            total.tanh_()
        elif activation == "relu":
            total.relu_()
        elif activation == "gelu":
            torch.ops.aten.gelu_(total, approximate=variant)
        elif activation == "swish":
            torch.ops.aten.silu_(total)
        return total.view(*x.shape[:-1], -1)


def activated(linear: nn.Module, x: Tensor, activation: Activation) -> Tensor:
    """`activation(linear(x))`, in one pass where the layer is prepared."""
    if isinstance(linear, PreparedLinear):
        return linear.activated(x, activation)
    return activation(linear(x))


def added(
    linear: nn.Module, x: Tensor, residual: Tensor, dropout: nn.Module | None = None
) -> Tensor:
    """`dropout(linear(x)) + residual`, in one pass where the layer is prepared (for inference)."""
    if isinstance(linear, PreparedLinear):
        return linear.added(x, residual)
    projected: Tensor = linear(x)
    return (projected if dropout is None else dropout(projected)) + residual


@functools.cache
def keep_memory() -> None:
    """Let the C library keep what is freed, for the next tensor of that size.

    Otherwise each tensor of some megabytes is of fresh pages, and to make these takes a tenth of a
    forward. glibc keeps blocks as large as the largest one that was freed, up to 32 MiB.
    """
    torch.empty(32 * 2**20 - 2**16, dtype=torch.uint8)


@functools.cache
def can_prepare(dtype: torch.dtype, int8: bool = False) -> bool:
    """Whether this torch, on this processor, has the operators, and they give what they should."""
    if dtype != torch.float32 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    draw = torch.Generator().manual_seed(0)
    # Of no value yet: to draw one would move torch's own generator.
    linear = cast(nn.Linear, skip_init(nn.Linear, 40, 24, device="cpu", dtype=dtype))  # type: ignore[no-untyped-call]
    kind, error = (Int8Linear, 0.1) if int8 else (PreparedLinear, 1e-4)
    try:
        with torch.inference_mode():
            for parameter in linear.parameters():
                parameter.normal_(std=1 / 6, generator=draw)
            x, residual = (
                torch.randn(5, width, generator=draw, device="cpu", dtype=dtype)
                for width in (40, 24)
            )
            prepared, product = kind(linear), linear(x)
            ways: list[tuple[Any, Tensor]] = [(prepared(x), product)]
            ways += [(prepared.added(x, residual), product + residual)]
            ways += [(prepared.activated(x, act), act(product)) for act in _FUSED]
            return all(torch.allclose(one, two, rtol=error, atol=error) for one, two in ways)
    except (RuntimeError, AttributeError, TypeError):  # absent, of other arguments, or refusing
        return False


def _is_one_row(x: Tensor) -> bool:
    return x.shape[:-1].numel() == 1


def _bias_of(linear: nn.Linear) -> Tensor:
    bias = linear.bias
    return linear.weight.new_zeros(linear.out_features) if bias is None else bias.detach()
