"""A name becomes a local directory: an installed package's, the hub cache's, or a mirror's.

The cache is huggingface_hub's, laid out as
https://huggingface.co/docs/huggingface_hub/guides/manage-cache says.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from offramp.backends import INSTALL, is_available
from offramp.errors import ConfigError, HubError

MIRRORS = "OFFRAMP_MIRRORS"
"""Environment variable: directories, separated as in PATH, that hold models as owner/name."""

Select = Callable[[Iterable[str]], list[str]]
"""Given the names of a model's files, those that are needed; none where it is no model."""

Download = Callable[[str, "Request", Select], Path]
"""Fetches owner/name and returns the directory; raises HubError."""

download: Download | None = None
"""What is asked last. This offramp has none and says how to fetch a model by hand."""

# As the hub's client has it: letters, digits, and - _ . between them.
_PART = r"\w(?:[\w.-]{0,94}\w)?"
_HUB_NAME = re.compile(rf"{_PART}(/{_PART})?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]*")


@dataclass(frozen=True)
class Source:
    """Where a built-in name's files are: tried in this order, what is None or empty is not.

    `package` is an installed package and a folder in it, "package/folder"; `mirrors` are
    directories; `hub_id` is "owner/name" on the hub, looked up in its cache. `sha256` is that of
    the weights' one file, and checked wherever it comes from.
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
        if self.force_download and self.local_files_only:
            raise ConfigError("force_download=True and local_files_only=True exclude each other.")


def find(source: Source, request: Request, select: Select, *, hub_only: bool = False) -> Path:
    """The directory with the source's files; HubError, naming all that was tried, where none is.

    With `hub_only` neither a package nor a mirror is asked.
    """
    tried: list[str] = []
    places = [] if hub_only or request.force_download else _places(source, tried)
    if source.hub_id and not request.force_download:
        cached = _cached(source.hub_id, request)
        tried.append(f"the hub cache ({source.hub_id})")
        places += [cached] if cached else []
    if not hub_only:
        mirrors = [Path(mirror) for mirror in source.mirrors]
        if source.hub_id:
            listed = os.environ.get(MIRRORS, "").split(os.pathsep)
            mirrors += [Path(mirror, source.hub_id) for mirror in listed if mirror]
        mirrors = [Path(os.path.expanduser(mirror)) for mirror in mirrors]  # noqa: PTH111  # ~nobody
        tried += map(str, mirrors)
        places += mirrors
    for place in places:
        directory = place / (request.subfolder or "")
        if directory.is_dir() and select(p.name for p in directory.iterdir()):
            return directory
    if source.hub_id and download is not None and not request.local_files_only:
        return download(source.hub_id, request, select)
    raise HubError(
        f"Not found in {', '.join(tried) or 'any place'}; offramp downloads nothing by itself."
        + _how_to_fetch(source, request)
    )


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


def _cached(hub_id: str, request: Request) -> Path | None:
    if not is_available("huggingface_hub"):
        return None
    from huggingface_hub import snapshot_download  # takes a while to import
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            hub_id,
            revision=request.revision,
            cache_dir=request.cache_dir,
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        return None
    return Path(found)


def _how_to_fetch(source: Source, request: Request) -> str:
    if source.hub_id is None:
        return ""
    revision = f" --revision {request.revision}" if request.revision else ""
    into = f" --cache-dir {request.cache_dir}" if request.cache_dir else ""
    how = f" Fetch it where there is a network: hf download {source.hub_id}{revision}{into}"
    if source.package is None:
        return how
    package = source.package.partition("/")[0]
    return how + f"; or install the package that carries it: {INSTALL.get(package, package)}"


def _is_revision(revision: object) -> bool:
    return (
        isinstance(revision, str) and bool(_REVISION.fullmatch(revision)) and ".." not in revision
    )
