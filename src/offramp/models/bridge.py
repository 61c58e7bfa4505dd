"""A live transformers model in, and one out: the same parameters, not copies of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import offramp
from offramp.backends import requires_backends
from offramp.errors import ConfigError
from offramp.models.assembly import check_twins, expected
from offramp.models.base import PretrainedModel
from offramp.models.loading import plan
from offramp.models.registry import find_config_class
from offramp.models.saving import check_savable
from offramp.models.tensors import given_weights


def from_transformers(model: nn.Module) -> PretrainedModel:
    """The offramp model of the same class name, whose parameters are the given model's own.

    Training, moving or casting one does it to both, as does writing into a weight; a weight that is
    replaced (by a resize, say) is replaced in one. Hooks and adapters are not taken over. Train or
    eval mode is. Raises ConfigError for a class that offramp does not have, and CheckpointError
    where the parameters do not fill it.
    """
    requires_backends("from_transformers", "transformers")
    name = type(model).__name__
    theirs: Any = getattr(model, "config", None)
    if name not in offramp.__all__ or not hasattr(theirs, "to_dict"):
        raise ConfigError(
            f"offramp has no {name}. from_transformers takes a transformers model of a class that "
            "offramp has under the same name, such as BertForMaskedLM."
        )
    values = theirs.to_dict()
    config = find_config_class(values["model_type"]).from_dict(values)
    arguments = {} if getattr(model, "pooler", 0) is not None else {"add_pooling_layer": False}
    with torch.device("meta"):
        own = getattr(offramp, name).from_config(config, **arguments)
    state = dict(model.named_parameters(remove_duplicate=False))
    weights = given_weights(state)
    report = plan(weights.tensors, expected(own), f"The {name} given")
    check_twins(weights, report)
    if report.initialised:
        raise ConfigError(f"The {name} given lacks {', '.join(report.initialised)}.")
    for theirs_name, own_name in report.loaded.items():
        _put_parameter(own, own_name, state[theirs_name])
    own.tie_weights()
    own._keep_weights()
    made: PretrainedModel = own.train(model.training)
    return made


def to_transformers(model: PretrainedModel) -> Any:
    """The transformers model of the same class name, whose parameters are this one's own.

    As with `from_transformers`, what is done to one is done to both. Exits stay behind, which
    transformers does not have. Raises MissingBackendError without transformers, and ConfigError
    for a class that it does not have, or a model whose heads are pruned.
    """
    requires_backends("to_transformers", "transformers")
    import transformers

    if not isinstance(model, PretrainedModel):
        raise ConfigError(
            f"to_transformers takes a model of offramp; got a {type(model).__name__}."
        )
    name = type(model).__name__
    their_class = getattr(transformers, name, None)
    if their_class is None:
        raise ConfigError(
            f"transformers has no {name}. Save the model (save_pretrained) and load the files with "
            "a class of your own."
        )
    check_savable(model)
    values = {k: v for k, v in model.config.to_dict().items() if k not in ("exits", "init_args")}
    config = their_class.config_class.from_dict(values)
    has_one = "pooler" in model.optional_modules
    lacks_pooler = has_one and model.base_model is model and getattr(model, "pooler", 0) is None
    with torch.device("meta"):
        theirs = their_class(config, **({"add_pooling_layer": False} if lacks_pooler else {}))
    own = {
        n: p
        for n, p in model.named_parameters(remove_duplicate=False)
        if not n.startswith("exits.")
    }
    wanted = {n: p.shape for n, p in theirs.named_parameters(remove_duplicate=False)}
    if wrong := sorted(dict(wanted.items() ^ {n: p.shape for n, p in own.items()}.items())):
        raise ConfigError(
            f"transformers' {name} has no place for {', '.join(wrong[:5])}; it knows no pruned "
            "heads and no modules of your own."
        )
    for path, parameter in own.items():
        _put_parameter(theirs, path, parameter)
    for path, buffer in list(theirs.named_buffers()):
        parent, _, last = path.rpartition(".")
        theirs.get_submodule(parent).register_buffer(
            last, _constant(last, buffer).to(model.device), persistent=False
        )
    return theirs.train(model.training)


def _put_parameter(root: nn.Module, path: str, parameter: nn.Parameter) -> None:
    parent, _, last = path.rpartition(".")
    setattr(root.get_submodule(parent), last, parameter)


def _constant(name: str, buffer: torch.Tensor) -> torch.Tensor:
    """The value of one of transformers' buffers, made on the meta device without one."""
    if name == "position_ids":
        return torch.arange(buffer.shape[-1]).expand(buffer.shape)
    if name == "token_type_ids":
        return torch.zeros(buffer.shape, dtype=buffer.dtype)
    raise ConfigError(f"offramp does not know the values of transformers' buffer {name}.")
