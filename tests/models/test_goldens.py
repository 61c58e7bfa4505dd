"""Every class against the answers that transformers gave when tests/golden/make_families.py ran."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parity_families import CLASSES, FAMILIES, when_landed
from safetensors.torch import load_file
from torch import Tensor

import offramp

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "families"
NAMES = [family + task for family, task in CLASSES]
CASES = ("plain", "right", "holes")
NEAR = {"rtol": 2e-6, "atol": 2e-6}
"""The answers were computed in float64 and are kept in float32."""
OF_TOKENS = ("last_hidden_state", "prediction_logits", "start_logits", "end_logits")
LOGITS_OF_TOKENS = ("ForMaskedLM", "ForTokenClassification", "ElectraForPreTraining", "LMHeadModel")
LACKING = {("GPT2ForSequenceClassification", "holes")}  # transformers reads the last of any embeds


def golden(name: str, case: str, side: str) -> dict[str, Tensor]:
    """{argument or output: tensor}; side is "in" or "out"."""
    found = load_file(GOLDEN / name / "expected.safetensors")
    start = f"{case}/{side}/"
    return {path.removeprefix(start): x for path, x in found.items() if path.startswith(start)}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, marks=when_landed(name))
        for name in NAMES
        for case in CASES
        if (name, case) not in LACKING
    ],
)
def test_answers_are_transformers(name: str, case: str) -> None:
    model = getattr(offramp, name).from_pretrained(GOLDEN / name).double()
    arguments, expected = golden(name, case, "in"), golden(name, case, "out")
    looks = {"hidden_states": "output_hidden_states", "attentions": "output_attentions"}
    asked = {option: True for output, option in looks.items() if output in expected}
    with torch.no_grad():
        found = model(**arguments, **asked)
    assert set(found.keys()) == set(expected)
    shape = next(arguments[key] for key in ("input_ids", "inputs_embeds") if key in arguments).shape
    masked = arguments.get("attention_mask", torch.ones(shape[:2]))
    real = masked.bool().flatten(0, -2)
    tokens = {*OF_TOKENS, "logits"} if name.endswith(LOGITS_OF_TOKENS) else set(OF_TOKENS)
    for output, wanted in expected.items():
        value = found[output]
        if output in looks:  # [N, B, L, D], or [N, B, H, L, L]
            value = torch.stack(value)
            if output == "attentions":
                value, wanted = value.transpose(2, 3), wanted.transpose(2, 3)
            value, wanted = value[:, real], wanted[:, real]
        elif output in tokens:
            value, wanted = value[real], wanted[real]
        torch.testing.assert_close(
            value.float(), wanted, **NEAR, msg=lambda text, output=output: f"{output}: {text}"
        )


def test_every_class_and_case_has_a_golden() -> None:
    """And every class that offramp has of these families is among them."""
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(NAMES)
    for name in NAMES:
        there = [case for case in CASES if (name, case) not in LACKING]
        assert all(golden(name, case, "in") and golden(name, case, "out") for case in there)
        model = tuple(f"{family}Model" for family in FAMILIES)
        losses = [case for case in CASES if "loss" in golden(name, case, "out")]
        assert bool(losses) != name.endswith(model), name
    starts = tuple(f"{family}For" for family in FAMILIES)
    here = {name for name in offramp.__all__ if name.startswith(starts)}
    here -= {name for name in here if name.endswith("WithPabee")}  # transformers has none
    assert here - {"BertForPretraining"} <= set(NAMES)  # PaddleNLP's spelling
