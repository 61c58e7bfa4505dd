"""Parity of every BERT class with transformers 5.23 over a seeded sweep of configurations.

Outputs, hidden states, attentions, losses and the gradient of every parameter, in float64, where
only rounding differs. `CASES` says what is particular to a class; `drawn` makes a configuration and
a batch of it for each mask and seed.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import offramp
from offramp.nn.blocks import ACTIVATIONS

SEEDS = range(2)
EXACT = {"rtol": 1e-9, "atol": 1e-9}
"""Of 3120 draws the worst differed by 9e-11, a gradient; outputs differ by less than 1e-12."""
Tensors: TypeAlias = dict[str, Tensor]


class Draws:
    """Random numbers, the same in every run."""

    def __init__(self, *seeds: int) -> None:
        self.rng = np.random.default_rng(seeds)

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def whole(self, low: int, high: int) -> int:
        """From `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def ids(self, below: int, *shape: int) -> Tensor:
        return torch.from_numpy(self.rng.integers(0, below, shape))

    def normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.rng.standard_normal(shape))

    def coins(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.rng.random(shape) < 0.5)


# Masks of [rows, length]; the last is of query and key


def right(draw: Draws, n_rows: int, length: int) -> Tensor:
    return (torch.arange(length) <= draw.ids(length, n_rows, 1)).long()


def holes(draw: Draws, n_rows: int, length: int) -> Tensor:
    mask = right(draw, n_rows, length) * draw.coins(n_rows, length)
    mask[:, 0] = 1
    return mask


def scattered(draw: Draws, n_rows: int, length: int) -> Tensor:
    """Any pattern, the first position masked too, with a real token in each row."""
    mask = draw.coins(n_rows, length).long()
    mask[range(n_rows), draw.ids(length, n_rows)] = 1
    return mask


PAIRS = "of query and key"
MASKS: dict[str, Callable[[Draws, int, int], Tensor | None]] = {
    "none": lambda draw, n_rows, length: None,
    "all real": lambda draw, n_rows, length: torch.ones(n_rows, length, dtype=torch.int64),
    "right": right,
    "left": lambda *drawn: right(*drawn).flip(1),
    "holes": holes,
    "scattered": scattered,
    PAIRS: lambda draw, n_rows, length: (
        draw.coins(n_rows, length, length) | torch.eye(length, dtype=torch.bool)
    ),
}


# Labels of each kind, for the real positions [B, L] or [B, choices, L]


def a_class_a_row(draw: Draws, config: Any, real: Tensor) -> Tensors:
    labels = draw.ids(config.num_labels, len(real))
    labels[1:][draw.coins(len(real) - 1)] = -100  # left out; one stays
    return {"labels": labels}


def flags(draw: Draws, config: Any, real: Tensor) -> Tensors:
    return {"labels": draw.coins(len(real), config.num_labels).double()}


def targets(draw: Draws, config: Any, real: Tensor) -> Tensors:
    flat = config.num_labels == 1 and draw.pick(True, False)
    return {"labels": draw.normal(len(real), *([] if flat else [config.num_labels]))}


def a_choice(draw: Draws, config: Any, real: Tensor) -> Tensors:
    return {"labels": draw.ids(real.shape[1], len(real))}


def follows(draw: Draws, config: Any, real: Tensor) -> Tensors:
    return {"labels": draw.ids(2, len(real))}


def a_class_a_token(draw: Draws, config: Any, real: Tensor) -> Tensors:
    return {"labels": at_some(draw, real, config.num_labels)}


def a_word_a_token(draw: Draws, config: Any, real: Tensor) -> Tensors:
    return {"labels": at_some(draw, real, config.vocab_size)}


def words_and_follows(draw: Draws, config: Any, real: Tensor) -> Tensors:
    return a_word_a_token(draw, config, real) | {"next_sentence_label": draw.ids(2, len(real))}


def at_some(draw: Draws, real: Tensor, n_classes: int) -> Tensor:
    """Labels at some real positions: a loss counts masked ones too if they have labels."""
    given = real & draw.coins(*real.shape)
    given[0, int(real[0].int().argmax())] = True
    return draw.ids(n_classes, *real.shape).masked_fill(~given, -100)


def a_span(draw: Draws, config: Any, real: Tensor) -> Tensors:
    """Places, some of them outside the row: an answer that was cut off.

    transformers' loss is a softmax over masked positions too, where offramp's logits are zeros: a
    batch with padding has no loss in common.
    """
    if not real.all():
        return {}
    length = real.shape[1]
    starts, ends = draw.ids(length + 3, 2, len(real))
    starts[0] = ends[0] = length // 2
    return {"start_positions": starts, "end_positions": ends}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is particular to a class: `labels` makes what its loss takes.

    `of_tokens` are the outputs [B, L, ..]; the inputs of `choices` are [B, choices, L].
    """

    name: str
    labels: Callable[[Draws, Any, Tensor], Tensors] = lambda draw, config, real: {}
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    of_tokens: tuple[str, ...] = ()
    choices: bool = False


ROWS = "BertForSequenceClassification"
CASES: dict[str, Case] = {
    "body": Case("BertModel", of_tokens=("last_hidden_state",)),
    "body without pooler": Case(
        "BertModel", arguments={"add_pooling_layer": False}, of_tokens=("last_hidden_state",)
    ),
    "pretraining": Case("BertForPreTraining", words_and_follows, of_tokens=("prediction_logits",)),
    "words": Case("BertForMaskedLM", a_word_a_token, of_tokens=("logits",)),
    "next sentence": Case("BertForNextSentencePrediction", follows),
    "single label": Case(ROWS, a_class_a_row, {"problem_type": "single_label_classification"}),
    "single label, guessed": Case(ROWS, a_class_a_row),
    "multi-label": Case(ROWS, flags, {"problem_type": "multi_label_classification"}),
    "multi-label, guessed": Case(ROWS, flags),
    "regression": Case(ROWS, targets, {"problem_type": "regression", "num_labels": 1}),
    "regression, guessed": Case(ROWS, targets, {"num_labels": 1}),
    "regression on several": Case(ROWS, targets, {"problem_type": "regression"}),
    "choice": Case("BertForMultipleChoice", a_choice, choices=True),
    "tokens": Case("BertForTokenClassification", a_class_a_token, of_tokens=("logits",)),
    "answers": Case(
        "BertForQuestionAnswering",
        a_span,
        {"num_labels": 2},
        of_tokens=("start_logits", "end_logits"),
    ),
}
# transformers' multiple choice has no way in for a mask of query and key.
SWEEP = [
    (case, mask, seed)
    for case in CASES
    for mask in MASKS
    for seed in SEEDS
    if not (CASES[case].choices and mask == PAIRS)
]
FORMS: tuple[tuple[str, ...], ...] = (
    ("input_ids",),
    ("input_ids", "token_type_ids"),
    ("input_ids", "position_ids"),
    ("inputs_embeds",),
    ("input_ids", "token_type_ids", "position_ids"),
    ("inputs_embeds", "token_type_ids", "position_ids"),
)
"""What a batch is given as. They take turns, so that each case meets each."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One configuration and one batch.

    `real` [R, L] are the positions to compare; R is rows, or rows x choices. The masks say the
    same: `mask` as drawn, `pairs` of query and key, `their_mask` as transformers takes it.
    """

    config: dict[str, Any]
    train: bool
    inputs: Tensors
    real: Tensor
    mask: Tensor | None
    pairs: Tensor
    their_mask: Tensor | None


def drawn(case_name: str, mask_name: str, seed: int) -> Drawn:
    case, place = CASES[case_name], list(MASKS).index(mask_name)
    case_number = zlib.crc32(case_name.encode())
    draw = Draws(case_number, place, seed)
    train = seed % 2 == 0
    values = draw_config(draw, with_dropout=not train) | case.config
    config = transformers.BertConfig(**values)
    length = draw.whole(2, config.max_position_embeddings)
    shape = (draw.whole(1, 5), *([draw.whole(2, 4)] if case.choices else []), length)
    n_rows = math.prod(shape[:-1])

    mask, real = MASKS[mask_name](draw, n_rows, length), torch.ones(n_rows, length).bool()
    if mask is not None and mask_name == PAIRS:
        pairs = mask
        lowest = torch.finfo(torch.float64).min  # their open attention adds it to the scores
        their_mask = torch.zeros(mask.shape).double().masked_fill(~mask, lowest)[:, None]
    else:
        real = real if mask is None else mask.bool()
        pairs = real.view(*shape[:-1], 1, length).expand(*shape, length)
        if mask is not None:
            mask = mask.view(shape).to(draw.pick(torch.int64, torch.bool, torch.float32))
        their_mask = mask

    possible: Tensors = {
        "input_ids": draw.ids(config.vocab_size, *shape),
        "token_type_ids": draw.ids(config.type_vocab_size, *shape),
        "position_ids": draw.ids(config.max_position_embeddings, *shape),
        "inputs_embeds": draw.normal(*shape, config.hidden_size).requires_grad_(),
    }
    if not case.choices and draw.pick(True, False):
        possible["position_ids"] = possible["position_ids"][:1]  # the same for all rows
    form = FORMS[(case_number + place + 3 * seed) % len(FORMS)]
    inputs = {name: possible[name] for name in form}
    labels = case.labels(draw, config, real.view(shape))
    return Drawn(values, train, inputs | labels, real, mask, pairs, their_mask)


def draw_config(draw: Draws, with_dropout: bool) -> dict[str, Any]:
    """A small BERT's numbers. With dropout in force there is nothing to compare."""
    heads, vocabulary = draw.whole(1, 4), draw.whole(15, 40)
    dropout = draw.pick(0.1, 0.5) if with_dropout else 0.0
    return {
        "vocab_size": vocabulary,
        "hidden_size": heads * draw.whole(4, 7),
        "num_hidden_layers": draw.whole(1, 4),
        "num_attention_heads": heads,
        "intermediate_size": draw.whole(3, 30),
        "hidden_act": draw.pick(*ACTIVATIONS),
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "classifier_dropout": draw.pick(None, dropout),
        "max_position_embeddings": draw.whole(8, 14),
        "type_vocab_size": draw.whole(1, 4),
        "initializer_range": 0.5,  # at .02 an error in what a layer adds would hardly show
        "layer_norm_eps": draw.pick(1e-12, 1e-5, 1e-2),
        "pad_token_id": draw.pick(None, 0, 3, vocabulary - 1),
        "tie_word_embeddings": draw.pick(True, False),
        "num_labels": draw.whole(2, 5),
    }


# The comparison

LOOK = {"output_hidden_states": True, "output_attentions": True}
WAYS: dict[str, Callable[[Drawn], dict[str, Any]]] = {
    "plain": lambda of: {"attention_mask": of.mask},
    "padded": lambda of: {"attention_mask": of.pairs},
    "looked into": lambda of: {"attention_mask": of.mask} | LOOK,
}
"""The ways of a batch through offramp's layers: packed where it can be, padded, and open."""


@pytest.mark.parametrize(("case_name", "mask_name", "seed"), SWEEP)
def test_outputs_losses_and_gradients(
    case_name: str, mask_name: str, seed: int, tmp_path: Path
) -> None:
    case, of = CASES[case_name], drawn(case_name, mask_name, seed)
    theirs, ours = pair(case, of, tmp_path)
    expected = at_real(case, theirs(**of.inputs, **LOOK, attention_mask=of.their_mask), of.real)
    slopes: dict[bool, dict[str, Tensor | None]] = {}
    for way, arguments in WAYS.items():
        look = way == "looked into"
        wanted = expected if look else {k: v for k, v in expected.items() if "/" not in k}
        found = at_real(case, ours(**of.inputs, **arguments(of)), of.real)
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            close(value, wanted[name], f"{way}: {name}")

        if look not in slopes:
            slopes[look] = gradients(theirs, of, wanted)
        grads = gradients(ours, of, found)
        assert grads.keys() == slopes[look].keys()
        for name, grad in grads.items():
            close(grad, slopes[look][name], f"{way}: gradient of {name}")


def test_the_sweep_meets_every_option() -> None:
    """Or else a change to what is drawn could leave one out unseen."""
    met = [(case, drawn(case, mask, seed)) for case, mask, seed in SWEEP]
    configs = [of.config for _, of in met]
    assert {config["hidden_act"] for config in configs} == set(ACTIVATIONS)
    assert {config["tie_word_embeddings"] for config in configs} == {True, False}
    assert {config["num_hidden_layers"] for config in configs} == {1, 2, 3, 4}
    names = {name for form in FORMS for name in form}
    for case_name, case in CASES.items():
        own = [of for name, of in met if name == case_name]
        assert {of.train for of in own} == {True, False}
        assert {frozenset(names & of.inputs.keys()) for of in own} == set(map(frozenset, FORMS))
        labelled = any(of.inputs.keys() - names for of in own)
        assert labelled == case.name.startswith("BertFor")


def pair(case: Case, of: Drawn, folder: Path) -> tuple[Any, Any]:
    """transformers' model with random weights, and what offramp reads of the files it saves."""
    config = transformers.BertConfig(**of.config, attn_implementation="eager")
    theirs = getattr(transformers, case.name)(config, **case.arguments).double()
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases, norms and the row of padding too
            parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(folder)
    ours = getattr(offramp, case.name).from_pretrained(folder, **case.arguments)
    return theirs.train(of.train), ours.train(of.train)


def at_real(case: Case, output: Any, real: Tensor) -> Tensors:
    """What a model returned, by name, at real positions: elsewhere offramp's answers are zeros."""
    found: Tensors = {}
    for name in (field.name for field in dataclasses.fields(output)):
        value = getattr(output, name)
        if isinstance(value, tuple):  # a layer each: [R, L, D], or attentions [R, H, L, L]
            layers = value if name == "hidden_states" else [each.transpose(1, 2) for each in value]
            found |= {f"{name}/{i}": each[real] for i, each in enumerate(layers)}
        elif value is not None:
            found[name] = value[real] if name in case.of_tokens else value
    return found


def gradients(model: Any, of: Drawn, outputs: Tensors) -> dict[str, Tensor | None]:
    """Of the loss and of a fixed random projection of all else, by parameter; and of the inputs."""
    total = torch.zeros((), dtype=torch.float64)
    for name, value in outputs.items():
        towards = Draws(zlib.crc32(name.encode())).normal(*value.shape)
        total = total + (value if name == "loss" else (value * towards).sum())
    leaves = dict(model.named_parameters())
    if "inputs_embeds" in of.inputs:
        leaves["inputs_embeds"] = of.inputs["inputs_embeds"]
    grads = torch.autograd.grad(total, list(leaves.values()), retain_graph=True, allow_unused=True)
    return dict(zip(leaves, grads, strict=True))


def close(found: Tensor | None, expected: Tensor | None, what: str) -> None:
    if found is None or expected is None:
        assert found is expected, what
    else:
        torch.testing.assert_close(found, expected, **EXACT, msg=lambda text: f"{what}: {text}")
