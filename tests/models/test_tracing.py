"""Programs made of a model by torch answer for masks that they were not made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import IDS, MASK, TINY
from torch import Tensor

from offramp import (
    BertConfig,
    BertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
)

OTHER_MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])


def traced(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
    program = torch.jit.trace(model, (IDS, MASK))
    return lambda ids, mask: program(ids, mask)[0]


def compiled(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
    program = torch.compile(model, fullgraph=True, backend="eager")
    return lambda ids, mask: program(ids, mask)[0]


def exported(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
    program = torch.export.export(model, (IDS, MASK)).module()
    return lambda ids, mask: program(ids, mask)[0]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [traced, compiled, exported])
def test_a_program_does_not_depend_on_the_mask_it_was_made_with(make: Any) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**TINY, return_dict=False)).eval()
    with torch.no_grad():
        program = make(model)
        for mask in (MASK, OTHER_MASK):
            torch.testing.assert_close(program(IDS, mask), model(IDS, mask)[0])


@pytest.mark.parametrize("length", [3, 9])
def test_an_exported_program_takes_rows_of_other_lengths(length: int) -> None:
    """MPNet adds a number for each distance between tokens: a table that grows with the row."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**TINY, "max_position_embeddings": 16, "return_dict": False}
    sizes.pop("type_vocab_size", None)
    model = MPNetForSequenceClassification(MPNetConfig(**sizes)).eval()
    ids = torch.randint(2, sizes["vocab_size"], (2, length))
    dynamic = {1: torch.export.Dim("length", min=2, max=14)}
    with torch.no_grad():
        program = torch.export.export(
            model, (IDS + 2, MASK), dynamic_shapes=(dynamic, dynamic)
        ).module()
        found = program(ids, torch.ones_like(ids))[0]
        torch.testing.assert_close(found, model(ids)[0])
