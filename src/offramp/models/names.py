"""Where a model's files are: a directory, one file, a built-in name, or a name on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from offramp.checkpoints.checked_file import check_inside, reading, small_file
from offramp.checkpoints.file_names import (
    PADDLE_FILE,
    SAFETENSORS_FILE,
    TORCH_FILE,
    weights_files,
)
from offramp.errors import ConfigError, HubError, ModelNotFoundError, nearest
from offramp.hub.names import Request, Select, Source, find, is_hub_name
from offramp.models.builtin import all_sources
from offramp.storage.steady import present

CONFIG_FILE, OLD_CONFIG_FILE = "config.json", "model_config.json"
"""A configuration's file, and its name of before PaddleNLP 2.5."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "encoder.json",
    "vocab.bpe",
    "spiece.model",
    "sentencepiece.bpe.model",
)
COMPANIONS = (*TOKENIZER_FILES, "generation_config.json")
"""Files that belong to a model beside its configuration and weights."""

MODULES_FILE = "modules.json"
"""sentence-transformers' table of modules, which lie in folders."""
PROMPTS_FILE = "config_sentence_transformers.json"
TEXT_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where the first module keeps its settings; the first is the one that is written."""

DEFAULT_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""The one file's name, and the index's; torch is not needed to say them."""
_MODULE = re.compile(r"\d+_\w+/")
_SHARD = re.compile(r"-\d{5}-of-(\d{5})$")


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

    A built-in name and owner/name may have a revision of theirs behind an @. `select` says whether
    a directory has what is wanted. With `hub_only` it is a name on the hub, and nothing else.
    Raises ModelNotFoundError, HubError (one of it), or ConfigError for options that a path does not
    have.
    """
    text = os.fspath(name)
    if not hub_only:
        path = present(as_path(text)) if text else None
        if path is not None:
            return _of_path(path, request)
    text, request = _revision_apart(text, request)
    if not hub_only and text in built_in:
        source = built_in[text]
        source = source if isinstance(source, Source) else Source(hub_id=source)
        return Place(find(source, request, select), source=source)
    if is_hub_name(text) and ("/" in text or hub_only):
        try:
            return Place(find(Source(hub_id=text), request, select, hub_only=hub_only))
        except HubError as error:
            what = "" if hub_only else f"{text} is no directory here, nor a built-in name. "
            raise HubError(what + str(error)) from error
    if hub_only:
        raise HubError(f"{text[:200]!r} is no name on the hub; expected owner/name.")
    raise ModelNotFoundError(
        f"{text or 'An empty name'} does not exist. Expected a directory with config.json and "
        f"weights, a built-in name, or owner/name on the hub. {nearest(text, built_in)}".rstrip()
    )


def _revision_apart(name: str, request: Request) -> tuple[str, Request]:
    """A name without the revision that it ends with, and the request with that."""
    plain, at, revision = name.rpartition("@")
    if not at or not is_hub_name(plain):
        return name, request
    if request.revision not in (None, revision):
        raise ConfigError(f"{name} and revision={request.revision!r} say two revisions; keep one.")
    return plain, replace(request, revision=revision)


def as_path(name: str | Path) -> Path:
    """The path that a name is, if it is one."""
    text = os.fspath(name)
    return Path(text).expanduser() if text.startswith("~/") else Path(text)


def exists(path: str | Path) -> bool:
    """Whether there is such a path; False for what can be none (too long, a NUL)."""
    try:
        return os.path.exists(path)  # noqa: PTH110  # Path.exists raises for a name too long
    except ValueError:
        return False


def given_path(name: str | Path) -> Path:
    """The path, whole; ModelNotFoundError for what can be none."""
    try:
        path = Path(name).expanduser().resolve()
        os.path.exists(path)  # noqa: PTH110  # which says that a name is too long
    except (OSError, RuntimeError, ValueError) as error:  # ~ of nobody, a loop of links, a NUL
        raise ModelNotFoundError(f"{str(name)[:200]!r} is no path: {error}.") from error
    return path


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; False for what can be none."""
    return exists(path) and Path(path).is_file()


def model_files(
    config_files: Iterable[str],
    weights: Sequence[tuple[str, str]] | None,
    *,
    config_needed: bool = True,
) -> Select:
    """What of a listing a model needs: its configuration, its weights, what belongs to them.

    `weights` are pairs of names, the one file's and the index's, of which the first that is there
    is taken; with None no weights are wanted. Of a listing that lacks any of it nothing is taken.
    """
    configs = tuple(config_files)

    def select(listing: Iterable[str]) -> list[str]:
        names = list(listing)
        found = [name for name in names if name in configs]
        saves = (_weights_among(names, *pair) for pair in weights or ())
        tensors = next(filter(None, saves), [])
        if (config_needed and not found) or (weights is not None and not tensors):
            return []
        return [*found, *tensors, *(name for name in names if name in COMPANIONS)]

    return select


def whole_model(listing: Iterable[str]) -> list[str]:
    """What of a listing a model needs, of whatever format its weights are: a `Select`.

    Of sentence-transformers' that is what each of its modules needs.
    """
    names = list(listing)
    saves = [weights_files(file) for file in (SAFETENSORS_FILE, TORCH_FILE, PADDLE_FILE)]
    select = model_files((CONFIG_FILE, OLD_CONFIG_FILE), saves)
    found = select(names)
    if MODULES_FILE not in names:
        return found
    tables = (MODULES_FILE, PROMPTS_FILE, *TEXT_FILES)
    found += [name for name in names if name in tables]
    for folder in sorted({name.partition("/")[0] for name in names if _MODULE.match(name)}):
        inside = [n.removeprefix(f"{folder}/") for n in names if n.startswith(f"{folder}/")]
        alone = [name for name in inside if name in (CONFIG_FILE, *TEXT_FILES)]
        found += [f"{folder}/{name}" for name in dict.fromkeys([*select(inside), *alone])]
    return found


def companions_of(name: str) -> tuple[str, ...]:
    """The files that are of one making with this one: two tokenizers' are not mixed."""
    return TOKENIZER_FILES if name in TOKENIZER_FILES else (name,)


def companions_in(directory: str | Path) -> set[str]:
    """Which of a model's companions lie in a directory."""
    return {name for name in COMPANIONS if is_file(Path(directory) / name)}


def read_companions(directory: Path) -> dict[str, bytes]:
    """The contents of a directory's tokenizer and generation files, by name.

    Raises CheckpointError for a link out of the directory: a save would hand on what it leads to.
    """
    contents = {}
    for name in sorted(companions_in(directory)):
        path = directory / name
        with reading(path, "outside"):
            check_inside(path, directory)
            contents[name] = small_file(path, 256 * 2**20)
    return contents


def model_directory(name: str | Path) -> Path:
    """The directory of a model with weights, by path or by any family's built-in name.

    Raises ModelNotFoundError, or HubError for a name whose files are not here.
    """
    if is_file(name):
        raise ModelNotFoundError(f"{name} is a file; expected a model's directory.")
    select = model_files(("config.json", "model_config.json"), [DEFAULT_WEIGHTS])
    return locate(name, Request(), select, all_sources()).directory


def _of_path(path: Path, request: Request) -> Place:
    if request.revision not in (None, "main") or request.force_download:
        raise ConfigError(
            f"{path} lies on this machine; revision= and force_download= are for names on the hub."
        )
    if not path.is_file():
        return Place(path / (request.subfolder or ""))
    if request.subfolder is not None:
        raise ConfigError(f"{path} is a file; subfolder= goes with a directory.")
    return Place(path.parent, path.name)


def _weights_among(names: list[str], file: str, index: str) -> list[str]:
    """The one file, or the index with all of its shards; nothing where some are lacking."""
    if file in names:
        return [file]
    if index not in names:
        return []
    stem, _, suffix = file.rpartition(".")
    shards = [n for n in names if n.startswith(f"{stem}-") and n.endswith(f".{suffix}")]
    totals = {found[1] for n in shards if (found := _SHARD.search(n.rpartition(".")[0]))}
    return [index, *shards] if totals == {f"{len(shards):05d}"} else []
