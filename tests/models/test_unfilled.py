"""Models without values: torch's own list of what makes tensors, and no compiler imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY
from torch import nn
from torch.utils._device import _device_constructors

from offramp import BertConfig, BertForSequenceClassification, BertModel, add_exits
from offramp.models.unfilled import MAKERS, WithoutValues


def test_all_that_torch_makes_tensors_with_is_known() -> None:
    lacking = _device_constructors() - MAKERS
    # transformers puts a function of its own around one, which is met inside that.
    assert not [func for func in lacking if "<locals>" not in func.__qualname__]


def test_modules_and_tensors_without_values() -> None:
    with WithoutValues():
        parts: list[Any] = [
            nn.Linear(3, 4),
            nn.Embedding(5, 2, padding_idx=1),
            nn.LayerNorm(3),
            nn.BatchNorm1d(3),
            nn.MultiheadAttention(4, 2),
            nn.Conv1d(3, 4, 2),
            nn.LSTM(3, 4),
        ]
        here = torch.zeros(2, device="cpu")
        here.fill_(3.0)
        nn.init.normal_(here, mean=100.0)
    assert all(tensor.is_meta for part in parts for tensor in part.state_dict().values())
    assert bool((here > 50).all())  # what has a device of its own has values too
    assert not torch.ones(2).is_meta


def pruned(model: BertForSequenceClassification) -> BertForSequenceClassification:
    model.prune_heads({0: [0]})
    return model


@pytest.mark.parametrize("kind", ["plain", "exits", "pruned", "head"])
def test_loading_imports_no_compiler(kind: str, tmp_path: Path) -> None:
    """torch's compiler takes a second to import; a few innocent calls on the meta device do."""
    model: Any = BertForSequenceClassification(BertConfig(**TINY))
    model = {"exits": add_exits, "pruned": pruned}.get(kind, lambda model: model)(model)
    model = BertModel(BertConfig(**TINY)) if kind == "head" else model
    model.save_pretrained(tmp_path / "model")
    code = (
        "import sys, warnings, offramp\n"
        "warnings.simplefilter('ignore')\n"
        "offramp.BertForSequenceClassification.from_pretrained(sys.argv[1])\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
