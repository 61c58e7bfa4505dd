"""Embeddings and vocabulary heads of another size: new rows at the end, or the last cut off."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.errors import ConfigError

Initialise = Callable[[nn.Module], None]
"""Gives a module its initial weights."""


def resize(module: nn.Embedding | nn.Linear, rows: int, init: str, initialise: Initialise) -> None:
    """Give a table `rows` rows, or a linear layer as many outputs; the module stays what it is.

    New rows are as `initialise` makes them, or the mean of the old ones with `init="mean"`. Type,
    device and whether it learns stay.
    """
    weight, bias = module.weight, getattr(module, "bias", None)
    if rows == len(weight):
        return
    fresh: nn.Embedding | nn.Linear
    if isinstance(module, nn.Embedding):
        fresh = nn.Embedding(rows, weight.shape[1], device=weight.device, dtype=weight.dtype)
    else:
        fresh = nn.Linear(
            weight.shape[1],
            rows,
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
    initialise(fresh)
    with torch.no_grad():
        new_weight = resized_rows(weight, fresh.weight, init)
        module.weight = nn.Parameter(new_weight, weight.requires_grad)
        if bias is not None:
            new_bias = resized_rows(bias, bias.new_zeros(rows), "new")
            module.bias = nn.Parameter(new_bias, bias.requires_grad)
    if isinstance(module, nn.Embedding):
        module.num_embeddings = rows
        if module.padding_idx is not None and module.padding_idx >= rows:
            module.padding_idx = None
    else:
        module.out_features = rows


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
