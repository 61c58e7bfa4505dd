"""The exception tree: everything that offramp raises on purpose is an `OfframpError`.

Each class is also the builtin that its ancestors raised for the same fault, so code written for
transformers or PaddleNLP keeps its `except` clauses. A message has what was wrong, what was
expected, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OfframpError(Exception):
    """Base of every error that offramp raises on purpose."""


class ConfigError(OfframpError, ValueError):
    """A configuration's field or combination of fields cannot be."""


class UnknownOptionError(ConfigError, TypeError):
    """A keyword that nothing here takes; the message names the nearest one."""


class ModelNotFoundError(OfframpError, OSError):
    """A path is absent or holds no model."""


class HubError(ModelNotFoundError):
    """A name stands for no files that are here, or for files that are not as they should be."""


class UnsupportedError(OfframpError, NotImplementedError):
    """The model has no such part, or cannot do what it is asked to."""


class CheckpointError(OfframpError, ValueError, RuntimeError):
    """A checkpoint's tensors are not those of the model it is asked to fill.

    transformers raises RuntimeError for a tensor of another size, PaddleNLP ValueError.
    """


class SaveError(OfframpError, OSError):
    """Files cannot be written where they were asked to be."""


class DataError(OfframpError, ValueError):
    """Text, labels or a table that cannot be used as given."""


class InputError(OfframpError, ValueError):
    """Tensors handed to a model have the wrong shape, type or range."""


class TrainingError(OfframpError, RuntimeError):
    """Training cannot go on: the loss is not a number."""


class MissingBackendError(OfframpError, ImportError):
    """An optional package that is needed here is not installed."""


class NewWeightsWarning(UserWarning):
    """A head was not in the checkpoint and has fresh random weights."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that ends an error message: the nearest known name, or all of them if few."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(known)}." if 0 < len(known) <= 12 else ""
