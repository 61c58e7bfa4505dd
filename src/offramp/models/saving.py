"""What `save_pretrained` does: a configuration and tensors that would be the same model again."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import offramp
from offramp.checkpoints.card import CARD, new_card
from offramp.checkpoints.weights import Weights
from offramp.checkpoints.writing import write_weights
from offramp.errors import CheckpointError, ConfigError, nearest
from offramp.models.config_file import as_json
from offramp.models.dialects import FILES, in_dialect
from offramp.models.parts import RESIZABLE, ModelParts
from offramp.models.tables import MODEL_STATE
from offramp.models.tensors import as_stored, given_weights
from offramp.models.tracking import INIT_ARGUMENTS, INIT_CLASS, written_arguments

if TYPE_CHECKING:
    from offramp.models.base import PretrainedModel


def write_model(
    model: PretrainedModel,
    directory: Path,
    *,
    state_dict: Mapping[str, Tensor] | None = None,
    max_shard_size: int | str | None = None,
    variant: str | None = None,
    dialect: str = "own",
) -> None:
    """Write configuration and weights into an open directory; see `save_pretrained`."""
    check_savable(model)
    tensors = _tensors(model, state_dict)
    types = (tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    arguments = written_arguments(model.init_config, model.base_model_prefix)
    _check_body_class(model, arguments.get(model.base_model_prefix))
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.extra.pop("torch_dtype", None)
    config.extra["dtype"] = str(next(types, model.dtype)).removeprefix("torch.")
    config.extra.pop(INIT_ARGUMENTS, None)
    if len(arguments) > 1:  # more than the class's name
        config.extra[INIT_ARGUMENTS] = arguments
    config.extra.update(model.exit_settings())
    exits = getattr(model, "exits", None)
    config.exits = None if exits is None else exits.section()
    stored = {name: as_stored(tensor) for name, tensor in tensors.items()}
    text = config.to_json()
    if (dialect := written_dialect(model, dialect)) != "own":
        there = in_dialect(Weights("this model", stored), json.loads(text), dialect)
        text, stored = as_json(there.values), there.written()
    (directory / model.model_config_file).write_text(text, encoding="utf-8")
    write_weights(directory, stored, weights_file(model, dialect), variant, max_shard_size)
    if exits is not None and state_dict is None:
        proved = offramp.certificate_card(model)
        if proved is not None:
            (directory / CARD).write_bytes(new_card(proved))


def written_dialect(model: PretrainedModel, asked: str) -> str:
    """The dialect that a save is in; ConfigError for what is none.

    A model in names of before 2019 is kept with those of today.
    """
    if asked == "keep":
        return model._dialect if model._dialect in FILES else "own"
    if asked not in FILES:
        raise ConfigError(
            f"dialect is keep or one of {', '.join(FILES)}; got {asked!r}. "
            + nearest(str(asked), ["keep", *FILES])
        )
    return asked


def weights_file(model: PretrainedModel, dialect: str) -> str:
    """The name of the file of weights."""
    return model.resource_files_names[MODEL_STATE] if dialect == "own" else FILES[dialect]


def check_savable(model: PretrainedModel) -> None:
    """Raise ConfigError if config or file would not describe the network that is there."""
    model._check_no_adapters("from_pretrained would not know")
    for part in model.modules():
        if isinstance(part, ModelParts) and part is not model:
            _check_size_of_part(part)
    for name, built in _built_from(model).items():
        if getattr(model.config, name) != built:
            raise ConfigError(
                f"config.{name} is {getattr(model.config, name)!r} and the model was built with "
                f"{built!r}. Build a model from the new configuration instead."
            )
    wanted = {layer: heads for layer, heads in model.config.pruned_heads.items() if heads}
    if wanted != model._pruned():
        raise ConfigError(
            f"config.pruned_heads is {wanted} and the layers lack {model._pruned()}. Prune with "
            "prune_heads, and give each model a configuration of its own."
        )
    for name, source in model._tied().items():
        if model.get_parameter(name) is not model.get_parameter(source):
            raise ConfigError(
                f"{name} is tied to {source} and is another tensor now; one of them would be "
                "lost. Call tie_weights(), or build the model with tie_word_embeddings=False."
            )


def _built_from(model: PretrainedModel) -> dict[str, Any]:
    """What the network has of the configuration's fields.

    Beneath a head that has no words of its own the body may be resized.
    """
    body = model.base_model
    if (
        model.output_embeddings_name is not None
        or getattr(body, "config", None) is not model.config
    ):
        return model._built_from
    of_body: dict[str, Any] = getattr(body, "_built_from", {})
    return {**model._built_from, **{name: of_body[name] for name in RESIZABLE if name in of_body}}


def _check_size_of_part(part: ModelParts) -> None:
    for name in RESIZABLE:
        stated = getattr(part.config, name, None)
        if part._built_from.get(name, stated) != stated:
            raise ConfigError(
                f"A {type(part).__name__} inside was built with {name}={part._built_from[name]}, "
                f"and its configuration says {stated} since another was resized. Give each body a "
                "configuration of its own."
            )


def _check_body_class(model: PretrainedModel, of_body: Any) -> None:
    """ConfigError for a body among the arguments that loading would build as another class."""
    known = model.base_model_class
    if isinstance(of_body, Mapping) and known and of_body[INIT_CLASS] != known.__name__:
        raise ConfigError(
            f"This {type(model).__name__} is built around a {of_body[INIT_CLASS]}, and would be "
            f"loaded with a {known.__name__}. Make the body's class a family's of its own."
        )


def _tensors(model: PretrainedModel, given: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """What the weights' file holds: each tied tensor once."""
    tied = model._tied()
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    if given is None:
        return own
    given_weights(given)  # which says what is wrong with them
    found = dict(given)
    for name, source in tied.items():  # either name of a pair will do
        tensor = found.pop(name, None)
        if tensor is not None and not torch.equal(found.setdefault(source, tensor), tensor):
            raise CheckpointError(
                f"state_dict has different {name} and {source}, which are one tensor of this "
                f"{type(model).__name__}."
            )
    kinds = {name: (t.shape, t.is_floating_point()) for name, t in found.items()}
    own_kinds = {name: (t.shape, t.is_floating_point()) for name, t in own.items()}
    if wrong := sorted(dict(own_kinds.items() ^ kinds.items())):
        raise CheckpointError(
            f"state_dict is not this {type(model).__name__}'s: {', '.join(wrong[:5])} differ in "
            "name, shape or kind of number. Pass what model.state_dict() gives."
        )
    return {name: found[name] for name in own}
