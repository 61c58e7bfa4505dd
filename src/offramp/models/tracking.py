"""`InitTrackerMeta`: what a model was constructed with, kept by name."""

from __future__ import annotations

import inspect
import json
import threading
from abc import ABCMeta
from collections.abc import Mapping
from typing import Any, TypeVar

from offramp.errors import ConfigError
from offramp.models.config import PretrainedConfig

T = TypeVar("T")

INIT_CLASS = "init_class"
"""The key of `init_config` under which the class's name stands."""
INIT_ARGUMENTS = "init_args"
"""The key of config.json under which `init_config` stands."""


_building = threading.local()


class InitTrackerMeta(ABCMeta):
    """Metaclass of `PretrainedModel`: gives each instance its `init_config`.

    That is a dictionary of the arguments with which the outermost class was called, by the names
    in its `__init__`, whether they were passed by position, by keyword or left to their defaults,
    and the class's name as `init_class`. `*args` stand under their parameter's name as a tuple,
    `**kwargs` under their own names. A model among the arguments is there as its own `init_config`.
    Calling the class again with these arguments builds an equal model (see `call_arguments`).
    """

    def __call__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        try:
            bound = {name: _kept(value) for name, value in bind(cls, args, kwargs).items()}
        except TypeError:
            bound = {}  # the call below says in Python's own words what is wrong
        outermost = not is_building()
        _building.now = True
        try:
            made: Any = super().__call__(*args, **kwargs)  # type: ignore[misc]
        finally:
            _building.now = not outermost
        if outermost and made.device.type != "meta":
            made._keep_weights()
        made.init_config = {
            INIT_CLASS: cls.__name__,
            **{name: _as_built(value) for name, value in bound.items()},
        }
        return made  # type: ignore[no-any-return]


def _kept(value: Any) -> Any:
    """Lists and dictionaries as they are now, whatever `__init__` does to them."""
    if type(value) in (list, tuple):
        return type(value)(_kept(item) for item in value)
    if type(value) is dict:
        return {key: _kept(item) for key, item in value.items()}
    return value


def _as_built(value: Any) -> Any:
    return value.init_config if isinstance(type(value), InitTrackerMeta) else value


def is_building() -> bool:
    """Whether a model's construction is under way in this thread."""
    return getattr(_building, "now", False)


def bind(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `cls(*args, **kwargs)` by name, defaults filled in."""
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    bound = signature.bind(None, *args, **kwargs)
    bound.apply_defaults()
    _, *names = bound.arguments
    found: dict[str, Any] = {}
    for name in names:
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            found.update(bound.arguments[name])
        else:
            found[name] = bound.arguments[name]
    return found


def call_arguments(
    cls: type, arguments: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """args and kwargs with which `cls` is called to be given `arguments`, the inverse of `bind`."""
    args: list[Any] = []
    kwargs = {name: value for name, value in arguments.items() if name != INIT_CLASS}
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    if any(p.kind is p.VAR_POSITIONAL and kwargs.get(p.name) for p in parameters):
        for parameter in parameters:  # what stands before *args must be passed by position too
            if parameter.kind is parameter.VAR_POSITIONAL:
                args += kwargs.pop(parameter.name)
                break
            args.append(_given_or_default(kwargs, parameter))
    else:
        for parameter in parameters:
            if parameter.kind is parameter.VAR_POSITIONAL:
                kwargs.pop(parameter.name, None)
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                args.append(_given_or_default(kwargs, parameter))
    return tuple(args), kwargs


def _given_or_default(kwargs: dict[str, Any], parameter: inspect.Parameter) -> Any:
    if parameter.name not in kwargs and parameter.default is parameter.empty:
        raise TypeError(f"missing the argument {parameter.name!r}")
    return kwargs.pop(parameter.name, parameter.default)


def written_arguments(init_config: Mapping[str, Any], body: str = "") -> dict[str, Any]:
    """`init_config` as config.json keeps it: without configurations, which are that file.

    `body` is the argument that is the model's body. Raises ConfigError for an argument that JSON
    cannot hold as it is, and for a second configuration or another model.
    """
    written: dict[str, Any] = {}
    configs = (name for name, value in init_config.items() if isinstance(value, PretrainedConfig))
    own_config = next(configs, None)
    for name, value in init_config.items():
        is_model = isinstance(value, Mapping) and INIT_CLASS in value
        if name == own_config:
            continue
        if name == body and is_model:
            written[name] = written_arguments(value)
            continue
        try:
            survives = json.loads(json.dumps(value, allow_nan=False)) == _lists(value)
        except (TypeError, ValueError):
            survives = False
        if is_model or not survives:
            raise ConfigError(
                f"{name}={value!r}, with which this {init_config[INIT_CLASS]} was built, cannot be "
                "written to config.json. Use numbers, text, lists and dictionaries with text keys, "
                "or put it into a configuration class."
            )
        written[name] = value
    return written


def _lists(value: Any) -> Any:
    """`value` with tuples as lists, as JSON gives them back."""
    if isinstance(value, (tuple, list)):
        return [_lists(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return value
