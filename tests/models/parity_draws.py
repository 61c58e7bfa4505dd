"""What the tests of parity draw: numbers, masks, labels, and what is particular to a task.

Nothing here knows a family; `parity_families` has those.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

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

    def coins(self, *shape: int, odds: float = 0.5) -> Tensor:
        return torch.from_numpy(self.rng.random(shape) < odds)


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
PADDED = ("right", "left", "holes", "scattered")
"""Those that leave positions out."""


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


def the_next_word(draw: Draws, config: Any, real: Tensor) -> Tensors:
    """Words of tokens that have a real one before them: what a masked one says has no loss here."""
    after = real.clone()
    after[:, 1:] &= real[:, :-1]
    labels = at_some(draw, after, config.vocab_size) if after.any(1)[0] else None
    return {} if labels is None or not (labels[:, 1:] >= 0).any() else {"labels": labels}


def words_and_follows(draw: Draws, config: Any, real: Tensor) -> Tensors:
    return a_word_a_token(draw, config, real) | {"next_sentence_label": draw.ids(2, len(real))}


def words_and_order(draw: Draws, config: Any, real: Tensor) -> Tensors:
    return a_word_a_token(draw, config, real) | {"sentence_order_label": draw.ids(2, len(real))}


def replaced(draw: Draws, config: Any, real: Tensor) -> Tensors:
    """A flag a token, masked ones too: this loss leaves them out itself."""
    return {"labels": draw.ids(2, *real.shape)}


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


# What is particular to a task


@dataclasses.dataclass(frozen=True)
class Case:
    """A task's class and how it is met: `labels` makes what its loss takes.

    `of_tokens` are the outputs [B, L, ..]; the inputs of `choices` are [B, choices, L]. `only`
    names the families that have the task where not all do.
    """

    task: str
    """How the class's name ends."""
    labels: Callable[[Draws, Any, Tensor], Tensors] = lambda draw, config, real: {}
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    of_tokens: tuple[str, ...] = ()
    choices: bool = False
    pairs_have_loss: bool = True
    """Whether transformers computes the loss under a mask of query and key."""
    rounds_loss: bool = False
    """Whether transformers' loss is float32 whatever the logits are."""
    rounds_gradients: bool = False
    """And whether its gradients are."""
    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()


ROWS = "ForSequenceClassification"
LOSSLESS = ("body", "body without pooler", "order of more labels")
CASES: dict[str, Case] = {
    "body": Case("Model", of_tokens=("last_hidden_state",)),
    "body without pooler": Case(
        "Model",
        arguments={"add_pooling_layer": False},
        of_tokens=("last_hidden_state",),
        but=("DistilBert", "Electra", "GPT2"),  # which never have one
    ),
    "pretraining": Case(
        "ForPreTraining",
        words_and_follows,
        of_tokens=("prediction_logits",),
        only=("Bert", "Ernie"),
    ),
    "words and order": Case(
        "ForPreTraining",
        words_and_order,
        {"num_labels": 2},
        of_tokens=("prediction_logits",),
        only=("Albert",),
    ),
    # Its classifier has num_labels outputs, and its loss is of two.
    "order of more labels": Case(
        "ForPreTraining",
        config={"num_labels": 3},
        of_tokens=("prediction_logits",),
        only=("Albert",),
    ),
    "replaced tokens": Case(
        "ForPreTraining",
        replaced,
        of_tokens=("logits",),
        pairs_have_loss=False,
        rounds_loss=True,
        only=("Electra",),
    ),
    "words": Case("ForMaskedLM", a_word_a_token, of_tokens=("logits",), but=("GPT2",)),
    "next words": Case(
        "LMHeadModel",
        the_next_word,
        of_tokens=("logits",),
        rounds_loss=True,
        rounds_gradients=True,
        only=("GPT2",),
    ),
    "next sentence": Case("ForNextSentencePrediction", follows, only=("Bert", "Ernie")),
    "single label": Case(ROWS, a_class_a_row, {"problem_type": "single_label_classification"}),
    "single label, guessed": Case(ROWS, a_class_a_row),
    "multi-label": Case(ROWS, flags, {"problem_type": "multi_label_classification"}),
    "multi-label, guessed": Case(ROWS, flags),
    "regression": Case(ROWS, targets, {"problem_type": "regression", "num_labels": 1}),
    "regression, guessed": Case(ROWS, targets, {"num_labels": 1}),
    "regression on several": Case(ROWS, targets, {"problem_type": "regression"}),
    "choice": Case("ForMultipleChoice", a_choice, choices=True, but=("GPT2",)),
    "tokens": Case("ForTokenClassification", a_class_a_token, of_tokens=("logits",)),
    "answers": Case(
        "ForQuestionAnswering",
        a_span,
        {"num_labels": 2},
        of_tokens=("start_logits", "end_logits"),
        but=("GPT2",),
    ),
}


def cases_of(family: str) -> dict[str, Case]:
    """The cases that a family of this name has."""
    return {
        name: case
        for name, case in CASES.items()
        if family not in case.but and (not case.only or family in case.only)
    }


FORMS: tuple[tuple[str, ...], ...] = (
    ("input_ids",),
    ("input_ids", "token_type_ids"),
    ("input_ids", "position_ids"),
    ("inputs_embeds",),
    ("input_ids", "token_type_ids", "position_ids"),
    ("inputs_embeds", "token_type_ids", "position_ids"),
)
"""What a batch is given as. They take turns, so that each case meets each."""
