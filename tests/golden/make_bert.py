"""Make tests/golden/bert: a tiny BERT and its answers, written by transformers alone.

    python tests/golden/make_bert.py

transformers writes the model's files and computes what it answers to a few batches, so that the
suite can compare with transformers where it is not installed. `expected.safetensors` holds, for
each case, the arguments under `case/in/...` and the results under `case/out/...`.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parent / "bert"
SEED = 20


def main() -> None:
    torch.manual_seed(SEED)
    config = transformers.BertConfig(
        vocab_size=48,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=12,
        num_labels=3,
    )
    model = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # initial weights would hide a bias or a norm left out
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(FOLDER)

    tensors: dict[str, Tensor] = {}
    for case, arguments in cases().items():
        with torch.no_grad():
            result = model(**arguments, output_hidden_states=True)
            body = {key: value for key, value in arguments.items() if key != "labels"}
            pooled = model.bert(**body).pooler_output
        answers = {
            "logits": result.logits,
            "pooler_output": pooled,
            "hidden_states": torch.stack(result.hidden_states),
        }
        if "labels" in arguments:
            answers["loss"] = result.loss
        tensors |= {f"{case}/in/{name}": value for name, value in arguments.items()}
        tensors |= {f"{case}/out/{name}": value for name, value in answers.items()}
    save_file(
        {name: value.clone() for name, value in tensors.items()},
        FOLDER / "expected.safetensors",
        metadata={"transformers": transformers.__version__, "torch": torch.__version__},
    )


def cases() -> dict[str, dict[str, Tensor]]:
    """Batches of three rows of at most seven tokens, by name."""
    ids = torch.randint(1, 48, (3, 7))
    kinds = torch.randint(0, 2, (3, 7))
    columns, counts = torch.arange(7), torch.tensor([[3], [7], [1]])
    right = (columns < counts).long()
    holes = right.clone()
    holes[1, [2, 5]] = 0
    return {
        "plain": {"input_ids": ids},
        "right": {"input_ids": ids, "attention_mask": right, "token_type_ids": kinds},
        "left": {"input_ids": ids, "attention_mask": right.flip(1)},
        "holes": {
            "input_ids": ids,
            "attention_mask": holes,
            "labels": torch.tensor([0, 2, 1]),
        },
        "positions": {
            "input_ids": ids,
            "attention_mask": right,
            "position_ids": torch.randint(0, 12, (3, 7)),
        },
        "embeds": {"inputs_embeds": torch.randn(3, 7, 16), "attention_mask": right},
    }


if __name__ == "__main__":
    main()
