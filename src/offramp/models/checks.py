"""What arguments of `forward` must be, whatever else is asked of them."""

from __future__ import annotations

from torch import Tensor

from offramp.errors import InputError


def check_tensor(name: str, value: object) -> None:
    """InputError for what is neither a tensor nor None."""
    if value is not None and not isinstance(value, Tensor):
        raise InputError(
            f"{name} is a tensor; got a {type(value).__name__}. Pass torch.tensor({name})."
        )
