"""What was proved of a model's exits, kept in its configuration and checked when it is loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import Self

from offramp.errors import CertificateWarning, ConfigError
from offramp.exits.container import Exits, exits_of
from offramp.models.base import PretrainedModel

_KEY = "certificate"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """That the risk of leaving early is at most `max_risk`, how surely, and what it hangs on.

    It is of rows like those of the calibration set, drawn independently, and of this criterion with
    these weights. It says nothing of rows that a deadline or a budget forced to leave.
    """

    method: str
    """`ltt`, `ucb` or `crc`; `given`, of a threshold that was chosen by other rows for its speed;
    `empirical`, which guarantees nothing."""
    risk: str
    """What a row may lose: `disagreement`, `accuracy`, or the name of a loss of one's own."""
    max_risk: float
    """The share of rows, or the mean loss, that the risk is at most."""
    confidence: float | None
    """The probability of that over calibration sets; None where it holds in expectation (crc), or
    not at all."""
    rows: int
    """Of the calibration set."""
    found_risk: float
    """On these."""
    bound: float | None
    """Not below the risk of the criterion, with that confidence; None where the method has none."""
    criterion: Mapping[str, Any]
    """As the configuration has it."""
    left: Mapping[str, int]
    """How many of the rows left after so many layers."""
    data: str
    """SHA-256 of the calibration set's rows."""
    weights: str
    """SHA-256 of the model's tensors; see `weights_fingerprint`."""
    date: str
    """Of the calibration, as YYYY-MM-DD."""
    versions: Mapping[str, str]
    """Of offramp and torch."""
    forced: bool = False
    """Whether the rows are ones that the model was trained on, which proves nothing of others."""

    @property
    def guarantees(self) -> bool:
        """Whether it bounds the risk at all."""
        return self.method != "empirical" and not self.forced

    def __str__(self) -> str:
        """In a sentence."""
        risk = f"{self.risk} of at most {self.max_risk:g}"
        said = f"{self.rows} rows, found {self.found_risk:.4f}"
        if not self.guarantees:
            return f"{risk} on {said}: no guarantee"
        if self.confidence is None:
            return f"{risk} in expectation (crc, {said})"
        return f"{risk} with probability {self.confidence:g} ({self.method}, {said})"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave; ConfigError if it is no such thing."""
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(
                f"The certificate in config.json is malformed, or of a newer offramp: {error}."
            ) from error


def certificate_of(model: PretrainedModel) -> Certificate | None:
    """The certificate that holds for the model as it is now; None where there is none.

    None as well where the criterion is another by now, or the weights are: all of them are read,
    which takes about as long as to hash a file of their size.
    """
    found = _kept(exits_of(model)) if hasattr(model, "exits") else None
    if found is None or why_void(found, model) is not None:
        return None
    return found


def why_void(certificate: Certificate, model: PretrainedModel) -> str | None:
    """Why a certificate says nothing of the model as it is now; None if it holds."""
    if exits_of(model).criterion.to_dict() != _plain(certificate.criterion):
        return "the criterion is another than the one it is of"
    if weights_fingerprint(model) != certificate.weights:
        return "the weights are others than those it is of, or of another type"
    return None


def check_certificate(model: PretrainedModel) -> None:
    """Take a certificate off a model that it does not hold for, with a CertificateWarning."""
    exits = exits_of(model)
    certificate = _kept(exits)
    reason = None if certificate is None else why_void(certificate, model)
    if reason is not None:
        take_off(exits)
        warnings.warn(
            f"{model.name_or_path}: the exits' certificate ({certificate}) is void: {reason}. "
            "Their thresholds stay; to have a guarantee again calibrate them (offramp calibrate).",
            CertificateWarning,
            stacklevel=2,
        )


def certify(model: PretrainedModel, certificate: Certificate) -> None:
    """Put it on the model's exits, in place of what was said of another threshold."""
    exits = exits_of(model)
    kept = exits.calibration or {}
    exits.calibration = {
        **({"fingerprints": kept["fingerprints"]} if "fingerprints" in kept else {}),
        "rule": str(certificate),
        _KEY: certificate.to_dict(),
    }


def take_off(exits: Exits) -> None:
    """Leave the thresholds, without what was proved of them."""
    if exits.calibration is not None:
        exits.calibration = {k: v for k, v in exits.calibration.items() if k != _KEY}


def weights_fingerprint(model: PretrainedModel) -> str:
    """SHA-256 of the names, types, shapes and values of all that a model would save."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def _kept(exits: Exits) -> Certificate | None:
    values = (exits.calibration or {}).get(_KEY)
    return None if values is None else Certificate.from_dict(values)


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
