"""A model's modules one by one, and which of them have their weights."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def walk(root: nn.Module, *, every_path: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of a module and all inside, parents first; each once, or under every path.

    As `named_modules`, whose generators inside one another take three times as long.
    """
    seen: set[nn.Module] = set()
    left = [("", root)]
    while left:
        path, module = left.pop()
        if module in seen and not every_path:
            continue
        seen.add(module)
        yield path, module
        inside = [
            (f"{path}.{name}" if path else name, child)
            for name, child in module._modules.items()
            if child is not None
        ]
        left += reversed(inside)


def is_initialised(module: nn.Module) -> bool:
    """Whether the module's own weights were loaded or initialised: `init_weights` leaves them."""
    return "_initialised" in vars(module)


def mark_initialised(module: nn.Module) -> None:
    """Let `init_weights` leave the module's own weights alone from here on."""
    vars(module)["_initialised"] = True  # nn.Module's own way to set it takes it for a tensor
