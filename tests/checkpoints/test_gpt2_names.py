"""GPT-2's table on transformers' own tensors: a linear layer with them is its Conv1D."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers

from offramp.checkpoints.tables import ORIGINAL_GPT2
from offramp.checkpoints.weights import Reading, read_save, translated
from offramp.models.tensors import as_tensor

SIZES = {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 20, "n_positions": 16}


def test_each_matrix_is_turned_and_the_mask_is_left_out(tmp_path: Path) -> None:
    """As transformers 4 wrote it, with the triangle of the mask among the tensors."""
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES))
    triangle = torch.ones(16, 16, dtype=torch.bool).tril()[None, None]
    state = {**model.state_dict(), "transformer.h.0.attn.bias": triangle}
    torch.save(state, tmp_path / "pytorch_model.bin")
    saved = read_save(tmp_path / "pytorch_model.bin", Reading())
    found = translated(replace(saved, dialect="gpt2"), ORIGINAL_GPT2, Reading())
    assert set(found.left_out) == {"transformer.h.0.attn.bias"}
    turned = 0
    for path, module in model.named_modules():
        if type(module).__name__ != "Conv1D":
            continue
        weight, bias = (as_tensor(found.tensors[f"{path}.{part}"]) for part in ("weight", "bias"))
        inputs = torch.randn(3, weight.shape[1])
        torch.testing.assert_close(F.linear(inputs, weight, bias), module(inputs))
        turned += 1
    assert turned == 4 * SIZES["n_layer"] == len(found.turned)
    same = found.tensors["transformer.wte.weight"]
    assert torch.equal(as_tensor(same), model.state_dict()["transformer.wte.weight"])
