"""Parity of every class with transformers 5.23 over a seeded sweep of configurations.

Outputs, hidden states, attentions, losses and the gradient of every parameter, in float64, where
only rounding differs. `parity_draws` says what is particular to a task and `parity_families` what
is to a family; `parity_pairs.drawn` makes a configuration and a batch of it for each mask and seed.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_draws import FORMS, LOSSLESS, MASKS, PAIRS, ROWS, Draws, Tensors, cases_of
from parity_families import FAMILIES, when_landed
from parity_pairs import LOOK, Drawn, at_real, drawn, pair
from torch import Tensor

EXACT = {"rtol": 1e-9, "atol": 1e-9}
"""Of 3120 draws of BERT the worst differed by 9e-11, a gradient; outputs by less than 1e-12."""
# transformers' multiple choice has no way in for a mask of query and key.
SWEEP = [
    pytest.param(name, case, mask, seed, marks=when_landed(name + of.task))
    for name, family in FAMILIES.items()
    for case, of in cases_of(name).items()
    for mask in MASKS
    for seed in range(family.seeds)
    if not (of.choices and mask == PAIRS)
]
ONE_A_TASK = {
    *("body", "pretraining", "words and order", "replaced tokens", "words", "next sentence"),
    *("single label", "choice", "tokens", "answers", "next words"),
}
GIVEN = {name for form in FORMS for name in form} | {"task_type_ids"}


# The comparison

WAYS: dict[str, Callable[[Drawn], dict[str, Any]]] = {
    "plain": lambda of: {"attention_mask": of.mask},
    "padded": lambda of: {"attention_mask": of.pairs} | of.labels_of_pairs,
    "looked into": lambda of: {"attention_mask": of.mask} | LOOK,
}
"""The ways of a batch through offramp's layers: packed where it can be, padded, and open."""


@pytest.mark.parametrize(("family_name", "case_name", "mask_name", "seed"), SWEEP)
def test_outputs_losses_and_gradients(
    family_name: str, case_name: str, mask_name: str, seed: int, tmp_path: Path
) -> None:
    family, case = FAMILIES[family_name], cases_of(family_name)[case_name]
    of = drawn(family, case_name, mask_name, seed)
    name = family_name + case.task
    theirs, ours = pair(name, of.config, tmp_path, torch.float64, 0.3, **case.arguments)
    theirs.train(of.train)
    ours.train(of.train)
    answer = theirs(**of.their_inputs, **LOOK, attention_mask=of.their_mask)
    expected = at_real(case, answer, of.real)
    slopes: dict[bool, dict[str, Tensor | None]] = {}
    for way, arguments in WAYS.items():
        look = way == "looked into"
        wanted = expected if look else {k: v for k, v in expected.items() if "/" not in k}
        found = at_real(case, ours(**of.inputs | arguments(of)), of.real)
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            if case.rounds_loss and name == "loss":
                torch.testing.assert_close(value.float(), wanted[name], rtol=1e-6, atol=1e-6)
            else:
                close(value, wanted[name], f"{way}: {name}")

        if look not in slopes:
            slopes[look] = gradients(theirs, of, wanted)
        grads = gradients(ours, of, found)
        assert grads.keys() == slopes[look].keys()
        near = {"rtol": 1e-5, "atol": 1e-5} if case.rounds_gradients else EXACT
        for name, grad in grads.items():
            close(grad, slopes[look][name], f"{way}: gradient of {name}", near)


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize(
    ("family_name", "case_name"),
    [
        pytest.param(name, case, marks=when_landed(name + of.task))
        for name in FAMILIES
        for case, of in cases_of(name).items()
        if case in ONE_A_TASK
    ],
)
def test_dropout_is_where_transformers_has_it(
    family_name: str,
    case_name: str,
    chosen: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A dropout that scales instead, each by a number of its own: outputs show where they are.

    `chosen` is whether the settings that may be None, for another's number, have one.
    """
    family, case = FAMILIES[family_name], cases_of(family_name)[case_name]
    of = drawn(family, case_name, "holes", seed=9)
    names = sorted(name for name in of.config if "dropout" in name)
    chances = {name: (place + 1) / 16 for place, name in enumerate(names)}
    if "classifier_dropout" in chances and not chosen:
        chances["classifier_dropout"] = None
    name = family_name + case.task
    values = of.config | chances
    theirs, ours = pair(name, values, tmp_path, torch.float64, 0.3, **case.arguments)
    theirs.train()
    ours.train()

    def scale(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return x * (1 + p) if training else x

    def answers() -> tuple[Tensors, Tensors]:
        answer = theirs(**of.their_inputs, **LOOK, attention_mask=of.their_mask)
        # Packed attention has a dropout of its own, out of reach here.
        found = ours(**of.inputs, **LOOK, attention_mask=of.mask)
        return at_real(case, found, of.real), at_real(case, answer, of.real)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "dropout", scale)
        found, expected = answers()
    for output, value in found.items():
        if output != "loss" or not case.rounds_loss:
            close(value, expected[output], output)
    last = next(output for output in found if output != "loss")
    undropped = at_real(case, ours.eval()(**of.inputs, **LOOK, attention_mask=of.mask), of.real)
    assert not torch.allclose(found[last], undropped[last])


@functools.cache
def met(name: str) -> list[tuple[str, str, Drawn]]:
    """All that is drawn of a family: case, mask and draw."""
    params = (param.values for param in SWEEP)
    return [
        (case, mask, drawn(FAMILIES[family], case, mask, seed))
        for family, case, mask, seed in params
        if family == name
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_sweep_meets_every_option(name: str) -> None:
    """Or else a change to what is drawn could leave one out unseen."""
    family, draws = FAMILIES[name], met(name)
    for setting, values in family.meets.items():
        assert {of.config[setting] for _, _, of in draws} == values, setting
    forms = {frozenset(form) & {*draws[0][2].inputs, *GIVEN} for form in FORMS}
    if not family.token_types:
        forms = {form - {"token_type_ids"} for form in forms}
    for case_name in cases_of(name):
        own = [of for found, _, of in draws if found == case_name]
        assert {of.train for of in own} == {True, False}
        given = {frozenset(GIVEN & of.inputs.keys()) - {"task_type_ids"} for of in own}
        wanted = forms
        if family.causal and cases_of(name)[case_name].task == ROWS:
            wanted = {form - {"inputs_embeds"} | {"input_ids"} for form in forms}
        assert given == wanted
        labelled = any(of.inputs.keys() - GIVEN for of in own)
        assert labelled == (case_name not in LOSSLESS)


def test_the_sweep_meets_what_is_peculiar() -> None:
    def configs(name: str) -> list[dict[str, Any]]:
        return [of.config for _, _, of in met(name)]

    for name in ("Albert", "Electra"):
        wider = {config["embedding_size"] == config["hidden_size"] for config in configs(name)}
        assert wider == {True, False}
    # A layer's group is not its number over the layers of a group, rounded.
    assert any(c["num_hidden_layers"] % c["num_hidden_groups"] for c in configs("Albert"))
    choices = [of.config for case, _, of in met("Electra") if case == "choice"]
    assert len({config["summary_type"] for config in choices}) > 1
    tasks = [of for _, _, of in met("Ernie") if of.config["use_task_id"]]
    assert {"task_type_ids" in of.inputs for of in tasks} == {True, False}
    assert max(of.real.shape[1] for _, _, of in met("MPNet")) > 128
    for name in ("Roberta", "XLMRoberta", "Camembert", "MPNet"):
        first, middle, masked = False, False, False
        for _, _, of in met(name):
            if "input_ids" not in of.inputs or "position_ids" in of.inputs:
                continue
            pad = 1 if name == "MPNet" else of.config["pad_token_id"]
            pads = (of.inputs["input_ids"].flatten(0, -2) == pad) & of.real
            first |= bool(pads[:, 0].any())
            middle |= bool((pads[:, 1:-1] & of.real[:, 2:]).any())
            masked |= bool((~of.real & (of.inputs["input_ids"].flatten(0, -2) != pad)).any())
        assert (first, middle, masked) == (True, True, True), name


def gradients(model: Any, of: Drawn, outputs: Tensors) -> dict[str, Tensor | None]:
    """Of the loss and of a fixed random projection of all else, by parameter; and of the inputs."""
    total = torch.zeros((), dtype=torch.float64)
    for name, value in outputs.items():
        towards = Draws(zlib.crc32(name.encode())).normal(*value.shape)
        total = total + (value if name == "loss" else (value * towards).sum())
    leaves = dict(model.named_parameters(remove_duplicate=False))  # tied, under both names
    if "inputs_embeds" in of.inputs:
        leaves["inputs_embeds"] = of.inputs["inputs_embeds"]
    grads = torch.autograd.grad(total, list(leaves.values()), retain_graph=True, allow_unused=True)
    return dict(zip(leaves, grads, strict=True))


def close(
    found: Tensor | None, expected: Tensor | None, what: str, near: dict[str, float] = EXACT
) -> None:
    if found is None or expected is None:
        assert found is expected, what
    else:
        torch.testing.assert_close(found, expected, **near, msg=lambda text: f"{what}: {text}")
