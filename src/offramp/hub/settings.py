"""What the environment says of the hub, read as huggingface_hub reads it and without importing it.

https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables lists the
variables. They are read at each call; the client reads them once, when it is imported.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

MIRRORS = "OFFRAMP_MIRRORS"
"""Environment variable: directories that hold models as owner/name, and endpoints
(https://host), separated as in PATH."""

_TRUE = {"1", "ON", "YES", "TRUE"}
_HUB = "https://huggingface.co"


def cache_directory(given: str | Path | None = None) -> Path:
    """Where repositories are kept: what the caller gives, or HF_HUB_CACHE, or HF_HOME/hub."""
    if given is not None:
        return _whole(str(given))
    if found := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return _whole(found)
    own = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(own, "huggingface")  # noqa: PTH118
    return _whole(home) / "hub"


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids any connection."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in _TRUE


def links_allowed() -> bool:
    """Whether a snapshot may be made of links: not where HF_HUB_DISABLE_SYMLINKS is set."""
    return os.environ.get("HF_HUB_DISABLE_SYMLINKS", "").upper() not in _TRUE


def timeout() -> float:
    """Seconds that the hub may be silent: HF_HUB_DOWNLOAD_TIMEOUT, or 10."""
    try:
        return float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or 10)
    except ValueError:
        return 10.0


def mirrors() -> list[str]:
    """The entries of OFFRAMP_MIRRORS: a colon parts them, but for those of an address."""
    by = re.escape(os.pathsep)
    entry = rf"https?://[^/{by}]+(?::\d+)?[^{by}]*|[^{by}]+"
    return re.findall(entry, os.environ.get(MIRRORS, ""))


def is_address(mirror: str) -> bool:
    """Whether a mirror is an endpoint, and not a directory."""
    return mirror.startswith(("http://", "https://"))


def _whole(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))  # noqa: PTH111  # ~nobody stays
