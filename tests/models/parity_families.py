"""The families that are held to transformers: their configurations, and what is peculiar to each.

A new family is an entry of `FAMILIES`; the tests of parity, of the goldens and of the contract run
over it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from parity_draws import Draws

import offramp
from offramp.nn.activations import ACTIVATIONS

Values = dict[str, Any]


def when_landed(name: str) -> pytest.MarkDecorator:
    """A test of a class that may not be here yet. The one place to change when all are."""
    return pytest.mark.skipif(name not in offramp.__all__, reason=f"offramp has no {name} yet")


# Configurations, drawn. Dropout is zero where it would be in force: it leaves nothing to compare


def bert(draw: Draws, dropout: float) -> Values:
    heads, vocabulary = draw.whole(1, 4), draw.whole(15, 40)
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


def roberta(draw: Draws, dropout: float) -> Values:
    values = bert(draw, dropout)
    pad = draw.pick(0, 1, 3, values["vocab_size"] - 1)
    positions = values["max_position_embeddings"] + pad + 1
    return values | {"pad_token_id": pad, "max_position_embeddings": positions}


def albert(draw: Draws, dropout: float) -> Values:
    values = bert(draw, dropout)
    del values["classifier_dropout"]
    layers = draw.whole(1, 5)
    return values | {
        "num_hidden_layers": layers,
        "num_hidden_groups": draw.whole(1, min(layers, 3)),
        "inner_group_num": draw.whole(1, 2),
        "embedding_size": draw.pick(values["hidden_size"], draw.whole(3, 9)),
        "classifier_dropout_prob": dropout,
    }


def ernie(draw: Draws, dropout: float) -> Values:
    return bert(draw, dropout) | {
        "use_task_id": draw.pick(True, False),
        "task_type_vocab_size": draw.whole(1, 4),
    }


def distilbert(draw: Draws, dropout: float) -> Values:
    values = bert(draw, dropout)
    kept = ("vocab_size", "max_position_embeddings", "initializer_range", "pad_token_id")
    return {name: values[name] for name in (*kept, "tie_word_embeddings", "num_labels")} | {
        "dim": values["hidden_size"],
        "n_layers": values["num_hidden_layers"],
        "n_heads": values["num_attention_heads"],
        "hidden_dim": values["intermediate_size"],
        "activation": values["hidden_act"],
        "dropout": dropout,
        "attention_dropout": dropout,
        "qa_dropout": dropout,
        "seq_classif_dropout": dropout,
        "sinusoidal_pos_embds": draw.pick(True, False),
    }


def electra(draw: Draws, dropout: float) -> Values:
    values = bert(draw, dropout)
    return values | {
        "embedding_size": draw.pick(values["hidden_size"], draw.whole(3, 9)),
        "summary_type": draw.pick("first", "last", "mean", "cls_index"),
        "summary_use_proj": draw.pick(True, False),
        "summary_activation": draw.pick("gelu", "tanh", "relu", ""),
        "summary_last_dropout": dropout,
    }


def mpnet(draw: Draws, dropout: float) -> Values:
    values = bert(draw, dropout)
    del values["classifier_dropout"], values["type_vocab_size"]
    rows = draw.pick(*[values["max_position_embeddings"]] * 5, 150)  # far tokens share a distance
    return values | {
        # A table of fewer rows has none for a token's right neighbour: transformers' buckets are
        # always 32.
        "relative_attention_num_buckets": draw.pick(32, 40),
        "pad_token_id": draw.pick(None, 0, 1, 3),  # positions are numbered from 1 all the same
        "max_position_embeddings": rows + 2,
    }


def gpt2(draw: Draws, dropout: float) -> Values:
    values = bert(draw, dropout)
    return {name: values[name] for name in ("vocab_size", "initializer_range", "num_labels")} | {
        "n_embd": values["hidden_size"],
        "n_layer": values["num_hidden_layers"],
        "n_head": values["num_attention_heads"],
        "n_inner": draw.pick(None, values["intermediate_size"]),
        "n_positions": values["max_position_embeddings"],
        "activation_function": values["hidden_act"],
        "resid_pdrop": dropout,
        "embd_pdrop": dropout,
        "attn_pdrop": dropout,
        "classifier_dropout": dropout,
        "layer_norm_epsilon": values["layer_norm_eps"],
        "scale_attn_weights": draw.pick(True, False),
        "scale_attn_by_inverse_layer_idx": draw.pick(True, False),
        "tie_word_embeddings": values["tie_word_embeddings"],
        "pad_token_id": values["vocab_size"] - 1,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "use_cache": False,  # what transformers' forward returns of it is no output to compare
    }


# The tiny ones, the same in every test that needs no choice

TINY: Values = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "initializer_range": 0.5,
    "num_labels": 3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TINY_DISTILBERT: Values = {
    "vocab_size": 20,
    "dim": 8,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 12,
    "max_position_embeddings": 10,
    "initializer_range": 0.5,
    "num_labels": 3,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
TINY_GPT2: Values = {
    "vocab_size": 20,
    "n_embd": 8,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 12,
    "n_positions": 10,
    "initializer_range": 0.5,
    "num_labels": 3,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "classifier_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 11,
}


@dataclasses.dataclass(frozen=True)
class Family:
    """`draw` makes a configuration; `tiny` is one of at most ten tokens a row.

    `meets` are settings and the values that a sweep must meet of each.
    """

    classes: str
    """How the names of its classes begin."""
    draw: Callable[[Draws, float], Values]
    tiny: Values
    meets: dict[str, set[Any]] = dataclasses.field(default_factory=dict)
    pooler: bool = True
    token_types: bool = True
    numbered_from_pad: bool = False
    """Whether positions are counted over what is no padding token, and from its id on."""
    pad: int | None = None
    """The padding token where it is not the configuration's."""
    causal: bool = False
    """Whether a token attends to none behind it, and rows are read at their last token, which
    transformers knows by what is padding."""
    seeds: int = 2
    """How many configurations a case and a mask are met with."""

    def pad_of(self, config: Any) -> int | None:
        """The token that is padding in a configuration of this family."""
        pad: int | None = config.pad_token_id if self.pad is None else self.pad
        return pad

    def longest(self, config: Any) -> int:
        """How many tokens a row may have."""
        positions: int = config.max_position_embeddings
        if not self.numbered_from_pad:
            return positions
        pad = self.pad_of(config)
        assert pad is not None
        return positions - pad - 1

    @staticmethod
    def width_of_embeds(config: Any) -> int:
        """The width of `inputs_embeds`."""
        width: int = getattr(config, "embedding_size", config.hidden_size)
        return width


_BERTS = {
    "hidden_act": set(ACTIVATIONS),
    "num_hidden_layers": {1, 2, 3, 4},
    "tie_word_embeddings": {True, False},
}
_PADS = {"max_position_embeddings": 12, "pad_token_id": 1}
FAMILIES: dict[str, Family] = {
    family.classes: family
    for family in (
        Family("Bert", bert, TINY, _BERTS),
        Family("Roberta", roberta, TINY | _PADS, _BERTS, numbered_from_pad=True),
        Family("XLMRoberta", roberta, TINY | _PADS, _BERTS, numbered_from_pad=True, seeds=1),
        Family("Camembert", roberta, TINY | _PADS, _BERTS, numbered_from_pad=True, seeds=1),
        Family(
            "Albert",
            albert,
            TINY | {"embedding_size": 6, "num_hidden_groups": 2, "classifier_dropout_prob": 0.0},
            _BERTS
            | {
                "num_hidden_layers": {1, 2, 3, 4, 5},
                "num_hidden_groups": {1, 2, 3},
                "inner_group_num": {1, 2},
            },
        ),
        Family(
            "Ernie", ernie, TINY | {"use_task_id": True}, _BERTS | {"use_task_id": {True, False}}
        ),
        Family(
            "DistilBert",
            distilbert,
            TINY_DISTILBERT,
            {
                "activation": set(ACTIVATIONS),
                "n_layers": {1, 2, 3, 4},
                "tie_word_embeddings": {True, False},
                "sinusoidal_pos_embds": {True, False},
            },
            pooler=False,
            token_types=False,
        ),
        Family(
            "Electra",
            electra,
            TINY | {"embedding_size": 6},
            _BERTS
            | {
                "summary_type": {"first", "last", "mean", "cls_index"},
                "summary_use_proj": {True, False},
                "summary_activation": {"gelu", "tanh", "relu", ""},
            },
            pooler=False,
        ),
        Family(
            "MPNet",
            mpnet,
            TINY | _PADS,
            _BERTS | {"relative_attention_num_buckets": {32, 40}},
            token_types=False,
            numbered_from_pad=True,
            pad=1,
        ),
        Family(
            "GPT2",
            gpt2,
            TINY_GPT2,
            {
                "activation_function": set(ACTIVATIONS),
                "n_layer": {1, 2, 3, 4},
                "tie_word_embeddings": {True, False},
                "scale_attn_weights": {True, False},
                "scale_attn_by_inverse_layer_idx": {True, False},
            },
            pooler=False,
            token_types=False,
            causal=True,
        ),
    )
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


def tasks_of(family: str) -> list[str]:
    """How the names of a family's classes end."""
    if family == "GPT2":
        return ["Model", "ForSequenceClassification", "ForTokenClassification", "LMHeadModel"]
    lacking = {
        "ForPreTraining": ("Roberta", "XLMRoberta", "Camembert", "DistilBert", "MPNet"),
        "ForNextSentencePrediction": (
            *("Roberta", "XLMRoberta", "Camembert", "DistilBert", "MPNet"),
            *("Albert", "Electra"),
        ),
    }
    return [task for task in TASKS[:-1] if family not in lacking.get(task, ())]


CLASSES = [(family, task) for family in FAMILIES for task in tasks_of(family)]
"""Every class, as (family, task)."""
