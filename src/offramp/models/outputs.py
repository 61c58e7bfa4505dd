"""What models return: frozen dataclasses that also unpack and index like the ancestors' tuples.

They are dictionaries of what is not None too, because trainers ask `isinstance(output, dict)` and
take it for a tuple with the loss first if it is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import torch.utils._pytree as pytree
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class ModelOutput(dict[str, Any]):
    """Base of results. By position and when unpacked, fields that are None are left out.

    So they are among `keys()`, `values()` and `items()`, but iteration gives the values. As
    accelerate makes it anew, `type(output)({name: value})` is taken for `type(output)(name=value)`.
    """

    def __init_subclass__(cls) -> None:
        pytree.register_pytree_node(cls, _flatten, _unflatten)

    def __post_init__(self) -> None:
        names = [field.name for field in dataclasses.fields(self)]
        given = getattr(self, names[0])
        if isinstance(given, Mapping):
            for name in names:
                object.__setattr__(self, name, given.get(name))
        there = {name: getattr(self, name) for name in names}
        super().update({name: value for name, value in there.items() if value is not None})

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order."""
        values = (getattr(self, f.name) for f in dataclasses.fields(self))
        return tuple(value for value in values if value is not None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self.to_tuple())

    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            if key not in {f.name for f in dataclasses.fields(self)}:
                raise KeyError(key)
            return getattr(self, key)
        return self.to_tuple()[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, f.name) for f in dataclasses.fields(self))

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        """Raise FrozenInstanceError: a result cannot be changed."""
        raise dataclasses.FrozenInstanceError(
            f"{type(self).__name__} cannot be changed; dataclasses.replace makes another."
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse


_Shape = tuple[type[ModelOutput], tuple[str, ...]]


def _flatten(output: ModelOutput) -> tuple[list[Any], _Shape]:
    names = [f.name for f in dataclasses.fields(output) if getattr(output, f.name) is not None]
    return [getattr(output, name) for name in names], (type(output), tuple(names))


def _unflatten(values: Iterable[Any], shape: _Shape) -> ModelOutput:
    kind, names = shape
    return kind(**dict(zip(names, values, strict=True)))


@dataclasses.dataclass(frozen=True)
class BaseModelOutputWithPooling(ModelOutput):
    """The body's result.

    `last_hidden_state` [B, L, D], zeros at masked positions; `pooler_output` [B, D], None without a
    pooler. Here and below, where asked for: `hidden_states` N + 1 times [B, L, D], `attentions` N
    times [B, H, L, L].
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class SequenceClassifierOutput(ModelOutput):
    """A classifier's result: `loss` [] where labels were given, `logits` [B, C]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class MaskedLMOutput(ModelOutput):
    """`loss` [] where labels were given, `logits` [B, L, V], zeros at masked positions."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class CausalLMOutput(ModelOutput):
    """`loss` [] where labels were given, `logits` [B, L, V], zeros at masked positions."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class NextSentencePredictorOutput(ModelOutput):
    """`loss` [] where labels were given, `logits` [B, 2]: the second sentence follows, or not."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class PreTrainingOutput(ModelOutput):
    """Both of BERT's pretraining heads: logits [B, L, V] and [B, 2]; the loss is their sum."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class WordsAndOrderOutput(ModelOutput):
    """Both of ALBERT's pretraining heads: logits [B, L, V] and [B, 2]; the loss is their sum."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    sop_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class ReplacedTokensOutput(ModelOutput):
    """`loss` [] where labels were given, `logits` [B, L]: above 0 the token was replaced."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class TokenClassifierOutput(ModelOutput):
    """`loss` [] where labels were given, `logits` [B, L, C]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class QuestionAnsweringModelOutput(ModelOutput):
    """`loss` [] where positions were given, logits of the answer's first and last token [B, L]."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class MultipleChoiceModelOutput(ModelOutput):
    """`loss` [] where labels were given, `logits` [B, choices]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
