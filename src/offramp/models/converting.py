"""`offramp convert`: a model's directory in another library's names, files and settings.

torch is not needed: tensors go from file to file as the bytes that they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from offramp.checkpoints.content import settled
from offramp.checkpoints.directory import check_writable, staged
from offramp.checkpoints.file_names import PADDLE_FILE, SAFETENSORS_FILE, TORCH_FILE, WEIGHTS
from offramp.checkpoints.finding import find_save
from offramp.checkpoints.renames import Row, named_back, renamed
from offramp.checkpoints.stored import FLOATS, Stored
from offramp.checkpoints.tables import FAMILIES, OLD_BUFFERS, Family, paddle_rows
from offramp.checkpoints.weights import Reading, Weights, open_save
from offramp.checkpoints.writing import write_weights
from offramp.errors import CheckpointError, ConfigError, ConfigFileError, nearest
from offramp.models.config_file import (
    CONFIG_FILE,
    architecture,
    as_json,
    read_config,
    stated_family,
)
from offramp.models.names import TOKENIZER_FILES, given_path, read_companions
from offramp.models.research import from_research, to_deebert

FORMATS: dict[str, str] = {
    "hf": SAFETENSORS_FILE,
    "paddle": PADDLE_FILE,
    "research": TORCH_FILE,
}
"""What a model can be converted to: the file of its weights."""
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
    left_out: tuple[str, ...] = ()
    """Names in the source of what is not written: constants, and what is there twice."""
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
        lines += [f"  left out    {name}" for name in self.left_out]
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
    if not isinstance(to, str) or to not in FORMATS:
        close = nearest(str(to), FORMATS)
        raise ConfigError(f"A model is converted to {', '.join(FORMATS)}. {close}")
    whole = given_path(source)
    source = Path(source).expanduser()
    if whole == check_writable(target):
        raise ConfigError(f"{target} is the model itself; name another directory.")
    target = Path(target).expanduser()
    values = read_config(source)
    model_type = _model_type(values, source)
    family = FAMILIES.get(model_type)
    rows = paddle_rows(model_type, architecture(values))
    bfloat16 = (values.get("dtype") or values.get("torch_dtype")) == "bfloat16"
    options = Reading(
        allow_legacy_pickle=allow_legacy_pickle, uint16_is_bfloat16=uint16_is_bfloat16 or bfloat16
    )
    save = find_save(source, rows=rows, options=options)
    weights = _without_buffers(open_save(save, rows, options))
    weights, values = from_research(weights, values)
    notes: list[str] = []
    copies: dict[str, str] = {}
    if weights.dialect == "paddle":
        if family is None:
            raise _unknown_family(model_type, source)
        _check_known(weights.tensors, rows, of_ours=False, source=save, foreign=weights.foreign)
        _check_types(weights)
        weights, copies, notes = _of_today(weights, family, values)
        weights = _untied(weights, family, values)
        values = _own_config(values, family, weights.tensors)
        if values.get("use_task_id") and values.get("task_id"):
            notes.append(
                f"PaddleNLP takes task {values['task_id']} where no task_type_ids are given, "
                "transformers 0: pass them."
            )
        if "pool_act" in values:
            notes.append("transformers' pooler ends in tanh, whatever pool_act is.")
    values = {**values, "model_type": model_type, **_stated_dtype(weights.tensors)}
    if to == "paddle":
        if family is None:
            raise _unknown_family(model_type, source)
        there = _to_paddle(weights, values, family, source)
    else:
        there = _to_research(weights, values) if to == "research" else _to_own(weights, values)
    there.notes[:0] = notes
    there.tied |= {name: other for name, other in copies.items() if name in there.tensors}
    companions = read_companions(source)
    names = TOKENIZER_FILES if companions.keys() & set(TOKENIZER_FILES) else ()
    replaced = re.compile("|".join([WEIGHTS.pattern, *map(re.escape, names)]))
    with staged(target, replaced) as fresh:
        (fresh / CONFIG_FILE).write_text(as_json(there.values), encoding="utf-8")
        write_weights(fresh, there.written(), FORMATS[to], max_shard_size=max_shard_size)
        for name, content in companions.items():
            (fresh / name).write_bytes(content)
    return there.report(weights, str(source), str(target), to)


def _check_types(weights: Weights) -> None:
    """CheckpointError for integers as weights: bfloat16 may lie there without saying so."""
    bare = {name: s.dtype for name, s in weights.tensors.items() if s.dtype not in FLOATS}
    if bare:
        name, kind = next(iter(bare.items()))
        raise CheckpointError(
            f"{weights.source} has {len(bare)} tensors of integers, such as {name} ({kind}). "
            "Paddle writes bfloat16 as uint16: if that is meant, pass uint16_is_bfloat16=True.",
            file=weights.source,
        )


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
            tuple(weights.left_out),
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
    rows = paddle_rows(model_type, architecture(values))
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
        positions = _positions(tensors)
        tensors |= positions
        there.names |= {name: name for name in positions}
    if values.get("exits"):
        there.notes.append("PaddleNLP has no exits: it warns of theirs and does not use them.")
    if model_type != "albert" and weights.dialect != "paddle":
        there.notes.append("PaddleNLP masks the pad token where no attention_mask is given.")
    for name, value in family.paddle_ignores.items():
        if values.get(name, value) != value:
            there.notes.append(f"PaddleNLP has {name} {value}, whatever is stated.")
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
    there.notes.append(
        "DeeBERT's files keep no criterion: call set_early_exit_entropy there, which is "
        f"{values['exits'].get('criterion')} here."
    )
    return there


def _positions(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The numbers 0, 1, 2, ... of ALBERT's positions, which PaddleNLP keeps as a tensor."""
    table = "embeddings.position_embeddings.weight"
    prefix = "" if table in tensors else "transformer."
    rows = tensors.get(table, tensors.get(f"albert.{table}"))
    if rows is None:
        return {}
    numbers = np.arange(rows.shape[0], dtype=np.int64)[None]
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
    """Without what is there twice because it is tied; where it differs, the settings say so.

    Where the words are untied, transformers' bias is too.
    """
    tensors = weights.tensors
    pairs = {n: o for n, o in family.twins.items() if n in tensors and o in tensors}
    equal = {n for n, other in pairs.items() if _equal(tensors[n], tensors[other])}
    if any(name.endswith(".weight") for name in pairs.keys() - equal):
        values["tie_word_embeddings"] = False
    if values.get("tie_word_embeddings") is False:
        return weights
    return _without(weights, equal)


def _of_today(
    weights: Weights, family: Family, values: Mapping[str, Any]
) -> tuple[Weights, dict[str, str], list[str]]:
    """What PaddleNLP wrote before 2.6, as 2.8 writes it; {tensor: whose copy it is}; the notes.

    The decoders of RoBERTa and ALBERT lay like other linear layers, and were not tied. RoBERTa's
    head of rows was the pooler and one layer, its head of words had one bias, and its positions
    began at 0.
    """
    tensors, foreign, turned = dict(weights.tensors), dict(weights.foreign), set(weights.turned)
    files = dict(weights.files)
    names: dict[str, str] = {}
    copies: dict[str, str] = {}
    for name, other in family.twins.items():
        if name not in tensors:
            continue
        if name.endswith(".bias") and other not in tensors:  # one then, two where untied
            tensors[other], files[other] = tensors[name], files[name]
            foreign[other] = foreign.get(name, name)
            copies[other] = name
        same = tensors.get(other)  # no vocabulary is as large as a width
        if same and tensors[name].shape == same.shape[::-1] != same.shape:
            tensors[name] = Stored(tensors[name].dtype, tensors[name].array.T)
            turned.add(name)
    if (
        architecture(values) == "RobertaForSequenceClassification"
        and "classifier.weight" in tensors
    ):
        for part in ("weight", "bias"):
            names[f"roberta.pooler.dense.{part}"] = f"classifier.dense.{part}"
            names[f"classifier.{part}"] = f"classifier.out_proj.{part}"
    names = {old: new for old, new in names.items() if old in tensors}
    for old, new in names.items():
        tensors[new], files[new] = tensors.pop(old), files.pop(old)
        foreign[new] = foreign.pop(old, old)
        if old in turned:
            turned.remove(old)
            turned.add(new)
    notes = []
    if (names or copies) and family.prefix == "roberta":
        notes.append(
            "PaddleNLP before 2.5 counted RoBERTa's positions from 0 (or from pad_token_id + 1, "
            "pads too): pass position_ids."
        )
    weights = replace(
        weights, tensors=tensors, files=files, foreign=foreign, turned=frozenset(turned)
    )
    return weights, copies, notes


def _equal(one: Stored, other: Stored) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    bits = f"u{one.array.itemsize}"
    return bool(np.array_equal(settled(one.array).view(bits), settled(other.array).view(bits)))


def _without_buffers(weights: Weights) -> Weights:
    return _without(weights, {n for n in weights.tensors if renamed(n, OLD_BUFFERS) is not None})


def _without(weights: Weights, names: set[str]) -> Weights:
    left = {weights.foreign.get(name, name): weights.tensors[name] for name in sorted(names)}
    kept = {name: stored for name, stored in weights.tensors.items() if name not in names}
    return replace(weights, tensors=kept, left_out={**weights.left_out, **left})


# ---------------------------------------------------------------------- settings


def _model_type(values: Mapping[str, Any], source: Path) -> str:
    found = stated_family(values)
    if found is None:
        raise ConfigFileError(
            f"{source / CONFIG_FILE} has neither model_type nor architectures that say what the "
            f"model is. Add model_type, one of {', '.join(FAMILIES)}.",
            file=source / CONFIG_FILE,
        )
    return found


_SIZES = {
    "vocab_size": "word",
    "max_position_embeddings": "position",
    "type_vocab_size": "token_type",
}


def _own_config(
    values: dict[str, Any], family: Family, tensors: Mapping[str, Stored]
) -> dict[str, Any]:
    sizes = {}  # what a default was is no longer the same in every version of PaddleNLP
    for setting, table in _SIZES.items():
        name = f"embeddings.{table}_embeddings.weight"
        found = tensors.get(name, tensors.get(f"{family.prefix}.{name}"))
        if found is not None and found.shape:
            sizes[setting] = found.shape[0]
    values = {**family.paddle_defaults, **sizes, **values, **family.paddle_ignores}
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
    answers = tensors.get("qa_outputs.bias")  # of start and end, whatever labels are stated
    if answers is not None and len(values.get("id2label") or ()) != answers.array.size:
        values.pop("id2label", None)
        values.pop("label2id", None)
    if "architectures" in values:
        values["architectures"] = _classes(values, "ForPretraining", "ForPreTraining")
    return values


def _classes(values: Mapping[str, Any], old: str, new: str) -> list[str]:
    named = values.get("architectures") or []
    if not isinstance(named, list):
        raise ConfigError(f"architectures is a list of names; got {named!r}.")
    return [str(name).replace(old, new) for name in named]


def _paddle_config(values: dict[str, Any], family: Family) -> dict[str, Any]:
    values = {**family.own_defaults, **values}
    values.pop("mask_padding", None)
    values["dtype"] = values.get("dtype") or "float32"
    values.pop("torch_dtype", None)
    values["architectures"] = _classes(values, "ForPreTraining", "ForPretraining") or None
    return {key: value for key, value in values.items() if (key, value) != ("architectures", None)}


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
