"""Building a model without values: its tensors are shapes, and initial values are not made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FILLS = frozenset(
    {
        nn.init.constant_,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
        nn.init.normal_,
        nn.init.ones_,
        nn.init.trunc_normal_,
        nn.init.uniform_,
        nn.init.xavier_normal_,
        nn.init.xavier_uniform_,
        nn.init.zeros_,
        Tensor.fill_,
        Tensor.normal_,
        Tensor.uniform_,
        Tensor.zero_,
    }
)
"""What does nothing to a tensor without values, but takes a while: on the meta device torch works
out random numbers in Python, and imports its compiler for the first of them."""
MAKERS = frozenset(
    {
        torch.arange,
        torch.as_tensor,
        torch.asarray,
        torch.bartlett_window,
        torch.blackman_window,
        torch.empty,
        torch.empty_permuted,
        torch.empty_quantized,
        torch.empty_strided,
        torch.eye,
        torch.fft.fftfreq,
        torch.fft.rfftfreq,
        torch.from_file,
        torch.full,
        torch.hamming_window,
        torch.hann_window,
        torch.kaiser_window,
        torch.linspace,
        torch.logspace,
        torch.nested.nested_tensor,
        torch.normal,
        torch.ones,
        torch.rand,
        torch.randint,
        torch.randn,
        torch.randperm,
        torch.range,
        torch.scalar_tensor,
        torch.sparse_bsc_tensor,
        torch.sparse_bsr_tensor,
        torch.sparse_compressed_tensor,
        torch.sparse_coo_tensor,
        torch.sparse_csc_tensor,
        torch.sparse_csr_tensor,
        torch.tensor,
        torch.tril_indices,
        torch.triu_indices,
        torch.zeros,
    }
)
"""What makes a tensor and takes a device."""
_META = torch.device("meta")


class WithoutValues(TorchFunctionMode):
    """Inside this context new tensors are on the meta device, and stay as they are made.

    `torch.device("meta")` does the first half; one mode for both halves the time.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in FILLS:
            tensor = args[0] if args else kwargs["tensor"]  # torch.nn.init passes it by name
            if tensor.is_meta:
                return tensor
        elif func in MAKERS and kwargs.get("device") is None:
            return func(*args, **{**kwargs, "device": _META})
        return func(*args, **kwargs)
