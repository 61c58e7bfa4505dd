"""A BERT that is built in a millisecond, and rows for it."""

from typing import Any

import torch

TINY: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "initializer_range": 0.5,  # at .02 so narrow a model hardly tells its inputs apart
}
IDS = torch.tensor([[1, 5, 7, 2], [1, 9, 2, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
