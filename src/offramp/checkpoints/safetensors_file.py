"""safetensors files: https://huggingface.co/docs/safetensors/index#format"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from offramp.checkpoints.strict_json import parse_json
from offramp.errors import CheckpointError, ModelNotFoundError

WEIGHTS_FILE = "model.safetensors"
_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_INTEGERS = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}
_LONGEST_HEADER = 100_000_000  # the format's own limit, bytes
_OTHER_WEIGHTS = (".bin", ".safetensors", ".pdparams", ".index.json", ".h5", ".ot")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's shape and type as the file's header states them."""

    shape: tuple[int, ...]
    dtype: str


def read_header(path: str | Path) -> dict[str, TensorInfo]:
    """Names, shapes and types, without reading a tensor.

    Raises CheckpointError for a file that is no safetensors file or names a tensor twice.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = parse_json(file.read(length))
        header.pop("__metadata__", None)
        return {name: _info(entry) for name, entry in header.items()}
    except OSError as error:
        weights = sorted(p.name for p in path.parent.glob("*") if p.suffix in _OTHER_WEIGHTS)
        beside = f" Beside it: {', '.join(weights)}." if weights else ""
        raise ModelNotFoundError(
            f"{path} cannot be read ({error.strerror}); the model's weights are expected there, "
            f"in one safetensors file.{beside}"
        ) from None
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        struct.error,
    ) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}.") from error


def read_tensors(path: str | Path, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a file under other names: `names` is {name in the file: name here}."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {new: file.get_tensor(old) for old, new in names.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as transformers does: metadata `format: pt`, tensors contiguous."""
    path = Path(path)
    on_host: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous().cpu()
        # The format has no sharing: memory that two names have is written under both.
        memory = tensor.untyped_storage().data_ptr()
        on_host[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    path.touch()
    mode = path.stat().st_mode  # by the umask; the library would leave 0600
    try:
        save_file(on_host, str(path), metadata={"format": "pt"})
    except SafetensorError as error:  # what the library makes of a full disk
        raise OSError(str(error)) from error
    path.chmod(mode)


def torch_dtype(info: TensorInfo) -> torch.dtype | None:
    """The header's floating type in torch's terms; None for one that weights do not have here."""
    return _FLOATS.get(info.dtype)


def tensor_info(tensor: Tensor) -> TensorInfo:
    """What a header would say of a tensor."""
    names = {dtype: name for name, dtype in (_FLOATS | _INTEGERS).items()}
    return TensorInfo(tuple(tensor.shape), names.get(tensor.dtype, str(tensor.dtype)))


def _info(entry: dict[str, Any]) -> TensorInfo:
    shape, dtype = entry["shape"], entry["dtype"]
    if not isinstance(dtype, str) or not all(isinstance(size, int) for size in shape):
        raise ValueError(f"a tensor of type {dtype!r} and shape {shape!r}")
    return TensorInfo(tuple(shape), dtype)
