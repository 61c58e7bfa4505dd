"""Saves of other libraries as `Weights` under our own names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from offramp.checkpoints.paddle_file import read_paddle
from offramp.checkpoints.renames import Row, renamed
from offramp.checkpoints.weights import Weights, given_weights, read_index
from offramp.errors import CheckpointError

PADDLE_FILES = ("model_state.pdparams", "model_state.pdparams.index.json")
"""PaddleNLP's one file of weights, and its index of several."""


def open_paddle(path: Path, rows: Sequence[Row]) -> Weights:
    """PaddleNLP's weights in one file, or in those of an index, renamed by the rows.

    A tensor that no row knows keeps its name, so that the loading rule tells of it. Raises
    CheckpointError for a file that is none, and for two tensors of one name.
    """
    files = [path]
    if path.name.endswith(".json"):
        files = [path.parent / shard for shard in dict.fromkeys(read_index(path).values())]
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, array in read_paddle(file).items():
            own, transpose = renamed(name, rows) or (name, False)
            if own in tensors:
                raise CheckpointError(f"{file} holds {own} a second time, as {name}.")
            turned = array.T if transpose and array.ndim == 2 else array
            tensors[own] = torch.from_numpy(np.array(turned, order="C"))
    weights = given_weights(tensors)
    return Weights(str(path), weights.header, {}, weights.given)


def paddle_file(names: Iterable[str]) -> str | None:
    """Which of PaddleNLP's files a listing has: the index, or else the one file."""
    there = set(names)
    return next((name for name in reversed(PADDLE_FILES) if name in there), None)
