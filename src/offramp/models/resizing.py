"""Embeddings and vocabulary heads of another size: new rows at the end, or the last cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.errors import ConfigError

M = TypeVar("M", nn.Embedding, nn.Linear)

Initialise = Callable[[nn.Module], None]
"""Gives a module its initial weights."""


def resized(old: M, rows: int, init: str, initialise: Initialise) -> M:
    """`old` with `rows` rows (of its table, or outputs of a linear layer).

    New rows are as `initialise` makes them, or the mean of the old ones with `init="mean"`. Type,
    device and whether it learns stay.
    """
    weight = old.weight
    if rows == len(weight):
        return old
    fresh: nn.Embedding | nn.Linear
    if isinstance(old, nn.Embedding):
        pad = old.padding_idx if old.padding_idx is not None and old.padding_idx < rows else None
        fresh = nn.Embedding(rows, old.embedding_dim, pad, device=weight.device, dtype=weight.dtype)
    else:
        fresh = nn.Linear(
            old.in_features,
            rows,
            bias=old.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
    initialise(fresh)
    with torch.no_grad():
        fresh.weight.copy_(resized_rows(weight, fresh.weight, init))
        if isinstance(old, nn.Linear) and isinstance(fresh, nn.Linear) and old.bias is not None:
            fresh.bias.copy_(resized_rows(old.bias, torch.zeros_like(fresh.bias), "new"))
    for name, parameter in fresh.named_parameters():
        parameter.requires_grad_(old.get_parameter(name).requires_grad)
    fresh.train(old.training)
    return fresh  # type: ignore[return-value]  # the kind of `old`


def resized_rows(old: Tensor, fresh: Tensor, init: str) -> Tensor:
    """`fresh` with the old rows at its beginning; those after them new, or the mean of the old."""
    kept = min(len(old), len(fresh))
    rest = fresh[kept:]
    if init == "mean" and len(old):
        rest = old.mean(0, keepdim=True).expand_as(rest)
    return torch.cat([old[:kept].to(fresh.dtype), rest.to(fresh.dtype)])


def interpolated_rows(old: Tensor, rows: int) -> Tensor:
    """A table of positions stretched to `rows` rows, linearly, its two ends kept."""
    stretched = F.interpolate(old.float().T[None], size=rows, mode="linear", align_corners=True)
    return stretched[0].T.to(old.dtype)


def new_size(current: int, asked: int | None, multiple: int | None) -> int:
    """How many rows there shall be: `asked`, rounded up to a multiple; as many as now for None."""
    for name, value in (("new_num_tokens", asked), ("pad_to_multiple_of", multiple)):
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(
                f"resize_token_embeddings got {name}={value!r}; a vocabulary has at least 1 row. "
                f"To keep the present {current} leave it out; to drop tokens pass the new number."
            )
    size = current if asked is None else asked
    return size if multiple is None else -(-size // multiple) * multiple
