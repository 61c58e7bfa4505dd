"""Whether PaddleNLP loads what `offramp convert --to paddle` writes, and gives the same answers.

`make paddle-check` installs PaddleNLP 2.8.1 into a place of its own and runs both halves: `write`
with transformers (tiny random models of every class, converted, their answers beside them), `read`
with PaddleNLP. It prints the greatest difference of each class, and exits 1 where one is over 1e-5.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FAMILIES = ("Bert", "Ernie", "Roberta", "Albert")
HEADS = (
    "Model",
    "ForMaskedLM",
    "ForPreTraining",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "embedding_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 40,
    "type_vocab_size": 3,
    "pad_token_id": 0,
    "num_labels": 2,
    "layer_norm_eps": 1e-12,
}
CLOSE = 1e-5


def write(target: Path) -> None:
    """Tiny models of transformers, converted; `ids.json` and `answers.npz` beside each."""
    import numpy as np
    import torch
    import transformers

    import offramp

    torch.manual_seed(0)
    ids = torch.randint(1, 99, (3, 12))  # no padding: what is masked by default differs
    for family in FAMILIES:
        for head in HEADS:
            name = family + head
            if not hasattr(transformers, name):
                continue
            sizes = dict(SIZES)
            if family == "Albert":
                sizes["layer_norm_eps"] = 1e-5  # its head of words has no other in PaddleNLP
            config = getattr(transformers, f"{family}Config")(**sizes)
            model = getattr(transformers, name)(config).eval()
            for parameter in model.parameters():  # no two alike, no zeros and ones
                torch.nn.init.normal_(parameter, std=0.3)
            model.tie_weights()
            model.save_pretrained(target / name / "hf")
            offramp.convert(target / name / "hf", target / name / "paddle", "paddle")
            with torch.inference_mode():
                answers = model(ids).to_tuple()
            np.savez(target / name / "answers.npz", *[a.numpy() for a in answers])
    (target / "ids.json").write_text(json.dumps(ids.tolist()))


def read(target: Path) -> bool:
    """Load each with PaddleNLP; whether all answers are close."""
    import zlib  # noqa: F401

    import numpy as np
    import paddle
    import paddlenlp.transformers as library
    import scipy  # noqa: F401  # before paddle, which brings libraries that break it

    ids = paddle.to_tensor(json.loads((target / "ids.json").read_text()))
    good = True
    for directory in sorted(path for path in target.iterdir() if path.is_dir()):
        cls: Any = getattr(library, directory.name.replace("PreTraining", "Pretraining"))
        model = cls.from_pretrained(str(directory / "paddle"))
        model.eval()
        found = model(ids)
        found = found if isinstance(found, (tuple, list)) else (found,)
        with np.load(directory / "answers.npz") as expected:
            pairs = list(zip(found, expected.values(), strict=False))
        if directory.name == "AlbertForQuestionAnswering":
            pairs = pairs[:1]  # PaddleNLP 2.8.1 gives the start's numbers for the end's
        difference = max(float(np.abs(one.numpy() - other).max()) for one, other in pairs)
        print(f"{directory.name:<34}{difference:.1e}")
        good = good and difference <= CLOSE
    return good


if __name__ == "__main__":
    half, place = sys.argv[1], Path(sys.argv[2])
    if half == "write":
        write(place)
    elif not read(place):
        sys.exit("PaddleNLP's answers are not transformers'.")
