"""sentence-transformers' Dense: a linear layer after the pooling."""

from __future__ import annotations

from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn
from typing_extensions import Self

from offramp.checkpoints.file_names import SAFETENSORS_FILE
from offramp.checkpoints.finding import find_save
from offramp.checkpoints.safetensors_file import write_safetensors
from offramp.checkpoints.weights import Reading, read_save
from offramp.errors import CheckpointError, ConfigFileError, UnsupportedError
from offramp.models.config_file import CONFIG_FILE, as_json, read_json
from offramp.models.tensors import as_stored, as_tensor
from offramp.storage.manifest import check_sizes

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    f"torch.nn.modules.{module}.{kind.__name__}": kind
    for module, kind in (
        ("linear", nn.Identity),
        ("activation", nn.Tanh),
        ("activation", nn.ReLU),
        ("activation", nn.GELU),
        ("activation", nn.SiLU),
        ("activation", nn.Sigmoid),
    )
}
"""What `activation_function` may be; a name is looked up here and nothing is imported for it."""
_DEFAULT = "torch.nn.modules.activation.Tanh"
PLACE = "sentence_embedding"
_SETTINGS = ("in_features", "out_features", "bias", "activation_function")


class Dense(nn.Module):
    """A linear layer and an activation. `after_normalize` says that unit vectors come in."""

    def __init__(self, linear: nn.Linear, activation: str, after_normalize: bool = False) -> None:
        super().__init__()
        self.linear = linear
        self.activation_function = activation
        self.after_normalize = after_normalize
        self._activation = _ACTIVATIONS[activation]()

    def forward(self, pooled_RD: Tensor) -> Tensor:
        """[R, out] from vectors [R, in]."""
        if self.after_normalize:
            pooled_RD = nn.functional.normalize(pooled_RD, dim=-1)
        out: Tensor = self._activation(self.linear(pooled_RD))
        return out

    @classmethod
    def read(cls, folder: Path, after_normalize: bool = False) -> Self:
        """The layer in a folder: config.json, and model.safetensors or pytorch_model.bin.

        Raises UnsupportedError, naming it, for a setting that is not known here, ConfigFileError
        for one that cannot be, and CheckpointError for weights that are not the layer's.
        """
        path = folder / CONFIG_FILE
        values = read_json(path)
        into, out = values.get("in_features"), values.get("out_features")
        bias = values.get("bias", True)
        activation = values.get("activation_function", _DEFAULT)
        if not (_is_width(into) and _is_width(out)):
            raise ConfigFileError(
                f"{path} has in_features {into!r} and out_features {out!r}; expected "
                "whole numbers.",
                file=path,
            )
        if str(activation) not in _ACTIVATIONS:
            raise UnsupportedError(
                f"{path} asks for the activation {activation!r}, which is not known here. Known: "
                f"{', '.join(_ACTIVATIONS)}."
            )
        others = {name: value for name, value in values.items() if name not in _SETTINGS}
        for name in ("module_input_name", "module_output_name"):
            if others.get(name) in (None, PLACE):
                others.pop(name, None)
        if not others.get("use_residual"):
            others.pop("use_residual", None)
        if others or not isinstance(bias, bool):
            raise UnsupportedError(
                f"{path} has {others or {'bias': bias}}, which this offramp does not know. It "
                f"reads {', '.join(_SETTINGS)}."
            )
        weights = read_save(find_save(folder), Reading())
        found = {name: as_tensor(stored) for name, stored in weights.tensors.items()}
        expected: dict[str, tuple[int, ...]] = {"linear.weight": (out, into)}
        if bias:
            expected["linear.bias"] = (out,)
        if {name: tuple(value.shape) for name, value in found.items()} != expected or not all(
            value.is_floating_point() for value in found.values()
        ):
            raise CheckpointError(
                f"{weights.source} holds {_shapes(found)}; expected {expected}.",
                file=weights.source,
            )
        files = {weights.source, *map(str, weights.files.values())}
        check_sizes(folder.parent, {f"{folder.name}/{Path(file).name}" for file in files})
        with torch.device("meta"):
            linear = nn.Linear(into, out, bias=bias)
        own = {name.rpartition(".")[2]: value.clone() for name, value in found.items()}
        linear.load_state_dict(own, assign=True)
        return cls(linear, activation, after_normalize)

    def write(self, folder: Path) -> None:
        """Write the layer as `read` reads it."""
        folder.mkdir()
        values = {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": self.activation_function,
        }
        (folder / CONFIG_FILE).write_text(as_json(values), encoding="utf-8")
        tensors = {name: as_stored(value) for name, value in self.state_dict().items()}
        write_safetensors(folder / SAFETENSORS_FILE, tensors)


def _is_width(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= 2**20


def _shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in tensors.items()}
