"""A model made ready for inference on a CPU: the same modules, with faster linear layers."""

from __future__ import annotations

import operator
import threading
import weakref
from functools import cache, partial
from itertools import chain
from typing import Any, TypeVar, cast

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from offramp.errors import ConfigError, InputError, shown
from offramp.exits.calibration.certificate import take_off
from offramp.exits.container import Exits, exits_of
from offramp.models.base import PretrainedModel
from offramp.models.encoder import EncoderBody
from offramp.models.walking import walk
from offramp.nn.blocks import CheckpointedLayer, Heads, Joint
from offramp.nn.prepared import Int8Linear, PreparedLinear, can_prepare, keep_memory

M = TypeVar("M", bound=PretrainedModel)

NARROW = 64
"""Linear layers with fewer inputs or outputs keep float32: there is little to gain."""


def prepare(model: M, *, int8: bool = False, compile: bool = False) -> M:
    """A copy of `model` for inference whose plain linear layers are `PreparedLinear`s.

    The copy shares the parameters, and holds the weights of linear layers once more, those of
    queries, keys and values twice, laid out for the processor. It does not follow later changes of
    the model. Layers of other classes, such as an adapter's, are called as they are. The model
    itself comes back where there is nothing to gain: on another device than a CPU, in other types
    than float32, or where a hook looks on, at any of its modules.

    With `int8` the products are of eight-bit whole numbers, which is faster and less exact; choose
    thresholds on the prepared model then, for they are a little off. With `compile` torch's
    compiler makes a program of each layer but its attention, on any device and in any type; that
    takes seconds at the first rows, once for all numbers of rows and lengths. Raises ConfigError
    where either is impossible, and InputError for a model in training mode.
    """
    checked(model)
    if is_prepared(model):
        if int8 or compile:
            raise ConfigError(
                "The model is prepared already, and its weights are laid out for that; prepare the "
                "model that it was made of."
            )
        return model
    if compile:
        return _compiled(model, int8)
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
            linears = [getattr(module, name) for name in module.projections]
            if linears and all(type(linear) is nn.Linear for linear in linears):
                wide = min(*(linear.out_features for linear in linears), linears[0].in_features)
                made = kind if wide >= NARROW else PreparedLinear
                # Not among its modules: those that it stands for are.
                module.__dict__["joint"] = Joint(made(*linears), made(*linears[1:]))
    _swap(copy, kind, {})
    if all(_is_our_own(module) for module in copy.modules()):
        for module in copy.modules():
            if isinstance(module, EncoderBody):
                vars(module)["fills"] = True
    vars(copy)["_is_prepared"] = True
    vars(copy)["_is_int8"] = int8
    if int8 and hasattr(copy, "exits"):
        take_off(exits_of(copy))  # its answers are others than those that were certified
    vars(copy)["_sums_alike"] = _is_of_known_layers(copy)
    return copy


def _compiled(model: M, int8: bool) -> M:
    """A copy of the model whose layers are compiled where they do not depend on the layout."""
    if int8:
        raise ConfigError("int8=True and compile=True are two ways to run a layer; choose one.")
    if _is_watched(model):
        raise ConfigError("compile=True takes a model without hooks; remove them first.")
    copies: dict[int, nn.Module] = {}
    copy = cast(M, _copied(model, copies))
    layers = [module for module in copies.values() if isinstance(module, CheckpointedLayer)]
    if not layers:
        raise ConfigError(
            f"compile=True takes a model of encoder layers; {type(model).__name__} has none."
        )
    _check_compiler(model.device)
    for module in copies.values():
        if isinstance(module, Heads):
            vars(module)["mix"] = partial(_mixed, module)
    for layer in layers:
        layer.compile(dynamic=True)
    vars(copy)["_is_prepared"] = True
    return copy


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _mixed(heads: Heads, *args: Any, **kwargs: Any) -> Tensor:
    """`heads.mix`, which depends on the rows' lengths, outside of compiled programs."""
    return type(heads).mix(heads, *args, **kwargs)


@cache
def _check_compiler(device: torch.device) -> None:
    """ConfigError where torch's compiler does not work: on a CPU it needs one of C++."""
    try:
        torch.compile(torch.tanh)(torch.zeros(2, device=device))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"torch.compile does not work here: {shown(reason, 200)} On a CPU it needs a compiler "
            "of C++, such as g++; without one leave compile=True out."
        ) from error


def _is_watched(model: nn.Module) -> bool:
    """Whether a hook looks on, at any of its modules."""
    return _has_hook_for_all() or any(_is_hooked(module) for module in model.modules())


def _is_plain(model: nn.Module, int8: bool) -> bool:
    """Whether the model is of float32 on a CPU and no hook looks on."""
    plain = all(_can_be_prepared(parameter) for parameter in model.parameters())
    return plain and not _is_watched(model) and can_prepare(torch.float32, int8)


def _can_be_prepared(parameter: nn.Parameter) -> bool:
    plain = parameter.device.type == "cpu" and parameter.dtype == torch.float32
    return plain and parameter.layout == torch.strided


def _is_of_known_layers(copy: nn.Module) -> bool:
    """Whether no layer has parameters whose use may depend on the other rows."""
    idle = {
        id(getattr(module, name))
        for module in copy.modules()
        if isinstance(module, Heads) and module.joint is not None
        for name in module.projections
    }
    known = (PreparedLinear, nn.Embedding, nn.LayerNorm)
    return all(
        isinstance(module, known) or id(module) in idle or _owns_none(module)
        for module in copy.modules()
    )


def _is_our_own(module: nn.Module) -> bool:
    """Whether it is of offramp or torch: another's may not expect tokens that are of no row."""
    return type(module).__module__.partition(".")[0] in ("offramp", "torch")


def _owns_none(module: nn.Module) -> bool:
    return all(parameter is None for parameter in module._parameters.values())


def _is_hooked(module: nn.Module) -> bool:
    """Whether somebody sees, or replaces, what the module computes."""
    return any(_hooks_of(module)) or "forward" in vars(module)


def _hooks_of(module: nn.Module) -> tuple[dict[int, Any], ...]:
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


def _has_hook_for_all() -> bool:
    """Whether somebody looks into every module there is."""
    return bool(_has_any_global_hook())  # type: ignore[no-untyped-call]


_OWN = ["_parameters", *(name for name in vars(nn.Module()) if "_hooks" in name)]


def _copied(module: nn.Module, copies: dict[int, nn.Module]) -> nn.Module:
    """The module with parts of its own; everything else is the same."""
    if id(module) in copies:
        return copies[id(module)]
    copy: nn.Module = object.__new__(type(module))
    copies[id(module)] = copy
    vars(copy).update(vars(module))
    for name in _OWN:  # so that a hook put on one is not the other's
        vars(copy)[name] = vars(module)[name].copy()
    vars(copy)["_modules"] = {
        name: None if part is None else _copied(part, copies)
        for name, part in module._modules.items()
    }
    return copy


def _swap(module: nn.Module, kind: type[PreparedLinear], made: dict[int, nn.Module]) -> None:
    """Put a prepared layer for each plain linear layer inside: one, where it is there twice."""
    idle = module.projections[1:] if isinstance(module, Heads) and module.joint is not None else ()
    for name, part in module._modules.items():
        if type(part) is nn.Linear and name not in idle:
            if id(part) not in made:
                # Narrow ones, as heads are, stay exact: they are cheap, and what they say decides.
                wide = min(part.in_features, part.out_features) >= NARROW
                made[id(part)] = (kind if wide else PreparedLinear)(part)
            module._modules[name] = made[id(part)]
        elif part is not None:
            _swap(part, kind, made)


_kept: weakref.WeakKeyDictionary[PretrainedModel, tuple[_Seen, PretrainedModel]]
_kept = weakref.WeakKeyDictionary()
"""What models looked like, and their copies. Where the copy is the model itself nothing is kept."""
_making = threading.Lock()


def prepared(model: M) -> M:
    """`prepare(model)`, made once for as long as the model's parts, attributes and parameters stay.

    That a few values of a parameter were changed by way of its `data` may go unseen: torch does not
    count such changes, and some sixty values of each are compared. Raises InputError for a model in
    training mode.
    """
    if is_prepared(model):
        if model.training:  # of the whole alone: it is asked at each call
            raise InputError(_IN_TRAINING)
        return model
    with _making:
        kept = _kept.get(model)
        if kept is None or kept[0].has_changed():
            _kept.pop(model, None)
            if not _is_plain(checked(model), False):
                return model
            kept = _kept[model] = _Seen(model), prepare(model)
    return cast(M, kept[1])


def is_prepared(model: nn.Module) -> bool:
    """Whether it is what `prepare` makes, and not a model that it gives back as it is."""
    return "_is_prepared" in vars(model)


def is_int8(model: nn.Module) -> bool:
    """Whether products are of eight-bit whole numbers."""
    return bool(vars(model).get("_is_int8", False))


def sums_alike(model: nn.Module) -> bool:
    """Whether a row's products are the same to the last bit in any batch."""
    return bool(vars(model).get("_sums_alike", False))


def checked(model: M) -> M:
    """The model; InputError if it is in training mode."""
    if any(module.training for _, module in walk(model)):
        raise InputError(_IN_TRAINING)
    return model


_IN_TRAINING = "The model is in training mode; call model.eval() before running it."


class _Seen:
    """A model as it was, to be held against what it is now: at each call, so it has to be quick."""

    def __init__(self, model: nn.Module) -> None:
        modules, parameters = list(model.modules()), list(model.parameters())
        self._modules = modules[1:]  # without the model, which would stay alive
        self._kinds = [*map(type, self._modules)]
        self._dicts = [
            own
            for module in modules
            # A run takes the criterion from the model itself, so that it may change.
            for own in (
                *(() if isinstance(module, Exits) else (vars(module),)),
                module._parameters,
                module._modules,
            )
        ]
        self._parts = self._parts_now()
        self._hooks = [hooks for module in modules for hooks in _hooks_of(module)]
        # Changes are not counted of tensors made in inference mode, nor if made by way of `data`.
        self._counted = [parameter for parameter in parameters if not parameter.is_inference()]
        plain = [parameter for parameter in parameters if type(parameter) is nn.Parameter]
        self._pointers = [parameter.data_ptr for parameter in plain]
        self._samples = [_sample(parameter.detach().numpy()).tobytes for parameter in plain]
        self._state = self._state_now()

    def has_changed(self) -> bool:
        """Whether parts or attributes were exchanged, parameters changed, or hooks put."""
        parts = self._parts_now()
        same = len(parts) == len(self._parts) and all(map(operator.is_, parts, self._parts))
        return not same or self._state_now() != self._state

    def _parts_now(self) -> list[object]:
        return [*chain.from_iterable(map(dict.values, self._dicts))]

    def _state_now(self) -> tuple[object, ...]:
        return (
            _has_hook_for_all(),
            any(self._hooks),
            [*map(type, self._modules)] == self._kinds,
            [parameter._version for parameter in self._counted],
            [pointer() for pointer in self._pointers],
            [sample() for sample in self._samples],
        )


def _sample(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Some sixty values of an array, from everywhere in it, as they lie there."""
    along = 64 ** (1 / max(1, values.ndim))
    return values[tuple(slice(None, None, max(1, int(n / along))) for n in values.shape)]
