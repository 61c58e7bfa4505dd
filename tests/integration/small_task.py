"""A task that a tiny model learns in a few steps, for the tests of this folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""A configuration without dropout."""


def batch() -> dict[str, Tensor]:
    """16 padded rows of 4 to 9 tokens; those with word 5 among them are of class 1."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.arange(16) % 6 + 4
    ids = torch.randint(6, 22, (16, 9), generator=generator)
    labels = torch.randint(0, 2, (16,), generator=generator)
    ids[labels == 1, 2] = 5
    mask = (torch.arange(9) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    """Names and bits."""
    states = one.state_dict(), two.state_dict()
    return list(states[0]) == list(states[1]) and all(
        torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()
    )


def close(one: Any, two: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(two), atol=1e-5, rtol=1e-5)
