"""Make tests/golden/head_mask: answers of each family's classifier under masks of attention heads.

    python -m venv old && old/bin/pip install 'transformers==4.38.*' torch
    old/bin/python tests/golden/make_head_mask.py

transformers 4.38 still takes `head_mask`; the version that the suite measures against does not. The
weights are float32 and all is computed in float64, where only rounding can differ.
`expected.safetensors` holds, for each case, the arguments under `case/in/...` and the results under
`case/out/...`; hidden states and attentions are kept of the cases in `LOOKED_INTO` alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parent / "head_mask"
SEED = 38
BERT: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "max_position_embeddings": 8,
    "initializer_range": 0.5,
}
PADS: dict[str, Any] = BERT | {"max_position_embeddings": 10, "pad_token_id": 1}
ALBERT: dict[str, Any] = BERT | {
    "embedding_size": 5,
    "num_hidden_layers": 4,
    "num_hidden_groups": 2,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", BERT),
    "roberta": ("Roberta", PADS),
    "xlm-roberta": ("XLMRoberta", PADS),
    "camembert": ("Camembert", PADS),
    "albert": ("Albert", ALBERT),
    "albert-inner": ("Albert", ALBERT | {"inner_group_num": 2}),
    "ernie": ("Ernie", BERT | {"use_task_id": True}),
    "distilbert": (
        "DistilBert",
        {
            "vocab_size": 20,
            "dim": 12,
            "n_layers": 2,
            "n_heads": 3,
            "hidden_dim": 16,
            "max_position_embeddings": 8,
            "initializer_range": 0.5,
        },
    ),
    "electra": ("Electra", BERT | {"embedding_size": 5}),
    "mpnet": ("MPNet", PADS),
}
"""A directory's name: a family, and a configuration of it."""
LOOKED_INTO = ("none, none", "right, of heads", "holes, of layers and heads")


def main() -> None:
    for directory, (family, values) in MODELS.items():
        torch.manual_seed(SEED)
        write(FOLDER / directory, family, values)


def write(folder: Path, family: str, values: dict[str, Any]) -> None:
    """One model and its answers."""
    kind = getattr(transformers, f"{family}ForSequenceClassification")
    model = kind(kind.config_class(**values, num_labels=3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # initial weights would hide a bias or a norm left out
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    model.double()

    tensors: dict[str, Tensor] = {}
    typed = hasattr(model.config, "type_vocab_size")
    for case, arguments in cases(model.config.num_hidden_layers, typed).items():
        head_mask = arguments.get("head_mask")
        if head_mask is not None:
            head_mask.requires_grad_()
        result = model(**arguments, output_hidden_states=True, output_attentions=True)
        answers = {"loss": result.loss, "logits": result.logits}
        if case in LOOKED_INTO:
            answers["hidden_states"] = torch.stack(result.hidden_states)
            answers["attentions"] = torch.stack(result.attentions)
        if head_mask is not None:
            (answers["gradient_of_head_mask"],) = torch.autograd.grad(result.loss, head_mask)
        tensors |= {f"{case}/in/{name}": value for name, value in arguments.items()}
        tensors |= {f"{case}/out/{name}": value for name, value in answers.items()}
    save_file(
        {name: value.detach().clone() for name, value in tensors.items()},
        folder / "expected.safetensors",
        metadata={"transformers": transformers.__version__, "torch": torch.__version__},
    )


def cases(n_layers: int, typed: bool) -> dict[str, dict[str, Tensor]]:
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
    rows = [[1.0, 0.0, 0.6], [0.5, 1.7, 0.0], [0.0, 0.4, 1.0], [1.3, 1.0, 0.2]]
    masks = {
        "none": {},
        "of heads": {"head_mask": [0.0, 1.0, 0.3]},
        "of layers and heads": {"head_mask": rows[:n_layers]},
    }
    return {
        f"{padding}, {mask}": {
            "input_ids": torch.randint(0, 20, (3, 5)),
            **({"token_type_ids": torch.randint(0, 2, (3, 5))} if typed else {}),
            "labels": torch.tensor([2, 0, 1]),
            **paddings[padding],
            **{k: torch.tensor(v, dtype=torch.float64) for k, v in masks[mask].items()},
        }
        for padding in paddings
        for mask in masks
    }


if __name__ == "__main__":
    main()
