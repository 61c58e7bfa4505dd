"""PaddleNLP's models as ours, and ours as PaddleNLP's: names, orientation, ties and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from offramp.checkpoints.content import settled
from offramp.checkpoints.renames import named_back, renamed
from offramp.checkpoints.stored import FLOATS, Stored
from offramp.checkpoints.tables import FAMILIES, Family, paddle_rows
from offramp.checkpoints.weights import Weights
from offramp.errors import CheckpointError, ConfigError
from offramp.models.config_file import architecture
from offramp.models.conversion import Target

_ONLY_PADDLE = ("paddlenlp_version", "fuse")


def from_paddle(
    weights: Weights, values: Mapping[str, Any], family: Family, model_type: str
) -> tuple[Weights, dict[str, Any], dict[str, str], list[str]]:
    """PaddleNLP's tensors and settings as ours: what is tied once, and what it leaves out stated.

    Also {tensor: the one whose copy it is}, and notes for the user. Raises CheckpointError for
    tensors that no table knows, or that are integers.
    """
    rows = paddle_rows(model_type, architecture(values))
    own = {n for n in weights.tensors if n in weights.foreign or renamed(n, rows) is not None}
    _check_known(weights, own)
    _check_types(weights)
    values = dict(values)
    weights, copies, notes = _of_today(weights, family, values)
    twice = _twice(weights, family, values)
    weights = weights if values.get("tie_word_embeddings") is False else weights.without(twice)
    values = _own_config(values, family, weights.tensors)
    if values.get("use_task_id") and values.get("task_id"):
        notes.append(
            f"PaddleNLP takes task {values['task_id']} where no task_type_ids are given, and so "
            "does offramp; transformers takes 0: pass them."
        )
    if "pool_act" in values:
        notes.append("transformers' pooler ends in tanh, whatever pool_act is.")
    return weights, values, copies, notes


def opened(
    weights: Weights, values: Mapping[str, Any], defaults: Mapping[str, Any], model_type: str
) -> tuple[Weights, dict[str, Any], list[str]]:
    """What a model is opened with: tensors and settings of any version of PaddleNLP as ours.

    Tensors that no table knows stay: the model says whether it does. `defaults` are the class's.
    Also notes for the user.
    """
    stated = own_settings(values, defaults, weights.tensors)
    family = FAMILIES.get(model_type)
    if family is None:
        return weights, stated, []
    weights, _, notes = _of_today(weights, family, stated)
    _twice(weights, family, stated)  # what is there twice stays: the report tells of it
    if model_type == "albert":
        stated["words_norm_eps"] = 1e-5  # whatever is stated
    return weights, stated | dict(family.paddle_ignores), notes


def to_paddle(weights: Weights, values: dict[str, Any], family: Family) -> Target:
    """What PaddleNLP is given: tied tensors twice, matrices turned round, every size stated.

    Raises CheckpointError for tensors that no table knows.
    """
    model_type = str(values["model_type"])
    rows = paddle_rows(model_type, architecture(values))
    _check_known(weights, {name for name in weights.tensors if named_back(name, rows) is not None})
    tensors = dict(weights.tensors)
    tied = _tied(tensors, family, values)
    tensors |= {name: tensors[other] for name, other in tied.items()}
    there = Target(tensors, {}, _paddle_config(values, family), tied=tied)
    for name in tensors:
        there.names[name], transpose = named_back(name, rows) or (name, False)
        if transpose and tensors[name].array.ndim == 2:
            there.turned.add(name)
    if model_type == "albert":
        positions = _positions(tensors)
        tensors |= positions
        there.names |= {name: name for name in positions}
    if values.get("exits"):
        there.notes.append("PaddleNLP has no exits: it warns of theirs and does not use them.")
    if model_type != "albert" and weights.dialect != "paddle":
        there.notes.append("PaddleNLP masks the pad token where no attention_mask is given.")
    if "predictions.LayerNorm.weight" in tensors and values.get("layer_norm_eps") != 1e-5:
        there.notes.append(
            "PaddleNLP's head of words has layer_norm_eps 1e-05, whatever is stated."
        )
    for name, value in family.paddle_ignores.items():
        if values.get(name, value) != value:
            there.notes.append(f"PaddleNLP has {name} {value}, whatever is stated.")
    return there


def _positions(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The numbers 0, 1, 2, ... of ALBERT's positions, which PaddleNLP keeps as a tensor."""
    table = "embeddings.position_embeddings.weight"
    prefix = "" if table in tensors else "transformer."
    rows = tensors.get(table, tensors.get(f"albert.{table}"))
    if rows is None:
        return {}
    numbers = np.arange(rows.shape[0], dtype=np.int64)[None]
    return {f"{prefix}embeddings.position_ids": Stored("I64", numbers)}


_ALIKE = (
    re.compile(r"(\w+\.)?embeddings\.(word|position|token_type|task_type)_embeddings\.weight"),
    re.compile(r"(cls\.predictions|lm_head|predictions)\.(decoder\.(weight|bias)|bias)"),
    re.compile(r"lm_head\.layer_norm\.(weight|bias)"),
    re.compile(r"(\w+\.)?encoder\.albert_layer_groups\.\d+\.albert_layers\.\d+\.full_layer_.*"),
    re.compile(r"exits\..*"),
)
"""Tensors of one name in both, which lie alike in both."""


def _check_known(weights: Weights, known: set[str]) -> None:
    """CheckpointError for a tensor that no table knows: it might lie the other way round."""
    unknown = [
        weights.foreign.get(name, name)
        for name in weights.tensors
        if name not in known and not any(pattern.fullmatch(name) for pattern in _ALIKE)
    ]
    if unknown:
        raise CheckpointError(
            f"{weights.source} has {', '.join(unknown[:5])}, which no table knows; it is not known "
            "how they lie. Convert the model without them.",
            file=weights.source,
        )


def _check_types(weights: Weights) -> None:
    """CheckpointError for integers as weights: bfloat16 may lie there without saying so."""
    bare = {name: s.dtype for name, s in weights.tensors.items() if s.dtype not in FLOATS}
    if bare:
        name, kind = next(iter(bare.items()))
        raise CheckpointError(
            f"{weights.source} has {len(bare)} tensors of integers, such as {name} ({kind}). "
            "Paddle writes bfloat16 as uint16: if that is meant, pass uint16_is_bfloat16=True.",
            file=weights.source,
        )


def _tied(
    tensors: Mapping[str, Stored], family: Family, values: Mapping[str, Any]
) -> dict[str, str]:
    """{tensor that PaddleNLP expects a second time: the one that it is}."""
    return {
        name: other
        for name, other in family.twins.items()
        if name not in tensors
        and other in tensors
        and name.rpartition(".decoder")[0] + ".bias" in tensors
        and (name.endswith(".bias") or values.get("tie_word_embeddings", True))
    }


def _twice(weights: Weights, family: Family, values: dict[str, Any]) -> set[str]:
    """What is there twice because it is tied; where it differs, the settings are made to say so.

    Where the words are untied, transformers' bias is too.
    """
    tensors = weights.tensors
    pairs = {n: o for n, o in family.twins.items() if n in tensors and o in tensors}
    equal = {n for n, other in pairs.items() if _equal(tensors[n], tensors[other])}
    if any(name.endswith(".weight") for name in pairs.keys() - equal):
        values["tie_word_embeddings"] = False
    return equal


def _of_today(
    weights: Weights, family: Family, values: Mapping[str, Any]
) -> tuple[Weights, dict[str, str], list[str]]:
    """What PaddleNLP wrote before 2.6, as 2.8 writes it; {tensor: whose copy it is}; the notes.

    The decoders of RoBERTa and ALBERT lay like other linear layers, and were not tied. RoBERTa's
    head of rows was the pooler and one layer, its head of words had one bias, and its positions
    began at 0.
    """
    tensors, foreign, turned = dict(weights.tensors), dict(weights.foreign), set(weights.turned)
    files = dict(weights.files)
    names: dict[str, str] = {}
    copies: dict[str, str] = {}
    for name, other in family.twins.items():
        if name not in tensors:
            continue
        if name.endswith(".bias") and other not in tensors:  # one then, two where untied
            tensors[other], files[other] = tensors[name], files[name]
            foreign[other] = foreign.get(name, name)
            copies[other] = name
        same = tensors.get(other)  # no vocabulary is as large as a width
        if same and tensors[name].shape == same.shape[::-1] != same.shape:
            tensors[name] = Stored(tensors[name].dtype, tensors[name].array.T)
            turned.add(name)
    if (
        architecture(values) == "RobertaForSequenceClassification"
        and "classifier.weight" in tensors
    ):
        for part in ("weight", "bias"):
            names[f"roberta.pooler.dense.{part}"] = f"classifier.dense.{part}"
            names[f"classifier.{part}"] = f"classifier.out_proj.{part}"
    names = {old: new for old, new in names.items() if old in tensors}
    for old, new in names.items():
        tensors[new], files[new] = tensors.pop(old), files.pop(old)
        foreign[new] = foreign.pop(old, old)
        if old in turned:
            turned.remove(old)
            turned.add(new)
    notes = []
    if family.prefix == "roberta" and (names or copies or "paddlenlp_version" not in values):
        notes.append(
            "PaddleNLP before 2.5 counted RoBERTa's positions from 0 (or from pad_token_id + 1, "
            "pads too): pass position_ids."
        )
    weights = replace(
        weights, tensors=tensors, files=files, foreign=foreign, turned=frozenset(turned)
    )
    return weights, copies, notes


def _equal(one: Stored, other: Stored) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    bits = f"u{one.array.itemsize}"
    return bool(np.array_equal(settled(one.array).view(bits), settled(other.array).view(bits)))


_SIZES = {
    "vocab_size": "word",
    "max_position_embeddings": "position",
    "type_vocab_size": "token_type",
}


def own_settings(
    values: Mapping[str, Any], defaults: Mapping[str, Any], tensors: Mapping[str, Stored]
) -> dict[str, Any]:
    """PaddleNLP's settings with what they leave out: the tables' sizes, and its `defaults`.

    What a default was is not the same in every version of it. Its heads for question answering
    have two columns, whatever labels are stated. `tensors` have our names.
    """
    sizes = {}
    for setting, table in _SIZES.items():
        pattern = re.compile(rf"(\w+\.)?embeddings\.{table}_embeddings\.weight")
        found = next((s for name, s in tensors.items() if pattern.fullmatch(name)), None)
        if found is not None and found.shape:
            sizes[setting] = found.shape[0]
    stated = {**defaults, **sizes, **values}
    if stated.get("use_task_id") and isinstance(task := stated.get("task_id"), int) and task:
        stated["default_task_id"] = task
    answers = tensors.get("qa_outputs.bias")
    if answers is not None and len(stated.get("id2label") or ()) != answers.array.size:
        for name in ("id2label", "label2id", "num_labels", "num_classes"):
            stated.pop(name, None)
    return stated


def _own_config(
    values: dict[str, Any], family: Family, tensors: Mapping[str, Stored]
) -> dict[str, Any]:
    values = own_settings(values, family.paddle_defaults, tensors) | dict(family.paddle_ignores)
    for name in _ONLY_PADDLE:
        values.pop(name, None)
    if values.get("pool_act") == "tanh":
        del values["pool_act"]
    if "dropout" in values:
        values["classifier_dropout"] = values.pop("dropout")
    if "num_classes" in values:
        count = values.pop("num_classes")
        if "id2label" not in values and isinstance(count, int) and 0 < count < 10_000:
            values["id2label"] = {str(n): f"LABEL_{n}" for n in range(count)}
    if "architectures" in values:
        values["architectures"] = _classes(values, "ForPretraining", "ForPreTraining")
    if values.get("mask_padding") is False:
        del values["mask_padding"]  # the way back of a model that never did
    return values


def _classes(values: Mapping[str, Any], old: str, new: str) -> list[str]:
    named = values.get("architectures") or []
    if not isinstance(named, list):
        raise ConfigError(f"architectures is a list of names; got {named!r}.")
    return [str(name).replace(old, new) for name in named]


def _paddle_config(values: dict[str, Any], family: Family) -> dict[str, Any]:
    # PaddleNLP does not read the last, and the way back must know that it was not there.
    values = {
        **family.own_defaults,
        "mask_padding": False,
        "paddlenlp_version": None,  # as it writes itself; files of before 2.5 have no such key
        **values,
    }
    values["dtype"] = values.get("dtype") or "float32"
    values.pop("torch_dtype", None)
    values["architectures"] = _classes(values, "ForPreTraining", "ForPretraining") or None
    return {key: value for key, value in values.items() if (key, value) != ("architectures", None)}
