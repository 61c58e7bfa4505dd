"""A model made ready for inference on a CPU: the same modules, with faster linear layers."""

from __future__ import annotations

import threading
import weakref
from typing import Any, NamedTuple, TypeVar, cast

import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from offramp.errors import ConfigError, InputError
from offramp.models.base import PretrainedModel
from offramp.models.walking import walk
from offramp.nn.blocks import Heads
from offramp.nn.prepared import Int8Linear, PreparedLinear, can_prepare, keep_memory

M = TypeVar("M", bound=PretrainedModel)

NARROW = 64
"""Linear layers with fewer inputs or outputs keep float32: there is little to gain."""


def prepare(model: M, *, int8: bool = False) -> M:
    """A copy of `model` for inference whose plain linear layers are `PreparedLinear`s.

    The copy shares the parameters, and holds the weights of linear layers once more, those of keys
    and values twice, laid out for the processor. It does not follow later changes of the model.
    Layers of other classes, such as an adapter's, are called as they are. The model itself comes
    back where there is nothing to gain: on another device than a CPU, in other types than float32,
    or where a hook looks on, at any of its modules.

    With `int8` the products are of eight-bit whole numbers, which is faster and less exact; choose
    thresholds on the prepared model then, for they are a little off. Raises ConfigError where that
    is impossible, and InputError for a model in training mode.
    """
    checked(model)
    if not _is_plain(model, int8):
        if int8:
            raise ConfigError(
                "int8=True takes a float32 model on a CPU, without hooks, and a torch that has "
                "oneDNN's kernels for eight bits."
            )
        return model
    kind = Int8Linear if int8 else PreparedLinear
    keep_memory()
    copies: dict[int, nn.Module] = {}
    copy = cast(M, _copied(model, copies))
    for module in copies.values():
        if isinstance(module, Heads):
            _, key, value = (getattr(module, name) for name in module.projections)
            if type(key) is nn.Linear and type(value) is nn.Linear:
                # Not one of its modules: the two that it stands for are.
                module.__dict__["both"] = kind(key, value)
    _swap(copy, kind, {})
    vars(copy)["_is_prepared"] = True
    return copy


def _is_plain(model: nn.Module, int8: bool) -> bool:
    """Whether the model is of float32 on a CPU and no hook looks on."""
    plain = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())
    hooked = _has_hook_for_all() or any(_is_hooked(module) for module in model.modules())
    return plain and not hooked and can_prepare(torch.float32, int8)


def _is_hooked(module: nn.Module) -> bool:
    """Whether somebody sees, or replaces, what the module computes."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )


def _has_hook_for_all() -> bool:
    """Whether somebody looks into every module there is."""
    return bool(_has_any_global_hook())  # type: ignore[no-untyped-call]


def _copied(module: nn.Module, copies: dict[int, nn.Module]) -> nn.Module:
    """The module with parts of its own; everything else is the same."""
    if id(module) in copies:
        return copies[id(module)]
    copy: nn.Module = object.__new__(type(module))
    copies[id(module)] = copy
    vars(copy).update(vars(module))
    vars(copy)["_modules"] = {
        name: None if part is None else _copied(part, copies)
        for name, part in module._modules.items()
    }
    return copy


def _swap(module: nn.Module, kind: type[PreparedLinear], made: dict[int, nn.Module]) -> None:
    """Put a prepared layer for each plain linear layer inside: one, where it is there twice."""
    idle = module.projections[1:] if isinstance(module, Heads) and module.both is not None else ()
    for name, part in module._modules.items():
        if type(part) is nn.Linear and name not in idle:
            if id(part) not in made:
                # Heads and exits stay exact: they are small, and what they say decides.
                wide = min(part.in_features, part.out_features) >= NARROW
                made[id(part)] = (kind if wide else PreparedLinear)(part)
            module._modules[name] = made[id(part)]
        elif part is not None:
            _swap(part, kind, made)


class _Kept(NamedTuple):
    stamp: tuple[object, ...]
    samples: list[tuple[npt.NDArray[Any], bytes]]
    copy: PretrainedModel | None
    """None where it is the model itself, which would hold itself alive."""


_kept: weakref.WeakKeyDictionary[PretrainedModel, _Kept] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def prepared(model: M) -> M:
    """`prepare(model)`, made once for as long as the model's parts, attributes and parameters stay.

    Raises InputError for a model in training mode.
    """
    if is_prepared(model):
        return checked(model)
    stamp = _stamp(model)
    with _making:
        kept = _kept.get(model)
        if kept is None or kept.stamp != stamp or _differ(kept.samples):
            copy = prepare(model)
            samples = [] if copy is model else _samples(model)
            kept = _kept[model] = _Kept(stamp, samples, None if copy is model else copy)
    return model if kept.copy is None else cast(M, kept.copy)


def is_prepared(model: nn.Module) -> bool:
    """Whether it is what `prepare` makes, and not a model that it gives back as it is."""
    return "_is_prepared" in vars(model)


def checked(model: M) -> M:
    """The model; InputError if it is in training mode."""
    if any(module.training for _, module in walk(model)):
        raise InputError(_IN_TRAINING)
    return model


_IN_TRAINING = "The model is in training mode; call model.eval() before running it."


def _stamp(model: nn.Module) -> tuple[object, ...]:
    """Something else whenever parts or attributes were exchanged, parameters changed, or hooks put.

    That a parameter was changed by way of its `data` is not in it.
    """
    marks: list[object] = [_has_hook_for_all()]
    left, seen = [model], set[nn.Module]()
    while left:
        module = left.pop()
        if module in seen:
            continue
        seen.add(module)
        if module.training:
            raise InputError(_IN_TRAINING)
        own = vars(module)
        marks += map(id, own.values())  # the copy holds the same, so that none is used again
        marks.append(_is_hooked(module))
        for parameter in own["_parameters"].values():
            if parameter is not None:
                version = None if parameter.is_inference() else parameter._version
                marks += (id(parameter), version, parameter.data_ptr())
        parts = [part for part in own["_modules"].values() if part is not None]
        marks.append(len(parts))
        left += parts
    return tuple(marks)


def _samples(model: nn.Module) -> list[tuple[npt.NDArray[Any], bytes]]:
    """Of each parameter up to a hundred values, as they lie in it and as they were."""
    flat = (parameter.detach().numpy().reshape(-1) for parameter in model.parameters())
    views = [values[:: len(values) // 64 or 1] for values in flat]
    return [(view, view.tobytes()) for view in views]


def _differ(samples: list[tuple[npt.NDArray[Any], bytes]]) -> bool:
    return any(view.tobytes() != before for view, before in samples)
