"""A certificate in words, for the model's card."""

from __future__ import annotations

from offramp.exits.calibration.certificate import FACTS, Certificate, certificate_of
from offramp.exits.container import exits_of
from offramp.models.base import PretrainedModel


def certificate_card(model: PretrainedModel) -> str | None:
    """What the model's card says of its certificate, in Markdown; None where none holds.

    `save_pretrained` and `offramp calibrate` put it into README.md, between two marks, and take it
    out when a model without one takes that one's place.
    """
    certificate = certificate_of(model)
    if certificate is None:
        return None
    values = certificate.to_dict()
    facts = {words: values[name] for name, words in FACTS if values[name] is not None}
    facts["Rows that left"] = _left(certificate)
    facts["Exits"] = f"`{exits_of(model).criterion}`"
    facts["Versions"] = ", ".join(f"{name} {said}" for name, said in certificate.versions.items())
    table = "\n".join(f"| {words} | {_cell(value)} |" for words, value in facts.items())
    return (
        f"## What leaving early costs\n\n{_sentences(certificate)}\n\n| | |\n|---|---|\n{table}\n"
    )


def _sentences(certificate: Certificate) -> str:
    said = _plain(str(certificate))
    own = f"{said[:1].upper()}{said[1:]}."
    if not certificate.guarantees:
        return own
    return (
        f"{own} That is against the model's own full depth, for rows like those that it was "
        "calibrated on, drawn independently from them, with these weights, this tokenizer and "
        "these thresholds: `offramp.load` checks them. It says nothing of rows that a deadline or "
        "`max_depth` forced to leave, nor of calls with a threshold of their own."
    )


def _left(certificate: Certificate) -> str:
    left = sorted((int(depth), count) for depth, count in certificate.left.items())
    return ", ".join(f"{count} after layer {depth}" for depth, count in left)


def _cell(value: object) -> str:
    said = f"{value:g}" if isinstance(value, float) else str(value)
    return _plain(said).replace("|", "\\|")


def _plain(text: str) -> str:
    """A line without markup: a risk has its function's name, such as `<lambda>`."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
