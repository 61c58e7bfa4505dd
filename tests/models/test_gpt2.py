"""What is peculiar to GPT-2: words for token types, old files, padding where no mask is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import offramp

SIZES: dict[str, Any] = {
    "vocab_size": 30,
    "n_positions": 12,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 29,
}


def pair(task: str, folder: Path, **changes: Any) -> tuple[Any, Any]:
    """transformers' model in float64, and offramp's of the files that it saves."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(**SIZES | changes)
    theirs = getattr(transformers, f"GPT2{task}")(config).double().eval()
    theirs.save_pretrained(folder)
    return theirs, getattr(offramp, f"GPT2{task}").from_pretrained(folder)


@pytest.mark.parametrize("by", ["input_ids", "inputs_embeds"])
def test_token_types_are_words(by: str, tmp_path: Path) -> None:
    theirs, ours = pair("LMHeadModel", tmp_path)
    ids, types = torch.randint(0, 29, (3, 7)), torch.randint(0, 29, (3, 7))
    given = {by: ids if by == "input_ids" else torch.randn(3, 7, 16, dtype=torch.float64)}
    expected = theirs(**given, token_type_ids=types).logits
    torch.testing.assert_close(ours(**given, token_type_ids=types).logits, expected)
    with pytest.raises(offramp.InputError, match="token_type_ids holds 30"):
        ours(**given, token_type_ids=types * 0 + 30)
    with pytest.raises(offramp.InputError, match=r"token_type_ids must be \[3, 7\]"):
        ours(**given, token_type_ids=types[:2])


def test_padding_behind_rows_is_not_read_where_no_mask_is_given(tmp_path: Path) -> None:
    theirs, ours = pair("ForSequenceClassification", tmp_path, num_labels=3)
    ids = torch.tensor([[4, 5, 29, 29], [6, 29, 7, 29], [29, 29, 8, 9], [1, 2, 3, 4]])
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)
    mask = (torch.arange(4) < torch.tensor([[2], [3], [4], [4]])).long()
    torch.testing.assert_close(ours(ids, mask).logits, theirs(ids).logits)


def test_old_files_have_masks_among_the_weights_and_no_prefix(tmp_path: Path) -> None:
    theirs, ours = pair("LMHeadModel", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): x for name, x in weights.items()}
    for layer in range(2):
        bare[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
        bare[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(bare, tmp_path / "model.safetensors")
    again = offramp.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(0, 29, (2, 6))
    assert type(again) is offramp.GPT2LMHeadModel
    torch.testing.assert_close(again(ids).logits, theirs(ids).logits)
    assert torch.equal(again(ids).logits, ours(ids).logits)
