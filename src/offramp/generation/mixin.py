"""What every model inherits of generation: whether it can, and a refusal where it cannot."""

from __future__ import annotations

from typing import Any, NoReturn

from offramp.errors import UnsupportedError


class GenerationMixin:
    """Base of models that may write text. This offramp has none that can: encoders do not."""

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the class writes text, token by token."""
        return False

    def generate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise UnsupportedError (a NotImplementedError), since no model here can."""
        raise UnsupportedError(
            f"{type(self).__name__} cannot generate text: it reads a whole row at once and has no "
            "head for the next token."
        )
