"""What `from_pretrained` does: a name to files, files to a blueprint, a blueprint to a model."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

import offramp
from offramp.checkpoints.file_names import PADDLE_FILE, TORCH_FILE, weights_files
from offramp.checkpoints.finding import find_save
from offramp.checkpoints.weights import Reading, Weights, read_save, translated
from offramp.errors import CheckpointError, ConfigError, ConfigFileError, HubError
from offramp.hub.names import Request, check_sha256
from offramp.models.assembly import expected, fill
from offramp.models.blueprint import Blueprint, read_blueprint
from offramp.models.config import PretrainedConfig
from offramp.models.config_file import OLD_CONFIG_FILE, read_config, stated_dtype
from offramp.models.loading import LoadingReport, knows
from offramp.models.names import Place, is_file, locate, model_files, read_companions
from offramp.models.paddle_layout import opened
from offramp.models.research import from_research, is_translatable
from offramp.models.tables import MODEL_STATE
from offramp.models.tensors import given_weights
from offramp.models.unfilled import WithoutValues
from offramp.storage.manifest import check_sizes
from offramp.storage.steady import reread, steady

if TYPE_CHECKING:
    from offramp.models.base import PretrainedModel

M = TypeVar("M", bound="PretrainedModel")


_SHARD = re.compile(r"-\d+-of-\d+\.\w+$")
_FLAGS = (
    "load_state_as_np",
    "ignore_mismatched_sizes",
    "strict",
    "mmap",
    "allow_legacy_pickle",
    "uint16_is_bfloat16",
)


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
    mmap: bool = True
    allow_legacy_pickle: bool = False
    uint16_is_bfloat16: bool = False

    def __post_init__(self) -> None:
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is True or False; got {getattr(self, name)!r}.")
        if not isinstance(self.use_safetensors, bool | None):
            raise ConfigError(
                f"use_safetensors is True, False or None; got {self.use_safetensors!r}."
            )

    def reading(self, config: Mapping[str, Any]) -> Reading:
        """How the files are read; the configuration may say what Paddle's uint16 is."""
        return Reading(
            mmap=self.mmap,
            allow_legacy_pickle=self.allow_legacy_pickle,
            uint16_is_bfloat16=self.uint16_is_bfloat16 or stated_dtype(config) == "bfloat16",
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
    device = _device(opening)
    if name is None and (opening.config is None or opening.state_dict is None):
        raise ConfigError("Without a name both config= and state_dict= are needed.")
    model, report, notes = reread(lambda: _open(cls, name, opening, args, kwargs or {}))
    for note in notes:
        warnings.warn(f"{name}: {note}", UserWarning, stacklevel=3)
    if device.type != "cpu":
        model.to(device)
    model.eval()
    if isinstance(model.config.exits, Mapping) and hasattr(model, "exits"):
        offramp.check_certificate(model)
    return model, report


def _open(
    cls: type[M],
    name: str | Path | None,
    opening: Opening,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[M, LoadingReport, list[str]]:
    """The model, what was done with its tensors, and notes for the user; one save's throughout."""
    place = None if name is None else _find(cls, name, opening)
    with nullcontext() if place is None else steady(place.directory):
        return _open_at(cls, name, place, opening, args, kwargs)


def _open_at(
    cls: type[M],
    name: str | Path | None,
    place: Place | None,
    opening: Opening,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[M, LoadingReport, list[str]]:
    dtype = _dtype(opening.dtype)
    values = {} if place is None else _config_values(cls, str(name), place, opening)
    blueprint = _blueprint(cls, values, str(name), opening, args, kwargs)
    reading = opening.reading(values)
    save = None if place is None else _save(cls, place, opening, reading)
    weights = given_weights(opening.state_dict or {}) if save is None else read_save(save, reading)
    companions = {} if place is None else read_companions(place.directory)
    if opening.config is None:
        _check_layers(blueprint.config, weights, str(name))
        if place is not None and "exits" not in (kwargs or {}):
            _check_exits(cls, values, weights, str(name))
    model = None
    notes: list[str] = []
    if is_translatable(weights):
        # A class of one's own may have names that look foreign: what it knows stays as it is.
        model = _built(cls, blueprint, values, name, opening, kwargs)
        if ".pdparams" in weights.source or not knows(weights.tensors, expected(model)):
            weights = translated(weights, cls.paddle_names, reading)
            stated: Mapping[str, Any] = values
            if not cls.owns_exits:  # which keeps the research code's names
                weights, stated = from_research(weights, values)
            if weights.dialect == "paddle":
                model_type = cls.config_class.model_type if blueprint.config else ""
                weights, stated, notes = opened(weights, values, cls.paddle_defaults, model_type)
            if stated != values:
                values = stated
                blueprint = _blueprint(cls, values, str(name), opening, args, kwargs)
                model = None
    model = model or _built(cls, blueprint, values, name, opening, kwargs)
    if not (weights.given or opening.mmap):
        weights = weights.in_memory()
    report = fill(
        model,
        weights,
        dtype=dtype,
        ignore_mismatched_sizes=opening.ignore_mismatched_sizes,
        strict=opening.strict,
    )
    if save is not None:
        check_sizes(save.parent, {save.name, *(path.name for path in weights.files.values())})
    if place is not None:
        model.name_or_path = str(name)
        model._companions = companions
        model._dialect = _dialect(cls, weights)
    return model, report, notes


def _dialect(cls: type[PretrainedModel], weights: Weights) -> str:
    """Whose files they are. A class of the research code has its names in our files too."""
    if not cls.owns_exits or not weights.source.endswith((".bin", ".bin.index.json")):
        return weights.dialect
    return "deebert" if any(".highway." in name for name in weights.tensors) else "pabee"


def _built(
    cls: type[M],
    blueprint: Blueprint,
    values: Mapping[str, Any],
    name: object,
    opening: Opening,
    kwargs: Mapping[str, Any] | None,
) -> M:
    """The model, its exits too, without values."""
    with _told_of_file(name, opening, kwargs), WithoutValues():
        model = cast(M, blueprint.build())
        if not cls.constructed_from_pretrained_config():
            model._take(PretrainedConfig.from_values(values, str(name)))  # labels, exits
            if model.config.pruned_heads:
                model._prune(model.config.pruned_heads)
        model.take_exit_settings(model.config.extra)
        if model.config.exits is not None and hasattr(model, "logits"):
            offramp.build_exits(model, model.config.exits)
    return model


def _blueprint(
    cls: type[PretrainedModel],
    values: Mapping[str, Any],
    name: str,
    opening: Opening,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
) -> Blueprint:
    config = copy.deepcopy(opening.config)  # a model changes its configuration
    with _told_of_file(name, opening, kwargs):
        blueprint = read_blueprint(cls, values, name, config, args, kwargs or {})
        if blueprint.config is not None:
            blueprint.config.validate()
    return blueprint


@contextmanager
def _told_of_file(name: object, opening: Opening, kwargs: object) -> Iterator[None]:
    """A ConfigError inside is the file's fault where the caller changes nothing of it."""
    try:
        yield
    except ConfigError as error:
        if opening.config is not None or kwargs or isinstance(error, CheckpointError):
            raise
        raise ConfigFileError(f"{name}: {error}", file=str(name)) from error


def _check_layers(config: PretrainedConfig | None, weights: Weights, name: str) -> None:
    """ConfigFileError for so many layers that building them would take long, to no purpose."""
    layers = getattr(config, "num_hidden_layers", 0)
    if groups := getattr(config, "num_hidden_groups", 0):  # ALBERT passes a few again and again
        layers = groups * getattr(config, "inner_group_num", 1)
    if layers > max(len(weights.tensors), 1):
        raise ConfigFileError(
            f"{name} says {layers} layers, and its weights are {len(weights.tensors)} tensors in "
            "all. config.json is of another model.",
            file=name,
        )


_OWN_EXITS = {"deebert": ".highway.", "pabee": "classifiers."}
"""Under what name a configuration has the settings of research models, and what the files of their
classifiers hold then."""


def _check_exits(
    cls: type[PretrainedModel], values: Mapping[str, Any], weights: Weights, name: str
) -> None:
    """CheckpointError where a file's exits are not what its configuration says."""
    if "exits" not in values and any(tensor.startswith("exits.") for tensor in weights.tensors):
        raise CheckpointError(
            f"{name} holds tensors of exits, and its config.json says nothing of any: how they are "
            "asked is lost. Restore its section `exits`, or load the model without them: "
            "from_pretrained(name, exits=None).",
            kind="unexpected",
        )
    classifies = any("Classification" in str(name) for name in values.get("architectures") or ())
    for section, tensors in _OWN_EXITS.items():
        own = cls.owns_exits and classifies and section in values
        if own and not any(tensors in t for t in weights.tensors):
            raise CheckpointError(
                f"{name} says {section!r} in its config.json, and holds none of the exits that go "
                f"with it ({tensors.strip('.')}): they would be random. Its weights are another "
                "model's, or not all there.",
                kind="missing",
            )


def _config_values(
    cls: type[PretrainedModel], name: str, place: Place, opening: Opening
) -> Mapping[str, Any]:
    files = (place.directory / cls.model_config_file, place.directory / OLD_CONFIG_FILE)
    if not any(map(is_file, files)):
        if opening.config is not None:
            return {}
        if place.source is not None:  # files of a built-in name that are the weights alone
            return cls.pretrained_init_configuration[name]
    return read_config(place.directory, cls.model_config_file)


def _find(cls: type[PretrainedModel], name: str | Path, opening: Opening) -> Place:
    """Where the files are that the name stands for."""
    wanted = None
    if opening.state_dict is None:
        own = weights_files(cls.resource_files_names[MODEL_STATE], opening.variant)
        others = [weights_files(name, opening.variant) for name in (TORCH_FILE, PADDLE_FILE)]
        formats = {None: [own, *others], True: [own], False: others}
        wanted = formats[opening.use_safetensors]
    known = opening.config is not None or str(name) in cls.pretrained_init_configuration
    return locate(
        name,
        opening.request,
        model_files((cls.model_config_file, OLD_CONFIG_FILE), wanted, config_needed=not known),
        cls.pretrained_resource_files_map[MODEL_STATE],
        hub_only=opening.from_hf_hub,
    )


def _save(
    cls: type[PretrainedModel], place: Place, opening: Opening, reading: Reading
) -> Path | None:
    """The file of weights, or the index of several; None where the caller gives tensors."""
    if opening.state_dict is not None:
        return None
    file = cls.resource_files_names[MODEL_STATE]
    if place.file is not None:
        if opening.use_safetensors and not place.file.endswith((".safetensors", ".json")):
            raise ConfigError(f"{place.file} is no safetensors file; leave out use_safetensors.")
        if _SHARD.search(place.file):
            raise ConfigError(
                f"{place.file} is one file of several. Pass their directory, or their index."
            )
        if opening.variant is not None:
            raise ConfigError(
                f"{place.file} is one file, and variant={opening.variant!r} chooses among several. "
                "Pass either the file or its directory with the variant."
            )
        return place.directory / place.file
    if place.source is not None and place.source.sha256 is not None:
        save = find_save(place.directory, file, opening.variant, use_safetensors=True)
        if save.name != file:
            raise HubError(
                f"{save} is not the one file whose sha256 is known, {file}; it cannot be checked."
            )
        check_sha256(save, place.source.sha256)
        return save
    return find_save(
        place.directory,
        file,
        opening.variant,
        use_safetensors=opening.use_safetensors,
        rows=cls.paddle_names,
        options=reading,
    )


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
        if device.type != "cpu":
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
