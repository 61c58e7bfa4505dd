"""sentence-transformers' files: what becomes of a body's hidden states, in a table of modules.

https://sbert.net/docs/package_reference/sentence_transformer/models.html: `modules.json` lists the
modules in their order, each with a folder for its settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offramp.checkpoints.checked_file import UnsoundError, check_inside, reading, small_file
from offramp.checkpoints.strict_json import parse_json
from offramp.errors import ConfigFileError, UnsupportedError
from offramp.hub.names import is_inside
from offramp.models.config_file import CONFIG_FILE, read_json
from offramp.models.names import MODULES_FILE, PROMPTS_FILE, TEXT_FILES
from offramp.runner.dense import PLACE, Dense

_LONGEST = 100_000  # bytes of modules.json
_MOST_MODULES = 32
_PACKAGE = "sentence_transformers."
_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")

POOLINGS: dict[str, str] = {"cls": "first", "max": "max", "mean": "mean", "lasttoken": "last"}
"""sentence-transformers' word for a pooling: ours."""
_SWITCHES: dict[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The older settings, in the order in which what they switch on is joined."""


@dataclass(frozen=True)
class SentenceLayout:
    """How hidden states become one vector a text.

    What `pooling` names is joined in its order, and goes through `dense` one after the other;
    `normalize` is the last step. Texts are made lower case before they are tokenised where
    `lowercase` says so, and cut at `max_length` tokens.
    """

    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[Dense, ...] = ()
    normalize: bool = False
    max_length: int | None = None
    lowercase: bool = False
    pools_prompt: bool = True
    """Whether a prompt's tokens are pooled like the text's."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


def read_layout(directory: Path) -> tuple[Path, SentenceLayout]:
    """Where the body lies, and what its hidden states are made into.

    Without modules.json that is their mean, as it is. Raises UnsupportedError, naming it, for a
    module or a setting that is not known here, and ConfigFileError for files that are not sound.
    """
    if not has_modules(directory):
        return directory, SentenceLayout()
    (_, body), (_, pooling), *rest = _modules(directory)
    texts = _text_settings(body)
    pooling_modes, pools_prompt = _pooling(pooling)
    dense: list[Dense] = []
    normalized = False
    for kind, folder in rest:
        if kind == "Dense":
            dense.append(Dense.read(folder, normalized))
        else:
            _check_only(folder / CONFIG_FILE, module_input_name=PLACE, module_output_name=PLACE)
        normalized = kind == "Normalize"
    prompts, default = _prompts(directory)
    return body, SentenceLayout(
        pooling=pooling_modes,
        dense=tuple(dense),
        normalize=normalized,
        max_length=texts.get("max_seq_length"),
        lowercase=bool(texts.get("do_lower_case")),
        pools_prompt=pools_prompt,
        prompts=prompts,
        default_prompt=default,
    )


def has_modules(directory: Path) -> bool:
    """Whether a directory is laid out by sentence-transformers; a link to nowhere is too."""
    path = directory / MODULES_FILE
    return path.is_file() or path.is_symlink()


def write_layout(directory: Path, layout: SentenceLayout, width: int, max_length: int) -> None:
    """Write the table, and each module's settings into its folder; the body lies beside them.

    `width` is the body's, `max_length` the tokenizer's.
    """
    kinds = ["Transformer", "Pooling"]
    for dense in layout.dense:
        kinds += ["Normalize", "Dense"] if dense.after_normalize else ["Dense"]
    kinds += ["Normalize"] if layout.normalize else []
    folders = ["", *(f"{place}_{kind}" for place, kind in enumerate(kinds) if place)]
    rest = iter(layout.dense)
    for kind, folder in zip(kinds, folders, strict=True):
        if kind == "Dense":
            next(rest).write(directory / folder)
    (directory / folders[1]).mkdir()
    settings: dict[Path, Any] = {
        directory / folders[1] / CONFIG_FILE: {
            "word_embedding_dimension": width,
            **_pooling_settings(layout),
            **({} if layout.pools_prompt else {"include_prompt": False}),
        },
        directory / TEXT_FILES[0]: {
            "max_seq_length": max_length,
            "do_lower_case": layout.lowercase,
        },
        directory / PROMPTS_FILE: {
            "prompts": dict(layout.prompts),
            "default_prompt_name": layout.default_prompt,
        },
        directory / MODULES_FILE: [
            {"idx": place, "name": str(place), "path": folder, "type": f"{_PACKAGE}models.{kind}"}
            for place, (kind, folder) in enumerate(zip(kinds, folders, strict=True))
        ],
    }
    for path, values in settings.items():
        path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _modules(directory: Path) -> list[tuple[str, Path]]:
    """Each module's kind and folder: a Transformer, a Pooling, and what comes after."""
    path = directory / MODULES_FILE
    with reading(path, "config", "Save the model again with sentence-transformers."):
        check_inside(path, directory)
        try:
            table = parse_json(small_file(path, _LONGEST))
        except (ValueError, RecursionError) as error:
            raise UnsoundError(f"it is no JSON that can be read ({error})") from None
        if not isinstance(table, list) or not 2 <= len(table) <= _MOST_MODULES:
            raise UnsoundError(f"it is no list of 2 to {_MOST_MODULES} modules")
        found = [_module(entry, directory) for entry in table]
    kinds = [kind for kind, _ in found]
    if kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & {*kinds[2:]}:
        raise UnsupportedError(
            f"{path} lists {', '.join(kinds)}; offramp runs a Transformer, a Pooling, and after "
            "them Dense and Normalize."
        )
    return found


def _module(entry: object, directory: Path) -> tuple[str, Path]:
    if not isinstance(entry, dict) or not all(
        isinstance(entry.get(name), str) for name in ("type", "path")
    ):
        raise UnsoundError(f"{str(entry)[:100]} is no module: it has no `type` and `path`")
    kind, folder = entry["type"], entry["path"]
    name = kind.rpartition(".")[2]
    options = f" with {str(entry['kwargs'])[:100]}" if entry.get("kwargs") else ""
    if not kind.startswith(_PACKAGE) or name not in _MODULES or options:
        raise UnsupportedError(
            f"{directory / MODULES_FILE} asks for the module {kind}{options}, which offramp does "
            f"not have. It runs sentence-transformers' {', '.join(_MODULES)}; embed with "
            "sentence-transformers, or take the body alone: offramp.AutoModel."
        )
    if folder and (not is_inside(folder) or "\\" in folder):
        raise UnsoundError(f"{name} lies in {folder[:60]!r}, no folder inside", kind="outside")
    place = directory / folder
    check_inside(place, directory)
    return name, place


def _text_settings(body: Path) -> dict[str, Any]:
    """The first module's settings, from whichever of its files is there."""
    path = next((body / name for name in TEXT_FILES if (body / name).is_file()), None)
    if path is None:
        return {}
    values = read_json(path)
    _check_only(path, transformer_task="feature-extraction", module_output_name="token_embeddings")
    length, lowercase = values.get("max_seq_length"), values.get("do_lower_case")
    if not (length is None or (type(length) is int and length > 0)) or not (
        lowercase is None or isinstance(lowercase, bool)
    ):
        raise ConfigFileError(
            f"{path} has max_seq_length {length!r} and do_lower_case {lowercase!r}; expected a "
            "number of tokens, and true or false.",
            file=path,
        )
    return values


def _check_only(path: Path, **known: str) -> None:
    """UnsupportedError for a file in which one of these settings has another value."""
    values = read_json(path) if path.is_file() else {}
    for name, value in known.items():
        if values.get(name) not in (None, value):
            raise UnsupportedError(
                f"{path} has {name} {str(values[name])[:60]!r}; offramp has {value!r} alone."
            )


def _prompts(directory: Path) -> tuple[dict[str, str], str | None]:
    """The prompts by name, and the name of the one that is used where none is asked for."""
    path = directory / PROMPTS_FILE
    about = read_json(path) if path.is_file() else {}
    prompts, default = about.get("prompts") or {}, about.get("default_prompt_name")
    if isinstance(prompts, dict):
        prompts = {name: "" if text is None else text for name, text in prompts.items()}
    texts = isinstance(prompts, dict) and all(isinstance(text, str) for text in prompts.values())
    if not texts or not (default is None or (isinstance(default, str) and default in prompts)):
        raise ConfigFileError(
            f"{path} must have `prompts`, an object of texts, and in `default_prompt_name` one of "
            f"their names; it has {str(prompts)[:100]} and {str(default)[:60]!r}.",
            file=path,
        )
    return prompts, default


def _pooling(folder: Path) -> tuple[tuple[str, ...], bool]:
    """What is joined, in its order; and whether a prompt's tokens are among what is pooled."""
    path = folder / CONFIG_FILE
    values = read_json(path)
    words = values.get("pooling_mode")
    if words is None:
        # Without any of them it is the mean.
        words = [word for name, word in _SWITCHES.items() if values.get(name)] or ["mean"]
    words = [words] if isinstance(words, str) else words
    if not isinstance(words, list) or not words:
        raise ConfigFileError(f"{path} has pooling_mode {str(words)[:60]}.", file=path)
    unknown = [str(word)[:60] for word in words if str(word) not in POOLINGS]
    unknown += [
        name
        for name, on in values.items()
        if name.startswith("pooling_mode_") and on and name not in _SWITCHES
    ]
    if unknown:
        raise UnsupportedError(
            f"{path} asks for the pooling {', '.join(unknown)}; offramp has {', '.join(POOLINGS)}."
        )
    return tuple(POOLINGS[word] for word in words), bool(values.get("include_prompt", True))


def _pooling_settings(layout: SentenceLayout) -> dict[str, Any]:
    """The older settings, which every release reads, where they can say it."""
    words = {own: word for word, own in POOLINGS.items()}
    modes = [words[own] for own in layout.pooling]
    if modes == [word for word in _SWITCHES.values() if word in modes]:
        return {name: word in modes for name, word in _SWITCHES.items()}
    return {"pooling_mode": modes}
