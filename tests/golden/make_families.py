"""Make tests/golden/families: a tiny model of every class, and its answers, by transformers alone.

    python tests/golden/make_families.py

For each class transformers writes a checkpoint in float32 and answers three batches in float64, so
that the suite can compare with it where it is not installed. `expected.safetensors` holds, for
each case, the arguments under `case/in/...` and the results, as float32, under `case/out/...`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parent / "families"
SEED = 60
BERT: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 14,
    "max_position_embeddings": 9,
    "initializer_range": 0.5,
}
PADS: dict[str, Any] = BERT | {"max_position_embeddings": 11, "pad_token_id": 1}
DISTILBERT: dict[str, Any] = {
    "vocab_size": 24,
    "dim": 12,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 14,
    "max_position_embeddings": 9,
    "initializer_range": 0.5,
}
GPT2: dict[str, Any] = {
    "vocab_size": 24,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "n_inner": 14,
    "n_positions": 9,
    "initializer_range": 0.5,
    "pad_token_id": 23,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "use_cache": False,
}
TASKS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForMaskedLM",
    "ForPreTraining",
    "ForNextSentencePrediction",
    "LMHeadModel",
)
LACKING = {"BertLMHeadModel", "GPT2ForQuestionAnswering"}
"""Classes of transformers that are not here."""
FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": BERT,
    "Roberta": PADS,
    "XLMRoberta": PADS,
    "Camembert": PADS,
    "Albert": BERT
    | {"embedding_size": 5, "num_hidden_layers": 3, "num_hidden_groups": 2, "inner_group_num": 2},
    "Ernie": BERT | {"use_task_id": True},
    "DistilBert": DISTILBERT,
    "Electra": BERT | {"embedding_size": 5},
    "MPNet": PADS,
    "GPT2": GPT2,
}
WITHOUT_TYPES = ("DistilBert", "MPNet", "GPT2")


def main() -> None:
    """Those of the families that are named as arguments, or all."""
    for family, values in FAMILIES.items():
        if sys.argv[1:] and family not in sys.argv[1:]:
            continue
        for task in TASKS:
            kind = getattr(transformers, family + task, None)
            if kind is not None and family + task not in LACKING:
                torch.manual_seed(SEED)
                write(kind, family, task, values)


def write(kind: Any, family: str, task: str, values: dict[str, Any]) -> None:
    """One class's directory."""
    n_labels = 2 if task in ("ForQuestionAnswering", "ForPreTraining") else 3
    config = kind.config_class(**values, num_labels=n_labels, attn_implementation="eager")
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # initial weights would hide a bias or a norm left out
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = FOLDER / kind.__name__
    model.save_pretrained(folder)
    model.double()
    tensors: dict[str, Tensor] = {}
    for case, arguments in cases(family, task, config).items():
        tensors |= {f"{case}/in/{name}": value for name, value in arguments.items()}
        forgotten = {"Ernie": "task_type_ids", "DistilBert": "position_ids"}.get(family)
        if task == "ForMultipleChoice" and forgotten in arguments:
            arguments[forgotten] = arguments[forgotten].flatten(0, 1)  # it wants these as rows
        look = task == "Model" and case == "right"
        with torch.no_grad():
            result = model(**arguments, output_hidden_states=look, output_attentions=look)
        for name, value in result.items():
            if isinstance(value, tuple) and value:  # a layer each; of cross-attention none
                value = torch.stack(value)
            if isinstance(value, Tensor):
                tensors[f"{case}/out/{name}"] = value.float()
    save_file(
        {name: value.clone() for name, value in tensors.items()},
        folder / "expected.safetensors",
        metadata={"transformers": transformers.__version__, "torch": torch.__version__},
    )


def cases(family: str, task: str, config: Any) -> dict[str, dict[str, Tensor]]:
    """Batches of three rows of at most six tokens (or three times two choices), by name."""
    shape = (3, 2, 6) if task == "ForMultipleChoice" else (3, 6)
    ids = torch.randint(0, 24, shape)
    ids[0, ..., 2] = ids[1, ..., 0] = 1  # padding of some families, among the tokens
    columns, counts = torch.arange(6), torch.tensor([[3], [6], [1]])
    right = (columns < counts).long()
    holes = right.clone()
    holes[1, [2, 4]] = 0
    if task == "ForMultipleChoice":
        right, holes = (mask[:, None].expand(shape).contiguous() for mask in (right, holes))
    right_case = {"input_ids": ids, "attention_mask": right}
    if family not in WITHOUT_TYPES:
        right_case["token_type_ids"] = torch.randint(0, 2, shape)
    if family == "Ernie":
        right_case["task_type_ids"] = torch.randint(0, 3, shape)
    width = getattr(config, "embedding_size", config.hidden_size)
    embeds = torch.randn(*shape, width).float().double()
    low = config.max_position_embeddings - 9
    both = {
        "plain": {"input_ids": ids, **labels(family, task)},
        "right": right_case | ({} if task == "ForQuestionAnswering" else labels(family, task)),
    }
    if (family, task) == ("GPT2", "ForSequenceClassification"):
        # It reads a row where padding begins, which it cannot tell of embeds.
        both["right"]["input_ids"] = ids.masked_fill(right == 0, config.pad_token_id)
        return both
    return both | {
        "holes": {
            "inputs_embeds": embeds,
            "attention_mask": holes,
            "position_ids": torch.randint(low, low + 9, shape),
        },
    }


def labels(family: str, task: str) -> dict[str, Tensor]:
    """What the class's loss takes; nothing for positions that any case masks."""
    words = torch.full((3, 6), -100)
    words[0, :2], words[1, 5], words[2, 0] = torch.tensor([4, 20]), 9, 0
    rows = torch.tensor([0, 1, 1])
    if task == "ForPreTraining" and family == "Electra":
        return {"labels": torch.randint(0, 2, (3, 6))}
    return {
        "Model": {},
        "ForSequenceClassification": {"labels": torch.tensor([0, 2, 1])},
        "ForTokenClassification": {"labels": words.clamp(max=2)},
        "ForQuestionAnswering": {
            "start_positions": torch.tensor([1, 0, 7]),  # the last was cut off
            "end_positions": torch.tensor([3, 0, 7]),
        },
        "ForMultipleChoice": {"labels": rows},
        "ForMaskedLM": {"labels": words},
        "LMHeadModel": {"labels": words},
        "ForPreTraining": {
            "labels": words,
            ("sentence_order_label" if family == "Albert" else "next_sentence_label"): rows,
        },
        "ForNextSentencePrediction": {"labels": rows},
    }[task]


if __name__ == "__main__":
    main()
