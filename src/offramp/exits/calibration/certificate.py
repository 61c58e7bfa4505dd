"""What was proved of a model's exits, kept in its configuration and checked when it is loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from typing_extensions import Self

from offramp.errors import CertificateWarning, ConfigError
from offramp.exits.container import Exits, exits_of
from offramp.models.base import PretrainedModel

_KEY = "certificate"
FINGERPRINTS = "fingerprints"
"""Under which name an exits' calibration has those of the rows that the model knows."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """That the risk of leaving early is at most `max_risk`, how surely, and what it hangs on.

    It is of rows like those of the calibration set, drawn independently, and of this criterion with
    these weights. It says nothing of rows that a deadline or a budget forced to leave.
    """

    method: str
    """`ltt`, `ucb` or `crc`; `speed`, of a threshold that other rows chose for its speed;
    `empirical`, which guarantees nothing."""
    risk: str
    """What a row may lose: `disagreement`, `accuracy`, of a tagger `word-disagreement` too, or the
    name of a loss of one's own."""
    max_risk: float
    """The share of rows, or the mean loss, that the risk is at most."""
    confidence: float | None
    """The probability of that over calibration sets; None where it holds in expectation (crc), or
    not at all."""
    rows: int
    """Of the calibration set."""
    found_risk: float
    """The mean loss of these."""
    criterion: Mapping[str, Any]
    """As the configuration has it."""
    left: Mapping[str, int]
    """How many of the rows left after so many layers; of a tagger, of the windows of tokens."""
    data: str
    """SHA-256 of the calibration set's rows."""
    weights: str
    """SHA-256 of the model's tensors and settings; see `model_fingerprint`."""
    tokenizer: str
    """SHA-256 of the tokenizer and the most tokens that it keeps of a row."""
    date: str
    """Of the calibration, as YYYY-MM-DD."""
    versions: Mapping[str, str]
    """Of offramp and torch."""
    on_seen_rows: bool = False
    """Whether the rows are ones that the model was trained on, which proves nothing of others."""

    def __post_init__(self) -> None:
        for name, is_right, what in _FIELDS:
            value = getattr(self, name)
            if not is_right(value):
                raise ConfigError(f"A certificate's {name} is {what}; got {value!r}.")

    @property
    def guarantees(self) -> bool:
        """Whether it bounds the risk at all."""
        return self.method != "empirical" and not self.on_seen_rows

    def __str__(self) -> str:
        """In a sentence."""
        risk = f"{_WORDS.get(self.risk, f'mean loss {self.risk}')} of at most {self.max_risk:g}"
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
    def from_dict(cls, values: Any) -> Self:
        """What `to_dict` gave; ConfigError if it is no such thing."""
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"It is malformed, or of a newer offramp: {error}.") from error


_WORDS = {
    "disagreement": "disagreement",
    "word-disagreement": "word-disagreement",
    "accuracy": "loss of accuracy",
}
"""What a risk is called in a sentence; a loss of one's own has its function's name."""

FACTS = (
    ("method", "Method"),
    ("risk", "Risk"),
    ("max_risk", "At most"),
    ("confidence", "With probability"),
    ("rows", "Rows calibrated on"),
    ("found_risk", "Risk found on them"),
    ("date", "Date"),
    ("data", "SHA-256 of the rows"),
    ("weights", "SHA-256 of the model"),
    ("tokenizer", "SHA-256 of the tokenizer"),
)
"""What a page and a card say of a certificate, field by field."""

METHODS_OF_CERTIFICATES = ("ltt", "ucb", "crc", "speed", "empirical")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_counts(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        str(depth).isdecimal() and _is_count(count) for depth, count in value.items()
    )


_FIELDS: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("method", METHODS_OF_CERTIFICATES.__contains__, f"one of {METHODS_OF_CERTIFICATES}"),
    ("max_risk", _is_share, "a number from 0 to 1"),
    (
        "confidence",
        lambda value: value is None or _is_share(value),
        "a number from 0 to 1, or null",
    ),
    ("rows", _is_count, "a whole number"),
    ("found_risk", lambda value: _is_share(value) or _is_share(-cast(Any, value)), "from -1 to 1"),
    ("criterion", lambda value: isinstance(value, Mapping), "an object"),
    ("left", _are_counts, "an object of whole numbers by layer"),
    ("versions", lambda value: isinstance(value, Mapping), "an object"),
    ("on_seen_rows", lambda value: isinstance(value, bool), "true or false"),
    *((name, _is_text, "a word") for name in ("risk", "data", "weights", "tokenizer", "date")),
)


def certificate_of(model: PretrainedModel) -> Certificate | None:
    """The certificate that holds for the model as it is now; None where there is none.

    None as well where the criterion is another by now, or the weights or settings are: all weights
    are read, which takes about as long as to hash a file of their size. Whether rows reach it by
    the same tokenizer it cannot know; `offramp.load` checks that.
    """
    if not hasattr(model, "exits"):
        return None
    try:
        found = _kept(exits_of(model))
    except ConfigError:
        return None
    return None if found is None or why_void(found, model) is not None else found


def why_void(certificate: Certificate, model: PretrainedModel) -> str | None:
    """Why a certificate says nothing of the model as it is now; None if it holds."""
    if exits_of(model).criterion.to_dict() != _plain(certificate.criterion):
        return "the criterion is another than the one it is of"
    if model_fingerprint(model) != certificate.weights:
        return "the weights, their type or the model's settings are others than those it is of"
    return None


def check_certificate(model: PretrainedModel, tokenizer: str | None = None) -> None:
    """Take a certificate off a model that it does not hold for, with a CertificateWarning.

    `tokenizer` is the fingerprint of the one that rows will reach it by, where that is known.
    """
    exits, said = exits_of(model), "the exits' certificate"
    try:
        certificate = _kept(exits)
        if certificate is None:
            return
        said = f"{said} ({certificate})"
        reason = why_void(certificate, model)
        if reason is None and tokenizer not in (None, certificate.tokenizer):
            reason = "the tokenizer, or how many tokens it keeps, is another than the one it is of"
    except ConfigError as error:
        reason = str(error)
    if reason is not None:
        take_off(exits)
        warnings.warn(
            f"{model.name_or_path}: {said} is void: {reason.rstrip('.')}. The thresholds stay; to "
            "have a guarantee again calibrate them (offramp calibrate).",
            CertificateWarning,
            stacklevel=2,
        )


def certify(model: PretrainedModel, certificate: Certificate) -> None:
    """Put it on the model's exits, in place of what was said of another threshold."""
    exits = exits_of(model)
    kept = exits.calibration or {}
    about = {name: value for name, value in kept.items() if name == FINGERPRINTS}
    exits.calibration = {**about, _KEY: certificate.to_dict()}


def take_off(exits: Exits) -> None:
    """Leave the thresholds, without what was proved of them."""
    if exits.calibration is not None:
        exits.calibration = {k: v for k, v in exits.calibration.items() if k != _KEY}


def model_fingerprint(model: PretrainedModel) -> str:
    """SHA-256 of all that a model would save and that its answers depend on, but for its exits'
    criterion: names, types, shapes and values of its tensors, and its settings.
    """
    settings = {k: v for k, v in model.config.to_dict().items() if k not in _NO_SETTINGS}
    exits = getattr(model, "exits", None)
    if isinstance(exits, Exits):  # how they pool leaves no trace among the tensors
        section = exits.section()
        settings["exits"] = {k: v for k, v in section.items() if k not in _OF_THE_CRITERION}
        poolers = [getattr(exits.ramp(depth), "pooler", None) for depth in exits.depths]
        settings["poolers"] = [pooler for pooler in poolers if isinstance(pooler, str)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    update_with_weights(digest, model)
    return digest.hexdigest()


_OF_THE_CRITERION = ("criterion", "calibration")
_NO_SETTINGS = (
    "_name_or_path",
    "architectures",
    "dtype",  # the tensors have theirs
    "exits",
    "torch_dtype",
    "transformers_version",
)


def update_with_weights(digest: Any, model: PretrainedModel) -> None:
    """Add the names, types, shapes and values of a model's tensors to a digest of hashlib's."""
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))


def _kept(exits: Exits) -> Certificate | None:
    values = (exits.calibration or {}).get(_KEY)
    return None if values is None else Certificate.from_dict(values)


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
