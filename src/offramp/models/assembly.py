"""Weights into a model that was built without any: by the loading rule, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from offramp.checkpoints.content import Array, settled
from offramp.checkpoints.stored import FLOATS, Stored
from offramp.checkpoints.weights import Weights
from offramp.errors import CheckpointError, ConfigError
from offramp.models.loading import Expected, LoadingReport, plan
from offramp.models.tensors import as_tensor, type_name
from offramp.models.walking import walk

if TYPE_CHECKING:
    from offramp.models.base import PretrainedModel


def fill(
    model: PretrainedModel,
    weights: Weights,
    *,
    dtype: torch.dtype | None = None,
    ignore_mismatched_sizes: bool = False,
    strict: bool = False,
) -> LoadingReport:
    """Give a model on the meta device its weights; what is new is initialised.

    Parameters are the weights' own tensors, of the file's type unless `dtype` is given. With
    `strict` nothing may be new and nothing left over. Raises CheckpointError before the model is
    touched, and ConfigError where a new part has no initial weights.
    """
    found = weights.tensors
    state = list(_own_tensors(model))
    report = plan(
        found,
        _expected(model, state),
        weights.source,
        ignore_mismatched_sizes=ignore_mismatched_sizes,
        renamed=weights.foreign,
        transposed=weights.turned,
    )
    types = {found[name].dtype for name in report.loaded if found[name].dtype in FLOATS}
    if dtype is None and len(types) > 1:
        raise CheckpointError(
            f"{weights.source} holds weights of several types ({', '.join(sorted(types))}). Pass "
            "the one to use, e.g. dtype=torch.float32.",
            report=report,
        )
    check_twins(weights, report)
    if strict and (report.initialised or report.dropped):
        raise CheckpointError(
            f"{weights.source} is not exactly a {type(model).__name__}: {report}",
            report=report,
        )
    tensors = _read(weights, report.loaded)
    tensors |= {name: tensors[report.loaded[o]].clone() for name, o in report.copied.items()}
    _assign(model, tensors, report, _shared(model._tied(), state))
    if dtype is None:
        return report
    model.to(dtype)
    new = type_name(dtype)
    casts = {
        target: (old, new)
        for name, target in report.loaded.items()
        if (old := found[name].dtype) in FLOATS and old != new
    }
    return replace(report, dtype=dtype, casts=casts)


def _read(weights: Weights, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors in host memory under the model's names, each with memory of its own.

    A file's are private views of its mapping, read when touched; given ones are copied.
    """
    tensors = {
        new: as_tensor(weights.tensors[name], given=weights.given) for name, new in names.items()
    }
    if weights.given:
        return {name: tensor.clone() for name, tensor in tensors.items()}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_ptr()):
        if tensor.data_ptr() < end:  # a .bin may keep one memory for several tensors
            tensors[name] = tensor.clone()
        end = max(end, tensor.data_ptr() + tensor.nbytes)
    return tensors


def expected(model: PretrainedModel) -> Expected:
    """What the model takes: its tensors, and which of them are heads."""
    return _expected(model, list(_own_tensors(model)))


def _expected(model: PretrainedModel, state: list[tuple[str, Tensor, bool]]) -> Expected:
    prefix = model.base_model_prefix
    body = model.base_model
    at = "" if body is model else prefix + "."
    # Everything beside the body is a head; exits are not: a config that names them has them.
    children = [name for name, _ in model.named_children() if name not in (prefix, "exits")]
    parts = [head for head in model.known_heads if head.partition(".")[0] in children]
    whole = [name for name in children if not any(head.startswith(name + ".") for head in parts)]
    # What a head has without a module of its own.
    loose = [*model.named_parameters(recurse=False), *model.named_buffers(recurse=False)]
    tied = model._tied()
    return Expected(
        shapes={name: tuple(tensor.shape) for name, tensor, _ in state if name not in tied},
        prefix=prefix,
        heads=(
            *((at + name) for name in model.optional_modules),
            *(() if body is model else (*parts, *whole, *(name for name, _ in loose))),
        ),
        known_heads=(
            *model.known_heads,
            *(f"{prefix}.{name}" for name in model.optional_modules),
            *model.optional_modules,
            "exits",
        ),
        tied=tied,
        # transformers before 5 keeps the one bias of a word head under one name, tied or not.
        stand_ins={n: o for n, o in model.tied_weights.items() if n.endswith(".bias")},
        integers={
            name: type_name(tensor.dtype)
            for name, tensor, is_buffer in state
            if is_buffer and not tensor.is_floating_point()
        },
    )


def _assign(
    model: PretrainedModel,
    tensors: dict[str, Tensor],
    report: LoadingReport,
    shared: Mapping[str, str],
) -> None:
    tied = {**model._tied(), **shared}
    lacking = [
        (path, module)
        for path, module in walk(model)
        if _place(path, module, tensors) - tied.keys()
    ]
    model.tie_weights()
    for name, source in shared.items():
        _check_same(model, name, source)
    for path, module in lacking:
        _make_new(model, path, module, tied, report)
    model._keep_weights()
    for name, source in shared.items():
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, model.get_parameter(source))
    model.tie_weights()


def _place(path: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> set[str]:
    """Put the tensors under a module's own names into it; what is left without values.

    As `load_state_dict(assign=True)` does, in a quarter of the time. A parameter learns if the one
    in its place did: an assigned tensor may bring a flag of its own.
    """
    lacking = set()
    for last, old in module._parameters.items():
        name = f"{path}.{last}" if path else last
        if old is not None and name in tensors:
            module._parameters[last] = nn.Parameter(tensors[name], old.requires_grad)
        elif old is not None and old.is_meta:
            lacking.add(name)
    for last, buffer in module._buffers.items():
        name = f"{path}.{last}" if path else last
        if buffer is not None and name in tensors:
            module._buffers[last] = tensors[name]
        elif buffer is not None and buffer.is_meta:
            lacking.add(name)
    return lacking


def _make_new(
    model: PretrainedModel,
    path: str,
    module: nn.Module,
    tied: Mapping[str, str],
    report: LoadingReport,
) -> None:
    """Initial values for a module that the file does not have."""
    own: dict[str, Tensor] = dict(module.named_parameters(path, recurse=False))
    own |= dict(module.named_buffers(path, recurse=False))
    new = [name for name, tensor in own.items() if tensor.is_meta and name not in tied]
    loaded = {*report.loaded.values(), *report.copied}
    if absent := loaded.intersection(new):
        raise AssertionError(f"{absent} was planned as loaded and is not")
    if loaded.intersection(own):  # all but its constants
        raise _no_values(", ".join(new))
    # What is tied is another module's too: initial values must not reach it.
    others = {last: p for last, p in module._parameters.items() if p is not None and not p.is_meta}
    for last, loaded_one in others.items():
        module._parameters[last] = nn.Parameter(torch.empty_like(loaded_one), False)
    # Not module.to_empty: from the meta device that imports torch's compiler.
    for last, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta:
            empty = torch.empty(parameter.shape, dtype=report.dtype, device="cpu")
            module._parameters[last] = nn.Parameter(empty, parameter.requires_grad)
    for last, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta:
            dtype = report.dtype if buffer.is_floating_point() else buffer.dtype
            module._buffers[last] = torch.empty(buffer.shape, dtype=dtype, device="cpu")
    _initialise(model, path, module)
    module._parameters.update(others)


def _own_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """(name, tensor, whether it is a buffer) of what a file holds, under each of its names."""
    for path, module in walk(model, every_path=True):
        prefix = path + "." if path else ""
        for last, parameter in module._parameters.items():
            if parameter is not None:
                yield prefix + last, parameter, False
        for last, buffer in module._buffers.items():
            if buffer is not None and last not in module._non_persistent_buffers_set:
                yield prefix + last, buffer, True


def _shared(tied: Mapping[str, str], state: list[tuple[str, Tensor, bool]]) -> dict[str, str]:
    """{parameter: the one that it is too}, of those that a class shares without `tied_weights`."""
    first: dict[int, str] = {}
    shared = {}
    for name, tensor, is_buffer in state:
        if is_buffer or name in tied:
            continue
        if first.setdefault(id(tensor), name) != name:
            shared[name] = first[id(tensor)]
    return shared


def _check_same(model: PretrainedModel, name: str, source: str) -> None:
    one, two = model.get_parameter(source), model.get_parameter(name)
    if not one.is_meta and not torch.equal(one, two):
        raise CheckpointError(
            f"{name} and {source} are one tensor of this {type(model).__name__}, and differ in the "
            "file."
        )


def _initialise(model: PretrainedModel, path: str, module: nn.Module) -> None:
    """Initial values of a module that the file does not have, or ConfigError.

    They are marked first, so that one which nobody sets is found.
    """
    own = dict(module.named_parameters(recurse=False))
    buffers = dict(module.named_buffers(recurse=False))
    for tensor in (*own.values(), *buffers.values()):
        _mark(tensor)
    restart = getattr(module, "reset_running_stats", None)
    if callable(restart):
        restart()
    model._init_weights(module)
    reset = getattr(module, "reset_parameters", None)
    if any(map(_is_marked, own.values())) and callable(reset):
        reset()
    where = f"{path or 'the model itself'} ({type(module).__name__})"
    if any(map(_is_marked, own.values())):
        raise ConfigError(
            f"{type(model).__name__}._init_weights gives {where} no initial weights. Override it "
            "to do so."
        )
    if unset := [name for name, buffer in buffers.items() if _is_marked(buffer)]:
        raise _no_values(f"{', '.join(unset)} of {where}")


def _no_values(what: str) -> ConfigError:
    return ConfigError(
        f"{what}: a buffer's values are known when it is made alone, and from_pretrained makes "
        "models without values. Set it in _init_weights, or compute it in forward instead."
    )


def _mark(tensor: Tensor) -> None:
    with torch.no_grad():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
        elif tensor.dtype is not torch.bool:
            tensor.fill_(torch.iinfo(tensor.dtype).max)


def _is_marked(tensor: Tensor) -> bool:
    if tensor.dtype is torch.bool:
        return True  # has no value to mark it with
    if tensor.is_floating_point():
        return bool(tensor.isnan().any())
    return bool((tensor == torch.iinfo(tensor.dtype).max).any())


def _bits(stored: Stored) -> Array:
    """A tensor's numbers as they lie, so that a NaN equals itself."""
    return settled(stored.array).view(f"u{stored.array.itemsize}")


def check_twins(weights: Weights, report: LoadingReport) -> None:
    """CheckpointError where two tensors that the model ties into one are not equal."""
    for name, other in report.twins.items():
        one, two = weights.tensors[name], weights.tensors[other]
        if one.dtype != two.dtype or not np.array_equal(_bits(one), _bits(two)):
            raise CheckpointError(
                f"{weights.source} has different {name} and {other}, which this model ties into "
                "one tensor. Pass tie_word_embeddings=False to keep both."
            )
