"""Saves in other formats, and of other libraries, as `Weights` under our own names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from offramp.checkpoints.paddle_file import read_paddle
from offramp.checkpoints.renames import Row, renamed
from offramp.checkpoints.torch_file import read_torch
from offramp.checkpoints.weights import Weights, given_weights, read_index
from offramp.errors import CheckpointError

TORCH_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""PyTorch's one file of weights, and the index of several."""
PADDLE_FILES = ("model_state.pdparams", "model_state.pdparams.index.json")
"""PaddleNLP's."""

_OLD_NAMES = (
    Row("{any}.gamma", "{any}.weight"),
    Row("{any}.beta", "{any}.bias"),
)
"""What transformers called the numbers of a norm before 2019, after TensorFlow."""


def is_foreign(name: str) -> bool:
    """Whether a file of this name is read here."""
    return ".bin" in name or ".pdparams" in name


def foreign_file(names: Iterable[str], *, paddle: bool) -> str | None:
    """Which of the files a listing has: PyTorch's before PaddleNLP's, an index before one file."""
    there = set(names)
    wanted = (*reversed(TORCH_FILES), *(reversed(PADDLE_FILES) if paddle else ()))
    return next((name for name in wanted if name in there), None)


def open_foreign(path: Path, paddle_rows: Sequence[Row]) -> Weights:
    """The weights in one file, or in those that an index names.

    A tensor that no row knows keeps its name, so that the loading rule tells of it. Raises
    CheckpointError for a file that is none, and for two tensors of one name.
    """
    files = [path]
    if path.name.endswith(".json"):
        files = [path.parent / shard for shard in dict.fromkeys(read_index(path).values())]
    read, rows = (_of_paddle, paddle_rows) if ".pdparams" in path.name else (read_torch, _OLD_NAMES)
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in read(file).items():
            own, transpose = renamed(name, rows) or (name, False)
            if own in tensors:
                raise CheckpointError(f"{file} holds {own} a second time, as {name}.")
            tensors[own] = tensor.T.contiguous() if transpose and tensor.dim() == 2 else tensor
    return Weights(str(path), given_weights(tensors).header, {}, tensors, fresh=True)


def _of_paddle(path: Path) -> dict[str, Tensor]:
    arrays = read_paddle(path)  # views of the pickle's bytes, which nobody may write to
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
