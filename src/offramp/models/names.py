"""Where a model's files are: a directory, one file, a built-in name, or a name on the hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from offramp.errors import HubError, ModelNotFoundError, nearest
from offramp.hub.names import Request, Select, Source, find, is_hub_name
from offramp.models.builtin import all_sources

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
COMPANIONS = (*TOKENIZER_FILES, "generation_config.json")
"""Files that belong to a model beside its configuration and weights."""


@dataclass(frozen=True)
class Place:
    """A directory, the one file in it that was named (if one was), and its built-in source."""

    directory: Path
    file: str | None = None
    source: Source | None = None


def locate(
    name: str | Path,
    request: Request,
    select: Select,
    built_in: Mapping[str, Source | str],
    *,
    hub_only: bool = False,
) -> Place:
    """What `name` stands for: a path that exists, a built-in name, or owner/name, in that order.

    `select` says whether a directory has what is wanted. With `hub_only` it is a name on the hub,
    looked up in the hub's cache. Raises ModelNotFoundError, or HubError (one of it).
    """
    path, text = Path(name), os.fspath(name)
    if not hub_only:
        if os.path.isfile(path):  # noqa: PTH113  # Path.is_file raises for a name too long
            return Place(path.parent, path.name)
        if os.path.isdir(path):  # noqa: PTH112
            return Place(path / (request.subfolder or ""))
        if text in built_in:
            source = built_in[text]
            source = source if isinstance(source, Source) else Source(hub_id=source)
            return Place(find(source, request, select), source=source)
    if is_hub_name(text) and ("/" in text or hub_only):
        try:
            return Place(find(Source(hub_id=text), request, select, hub_only=hub_only))
        except HubError as error:
            what = "" if hub_only else f"{text} is no directory here, nor a built-in name. "
            raise HubError(what + str(error)) from error
    raise ModelNotFoundError(
        f"{text} does not exist. Expected a directory with config.json and weights, a built-in "
        f"name, or owner/name on the hub. {nearest(text, built_in)}".rstrip()
        if not hub_only
        else f"{text!r} is no name on the hub; expected owner/name."
    )


def model_files(config_files: Iterable[str], weights: tuple[str, str] | None) -> Select:
    """What of a listing a model needs: its configuration, its weights, what belongs to them.

    `weights` are the names of the one file and of the index; with None no weights are wanted.
    """
    configs = tuple(config_files)

    def select(listing: Iterable[str]) -> list[str]:
        names = list(listing)
        found = [name for name in names if name in configs]
        if weights is not None:
            file, index = weights
            stem, _, suffix = file.rpartition(".")
            shards = [n for n in names if n.startswith(f"{stem}-") and n.endswith(f".{suffix}")]
            tensors = [file] if file in names else [index, *shards] if index in names else []
            found = [*found, *tensors] if tensors else []
        return [*found, *(name for name in names if name in COMPANIONS)] if found else []

    return select


def companions_of(name: str) -> tuple[str, ...]:
    """The files that are of one making with this one: a tokenizer's are not mixed."""
    return TOKENIZER_FILES if name in TOKENIZER_FILES else (name,)


def companions_in(directory: str | Path) -> set[str]:
    """Which of them lie in a directory."""
    return {name for name in COMPANIONS if (Path(directory) / name).is_file()}


def read_companions(directory: Path) -> dict[str, bytes]:
    """The contents of a directory's tokenizer and generation files, by name."""
    return {
        name: (directory / name).read_bytes() for name in COMPANIONS if (directory / name).is_file()
    }


def model_directory(name: str | Path) -> Path:
    """The directory of a model with weights, by path or by any family's built-in name.

    Raises ModelNotFoundError, or HubError for a name whose files are not here.
    """
    if os.path.isfile(name):  # noqa: PTH113
        raise ModelNotFoundError(f"{name} is a file; expected a model's directory.")
    weights = ("model.safetensors", "model.safetensors.index.json")
    return locate(name, Request(), model_files(("config.json",), weights), all_sources()).directory
