"""How the rows of a batch lie in memory: `Padded` as [B, L, ...] or `Packed` as [T, ...].

T is the sum of the rows' lengths, so a linear layer over packed rows never sees padding. Linear,
norm and activation work on the last dimension of either; only attention and poolers ask which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Index: TypeAlias = Tensor | slice


class Block(NamedTuple):
    """`rows` successive packed rows of one `length`: tokens [start, stop)."""

    start: int
    stop: int
    rows: int
    length: int


@dataclass(frozen=True, slots=True)
class Padded:
    """Rows of one padded length L.

    `keys` is True where a token may be attended to: [B, L], [B, L, L] (query, key), or None when
    every token may be. Where it is `causal` no token attends to one behind it.
    """

    n_rows: int
    length: int
    keys: Tensor | None = None
    causal: bool = False

    @property
    def attention_mask(self) -> Tensor | None:
        """Who attends to whom as scaled_dot_product_attention takes it, [B or 1, 1, 1 or L, L]."""
        mask = self.keys
        if mask is not None:
            mask = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None]
        if not self.causal:
            return mask
        device = None if mask is None else mask.device
        before = torch.ones(self.length, self.length, dtype=torch.bool, device=device).tril()
        return before[None, None] if mask is None else mask & before

    def take(self, rows: Index) -> tuple[Padded, Index]:
        """The layout of these rows, and the index that takes them from a [B, L, ...] tensor."""
        keys = None if self.keys is None else self.keys[rows]
        n_rows = len(range(self.n_rows)[rows]) if isinstance(rows, slice) else len(rows)
        return Padded(n_rows, self.length, keys, self.causal), rows


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows one after the other without padding.

    `lengths_R` and `starts_R` (a row's first token) lie on the host. `blocks` are the runs of
    rows of equal length: attention and poolers see each as a view [rows, length, ...], with no mask
    and no copy. Rows in order of length make the fewest blocks; any order is correct. Where it is
    `causal` no token attends to one behind it.
    """

    lengths_R: Tensor
    starts_R: Tensor
    blocks: tuple[Block, ...]
    causal: bool = False
    _bounds: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, lengths_R: Tensor, causal: bool = False) -> Packed:
        """The layout of rows with these lengths (host tensor, int64; none may be 0)."""
        if len(lengths_R) == 1:
            length = int(lengths_R)
            block = Block(0, length, 1, length)
            return cls(lengths_R, torch.zeros_like(lengths_R), (block,), causal)
        starts_R = torch.cumsum(lengths_R, 0) - lengths_R
        lengths, counts = torch.unique_consecutive(lengths_R, return_counts=True)
        blocks, start = [], 0
        for length, rows in zip(lengths.tolist(), counts.tolist(), strict=True):
            blocks.append(Block(start, start + rows * length, rows, length))
            start += rows * length
        return cls(lengths_R, starts_R, tuple(blocks), causal)

    @property
    def n_rows(self) -> int:
        """R, the number of rows."""
        return len(self.lengths_R)

    @property
    def n_tokens(self) -> int:
        """T, the sum of the rows' lengths."""
        return self.blocks[-1].stop if self.blocks else 0

    @property
    def length(self) -> int:
        """L, the length of the longest row."""
        return max((block.length for block in self.blocks), default=0)

    def bounds(self, device: torch.device) -> Tensor:
        """Where rows begin and the last one ends, [R + 1] int32, as kernels of torch take it.

        It is sent to the device once, for all layers.
        """
        if device not in self._bounds:
            ends_R = torch.cumsum(self.lengths_R, 0, dtype=torch.int32)
            self._bounds[device] = F.pad(ends_R, (1, 0)).to(device, non_blocking=True)
        return self._bounds[device]

    def take(self, rows: Index) -> tuple[Packed, Index]:
        """The layout of these rows, and the index that takes their tokens of a [T, ...] tensor."""
        layout = Packed.of(self.lengths_R[rows], self.causal)
        if isinstance(rows, slice):  # contiguous: the tokens are a view
            first, last, step = rows.indices(self.n_rows)
            if step != 1:
                raise ValueError(f"rows are sliced with step 1; got {step}. Pass an index tensor.")
            start = int(self.starts_R[first]) if first < last else 0
            return layout, slice(start, start + layout.n_tokens)
        # Token t of row r moves from starts[r] + t to the new start + t: one shift a row.
        shift_R = self.starts_R[rows] - layout.starts_R
        tokens_T = torch.arange(layout.n_tokens) + shift_R.repeat_interleave(layout.lengths_R)
        return layout, tokens_T


Layout: TypeAlias = Padded | Packed


def round_size(n_tokens: int) -> int:
    """So many tokens or some more, up to a thirty-second of them or sixteen."""
    unit = max(16, 1 << max(0, n_tokens.bit_length() - 6))
    return -(-n_tokens // unit) * unit


def fill(pieces: Sequence[Tensor]) -> Tensor:
    """Tensors [.., D] one after the other, and zeros behind until their number is round."""
    size = sum(map(len, pieces))
    rest = pieces[0].new_zeros(round_size(size) - size, pieces[0].shape[1])
    return torch.cat([*pieces, rest])


def rows_of_tokens(layout: Packed) -> Tensor:
    """For each packed token the number of its row, [T] (host)."""
    return torch.arange(layout.n_rows).repeat_interleave(layout.lengths_R)


def ordinals(ids: Tensor, layout: Layout, left_out: int) -> Tensor:
    """For each token of whole rows which of its row it is, from 1; 0 for those that are `left_out`.

    `ids`, and what is returned, are [B, L] or [T] as `layout` says.
    """
    counted = (ids != left_out).long()
    if isinstance(layout, Padded):
        return counted.cumsum(1) * counted
    starts_R, lengths_R = layout.starts_R.to(ids.device), layout.lengths_R.to(ids.device)
    until = counted.cumsum(0)
    before_R = until[starts_R] - counted[starts_R]
    return (until - before_R.repeat_interleave(lengths_R, output_size=len(ids))) * counted
