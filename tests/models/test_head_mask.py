"""Masks of attention heads, as transformers 4.38 took them, in every family.

Frozen: what it answered when tests/golden/make_head_mask.py ran.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity_families import CLASSES, FAMILIES, when_landed
from safetensors.torch import load_file
from torch import Tensor

import offramp

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "head_mask"
MODELS = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "albert": "Albert",
    "albert-inner": "Albert",
    "ernie": "Ernie",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "mpnet": "MPNet",
}
CASES = [
    f"{padding}, {head_mask}"
    for padding in ("none", "right", "left", "holes")
    for head_mask in ("none", "of heads", "of layers and heads")
]
LOOKED_INTO = {"none, none", "right, of heads", "holes, of layers and heads"}


def golden(directory: str) -> dict[str, dict[str, dict[str, Tensor]]]:
    """{case: {"in" or "out": {name: tensor}}}"""
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for path, tensor in load_file(GOLDEN / directory / "expected.safetensors").items():
        case, side, name = path.split("/")
        found.setdefault(case, {}).setdefault(side, {})[name] = tensor
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "directory",
    [
        pytest.param(directory, marks=when_landed(f"{family}ForSequenceClassification"))
        for directory, family in MODELS.items()
    ],
)
def test_answers_are_transformers_4_38s(directory: str, case: str) -> None:
    kind = getattr(offramp, f"{MODELS[directory]}ForSequenceClassification")
    model = kind.from_pretrained(GOLDEN / directory).double()
    arguments, expected = golden(directory)[case]["in"], golden(directory)[case]["out"]
    real = arguments.get("attention_mask", torch.ones(3, 5)).bool()
    head_mask = arguments.get("head_mask")
    if head_mask is not None:
        head_mask.requires_grad_()

    def close(found: Tensor, wanted: Tensor) -> None:  # in float64, where only rounding differs
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)

    found = model(**arguments, output_hidden_states=True, output_attentions=True)
    close(found.loss, expected["loss"])
    close(found.logits, expected["logits"])
    if case in LOOKED_INTO:
        # 4.38 kept hidden states after each run of a group of ALBERT's layers alone.
        inner = getattr(model.config, "inner_group_num", 1)
        for one, two in zip(found.hidden_states[::inner], expected["hidden_states"], strict=True):
            close(one[real], two[real])
        for one, two in zip(found.attentions, expected["attentions"], strict=True):
            close(one.transpose(1, 2)[real], two.transpose(1, 2)[real])
    unseen = model(**arguments)
    close(unseen.logits, expected["logits"])
    for loss in (found.loss, unseen.loss) if head_mask is not None else ():
        (gradient,) = torch.autograd.grad(loss, head_mask)
        close(gradient, expected["gradient_of_head_mask"])


def test_every_golden_is_tried() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(MODELS)
    encoders = {name for name, family in FAMILIES.items() if not family.causal}
    assert set(MODELS.values()) == encoders
    for directory in MODELS:
        found = golden(directory)
        assert sorted(found) == sorted(CASES)
        assert {case for case in found if "attentions" in found[case]["out"]} == LOOKED_INTO
        # A mask that changes nothing would not be seen to be left out.
        plain = found["right, none"]["out"]["logits"]
        assert not torch.allclose(plain, found["right, of layers and heads"]["out"]["logits"])


IDS = torch.tensor([[2, 5, 7, 3], [2, 9, 3, 4]])


@pytest.mark.parametrize(
    ("family", "task"),
    [
        pytest.param(family, task, marks=when_landed(family + task))
        for family, task in CLASSES
        if task != "Model"
    ],
)
def test_every_class_hands_the_mask_of_heads_on(family: str, task: str) -> None:
    values: dict[str, Any] = FAMILIES[family].tiny
    if task in ("ForQuestionAnswering", "ForPreTraining"):
        values = values | {"num_labels": 2}
    model = getattr(offramp, family + task)(getattr(offramp, f"{family}Config")(**values)).eval()
    ids = IDS[:, None] if task == "ForMultipleChoice" else IDS
    head_mask = torch.tensor([1.0, 0.5, 0.0, 2.0])
    look = {"output_hidden_states": True, "output_attentions": True}
    found = model(ids, head_mask=head_mask, **look)
    expected = model.base_model(IDS, head_mask=head_mask, **look)
    for field in ("hidden_states", "attentions"):
        for one, two in zip(found[field], expected[field], strict=True):
            torch.testing.assert_close(one, two)
    without = vars(model(ids))
    logits = [key for key, value in without.items() if key.endswith("logits")]
    assert logits
    assert not any(torch.allclose(found[key], without[key]) for key in logits)


@pytest.mark.parametrize("shape", [(3,), (1, 4), (5, 4), (3, 1, 4)])
@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=when_landed(f + "Model")) for f in FAMILIES]
)
def test_a_mask_of_another_shape_is_refused(family: str, shape: tuple[int, ...]) -> None:
    config = getattr(offramp, f"{family}Config")(**FAMILIES[family].tiny)
    model = getattr(offramp, f"{family}Model")(config).eval()
    with pytest.raises(offramp.InputError, match=r"head_mask must be \[4\] or \[3, 4\]"):
        model(IDS, head_mask=torch.ones(shape))
