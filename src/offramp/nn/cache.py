"""Keys and values of tokens that have passed, so that a row's next token costs one token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from offramp.nn.layout import Index, Padded


class Cache:
    """What each layer's attention has of R rows, whose lengths may differ.

    Places are allotted for `capacity` tokens a row, and more when they are full. What lies behind a
    row's length is of no token.
    """

    def __init__(self, n_layers: int, n_rows: int, capacity: int) -> None:
        self.lengths_R = torch.zeros(n_rows, dtype=torch.int64)
        self._capacity = max(1, capacity)
        self._keys: list[Tensor | None] = [None] * n_layers
        self._values: list[Tensor | None] = [None] * n_layers

    @property
    def n_rows(self) -> int:
        """R, the number of rows."""
        return len(self.lengths_R)

    def put(self, layer: int, key_RHLK: Tensor, value_RHLK: Tensor) -> tuple[Tensor, Tensor]:
        """Put new tokens' behind the others, and give all there are, [R, H, length, K].

        The rows' lengths stay as they are until `advance`, since every layer has the same tokens.
        """
        pairs = []
        for kept, new_RHLK in ((self._keys, key_RHLK), (self._values, value_RHLK)):
            place = self._place(kept, layer, new_RHLK)
            new = new_RHLK.shape[2]
            first, last = (int(x) for x in self.lengths_R.aminmax())
            if first == last:
                place[:, :, first : first + new] = new_RHLK
            else:
                at_RL = (self.lengths_R[:, None] + torch.arange(new)).to(place.device)
                rows_R1 = torch.arange(self.n_rows, device=place.device)[:, None]
                place[rows_R1, :, at_RL] = new_RHLK.transpose(1, 2)
            pairs.append(place[:, :, : last + new])
        return pairs[0], pairs[1]

    def advance(self, counts_R: Tensor | int) -> None:
        """So many of the tokens that were put last are each row's own."""
        self.lengths_R = self.lengths_R + counts_R

    def crop(self, lengths_R: Tensor) -> None:
        """Forget the tokens behind these lengths."""
        self.lengths_R = torch.minimum(self.lengths_R, lengths_R)

    def take(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be there more than once."""
        if len(rows) == self.n_rows and bool((rows == torch.arange(len(rows))).all()):
            return
        self.lengths_R = self.lengths_R[rows]
        used = int(self.lengths_R.max()) if len(rows) else 0
        for kept in (self._keys, self._values):
            for layer, old in enumerate(kept):
                if old is None:
                    continue
                fresh = old.new_zeros(len(rows), *old.shape[1:])
                fresh[:, :, :used] = old[:, :, :used].index_select(0, rows.to(old.device))
                kept[layer] = fresh

    def _place(self, kept: list[Tensor | None], layer: int, new_RHLK: Tensor) -> Tensor:
        """A layer's tensor, with room for the new tokens."""
        old = kept[layer]
        needed = int(self.lengths_R.max()) + new_RHLK.shape[2]
        if old is not None and needed <= old.shape[2]:
            return old
        if needed > self._capacity:
            self._capacity = max(needed, 2 * self._capacity)
        rows, heads, _, width = new_RHLK.shape
        # Zeros, since what is masked is multiplied by 0 all the same, which a NaN would survive.
        fresh = new_RHLK.new_zeros(rows, heads, self._capacity, width)
        if old is not None:
            fresh[:, :, : old.shape[2]] = old
        kept[layer] = fresh
        return fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued(Padded):
    """Rows that go on from what a cache holds of them, by `length` tokens each: [R, L].

    A token attends to those of its row that came before, in the cache and here.
    """

    cache: Cache
    layer: int = 0
    _mask: list[Tensor | None] = field(default_factory=list, repr=False, compare=False)

    def at(self, layer: int) -> Continued:
        """The same rows before another layer."""
        return replace(self, layer=layer)

    def take(self, rows: Index) -> tuple[Padded, Index]:
        """Not here: rows with a cache leave between two tokens, by `Cache.take`."""
        raise NotImplementedError("rows with a cache leave between two tokens")

    def mask(self, device: torch.device) -> Tensor | None:
        """Who attends to whom, [R, 1, L, all]; None where a token attends to all that there are."""
        if not self._mask:  # once for all layers
            self._mask.append(self._made())
        mask = self._mask[0]
        return None if mask is None else mask.to(device)

    def _made(self) -> Tensor | None:
        lengths_R = self.cache.lengths_R
        first, last = (int(x) for x in lengths_R.aminmax())
        if self.length == 1 and first == last:
            return None
        until_RL = lengths_R[:, None] + torch.arange(self.length)
        return (torch.arange(last + self.length) <= until_RL[..., None])[:, None]
