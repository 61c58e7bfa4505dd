"""torch's tensors and those of files: the same memory under two names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from offramp.checkpoints.content import settled, taken
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.weights import Weights
from offramp.errors import CheckpointError

TORCH_TYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' name of a type: torch's."""
_NAMES = {dtype: name for name, dtype in TORCH_TYPES.items()}


def type_name(dtype: torch.dtype) -> str:
    """safetensors' name of a type, or torch's own where it has none."""
    return _NAMES.get(dtype, str(dtype))


def as_tensor(stored: Stored, *, given: bool = False) -> Tensor:
    """The tensor in host memory: the file's own pages where they lie as torch wants them.

    `given` says that it is no file's, so that its memory is somebody's own.
    """
    tensor = torch.from_numpy(settled(stored.array) if given else taken(stored.array))
    return tensor.view(torch.bfloat16) if stored.dtype == "BF16" else tensor


def as_stored(tensor: Tensor) -> Stored:
    """What a file would hold of a tensor: its own memory where that is the host's.

    Of a type that no file has, the shape alone.
    """
    tensor = tensor.detach()
    if tensor.dtype not in _NAMES:
        return Stored(str(tensor.dtype), np.broadcast_to(np.uint8(0), tuple(tensor.shape)))
    tensor = tensor.cpu().resolve_neg()
    bits = tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor
    return Stored(_NAMES[tensor.dtype], bits.numpy())


def given_weights(tensors: Mapping[str, Tensor]) -> Weights:
    """Tensors in memory in place of a file's; CheckpointError for what is none with values."""
    if not isinstance(tensors, Mapping):
        raise CheckpointError(
            f"state_dict is a mapping of names to tensors; got a {type(tensors).__name__}."
        )
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"state_dict[{name!r}] is a {type(tensor).__name__}; expected a torch.Tensor under "
                "a text."
            )
        if tensor.layout is not torch.strided or tensor.is_meta:
            raise CheckpointError(
                f"state_dict[{name!r}] is {'on the meta device' if tensor.is_meta else 'sparse'}; "
                "expected dense tensors with values."
            )
    stored = {name: as_stored(tensor) for name, tensor in tensors.items()}
    return Weights("the state_dict given", stored, given=True)
