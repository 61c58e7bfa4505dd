"""From a saved directory to the arguments with which its model is built again."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from offramp.errors import ConfigError, UnknownOptionError, nearest
from offramp.models.config import PretrainedConfig
from offramp.models.tracking import INIT_ARGUMENTS, INIT_CLASS, call_arguments

if TYPE_CHECKING:
    from offramp.models.base import PretrainedModel


_DECLINED = {
    "trust_remote_code": "No code of a checkpoint is ever run here; leave it out.",
    "weights_only": "No pickle is executed here; leave it out.",
    "token": "Nothing is downloaded here; leave it out.",
    "device_map": 'A model goes to one device: pass device=, such as "cuda".',
    "low_cpu_mem_usage": "Weights are always mapped from the file; leave it out.",
    "quantization_config": "Weights are not quantised here; leave it out.",
}
"""Options of transformers that are no options here, and what to do instead."""


@dataclass(frozen=True)
class Blueprint:
    """A class, the configuration (None where it takes none), and its other arguments by name."""

    cls: type[PretrainedModel]
    config: PretrainedConfig | None
    arguments: Mapping[str, Any]

    def build(self) -> PretrainedModel:
        """The model, with random weights."""
        named = {
            name: value.build() if isinstance(value, Blueprint) else value
            for name, value in self.arguments.items()
        }
        if self.config is not None and not _is_built_around_a_body(self.cls):
            named[_config_parameter(self.cls)] = self.config
        args, kwargs = call_arguments(self.cls, named)
        return self.cls(*args, **kwargs)


def new_blueprint(
    cls: type[PretrainedModel], config: PretrainedConfig, arguments: Mapping[str, Any]
) -> Blueprint:
    """A model of this configuration, `arguments` being the others of `__init__`, by name."""
    if _is_built_around_a_body(cls):
        body = cast("type[PretrainedModel]", cls.base_model_class)
        arguments = {cls.base_model_prefix: Blueprint(body, config, {}), **arguments}
    return Blueprint(cls, config, arguments)


def build_again(cls: type[PretrainedModel], init_config: Mapping[str, Any]) -> PretrainedModel:
    """A new model of the arguments that another's `init_config` keeps, which are copied."""
    arguments = {
        name: build_again(_class_named(value[INIT_CLASS]), value) if _is_of_model(value) else value
        for name, value in copy.deepcopy(dict(init_config)).items()
    }
    args, kwargs = call_arguments(cls, arguments)
    return cls(*args, **kwargs)


def read_blueprint(
    cls: type[PretrainedModel],
    values: Mapping[str, Any],
    where: str,
    config: PretrainedConfig | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Blueprint:
    """What `cls.from_pretrained(where, False, None, *args, **kwargs)` builds.

    `values` are those of config.json. `kwargs` are fields of the configuration first, then
    arguments of `__init__`; a name that is neither raises UnknownOptionError. `args` are those of
    `__init__` after the configuration. Saved arguments fill the rest, if they are this class's.
    """
    from_config = cls.constructed_from_pretrained_config()
    fields: set[str] = set()
    if from_config:
        own_names = {p.name for p in _parameters(cls)}
        own_fields = {field.name for field in dataclasses.fields(cls.config_class)}
        fields = own_fields | (cls.config_class.keywords() - own_names)
    changes = {name: value for name, value in kwargs.items() if name in fields}
    own = {name: value for name, value in kwargs.items() if name not in fields}
    if from_config:  # an argument of `__init__` may have the name of a field: it gets both
        for name, value in changes.items():
            for other in _other_names(cls, name) & own_names:
                own.setdefault(other, value)
    if config is not None and not from_config:
        raise ConfigError(f"{cls.__name__} is built from arguments of its own; leave out config=.")
    if from_config and config is None:
        config = cls.config_class.from_values(values, where, **changes)
    elif changes:
        raise ConfigError(f"Pass either config= or {', '.join(changes)}=, and not both.")
    saved = values.get(INIT_ARGUMENTS)
    parameters = _parameters(cls)
    if from_config:
        first = cls.base_model_prefix if _is_built_around_a_body(cls) else _config_parameter(cls)
        parameters = [p for p in parameters if p.name != first]
    by_position = _by_name(cls, parameters, args)
    if not isinstance(saved, dict) or saved.get(INIT_CLASS) != cls.__name__:
        _tell_of_other_arguments(cls, saved, parameters, {*own, *by_position})
        saved = {}
    named: dict[str, Any] = {k: v for k, v in saved.items() if k != INIT_CLASS}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters}
    if not takes_any and (gone := sorted(named.keys() - names - {cls.base_model_prefix})):
        raise ConfigError(
            f"{where} was saved with {', '.join(gone)}, and {cls.__name__}.__init__ takes none of "
            f"that name. {nearest(gone[0], names)} Rename it under init_args of the configuration."
        )
    if _is_built_around_a_body(cls):
        body = cls.base_model_class
        assert body is not None
        of_body = {k: own.pop(k) for k in list(own) if k in {p.name for p in _parameters(body)}}
        inner = {k: v for k, v in named.get(cls.base_model_prefix, {}).items() if k != INIT_CLASS}
        named[cls.base_model_prefix] = Blueprint(body, config, {**inner, **of_body})
    named |= by_position
    for name, value in own.items():
        if name not in names and not takes_any:
            options = inspect.signature(cls.from_pretrained).parameters.keys()
            remedy = _DECLINED.get(name) or nearest(name, fields | names | options)
            raise UnknownOptionError(
                f"{cls.__name__} takes no {name!r}, neither its configuration nor its __init__. "
                + remedy
            )
        named[name] = value
    return Blueprint(cls, config, named)


def _config_parameter(cls: type[PretrainedModel]) -> str:
    """The parameter of `__init__` that is the configuration: `config`, or else the first."""
    parameters = _parameters(cls)
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not names:
        raise ConfigError(
            f"{cls.__name__}.__init__ does not say which argument is the configuration. Write it "
            "with the parameter `config`."
        )
    return "config" if "config" in names else names[0]


def _other_names(cls: type[PretrainedModel], field: str) -> set[str]:
    """The names of a field of the configuration, its own among them."""
    names = cls.config_class.attribute_map
    own = names.get(field, field)
    return {own, *(alias for alias, name in names.items() if name == own)}


def _tell_of_other_arguments(
    cls: type, saved: object, parameters: list[inspect.Parameter], given: set[str]
) -> None:
    """Warn where another class was saved with arguments that this one takes too, and not equal."""
    if not isinstance(saved, dict):
        return
    lost = [
        f"{p.name}={saved[p.name]!r}"
        for p in parameters
        if p.name in saved and p.name not in given and saved[p.name] != p.default
    ]
    if lost:
        warnings.warn(
            f"The model was saved by {saved.get(INIT_CLASS)} with {', '.join(lost)}; "
            f"{cls.__name__} takes its own defaults. Pass them to keep them.",
            UserWarning,
            stacklevel=5,
        )


def _is_of_model(value: object) -> bool:
    return isinstance(value, Mapping) and INIT_CLASS in value


def _class_named(name: str) -> type[PretrainedModel]:
    """The one class of models of that name, public or a user's."""
    from offramp.models.base import PretrainedModel

    kinds: list[type[PretrainedModel]] = [PretrainedModel]
    found = set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__name__ == name:
            found.add(kind)
    if len(found) != 1:
        raise ConfigError(f"There are {len(found)} classes of models called {name}; expected one.")
    return found.pop()


def _is_built_around_a_body(cls: type[PretrainedModel]) -> bool:
    """Whether `__init__` takes a body in place of a configuration, as PaddleNLP's classes did."""
    parameters = _parameters(cls)
    return (
        cls.base_model_class is not None
        and bool(parameters)
        and parameters[0].name == cls.base_model_prefix
    )


@functools.cache
def _parameters(cls: type) -> list[inspect.Parameter]:
    return list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]


def _by_name(
    cls: type, parameters: list[inspect.Parameter], args: tuple[Any, ...]
) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for at, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return {**named, parameter.name: args[at:]} if args[at:] else named
        if at < len(args) and parameter.kind is not parameter.KEYWORD_ONLY:
            named[parameter.name] = args[at]
    if len(args) > len(named):
        raise TypeError(
            f"{cls.__name__}.__init__ takes {len(named)} arguments by position beside its "
            f"configuration; from_pretrained was given {len(args)}: {args!r}."
        )
    return named
