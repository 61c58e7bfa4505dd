"""Float32 and bfloat16 of every family beside transformers'.

Float32 answers agree to 1e-5 at real positions. In bfloat16 both libraries are wrong, and are
compared with the float32 answer: offramp's error is at most half as much again as transformers'.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_draws import Draws, cases_of
from parity_families import FAMILIES, when_landed
from parity_pairs import LOOK, at_real, batch, drawn, pair, reference
from torch import Tensor

import offramp

CLASSES = [
    pytest.param(family, case, marks=when_landed(family + of.task))
    for family in FAMILIES
    for case, of in cases_of(family).items()
]


@pytest.mark.parametrize("mask_name", ["right", "holes"])
@pytest.mark.parametrize(("family_name", "case_name"), CLASSES)
def test_float32_is_transformers(
    family_name: str, case_name: str, mask_name: str, tmp_path: Path
) -> None:
    family, case = FAMILIES[family_name], cases_of(family_name)[case_name]
    of = drawn(family, case_name, mask_name, seed=4)
    config = of.config | {"initializer_range": 0.1}
    name = family_name + case.task
    theirs, ours = pair(name, config, tmp_path, torch.float32, 0.1, **case.arguments)
    inputs, their_inputs = (
        {key: x.float() if x.is_floating_point() else x for key, x in each.items()}
        for each in (of.inputs, of.their_inputs)
    )
    with torch.no_grad():
        answer = theirs(**their_inputs, **LOOK, attention_mask=of.their_mask)
        expected = at_real(case, answer, of.real)
        for look in ({}, LOOK):
            found = at_real(case, ours(**inputs, **look, attention_mask=of.mask), of.real)
            assert found.keys() == expected.keys() if look else found.keys() <= expected.keys()
            for output, value in found.items():
                torch.testing.assert_close(
                    value,
                    expected[output],
                    rtol=1e-5,
                    atol=1e-5,
                    msg=lambda text, output=output: f"{output}: {text}",
                )


# Half precision

SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 30,
    "num_labels": 16,
}
DISTILBERT_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}
GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
SEEDS = range(6)
MARGIN = 1.5
READ = {"Model": "last_hidden_state", "ForSequenceClassification": "logits"}


@pytest.mark.parametrize(
    ("family_name", "task"),
    [
        pytest.param(family, task, marks=when_landed(family + task))
        for family in FAMILIES
        for task in READ
    ],
)
def test_bfloat16_is_as_near_as_transformers(family_name: str, task: str, tmp_path: Path) -> None:
    family, name = FAMILIES[family_name], family_name + task
    names = {"DistilBert": DISTILBERT_NAMES, "GPT2": GPT2_NAMES}.get(family_name, {})
    values = {names.get(key, key): value for key, value in SMALL.items()}
    if family.causal:
        values |= {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    errors: dict[str, list[Tensor]] = {"transformers": [], "offramp": []}
    for seed in SEEDS:
        torch.manual_seed(seed)
        theirs = reference(name, values, torch.float32, 0.05)
        theirs.save_pretrained(tmp_path)
        ours = getattr(offramp, name).from_pretrained(tmp_path, dtype=torch.bfloat16)
        draw = Draws(seed)
        inputs = batch(draw, family, theirs.config, (12, 24))
        inputs = {k: inputs[k] for k in ("input_ids", "token_type_ids") if k in inputs}
        real = torch.arange(24) < 1 + draw.ids(24, 12, 1)
        inputs["attention_mask"] = real.long()
        if family.causal:  # or they would read another token
            inputs["input_ids"] = inputs["input_ids"].clamp(min=1).masked_fill(~real, 0)
        with torch.no_grad():
            exact = theirs(**inputs)[READ[task]]
            halves = {"transformers": copy.deepcopy(theirs).bfloat16(), "offramp": ours}
            for library, model in halves.items():
                found = model(**inputs)[READ[task]]
                assert found.dtype == torch.bfloat16
                error = (found.float() - exact).abs()
                errors[library].append((error[real] if task == "Model" else error).flatten())
    figures = {
        library: {"max": all_of.max().item(), "rms": all_of.square().mean().sqrt().item()}
        for library, all_of in ((library, torch.cat(parts)) for library, parts in errors.items())
    }
    for kind, limit in figures["transformers"].items():
        assert limit > 0, "nothing was compared"
        assert figures["offramp"][kind] <= MARGIN * limit, f"{name}, {kind}: {figures}"
