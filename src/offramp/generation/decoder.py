"""What writing asks of a model: the next token's logits of rows that it remembers."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Decoder(Protocol):
    """Rows of a model that is written with, and what it remembers of them."""

    def feed(self, ids_RL: Tensor, counts_R: Tensor) -> Tensor:
        """Read more tokens of each row; the logits [R, V] of what comes behind the last of them.

        Of a row of `ids_RL` the first so many are its own, one at least.
        """

    def take(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be there more than once."""
