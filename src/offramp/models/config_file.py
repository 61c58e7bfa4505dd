"""config.json as it lies in a directory: which file it is, and what JSON may say in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offramp.checkpoints.checked_file import UnsoundError, check_inside, small_file
from offramp.checkpoints.strict_json import parse_json
from offramp.errors import ConfigError, ConfigFileError, ModelNotFoundError
from offramp.models.names import (
    CONFIG_FILE as CONFIG_FILE,
    OLD_CONFIG_FILE as OLD_CONFIG_FILE,
    exists,
    is_file,
)

_CLASS = re.compile(r"(Bert|Ernie|Roberta|Albert)[A-Z]\w*")
LONGEST_CONFIG = 1_000_000
"""Bytes of a configuration's file."""


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


def architecture(values: Mapping[str, Any]) -> str:
    """The class that a configuration names first, or nothing."""
    named = values.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def stated_dtype(values: Mapping[str, Any]) -> object:
    """The type of the weights, under its name of now or its older one."""
    return values.get("dtype") or values.get("torch_dtype")


def stated_family(values: Mapping[str, Any]) -> str | None:
    """model_type, or what the class's name says in its place."""
    stated = values.get("model_type")
    if isinstance(stated, str) and stated:
        return stated
    found = _CLASS.fullmatch(architecture(values))
    return found[1].lower() if found else None


_BODY = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "pad_token_id",
)
_POSITIONS: dict[str, tuple[str, ...]] = {
    "AlbertModel": (
        "vocab_size",
        "embedding_size",
        "hidden_size",
        "num_hidden_layers",
        "num_hidden_groups",
        "num_attention_heads",
        "intermediate_size",
        "inner_group_num",
        *_BODY[5:11],
        "layer_norm_eps",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "add_pooling_layer",
    ),
    "ErnieModel": (*_BODY, "task_type_vocab_size", "task_id", "use_task_id", "enable_recompute"),
    "RobertaModel": (*_BODY, "layer_norm_eps", "cls_token_id"),
    "Model": (*_BODY, "pool_act", "fuse"),
    "AlbertForQuestionAnswering": ("num_labels",),
    "AlbertForSequenceClassification": ("classifier_dropout_prob", "num_classes"),
    "ForSequenceClassification": ("num_classes", "dropout"),
    "ForTokenClassification": ("num_classes", "dropout"),
    "ForQuestionAnswering": ("dropout",),
    "ForMultipleChoice": ("num_choices", "dropout"),
}
"""How a class's name ends: its arguments by position (after the body), in PaddleNLP before 2.5."""


def _unnested(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The flat form of PaddleNLP's layout of before 2.5: a class's arguments, the body's inside."""
    name = values["init_class"]
    if not isinstance(name, str):
        raise ConfigFileError(
            f"{path} has init_class {str(name)[:60]!r}; expected a class's name.", file=path
        )
    ending = next((end for end in _POSITIONS if str(name).endswith(end)), None)
    flat: dict[str, Any] = {}
    given: list[Any] = []
    arguments = values.get("init_args") or ()
    for inner in arguments if isinstance(arguments, (list, tuple)) else (arguments,):
        if isinstance(inner, dict) and "init_class" in inner:
            flat |= _unnested(inner, path)
        else:
            given.append(inner)
    positions = _POSITIONS[ending] if ending else ()
    if len(given) > len(positions) or any(isinstance(one, (list, dict)) for one in given):
        raise ConfigFileError(
            f"{path} has {', '.join(str(one)[:60] for one in given)} among init_args of {name!s}, "
            f"which takes {len(positions)} by position. Write the arguments by their names, or "
            "save the model with a later PaddleNLP.",
            file=path,
        )
    by_name = {k: v for k, v in values.items() if k not in ("init_args", "init_class")}
    for key, inner in list(by_name.items()):
        if isinstance(inner, dict) and "init_class" in inner:  # the body, by its keyword
            flat |= _unnested(by_name.pop(key), path)
    return {**flat, **dict(zip(positions, given, strict=False)), **by_name, "architectures": [name]}


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a file of at most a megabyte.

    ModelNotFoundError where there is none, ConfigFileError for what is no JSON object.
    """
    try:
        check_inside(path, path.parent)
        values = parse_json(small_file(path, LONGEST_CONFIG))
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnsoundError, ValueError, RecursionError) as error:
        raise ConfigFileError(
            f"{path} is not valid JSON: {error}. Save the model again.", file=path
        ) from error
    if not isinstance(values, dict):
        raise ConfigFileError(
            f"{path} must hold a JSON object; it holds a {type(values).__name__}.", file=path
        )
    return values


def as_json(values: Mapping[str, Any]) -> str:
    """The text of a file; ConfigError, naming the key, for what JSON cannot hold."""
    for key, value in values.items():
        try:
            json.dumps({key: value}, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:  # half a letter (a surrogate) is a ValueError
            raise ConfigError(f"{key} cannot be written as JSON: {error}.") from None
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
