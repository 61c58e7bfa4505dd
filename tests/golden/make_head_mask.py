"""Make tests/golden/bert_head_mask: a tiny BERT's answers under masks of its attention heads.

    python -m venv old && old/bin/pip install 'transformers==4.38.*' torch
    old/bin/python tests/golden/make_head_mask.py

transformers 4.38 still takes `head_mask`; the version that the suite measures against does not. All
is in float64, where only rounding can differ. `expected.safetensors` holds, for each case, the
arguments under `case/in/...` and the results under `case/out/...`.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parent / "bert_head_mask"
SEED = 38


def main() -> None:
    torch.manual_seed(SEED)
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=16,
        max_position_embeddings=8,
        initializer_range=0.5,
        num_labels=3,
    )
    model = transformers.BertForSequenceClassification(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # initial weights would hide a bias or a norm left out
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(FOLDER)

    tensors: dict[str, Tensor] = {}
    for case, arguments in cases().items():
        head_mask = arguments.get("head_mask")
        if head_mask is not None:
            head_mask.requires_grad_()
        result = model(**arguments, output_hidden_states=True, output_attentions=True)
        answers = {
            "loss": result.loss,
            "logits": result.logits,
            "hidden_states": torch.stack(result.hidden_states),
            "attentions": torch.stack(result.attentions),
        }
        if head_mask is not None:
            (answers["gradient_of_head_mask"],) = torch.autograd.grad(result.loss, head_mask)
        tensors |= {f"{case}/in/{name}": value for name, value in arguments.items()}
        tensors |= {f"{case}/out/{name}": value for name, value in answers.items()}
    save_file(
        {name: value.detach().clone() for name, value in tensors.items()},
        FOLDER / "expected.safetensors",
        metadata={"transformers": transformers.__version__, "torch": torch.__version__},
    )


def cases() -> dict[str, dict[str, Tensor]]:
    """Batches of three rows of at most five tokens: each padding with each mask of the heads."""
    columns, counts = torch.arange(5), torch.tensor([[3], [5], [1]])
    right = (columns < counts).long()
    holes = right.clone()
    holes[1, [1, 3]] = 0
    paddings = {
        "none": {},
        "right": {"attention_mask": right},
        "left": {"attention_mask": right.flip(1)},
        "holes": {"attention_mask": holes},
    }
    of_heads = torch.tensor([0.0, 1.0, 0.3], dtype=torch.float64)
    of_layers = torch.tensor([[1.0, 0.0, 0.6], [0.5, 1.7, 0.0]], dtype=torch.float64)
    masks = {
        "none": {},
        "of heads": {"head_mask": of_heads},
        "of layers and heads": {"head_mask": of_layers},
    }
    return {
        f"{padding}, {mask}": {
            "input_ids": torch.randint(0, 20, (3, 5)),
            "token_type_ids": torch.randint(0, 2, (3, 5)),
            "labels": torch.tensor([2, 0, 1]),
            **paddings[padding],
            **masks[mask],
        }
        for padding in paddings
        for mask in masks
    }


if __name__ == "__main__":
    main()
