"""Relative positions: what attention adds to a score for how far apart two tokens are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STARTS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91)
"""The distances at which a bucket begins: up to 8 each by itself, then 8 x 2^(k/2), rounded up."""
BUCKETS = 2 * (len(STARTS) + 1)
"""How many there are: those of a token itself and of what is to its left, then of its right."""


class DistanceBias(nn.Embedding):
    """A number for each head and distance, in buckets that widen with the distance.

    Raffel et al. 2019, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", https://arxiv.org/abs/1910.10683, section 2.1: 32 buckets, the last from 128 x
    2^-1/2 tokens on. A table may have more rows, which are not read.
    """

    def for_length(self, length: int) -> Tensor:
        """`Flow.bias_HLL` of rows of so many tokens, query by key."""
        away_J = torch.arange(2 * length, device=self.weight.device) - length  # of key from query
        starts = torch.tensor(STARTS, device=away_J.device)
        bucket_J = torch.bucketize(away_J.abs(), starts, right=True) + BUCKETS // 2 * (away_J > 0)
        if torch.compiler.is_compiling():  # `unfold` would make a constant of the length
            places_L = torch.arange(length, device=self.weight.device)
            among_J = places_L - places_L[:, None] + length
            return torch.as_tensor(self(bucket_J[among_J]).permute(2, 0, 1))
        bias_HJ = self(bucket_J).T.contiguous()
        # A query's keys are L successive distances, from one less for the next query.
        bias_HLL: Tensor = bias_HJ.unfold(1, length, 1)[:, 1:].flip(1)
        return bias_HLL
