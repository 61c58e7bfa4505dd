"""config.json as it lies in a directory: which file it is, and what JSON may say in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offramp.checkpoints.strict_json import parse_json
from offramp.errors import ConfigError, ModelNotFoundError
from offramp.models.names import exists, is_file

CONFIG_FILE = "config.json"
OLD_CONFIG_FILE = "model_config.json"
"""PaddleNLP's name for it, read where there is no config.json."""


def read_config(directory: str | Path, file: str = CONFIG_FILE) -> dict[str, Any]:
    """The mapping in `directory`'s config.json; ModelNotFoundError where there is none.

    `file` is another name for it; model_config.json is read where there is nothing else.
    """
    directory = Path(directory)
    path = directory / file
    if not exists(directory):
        raise ModelNotFoundError(
            f"{directory} does not exist. Expected a directory with {file} and weights."
        )
    old = directory / OLD_CONFIG_FILE
    if not is_file(path) and is_file(old):
        path = old
    if not is_file(path):
        raise ModelNotFoundError(
            f"{directory} is not a model: it has no {file}. Pass the directory that "
            "save_pretrained or `offramp train` wrote."
        )
    values = read_json(path)
    return _unnested(values, path) if path == old and "init_class" in values else values


def _unnested(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The flat form of PaddleNLP's layout of before 2.5: a class's arguments, the body's inside."""
    flat: dict[str, Any] = {}
    for inner in values.get("init_args") or ():
        if not isinstance(inner, dict) or "init_class" not in inner:
            raise ConfigError(
                f"{path} has {inner!r} among init_args, which does not say what it is. Write the "
                "argument by its name, or save the model with a later PaddleNLP."
            )
        flat |= _unnested(inner, path)
    own = {k: v for k, v in values.items() if k not in ("init_args", "init_class")}
    return {**flat, **own, "architectures": [values["init_class"]]}


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a file; ModelNotFoundError, or ConfigError for what is no JSON object."""
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, nested without end
        raise ConfigError(f"{path} is not valid JSON: {error}. Save the model again.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object; it holds a {type(values).__name__}.")
    return values


def as_json(values: Mapping[str, Any]) -> str:
    """The text of a file; ConfigError, naming the key, for what JSON cannot hold."""
    for key, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{key} cannot be written as JSON: {error}.") from None
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
