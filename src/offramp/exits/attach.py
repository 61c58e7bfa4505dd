"""Putting ramps on a model: `add_exits`, and the section of config.json they travel in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from torch import nn

from offramp.errors import ConfigError
from offramp.exits.container import FORMAT, Exits, OwnedExits, exits_of, task_of
from offramp.exits.criteria import (
    Criterion,
    Entropy,
    RegressionPatience,
    check_criterion,
    criterion_from_dict,
)
from offramp.exits.forward import answers_by_depth, logits_by_depth
from offramp.exits.ramps import POOLERS, TOKENS, Ramp
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel

M = TypeVar("M", bound=PretrainedModel)


def add_exits(
    model: M,
    depths: Iterable[int] | None = None,
    *,
    pooler: str | None = None,
    queries: int = 4,
    hidden: int | None = None,
    dropout: float = 0.1,
    certainty: bool = False,
    criterion: Criterion | None = None,
) -> M:
    """Put a ramp after each of `depths` layers of `model`; returns the model.

    `depths` count layers from 1 and stop before the last, whose exit is the model's own head; all
    of them by default. `pooler` is `attention` (with so many learned `queries`), `first`, `last` or
    `mean`; `hidden` is the width of the ramp's tanh layer (a third of the model's by default). Of a
    token classifier each token is asked: there `pooler` is `tokens`, and `hidden` a sixth by
    default. `certainty` adds what `LearnedToExit` asks: one linear layer for all ramps. The
    criterion is `Entropy(0)`, or `RegressionPatience(0)` for numbers, until one is chosen: no row
    leaves. One that does not fit the model's task is refused. New ramps are random: train them.
    """
    if not isinstance(model, PretrainedModel) or not hasattr(model, "logits"):
        raise ConfigError(
            "add_exits takes a model that gives each row, or each of its tokens, one answer (it "
            "has `logits`), such as BertForSequenceClassification; got "
            f"{type(model).__name__}."
        )
    if isinstance(getattr(model, "exits", None), OwnedExits):
        raise ConfigError(
            f"A {type(model).__name__} has exits of its own, which cannot be replaced. Put others "
            "on a model of another class, such as BertForSequenceClassification."
        )
    if hasattr(model, "exits"):
        raise ConfigError(
            f"This model has exits after layers {model.exits.depths} already. "  # type: ignore[union-attr]
            "Delete them first (del model.exits) to put others."
        )
    chosen = _checked_depths(depths, cast(ExitableModel, model).stack.n_layers)
    if not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
        raise ConfigError(f"dropout is a probability from 0 to 1; got {dropout!r}.")
    task = task_of(model)
    pooler = _checked_pooler(pooler, model, task.tokens)
    if criterion is None:
        criterion = RegressionPatience() if task.kind == "regression" else Entropy()
    if not isinstance(certainty, bool):
        raise ConfigError(f"certainty is True or False; got {certainty!r}.")
    check_criterion(criterion).check(replace(task, certainty=certainty, depths=tuple(chosen)))
    width = int(model.config.hidden_size)
    narrow = max(1, width // (6 if task.tokens else 3))
    shape: dict[str, Any] = {
        "pooler": pooler,
        "queries": _at_least_one("queries", queries),
        "hidden": _at_least_one("hidden", narrow if hidden is None else hidden),
        "dropout": dropout,
    }
    ramps = {depth: Ramp(width, model.config.num_labels, **shape) for depth in chosen}
    pooled = width * (queries if pooler == "attention" else 1)
    exits = Exits(ramps, shape, criterion, nn.Linear(pooled, 1) if certainty else None)
    example = next(model.parameters())
    exits.to(device=example.device, dtype=example.dtype)
    model.exits = exits
    if not example.is_meta:
        for module in exits.modules():
            model._init_weights(module)
    exits.train(model.training)
    return model


def build_exits(model: M, section: Mapping[str, Any]) -> M:
    """Put the exits that a configuration's `exits` section describes; their weights come after."""
    if not isinstance(section, Mapping) or not isinstance(section.get("criterion"), Mapping):
        raise ConfigError(
            f"The `exits` section of config.json must be an object with a criterion; it is "
            f"{section!r}."
        )
    values = dict(section)
    found = values.pop("format", None)
    if found != FORMAT:
        raise ConfigError(
            f"The exits of this model are of format {found!r}; this offramp reads {FORMAT}. "
            "Update offramp."
        )
    calibration = values.pop("calibration", None)
    if not isinstance(calibration, dict | None):
        raise ConfigError(
            f"The `calibration` of the exits in config.json is an object; it is {calibration!r}."
        )
    try:
        criterion = criterion_from_dict(values.pop("criterion"))
        if isinstance(owned := getattr(model, "exits", None), OwnedExits):
            if values != {"depths": list(owned.depths), **owned.shape}:
                raise ConfigError(
                    f"The exits of config.json are {values}; a {type(model).__name__} has its own "
                    f"after layers {list(owned.depths)}, {owned.shape}."
                )
        else:
            add_exits(model, **values)
        # Not held against the task yet: another can be set before a run.
        exits_of(model).criterion, exits_of(model).calibration = criterion, calibration
        return model
    except (TypeError, KeyError, RecursionError) as error:  # criteria inside criteria, without end
        raise ConfigError(f"The `exits` section of config.json is malformed: {error}.") from error


def _checked_depths(depths: Iterable[int] | None, n_layers: int) -> list[int]:
    """The depths in order, or all of them; ConfigError for what no ramp can come after."""
    try:
        chosen = list(range(1, n_layers)) if depths is None else sorted(depths)
    except TypeError:
        raise ConfigError(f"depths are layers, such as [2, 4]; got {depths!r}.") from None
    if not all(isinstance(depth, int) and not isinstance(depth, bool) for depth in chosen):
        raise ConfigError(f"depths are whole numbers, such as [2, 4]; got {chosen}.")
    if len(set(chosen)) < len(chosen) or any(not 1 <= depth < n_layers for depth in chosen):
        raise ConfigError(
            f"Exits lie after different layers from 1 to {n_layers - 1} of this model of "
            f"{n_layers}; got {chosen}. (After layer {n_layers} the model's own head answers.)"
        )
    return chosen


def _checked_pooler(pooler: str | None, model: PretrainedModel, tokens: bool) -> str:
    """The pooler, or the usual one; ConfigError for one that the model's ramps cannot have."""
    if pooler is None:
        return TOKENS if tokens else POOLERS[0]
    if tokens and pooler != TOKENS:
        raise ConfigError(
            f"{type(model).__name__} answers for each token, and its ramps take {TOKENS!r}; got "
            f"the pooler {pooler!r}, which makes one of a row's tokens. Leave it out."
        )
    if not tokens and pooler == TOKENS:
        raise ConfigError(
            f"The pooler {TOKENS!r} is for models that answer for each token; a "
            f"{type(model).__name__} takes one of {', '.join(POOLERS)}."
        )
    if pooler not in (*POOLERS, TOKENS):
        raise ConfigError(f"A ramp's pooler is one of {', '.join(POOLERS)}; got {pooler!r}.")
    return pooler


def _at_least_one(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1; got {value!r}.")
    return value


__all__ = [
    "Exits",
    "OwnedExits",
    "add_exits",
    "answers_by_depth",
    "build_exits",
    "exits_of",
    "logits_by_depth",
    "task_of",
]
