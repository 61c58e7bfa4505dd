"""`offramp convert`: a model's directory in another library's names, files and settings.

torch is not needed: tensors go from file to file as the bytes that they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offramp.checkpoints.content import settled
from offramp.checkpoints.directory import staged
from offramp.checkpoints.file_names import PADDLE_FILE, SAFETENSORS_FILE, TORCH_FILE
from offramp.checkpoints.finding import find_save
from offramp.checkpoints.renames import Row, named_back, renamed
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.tables import FAMILIES, OLD_BUFFERS, Family, paddle_rows
from offramp.checkpoints.weights import Reading, Weights, open_save
from offramp.checkpoints.writing import write_weights
from offramp.errors import CheckpointError, ConfigError, ConfigFileError, nearest
from offramp.models.config_file import CONFIG_FILE, read_config
from offramp.models.names import read_companions
from offramp.models.research import from_research, to_deebert

FORMATS: dict[str, str] = {
    "hf": SAFETENSORS_FILE,
    "paddle": PADDLE_FILE,
    "research": TORCH_FILE,
}
"""What a model can be converted to: the file of its weights."""
_CLASS = re.compile(r"(Bert|Ernie|Roberta|Albert)[A-Z]\w*")
_ONLY_PADDLE = ("paddlenlp_version", "fuse")
_RESEARCH_CLASSES = {
    "bert": "DeeBertForSequenceClassification",
    "roberta": "DeeRobertaForSequenceClassification",
}
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Conversion:
    """What a conversion did with every tensor, and what its user should know."""

    source: str
    target: str
    dialect: str
    """Whose names the source has: "own" (transformers'), "old", "paddle", "deebert" or "pabee"."""
    to: str
    written: Mapping[str, str]
    """{name in the source: name in the target}."""
    transposed: tuple[str, ...] = ()
    """Names in the target of matrices that lie the other way round there."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """{name in the target: the one that it is too}, of those that the source has once."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        new = [f"{old} -> {name}" for old, name in self.written.items() if old != name]
        lines = [
            f"{self.source} ({self.dialect}) -> {self.target} ({self.to}): "
            f"{len(self.written)} tensors",
            f"  renamed     {len(new)}" + (f", such as {new[0]}" if new else ""),
            f"  transposed  {len(self.transposed)}",
        ]
        lines += [f"  tied        {name} is {other}" for name, other in self.tied.items()]
        lines += [f"  note        {note}" for note in self.notes]
        return "\n".join(lines)


def convert(
    source: str | Path,
    target: str | Path,
    to: str = "hf",
    *,
    max_shard_size: int | str | None = None,
    allow_legacy_pickle: bool = False,
    uint16_is_bfloat16: bool = False,
) -> Conversion:
    """Write the model in the directory `source` to the directory `target` in another format.

    `to` is "hf" (transformers' names in safetensors, which offramp's own files are), "paddle"
    (PaddleNLP's, as model_state.pdparams) or "research" (DeeBERT's exits, as pytorch_model.bin).
    `source` may have any dialect that offramp reads; tokenizer files go along. Files go by
    `max_shard_size`; the two flags are `from_pretrained`'s. Numbers are moved
    and never changed. `target` is there whole or not at all. Raises ConfigError,
    ModelNotFoundError, CheckpointError, or SaveError.
    """
    if to not in FORMATS:
        raise ConfigError(f"A model is converted to {', '.join(FORMATS)}. {nearest(to, FORMATS)}")
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if source.resolve() == target.resolve():
        raise ConfigError(f"{target} is the model itself; name another directory.")
    values = read_config(source)
    model_type = _model_type(values, source)
    family = FAMILIES.get(model_type)
    rows = paddle_rows(model_type, _architecture(values))
    bfloat16 = (values.get("dtype") or values.get("torch_dtype")) == "bfloat16"
    options = Reading(
        allow_legacy_pickle=allow_legacy_pickle, uint16_is_bfloat16=uint16_is_bfloat16 or bfloat16
    )
    save = find_save(source, rows=rows, options=options)
    weights = _without_buffers(open_save(save, rows, options))
    weights, values = from_research(weights, values)
    if weights.dialect == "paddle":
        if family is None:
            raise _unknown_family(model_type, source)
        _check_known(weights.tensors, rows, of_ours=False, source=save, foreign=weights.foreign)
        weights = _untied(weights, family, values)
        values = _own_config(values, family, model_type)
    values = {**values, "model_type": model_type, **_stated_dtype(weights.tensors)}
    if to == "paddle":
        if family is None:
            raise _unknown_family(model_type, source)
        there = _to_paddle(weights, values, family, source)
    else:
        there = _to_research(weights, values) if to == "research" else _to_own(weights, values)
    with staged(target) as fresh:
        text = json.dumps(there.values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (fresh / CONFIG_FILE).write_text(text, encoding="utf-8")
        write_weights(fresh, there.written(), FORMATS[to], max_shard_size=max_shard_size)
        for name, content in read_companions(source).items():
            (fresh / name).write_bytes(content)
    return there.report(weights, str(source), str(target), to)


@dataclass
class _Target:
    """What is to be written: tensors by our names, what each is called there, and settings."""

    tensors: dict[str, Stored]
    names: dict[str, str]
    values: dict[str, Any]
    turned: set[str] = field(default_factory=set)
    """Our names of matrices that lie the other way round there."""
    tied: dict[str, str] = field(default_factory=dict)
    """{tensor that is there a second time: the one that it is too}, by our names."""
    notes: list[str] = field(default_factory=list)

    def written(self) -> dict[str, Stored]:
        """The tensors as they are there."""
        return {
            self.names[own]: Stored(
                stored.dtype, stored.array.T if own in self.turned else stored.array
            )
            for own, stored in self.tensors.items()
        }

    def report(self, weights: Weights, source: str, target: str, to: str) -> Conversion:
        """What was done with the tensors of the source."""
        names = self.names
        return Conversion(
            source,
            target,
            weights.dialect,
            to,
            {weights.foreign.get(own, own): names[own] for own in weights.tensors},
            tuple(sorted(names[own] for own in weights.turned ^ self.turned)),
            {names[name]: names[other] for name, other in self.tied.items()},
            tuple(self.notes),
        )


def _to_own(weights: Weights, values: dict[str, Any]) -> _Target:
    there = _Target(dict(weights.tensors), {name: name for name in weights.tensors}, values)
    if values.get("mask_padding"):
        there.notes.append(
            "PaddleNLP masks the pad token where no attention_mask is given, and so does offramp "
            "with this config.json; transformers does not: pass it a mask."
        )
    return there


def _to_paddle(weights: Weights, values: dict[str, Any], family: Family, source: Path) -> _Target:
    model_type = str(values["model_type"])
    rows = paddle_rows(model_type, _architecture(values))
    _check_known(weights.tensors, rows, of_ours=True, source=source, foreign=weights.foreign)
    tensors = dict(weights.tensors)
    tied = _tied(tensors, family, values)
    tensors |= {name: tensors[other] for name, other in tied.items()}
    there = _Target(tensors, {}, _paddle_config(values, family), tied=tied)
    for name in tensors:
        there.names[name], transpose = named_back(name, rows) or (name, False)
        if transpose and tensors[name].array.ndim == 2:
            there.turned.add(name)
    if model_type == "albert":
        positions = _positions(there.names, there.values)
        tensors |= positions
        there.names |= {name: name for name in positions}
    if values.get("exits"):
        there.notes.append("PaddleNLP has no exits: it warns of theirs and does not use them.")
    if model_type != "albert" and weights.dialect != "paddle":
        there.notes.append("PaddleNLP masks the pad token where no attention_mask is given.")
    return there


def _to_research(weights: Weights, values: dict[str, Any]) -> _Target:
    names, last = to_deebert(weights.tensors, values)
    tensors = dict(weights.tensors)
    tied = {name: own for name, own in _last_exit(last).items() if name not in tensors}
    tensors |= {name: tensors[own] for name, own in tied.items()}
    kept = {key: value for key, value in values.items() if key != "exits"}
    kept["architectures"] = [_RESEARCH_CLASSES.get(str(values["model_type"]), "")]
    there = _Target(tensors, names | {name: name for name in tied}, kept, tied=tied)
    if tied:
        there.notes.append("The exit after the last layer is a copy of the model's own head.")
    return there


def _positions(names: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Stored]:
    """The numbers 0, 1, 2, ... that PaddleNLP keeps as a tensor of ALBERT."""
    prefix = "" if "embeddings.word_embeddings.weight" in names else "transformer."
    count = int(values["max_position_embeddings"])
    numbers = np.arange(min(count, 1 << 20), dtype=np.int64)[None]
    return {f"{prefix}embeddings.position_ids": Stored("I64", numbers)}


def _last_exit(last: str) -> dict[str, str]:
    """{tensor of DeeBERT's last exit: the model's own that it is a copy of}."""
    prefix = last.partition(".")[0]
    pairs = {"pooler.dense": f"{prefix}.pooler.dense", "classifier": "classifier"}
    return {
        f"{last}{theirs}.{part}": f"{own}.{part}"
        for theirs, own in pairs.items()
        for part in ("weight", "bias")
    }


# ---------------------------------------------------------------------- names


_ALIKE = (
    re.compile(r"(\w+\.)?embeddings\.(word|position|token_type|task_type)_embeddings\.weight"),
    re.compile(r"(cls\.predictions|lm_head|predictions)\.(decoder\.(weight|bias)|bias)"),
    re.compile(r"lm_head\.layer_norm\.(weight|bias)"),
    re.compile(r"(\w+\.)?encoder\.albert_layer_groups\.\d+\.albert_layers\.\d+\.full_layer_.*"),
    re.compile(r"exits\..*"),
)
"""Tensors of one name in both, which lie alike in both."""


def _check_known(
    names: Iterable[str],
    rows: tuple[Row, ...],
    *,
    of_ours: bool,
    source: Path,
    foreign: Mapping[str, str],
) -> None:
    """CheckpointError for a tensor that no table knows: it might lie the other way round."""
    unknown = [
        foreign.get(name, name)
        for name in names
        if not any(pattern.fullmatch(name) for pattern in _ALIKE)
        and (named_back(name, rows) if of_ours else name in foreign or renamed(name, rows)) is None
    ]
    if unknown:
        raise CheckpointError(
            f"{source} has {', '.join(unknown[:5])}, which no table knows; it is not known how "
            "they lie. Convert the model without them.",
            file=source,
        )


# ---------------------------------------------------------------------- tied words


def _tied(
    tensors: Mapping[str, Stored], family: Family, values: Mapping[str, Any]
) -> dict[str, str]:
    """{tensor that PaddleNLP expects a second time: the one that it is}."""
    return {
        name: other
        for name, other in family.twins.items()
        if name not in tensors
        and other in tensors
        and name.rpartition(".decoder")[0] + ".bias" in tensors
        and (name.endswith(".bias") or values.get("tie_word_embeddings", True))
    }


def _untied(weights: Weights, family: Family, values: dict[str, Any]) -> Weights:
    """Without what is there twice because it is tied; where it differs, the settings say so."""
    tensors = dict(weights.tensors)
    for name, other in family.twins.items():
        if name in tensors and other in tensors:
            if _equal(tensors[name], tensors[other]):
                del tensors[name]
            elif name.endswith(".weight"):
                values["tie_word_embeddings"] = False
    return _with(weights, tensors)


def _equal(one: Stored, other: Stored) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    bits = f"u{one.array.itemsize}"
    return bool(np.array_equal(settled(one.array).view(bits), settled(other.array).view(bits)))


def _without_buffers(weights: Weights) -> Weights:
    kept = {
        name: stored
        for name, stored in weights.tensors.items()
        if renamed(name, OLD_BUFFERS) is None
    }
    return _with(weights, kept)


def _with(weights: Weights, tensors: dict[str, Stored]) -> Weights:
    return Weights(
        weights.source, tensors, weights.files, weights.dialect, weights.foreign, weights.turned
    )


# ---------------------------------------------------------------------- settings


def _model_type(values: Mapping[str, Any], source: Path) -> str:
    stated = values.get("model_type")
    if isinstance(stated, str) and stated:
        return stated
    found = _CLASS.fullmatch(_architecture(values))
    if not found:
        raise ConfigFileError(
            f"{source / CONFIG_FILE} has neither model_type nor architectures that say what the "
            f"model is. Add model_type, one of {', '.join(FAMILIES)}.",
            file=source / CONFIG_FILE,
        )
    return found[1].lower()


def _architecture(values: Mapping[str, Any]) -> str:
    named = values.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def _own_config(values: dict[str, Any], family: Family, model_type: str) -> dict[str, Any]:
    values = {**family.paddle_defaults, **values, **family.paddle_ignores}
    for name in _ONLY_PADDLE:
        values.pop(name, None)
    if values.get("pool_act") == "tanh":
        del values["pool_act"]
    if "dropout" in values:
        values["classifier_dropout"] = values.pop("dropout")
    if "num_classes" in values:
        count = values.pop("num_classes")
        if "id2label" not in values and isinstance(count, int) and 0 < count < 10_000:
            values["id2label"] = {str(n): f"LABEL_{n}" for n in range(count)}
    if "architectures" in values:
        values["architectures"] = [
            str(name).replace("ForPretraining", "ForPreTraining")
            for name in values["architectures"] or ()
        ]
    return values


def _paddle_config(values: dict[str, Any], family: Family) -> dict[str, Any]:
    values = {**family.own_defaults, **values}
    values.pop("mask_padding", None)
    values["dtype"] = values.get("dtype") or "float32"
    values.pop("torch_dtype", None)
    values["architectures"] = [
        str(name).replace("ForPreTraining", "ForPretraining")
        for name in values.get("architectures") or ()
    ] or None
    return {key: value for key, value in values.items() if value is not None}


def _stated_dtype(tensors: Mapping[str, Stored]) -> dict[str, str]:
    """The one type of the weights, where they have one."""
    types = {stored.dtype for stored in tensors.values() if stored.dtype in _TYPES}
    return {"dtype": _TYPES[types.pop()]} if len(types) == 1 else {}


def _unknown_family(model_type: str, source: Path) -> ConfigError:
    return ConfigError(
        f"{source} is a {model_type!r} model, and PaddleNLP's names are known of "
        f"{', '.join(FAMILIES)}."
    )


__all__ = ["FORMATS", "Conversion", "convert"]
