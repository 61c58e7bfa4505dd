"""Weights into a model that was built without any: by the loading rule, whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from offramp.checkpoints.safetensors_file import tensor_info, torch_dtype
from offramp.checkpoints.weights import Weights
from offramp.errors import CheckpointError, ConfigError
from offramp.models.loading import Expected, LoadingReport, plan

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
    report = plan(
        weights.header,
        expected(model),
        weights.source,
        ignore_mismatched_sizes=ignore_mismatched_sizes,
    )
    infos = (weights.header[name] for name in report.loaded)
    types = {info.dtype for info in infos if torch_dtype(info) is not None}
    if dtype is None and len(types) > 1:
        raise CheckpointError(
            f"{weights.source} holds weights of several types ({', '.join(sorted(types))}). Pass "
            "the one to use, e.g. dtype=torch.float32."
        )
    check_twins(weights, report)
    if strict and (report.initialised or report.dropped):
        raise CheckpointError(
            f"{weights.source} is not exactly a {type(model).__name__}: {report}."
        )
    tensors = weights.read(report.loaded)
    tensors |= {name: tensors[report.loaded[o]].clone() for name, o in report.copied.items()}
    _assign(model, tensors, report)
    if dtype is not None:
        model.to(dtype)
    return report


def expected(model: PretrainedModel) -> Expected:
    """What the model takes: its tensors, and which of them are heads."""
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
    state = model.state_dict()
    buffers = {name for name, _ in model.named_buffers()}
    return Expected(
        shapes={name: tuple(tensor.shape) for name, tensor in state.items() if name not in tied},
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
            name: tensor_info(tensor).dtype
            for name, tensor in state.items()
            if name in buffers and not tensor.is_floating_point()
        },
    )


def _assign(model: PretrainedModel, tensors: dict[str, Tensor], report: LoadingReport) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    learns = {name: parameter.requires_grad for name, parameter in parameters.items()}
    shared = _shared(model)
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    for name, source in shared.items():
        _check_same(model, name, source)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(learns[name])  # an assigned tensor may bring its own flag
    tied = {**model._tied(), **shared}
    loaded = {*report.loaded.values(), *report.copied}
    for path, module in model.named_modules():
        own: dict[str, Tensor] = dict(module.named_parameters(path, recurse=False))
        own |= dict(module.named_buffers(path, recurse=False))
        new = [name for name, tensor in own.items() if tensor.is_meta and name not in tied]
        if not new:
            continue
        if absent := loaded.intersection(new):
            raise AssertionError(f"{absent} was planned as loaded and is not")
        if loaded.intersection(own):  # all but its constants
            raise _no_values(", ".join(new))
        module.to_empty(device="cpu", recurse=False)
        module.to(report.dtype)
        _initialise(model, path, module)
    model._keep_weights()
    for name, source in shared.items():
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, model.get_parameter(source))
    model.tie_weights()


def _shared(model: PretrainedModel) -> dict[str, str]:
    """{parameter: the one that it is too}, of those that a class shares without `tied_weights`."""
    first: dict[int, str] = {}
    tied = model._tied()
    shared = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name not in tied and first.setdefault(id(parameter), name) != name:
            shared[name] = first[id(parameter)]
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


def check_twins(weights: Weights, report: LoadingReport) -> None:
    """CheckpointError where two tensors that the model ties into one are not equal."""
    for name, other in report.twins.items():
        pair = weights.read({name: "dropped", other: "loaded"})
        one, two = pair["dropped"], pair["loaded"]
        if one.dtype != two.dtype or not torch.equal(one, two):
            raise CheckpointError(
                f"{weights.source} has different {name} and {other}, which this model ties into "
                "one tensor. Pass tie_word_embeddings=False to keep both."
            )
