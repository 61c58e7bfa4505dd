"""A model in another library's names, orientation and settings, and which file holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offramp.checkpoints.file_names import PADDLE_FILE, SAFETENSORS_FILE, TORCH_FILE
from offramp.checkpoints.tables import FAMILIES
from offramp.checkpoints.weights import Weights
from offramp.errors import ConfigError, nearest
from offramp.models.conversion import Target
from offramp.models.paddle_layout import to_paddle
from offramp.models.research import has_research_names, to_deebert, to_pabee

FILES: dict[str, str] = {
    "own": SAFETENSORS_FILE,
    "paddle": PADDLE_FILE,
    "deebert": TORCH_FILE,
    "pabee": TORCH_FILE,
}
"""The dialects that are written: "own" is transformers'; the file of each one's weights."""


def in_dialect(weights: Weights, values: dict[str, Any], dialect: str) -> Target:
    """What is written of a model with our names: its tensors there, and its settings.

    `values` have a model_type. Raises ConfigError for a dialect or a family that is not written,
    and CheckpointError for a model that has what the dialect has not.
    """
    if dialect == "paddle":
        family = FAMILIES.get(values["model_type"])
        if family is None:
            raise ConfigError(
                f"PaddleNLP's names are known of {', '.join(FAMILIES)}; this is a "
                f"{values['model_type']!r} model. Write it in another dialect."
            )
        return to_paddle(weights, values, family)
    if dialect in ("deebert", "pabee"):
        return _to_research(weights, values, dialect)
    if dialect == "own":
        return _to_own(weights, values)
    raise ConfigError(
        f"A dialect is one of {', '.join(FILES)}; got {dialect!r}. {nearest(str(dialect), FILES)}"
    )


def _to_own(weights: Weights, values: dict[str, Any]) -> Target:
    there = Target(dict(weights.tensors), {name: name for name in weights.tensors}, values)
    if values.get("mask_padding"):
        there.notes.append(
            "PaddleNLP masks the pad token where no attention_mask is given, and so does offramp "
            "with this config.json; transformers does not: pass it a mask."
        )
    return there


def _to_research(weights: Weights, values: dict[str, Any], dialect: str) -> Target:
    ours = any(name.startswith("exits.") for name in weights.tensors)
    if has_research_names(weights.tensors) and not ours:  # of a class that has them itself
        kept = {key: value for key, value in values.items() if key != "exits"}
        return Target(dict(weights.tensors), {name: name for name in weights.tensors}, kept)
    return _to_pabee(weights, values) if dialect == "pabee" else _to_deebert(weights, values)


_DEEBERT_CLASSES = {
    "bert": "DeeBertForSequenceClassification",
    "roberta": "DeeRobertaForSequenceClassification",
}


def _to_deebert(weights: Weights, values: dict[str, Any]) -> Target:
    names, last = to_deebert(weights.tensors, values)
    tensors = dict(weights.tensors)
    tied = {name: own for name, own in _last_exit(last).items() if name not in tensors}
    tensors |= {name: tensors[own] for name, own in tied.items()}
    kept = {key: value for key, value in values.items() if key != "exits"}
    kept["architectures"] = [_DEEBERT_CLASSES.get(str(values["model_type"]), "")]
    there = Target(tensors, names | {name: name for name in tied}, kept, tied=tied)
    if tied:
        there.notes.append("The exit after the last layer is a copy of the model's own head.")
    there.notes.append(
        "DeeBERT's files keep no criterion, and its code knows entropies alone: call "
        f"set_early_exit_entropy there. Here it is {values['exits'].get('criterion')}."
    )
    return there


def _to_pabee(weights: Weights, values: dict[str, Any]) -> Target:
    names = to_pabee(weights.tensors, values)
    tensors = {name: weights.tensors[name] for name in names}
    kept = {key: value for key, value in values.items() if key != "exits"}
    named = values.get("architectures") or ["BertForSequenceClassification"]
    kept["architectures"] = [f"{str(named[0]).removesuffix('WithPabee')}WithPabee"]
    there = Target(tensors, names, kept)
    there.notes.append(
        "PABEE's files keep no criterion: call set_patience there. Here it is "
        f"{values['exits'].get('criterion')}."
    )
    return there


def _last_exit(last: str) -> Mapping[str, str]:
    """{tensor of DeeBERT's last exit: the model's own that it is a copy of}."""
    prefix = last.partition(".")[0]
    pairs = {"pooler.dense": f"{prefix}.pooler.dense", "classifier": "classifier"}
    return {
        f"{last}{theirs}.{part}": f"{own}.{part}"
        for theirs, own in pairs.items()
        for part in ("weight", "bias")
    }
