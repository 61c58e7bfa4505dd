"""Weights into a model that was built without any: by the loading rule, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

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
    types = {weights.header[name].dtype for name in report.loaded}
    if dtype is None and len(types) > 1:
        raise CheckpointError(
            f"{weights.source} holds weights of several types ({', '.join(sorted(types))}). Pass "
            "the one to use, e.g. dtype=torch.float32."
        )
    _check_twins(weights, report)
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
    tied = model._tied()
    state = model.state_dict()
    return Expected(
        shapes={name: tuple(tensor.shape) for name, tensor in state.items() if name not in tied},
        prefix=prefix,
        heads=(
            *((at + name) for name in model.optional_modules),
            *(() if body is model else (*parts, *whole)),
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
    )


def _assign(model: PretrainedModel, tensors: dict[str, Tensor], report: LoadingReport) -> None:
    learns = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learns[name])  # an assigned tensor may bring its own flag
    tied = model._tied()
    for path, module in model.named_modules():
        own = module.named_parameters(path, recurse=False)
        new = [name for name, p in own if p.is_meta and name not in tied]
        if not new:
            continue
        if absent := set(new) - set(report.initialised):
            raise AssertionError(f"{absent} was planned as loaded and is not")
        module.to_empty(device="cpu", recurse=False)
        module.to(report.dtype)
        _initialise(model, path, module)
    if unmade := [name for name, buffer in model.named_buffers() if buffer.is_meta]:
        raise ConfigError(
            f"{', '.join(unmade)}: a buffer's values are known when it is made alone, and "
            "from_pretrained makes models without values. Compute it in forward instead."
        )
    model._keep_weights()
    model.tie_weights()


def _initialise(model: PretrainedModel, path: str, module: nn.Module) -> None:
    """Initial weights of a module that the file does not have, or ConfigError."""
    own = list(module.parameters(recurse=False))
    for parameter in own:
        nn.init.constant_(parameter, torch.nan)
    model._init_weights(module)
    reset = getattr(module, "reset_parameters", None)
    if _any_nan(own) and callable(reset):
        reset()
    if _any_nan(own):
        raise ConfigError(
            f"{type(model).__name__}._init_weights gives {path or 'the model itself'} "
            f"({type(module).__name__}) no initial weights. Override it to do so."
        )


def _any_nan(parameters: Iterable[Tensor]) -> bool:
    return any(bool(parameter.isnan().any()) for parameter in parameters)


def _check_twins(weights: Weights, report: LoadingReport) -> None:
    for name, other in report.twins.items():
        pair = weights.read({name: "dropped", other: "loaded"})
        one, two = pair["dropped"], pair["loaded"]
        if one.dtype != two.dtype or not torch.equal(one, two):
            raise CheckpointError(
                f"{weights.source} has different {name} and {other}, which this model ties into "
                "one tensor. Pass tie_word_embeddings=False to keep both."
            )
