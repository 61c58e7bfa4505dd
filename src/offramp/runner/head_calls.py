"""What the heads of tasks say of packed rows that have passed all layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from torch import Tensor

from offramp.errors import ConfigError
from offramp.models.base import PretrainedModel
from offramp.models.flow import Flow, LayerStack
from offramp.models.heads import MultipleChoice, QuestionAnswering, Task, TokenClassification

Head = Callable[[Flow], Tensor]
"""From a finished flow to a value a token or a row."""

K = TypeVar("K", bound=Task)


def token_logits(model: PretrainedModel) -> Head:
    """Each token's logits, [T, C]."""
    head = _with_head(model, TokenClassification)
    return lambda flow: head.token_logits(flow.hidden)


def span_logits(model: PretrainedModel) -> Head:
    """Each token's two logits, [T, 2]: that an answer starts there, and that it ends there."""
    head = _with_head(model, QuestionAnswering)
    return lambda flow: head.span_logits(flow.hidden)


def choice_logits(model: PretrainedModel) -> Head:
    """Each row's score as a choice, [R, 1]."""
    return _with_head(model, MultipleChoice).score


def body(model: PretrainedModel) -> LayerStack:
    """The model's body."""
    return cast(LayerStack, model.base_model)


def _with_head(model: PretrainedModel, kind: type[K]) -> K:
    if not isinstance(model, kind):
        raise ConfigError(
            f"Expected a model for {kind.__name__}, such as BertFor{kind.__name__}; got "
            f"{type(model).__name__}."
        )
    return model
