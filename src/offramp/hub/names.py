"""A name becomes a local directory: an installed package's, the hub cache's, or a mirror's.

The cache is huggingface_hub's, laid out as
https://huggingface.co/docs/huggingface_hub/guides/manage-cache says.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from offramp.backends import INSTALL, is_available
from offramp.errors import ConfigError, HubError
from offramp.hub.cache import COMMIT
from offramp.hub.client import RefusedError, UnreachableError
from offramp.hub.settings import (
    MIRRORS as MIRRORS,
    cache_directory,
    endpoint,
    is_address,
    is_offline,
    mirrors,
)

Select = Callable[[Iterable[str]], list[str]]
"""Given the names of a model's files, those that are needed; none where it is no model."""

_log = logging.getLogger(__name__)
# As the hub's client has it: letters, digits, and - _ . between them.
_PART = r"\w(?:[\w.-]{0,94}\w)?"
_HUB_NAME = re.compile(rf"{_PART}(/{_PART})?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]*")


@dataclass(frozen=True)
class Source:
    """Where a built-in name's files are: tried in this order, what is None or empty is not.

    `package` is an installed package and a folder in it, "package/folder"; `mirrors` are
    directories; `hub_id` is "owner/name" on the hub and in its cache. `sha256` is that of the
    weights' one file, and checked wherever it comes from.
    """

    hub_id: str | None = None
    package: str | None = None
    mirrors: tuple[str, ...] = ()
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.hub_id is not None and not is_hub_name(self.hub_id):
            raise ConfigError(f"hub_id is owner/name on the hub; got {self.hub_id!r}.")
        package = (self.package or "x").partition("/")
        if not package[0].isidentifier() or (package[1] and not is_inside(package[2])):
            raise ConfigError(
                "package is an installed package and a folder in it, such as 'carrier/model'; got "
                f"{self.package!r}."
            )


@dataclass(frozen=True)
class Request:
    """How a name is to be looked up; the arguments of `from_pretrained`."""

    revision: str | None = None
    subfolder: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    token: str | bool | None = field(default=None, repr=False)
    """A token of the hub; None is the client's own (HF_TOKEN, or its file), False is none."""

    def __post_init__(self) -> None:
        if self.revision is not None and not _is_revision(self.revision):
            raise ConfigError(
                f"revision is a branch, a tag or a commit, such as 'main'; got {self.revision!r}."
            )
        if self.subfolder is not None and not is_inside(self.subfolder):
            raise ConfigError(
                f"subfolder is a path inside the model's directory; got {self.subfolder!r}."
            )
        for name in ("local_files_only", "force_download"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is True or False; got {getattr(self, name)!r}.")
        if self.cache_dir is not None and "\0" in str(self.cache_dir):
            raise ConfigError(f"cache_dir is no path: {self.cache_dir!r}.")
        if not isinstance(self.token, str | bool | None) or self.token == "":
            raise ConfigError("token is a text, True, False or None.")
        if isinstance(self.token, str) and not (self.token.isascii() and self.token.isprintable()):
            raise ConfigError("token has letters that no token of the hub has.")
        if self.force_download and self.local_files_only:
            raise ConfigError("force_download=True and local_files_only=True exclude each other.")


def find(source: Source, request: Request, select: Select, *, hub_only: bool = False) -> Path:
    """The directory with the source's files; HubError, naming all that was tried, where none is.

    The places are asked in this order: an installed package, the hub's cache, mirrors that are
    directories, the hub, mirrors that are endpoints. A branch in the cache is looked up on the hub
    first, and taken as it is where the hub cannot be asked; a commit in the cache asks nobody. With
    `hub_only` neither a package nor a mirror is asked; nor is a directory for another revision than
    main, or where files are to be fetched anew.
    """
    notes: list[str] = []
    wants_cached = not request.force_download
    # A directory has one revision, and nobody knows which: another than main is not looked for.
    takes_directories = wants_cached and request.revision in (None, "main")
    places = _places(source, notes) if takes_directories and not hub_only else []
    if found := _among(places, request, select):
        return found
    offline = request.local_files_only or is_offline()
    cached = _cached(source.hub_id, request, select, notes) if wants_cached else None
    if cached and (offline or COMMIT.fullmatch(request.revision or "")):
        return cached
    others = [] if hub_only else _mirrors(source)
    if cached is None:
        directories = [_expanded(mirror) for mirror in others if not is_address(mirror)]
        if takes_directories:
            notes += map(str, directories)
            if found := _among(directories, request, select):
                return found
        elif request.revision not in (None, "main"):
            notes += [f"{place} (a directory has no revisions)" for place in directories]
    if offline:
        asked = "local_files_only=True" if request.local_files_only else "HF_HUB_OFFLINE is set"
        notes += [f"the hub was not asked: {asked}"] if source.hub_id else []
    elif source.hub_id:
        endpoints = [] if cached else [mirror for mirror in others if is_address(mirror)]
        if found := _fetched(source.hub_id, request, select, endpoints, notes):
            return found
        if cached:
            _log.warning("%s is taken as it is in the cache: %s", source.hub_id, notes[-1])
            return cached
    tried = "; ".join(notes) or "any place"
    raise HubError(f"Not found in {tried}.{_how_to_fetch(source, request)}")


def download(hub_id: str, request: Request, select: Select, at: str | None = None) -> Path:
    """The directory of owner/name, fetched from an endpoint (HF_ENDPOINT) into the cache."""
    if not is_available("huggingface_hub"):
        raise UnreachableError(
            "the hub, which is asked with huggingface_hub (pip install huggingface_hub)"
        )
    from offramp.hub.download import download as fetch

    return fetch(at or endpoint(), hub_id, request, select)


def is_hub_name(name: str) -> bool:
    """Whether `name` could be a repository: "name" or "owner/name"."""
    good = _HUB_NAME.fullmatch(name) and not name.endswith(".git")
    return bool(good) and ".." not in name and "--" not in name


def is_inside(path: str) -> bool:
    """Whether a relative path stays below where it begins."""
    parts = Path(path).parts
    return bool(path) and not Path(path).is_absolute() and ".." not in parts and "\0" not in path


def check_sha256(path: Path, expected: str) -> None:
    """HubError unless the file has this checksum."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    if found.hexdigest() != expected:
        raise HubError(
            f"{path} has sha256 {found.hexdigest()}; expected {expected}. The file is damaged or "
            "another model's: remove it and fetch it again."
        )


def _places(source: Source, tried: list[str]) -> list[Path]:
    if source.package is None:
        return []
    package, _, folder = source.package.partition("/")
    tried.append(f"the package {package}")
    if not is_available(package):
        return []
    spec = importlib.util.find_spec(package)
    roots = (spec.submodule_search_locations if spec else None) or []
    return [Path(root) / folder for root in roots]


def _among(places: Iterable[Path], request: Request, select: Select) -> Path | None:
    for place in places:
        directory = place / (request.subfolder or "")
        if directory.is_dir() and select(p.name for p in directory.iterdir()):
            return directory
    return None


def _cached(hub_id: str | None, request: Request, select: Select, notes: list[str]) -> Path | None:
    """What the hub's cache has; what it lacks or has damaged goes to the notes."""
    if hub_id is None:
        return None
    from offramp.hub.download import held

    why: list[str] = []
    found = held(hub_id, request, select, why)
    said = ", ".join(why) or f"nothing of {hub_id}"
    notes.append(f"the hub cache in {cache_directory(request.cache_dir)} ({said})")
    return found


def _fetched(
    hub_id: str, request: Request, select: Select, mirrors: list[str], notes: list[str]
) -> Path | None:
    """What the hub has, or the first of the endpoints that mirror it; the token is for the hub.

    None where none of them can be asked, or has it; any other HubError goes through.
    """
    for mirror in (None, *mirrors):
        try:
            if mirror is None:
                return download(hub_id, request, select)
            return download(hub_id, replace(request, token=False), select, mirror.rstrip("/"))
        except (UnreachableError, RefusedError) as error:
            notes.append(str(error).rstrip("."))
    return None


def _mirrors(source: Source) -> list[str]:
    """Directories and endpoints: the source's own, and those of the environment."""
    if source.hub_id is None:
        return list(source.mirrors)
    own = (m if is_address(m) else str(Path(m, source.hub_id)) for m in mirrors())
    return [*source.mirrors, *own]


def _expanded(mirror: str) -> Path:
    return Path(os.path.expanduser(mirror))  # noqa: PTH111  # ~nobody stays


def _how_to_fetch(source: Source, request: Request) -> str:
    if source.hub_id is None:
        return ""
    revision = f" --revision {request.revision}" if request.revision else ""
    into = f" --cache-dir {request.cache_dir}" if request.cache_dir else ""
    how = (
        f" Fetch it where there is a network: hf download {source.hub_id}{revision}{into}; what is "
        "in the cache is opened without one"
    )
    if source.package is None:
        return f"{how}."
    package = source.package.partition("/")[0]
    return how + f". Or install the package that carries it: {INSTALL.get(package, package)}"


def _is_revision(revision: object) -> bool:
    return (
        isinstance(revision, str) and bool(_REVISION.fullmatch(revision)) and ".." not in revision
    )
