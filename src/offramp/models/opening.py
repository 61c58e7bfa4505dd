"""What `from_pretrained` does: a name to files, files to a blueprint, a blueprint to a model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

import offramp
from offramp.checkpoints.dialects import (
    PADDLE_FILES,
    TORCH_FILES,
    foreign_file,
    is_foreign,
    open_foreign,
)
from offramp.checkpoints.weights import (
    Weights,
    given_weights,
    open_file,
    open_weights,
    weights_files,
)
from offramp.errors import ConfigError, HubError, ModelNotFoundError
from offramp.hub.names import Request, check_sha256
from offramp.models.assembly import fill
from offramp.models.blueprint import read_blueprint
from offramp.models.config import PretrainedConfig
from offramp.models.config_file import OLD_CONFIG_FILE, read_config
from offramp.models.loading import LoadingReport
from offramp.models.names import Place, is_file, locate, model_files, read_companions
from offramp.models.tables import MODEL_STATE

if TYPE_CHECKING:
    from offramp.models.base import PretrainedModel

M = TypeVar("M", bound="PretrainedModel")


@dataclass(frozen=True)
class Opening:
    """The options of `from_pretrained`, which describes them."""

    request: Request = field(default_factory=Request)
    from_hf_hub: bool = False
    config: PretrainedConfig | None = None
    state_dict: Mapping[str, Tensor] | None = None
    dtype: torch.dtype | str | None = None
    device: torch.device | str | None = None
    load_state_as_np: bool = False
    ignore_mismatched_sizes: bool = False
    strict: bool = False
    variant: str | None = None
    use_safetensors: bool | None = None

    def __post_init__(self) -> None:
        for name in ("load_state_as_np", "ignore_mismatched_sizes", "strict"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is True or False; got {getattr(self, name)!r}.")
        if not isinstance(self.use_safetensors, bool | None):
            raise ConfigError(
                f"use_safetensors is True, False or None; got {self.use_safetensors!r}."
            )


def check_positions(cls_name: str, from_hf_hub: object, subfolder: object) -> None:
    """TypeError, showing the right call, for arguments of `__init__` in the place of these two."""
    if isinstance(from_hf_hub, bool) and isinstance(subfolder, str | None):
        return
    meant = from_hf_hub if not isinstance(from_hf_hub, bool) else subfolder
    raise TypeError(
        f"{cls_name}.from_pretrained takes (name, from_hf_hub=False, subfolder=None, *args); got "
        f"from_hf_hub={from_hf_hub!r}, subfolder={subfolder!r}. For arguments of __init__: "
        f"{cls_name}.from_pretrained(name, False, None, {meant!r}), or by keyword."
    )


def open_model(
    cls: type[M],
    name: str | Path | None,
    opening: Opening,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> tuple[M, LoadingReport]:
    """`cls.from_pretrained` without its warning of new weights: the report tells of them."""
    dtype, device = _dtype(opening.dtype), _device(opening)
    if name is None and (opening.config is None or opening.state_dict is None):
        raise ConfigError("Without a name both config= and state_dict= are needed.")
    place = None if name is None else _find(cls, name, opening)
    values = {} if place is None else _config_values(cls, str(name), place, opening)
    config = copy.deepcopy(opening.config)  # a model changes its configuration
    blueprint = read_blueprint(cls, values, str(name), config, args, kwargs or {})
    weights = _weights(cls, place, opening)
    with torch.device("meta"):
        model = cast(M, blueprint.build())
        if not cls.constructed_from_pretrained_config():
            model._take(PretrainedConfig.from_values(values, str(name)))  # labels, exits
            if model.config.pruned_heads:
                model._prune(model.config.pruned_heads)
        if model.config.exits is not None and hasattr(model, "logits"):
            offramp.build_exits(model, model.config.exits)
    report = fill(
        model,
        weights,
        dtype=dtype,
        ignore_mismatched_sizes=opening.ignore_mismatched_sizes,
        strict=opening.strict,
    )
    if place is not None:
        model.name_or_path = str(name)
        model._companions = read_companions(place.directory)
    model.to(device)
    model.eval()
    return model, report


def _config_values(
    cls: type[PretrainedModel], name: str, place: Place, opening: Opening
) -> Mapping[str, Any]:
    files = (place.directory / cls.model_config_file, place.directory / OLD_CONFIG_FILE)
    if not any(map(is_file, files)):
        if opening.config is not None:
            return {}
        if place.source is not None:  # files of a built-in name that are the weights alone
            return cls.pretrained_init_configuration[name]
    values = read_config(place.directory, cls.model_config_file)
    save = None if opening.state_dict is not None else _foreign_save(cls, place, opening)
    return {**cls.paddle_defaults, **values} if save and ".pdparams" in save.name else values


def _foreign_save(cls: type[PretrainedModel], place: Place, opening: Opening) -> Path | None:
    """PyTorch's or PaddleNLP's weights in the directory, where they are the ones to read."""
    if place.file is not None:
        return place.directory / place.file if is_foreign(place.file) else None
    if opening.variant is not None or opening.use_safetensors or not place.directory.is_dir():
        return None
    own = weights_files(cls.resource_files_names[MODEL_STATE])
    if opening.use_safetensors is None and any(is_file(place.directory / name) for name in own):
        return None
    listing = (path.name for path in place.directory.iterdir())
    found = foreign_file(listing, paddle=bool(cls.paddle_names))
    return None if found is None else place.directory / found


def _find(cls: type[PretrainedModel], name: str | Path, opening: Opening) -> Place:
    """Where the files are that the name stands for."""
    wanted = None
    if opening.state_dict is None:
        own = weights_files(cls.resource_files_names[MODEL_STATE], opening.variant)
        wanted = [own, TORCH_FILES, *([PADDLE_FILES] if cls.paddle_names else [])]
    known = opening.config is not None or str(name) in cls.pretrained_init_configuration
    return locate(
        name,
        opening.request,
        model_files((cls.model_config_file, OLD_CONFIG_FILE), wanted, config_needed=not known),
        cls.pretrained_resource_files_map[MODEL_STATE],
        hub_only=opening.from_hf_hub,
    )


def _weights(cls: type[PretrainedModel], place: Place | None, opening: Opening) -> Weights:
    file = cls.resource_files_names[MODEL_STATE]
    if place is None or opening.state_dict is not None:
        return given_weights(opening.state_dict or {})
    if place.file is not None:
        if opening.variant is not None:
            raise ConfigError(
                f"{place.file} is one file, and variant={opening.variant!r} chooses among several. "
                "Pass either the file or its directory with the variant."
            )
        path = place.directory / place.file
        return open_foreign(path, cls.paddle_names) if is_foreign(path.name) else open_file(path)
    known = None if place.source is None else place.source.sha256
    foreign = _foreign_save(cls, place, opening)
    if foreign is not None and known is None:
        return open_foreign(foreign, cls.paddle_names)
    if opening.use_safetensors is False:
        raise ModelNotFoundError(
            f"{place.directory} has none of {', '.join((*TORCH_FILES, *PADDLE_FILES))}, and "
            "use_safetensors=False asks for one."
        )
    weights = open_weights(place.directory, file, opening.variant)
    if known is not None:
        if set(weights.files.values()) != {place.directory / file}:
            raise HubError(
                f"{weights.source} is not the one file whose sha256 is known, {file}; it cannot be "
                "checked."
            )
        check_sha256(place.directory / file, known)
    return weights


def _dtype(asked: object) -> torch.dtype | None:
    """A type of weights by its name or as it is; None for the file's."""
    if asked is None or asked == "auto":
        return None
    found = getattr(torch, asked.removeprefix("torch."), None) if isinstance(asked, str) else asked
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(
            f'dtype is a floating type, such as torch.float16 or "float16"; got {asked!r}.'
        )
    return found


def _device(opening: Opening) -> torch.device:
    """Where the model goes; ConfigError for a device that is not there."""
    asked = opening.device
    try:
        if asked is None and opening.load_state_as_np:
            return torch.device("cpu")
        device = torch.get_default_device() if asked is None else torch.device(asked)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("tensors there have no values")
    except (RuntimeError, AssertionError, TypeError) as error:  # no such word; torch without CUDA
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{'The default device' if asked is None else f'device={asked!r}'} cannot be used here "
            f'({reason}); device="cpu" can always.'
        ) from error
    return device
