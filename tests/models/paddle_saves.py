"""The saves under tests/golden/paddle, and what PaddleNLP answered with them."""

from __future__ import annotations

import functools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

PADDLE = Path(__file__).resolve().parents[1] / "golden" / "paddle"
FORMATS = PADDLE / "formats"
SAVES = sorted(
    path.parent.relative_to(PADDLE).as_posix() for path in PADDLE.glob("*/*/model_state.pdparams")
)
CLASSES = [save for save in SAVES if save[0].isalpha() and not save.startswith("formats")]
"""Such as "bert/BertModel": by PaddleNLP 2.8.1."""
OLD = [save for save in SAVES if save[0].isdigit()]
"""Such as "2.3.4/BertModel"."""
Arrays = dict[str, "np.ndarray[Any, Any]"]


def settings(save: str) -> dict[str, Any]:
    """The config.json of a save."""
    values: dict[str, Any] = json.loads((PADDLE / save / "config.json").read_text())
    return values


def answers(save: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """What PaddleNLP was given, and what it answered."""
    folder, name = save.split("/")
    tensors = _expected(folder)
    given = {
        key.rpartition("/")[2]: tensor
        for key, tensor in tensors.items()
        if key.startswith(f"{name}/in/")
    }
    outputs = [key for key in tensors if key.startswith(f"{name}/out/")]
    return given, [tensors[f"{name}/out/{n}"] for n in range(len(outputs))]


@functools.cache
def _expected(folder: str) -> dict[str, Tensor]:
    return load_file(PADDLE / folder / "expected.safetensors")


def unpickled(path: Path) -> Arrays:
    """The arrays of a .pdparams by Python's own pickle, which these files may be trusted with."""
    arrays = pickle.loads(path.read_bytes(), encoding="latin1")
    arrays.pop("StructuredToParameterName@@", None)
    found: Arrays = arrays
    return found


def differing(one: Arrays, other: Arrays) -> list[str]:
    """Names that only one has, or whose type, shape or bits differ."""
    return sorted(
        name
        for name in one.keys() | other.keys()
        if name not in one or name not in other or _bits(one[name]) != _bits(other[name])
    )


def _bits(array: np.ndarray[Any, Any]) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()
