"""The exception tree: everything that offramp raises on purpose is an `OfframpError`.

Each class is also the builtin that its ancestors raised for the same fault, so code written for
transformers or PaddleNLP keeps its `except` clauses. A message has what was wrong, what was
expected, and what to do next.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

_LONGEST = 4000  # letters of a message


class OfframpError(Exception):
    """Base of every error that offramp raises on purpose.

    What a file put into the message is shown as text: no control characters, no end of it.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(shown(arg) if isinstance(arg, str) else arg for arg in args))


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
    """A checkpoint that cannot be used: its files are not sound, or not those of the model.

    transformers raises RuntimeError for a tensor of another size, PaddleNLP ValueError.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "tensors",
        file: str | os.PathLike[str] | None = None,
        offset: int | None = None,
        report: object = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        """What is wrong; one of `CHECKPOINT_FAULTS`."""
        self.file = None if file is None else os.fspath(file)
        """The file at fault, where it is one."""
        self.offset = offset
        """The byte of the file at which it shows, where that is known."""
        self.report = report
        """The `LoadingReport`, where tensors do not fill the model."""


CHECKPOINT_FAULTS: dict[str, str] = {
    "missing": "a file that is named is not there, or cannot be read",
    "outside": "a file lies outside the model's directory, or is a link that leads there",
    "ambiguous": "the directory holds weights of two saves",
    "truncated": "the file ends before it says",
    "header": "the header of a safetensors file is not sound",
    "pickle": "a pickle is not sound, or asks for what weights do not need",
    "zip": "PyTorch's zip is not sound",
    "index": "an index of several files is not sound, or disagrees with them",
    "config": "config.json is not sound, or does not fit the tensors",
    "legacy": "PyTorch's format of before 1.6, which is read only where that is asked for",
    "unsupported": "a format, or a kind of number, that offramp does not read",
    "manifest": "a file has another size than its save's manifest says, or that is not sound",
    "replaced": "the directory was replaced again and again while it was read",
    "tensors": "the tensors do not fill the model: names, shapes or types",
}
"""`CheckpointError.kind`: what it says."""


class ConfigFileError(CheckpointError, ConfigError):
    """A configuration in a file that is not sound, or does not fit the weights beside it."""

    def __init__(self, message: str, *, file: str | os.PathLike[str] | None = None) -> None:
        super().__init__(message, kind="config", file=file)


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


class ReplacedExitsWarning(UserWarning):
    """Ramps alone are trained, and those that the model had are thrown away for others."""


class NaNLogitsWarning(UserWarning):
    """Exits answered with NaN for some rows, which went on to the last layer."""


class CertificateWarning(UserWarning):
    """What was proved of a model's exits does not hold for it as it is now."""


class DriftWarning(UserWarning):
    """Rows leave at other layers than those of the calibration set did."""


def shown(text: str, most: int = _LONGEST) -> str:
    """A text for people: control characters escaped, the middle of what is too long left out."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {text[-most // 2 :]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that ends an error message: the nearest known name, or all of them if few."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(known)}." if 0 < len(known) <= 12 else ""
