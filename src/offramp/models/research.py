"""Checkpoints of the early-exit research code, whose configurations say plain bert: the exits are
found by their tensors' names. torch is not needed.

DeeBERT and DeeRoBERTa (Xin et al. 2020) have a `highway` after every layer, with a pooler of its
own; PABEE (Zhou et al. 2020) has `classifiers` over the model's one pooler.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from offramp.checkpoints.content import settled
from offramp.checkpoints.renames import named_back, renamed
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.tables import research_rows
from offramp.checkpoints.weights import Weights
from offramp.errors import CheckpointError

_HIGHWAY = re.compile(r"\w+\.encoder\.highway\.(?P<n>\d+)\.")
_CLASSIFIERS = re.compile(r"classifiers\.(?P<n>\d+)\.")
_PARTS = ("weight", "bias")
_OWN_CLASS = re.compile(r"^Dee(?=[A-Z])|WithPabee$")
"""What the research code's names of classes have beside ours."""


def is_translatable(weights: Weights) -> bool:
    """Whether the names seem to be another library's."""
    return weights.dialect != "own" or has_research_names(weights.tensors)


def from_research(weights: Weights, config: Mapping[str, Any]) -> tuple[Weights, dict[str, Any]]:
    """The weights with our exits, and the configuration that says so; others as they are.

    A ramp of PABEE has a copy of the shared pooler. The last exit of both is after the last layer:
    PABEE's is the model's own head here, DeeBERT's stays under its name, since the model has a
    head of its own there.
    """
    ours = any(name.startswith("exits.") for name in weights.tensors)
    if ours and config.get("exits") is not None:
        return weights, dict(config)
    for pattern, read in ((_HIGHWAY, _from_deebert), (_CLASSIFIERS, _from_pabee)):
        numbers = {int(found["n"]) for name in weights.tensors if (found := pattern.match(name))}
        if not numbers:
            continue
        if numbers != set(range(len(numbers))) or len(numbers) != config.get("num_hidden_layers"):
            raise CheckpointError(
                f"{weights.source} has research exits numbered {sorted(numbers)[:10]}; expected "
                f"one after each of {config.get('num_hidden_layers')} layers, from 0.",
                file=weights.source,
            )
        return read(weights, config, len(numbers))
    return weights, dict(config)


def has_research_names(names: Collection[str]) -> bool:
    """Whether exits among these are called as the research code calls them."""
    return any(".encoder.highway." in name or name.startswith("classifiers.") for name in names)


def to_deebert(names: Collection[str], config: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """({our name: DeeBERT's}, where its last exit is called) of a classifier with exits.

    Raises CheckpointError where the exits are not such as DeeBERT has: one after every layer, on
    the first token, as wide as the model.
    """
    section, layers = config.get("exits"), config.get("num_hidden_layers")
    if not isinstance(section, Mapping) or not isinstance(layers, int):
        raise CheckpointError(
            "DeeBERT's layout is for a model with exits; this one has none.", kind="unsupported"
        )
    shape = [section.get("pooler"), section.get("hidden"), section.get("depths")]
    wanted = ["first", config.get("hidden_size"), list(range(1, min(layers, 10_000)))]
    prefix = _prefix(names)
    lacking = {f"{prefix}.pooler.dense.weight", "classifier.weight"} - set(names)
    if section.get("certainty"):
        raise CheckpointError(
            "DeeBERT has no regressor of its exits' certainty; put exits without "
            "(add_exits(model, certainty=False)).",
            kind="unsupported",
        )
    if shape != wanted or lacking:
        raise CheckpointError(
            f"DeeBERT has a first-token exit of width {wanted[1]} after each of {layers} layers, "
            f"a pooler and a classifier; this model's exits have pooler {shape[0]!r} and width "
            f"{shape[1]} after layers {shape[2]}.",
            kind="unsupported",
        )
    parts = [f"{kind}.{part}" for kind in ("dense", "classifier") for part in _PARTS]
    if absent := {f"exits.{n}.{part}" for n in wanted[2] for part in parts} - set(names):
        raise CheckpointError(
            f"config.json tells of exits whose tensors are not there: {sorted(absent)[:5]}."
        )
    rows = research_rows(prefix)
    found = {name: (named_back(name, rows) or (name, False))[0] for name in names}
    return found, f"{prefix}.encoder.highway.{layers - 1}."


def to_pabee(tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> dict[str, str]:
    """{our name: PABEE's} of a classifier with exits; their poolers, all the shared one, left out.

    Raises CheckpointError where the exits are not such as PABEE has: one after every layer, all
    over the model's one pooler.
    """
    section, layers = config.get("exits"), config.get("num_hidden_layers")
    if not isinstance(section, Mapping) or not isinstance(layers, int):
        raise CheckpointError(
            "PABEE's layout is for a model with exits; this one has none.", kind="unsupported"
        )
    steps, prefix = _steps_a_layer(config), _prefix(tensors)
    depths = list(range(steps, min(layers, 10_000) * steps, steps))
    pooler = f"{prefix}.pooler" if prefix == "albert" else f"{prefix}.pooler.dense"
    apart = [
        depth
        for depth in depths
        for part in _PARTS
        if not _alike(tensors.get(f"exits.{depth}.dense.{part}"), tensors.get(f"{pooler}.{part}"))
    ]
    if section.get("pooler") != "first" or section.get("depths") != depths or apart:
        raise CheckpointError(
            f"PABEE has an exit after each of {layers} layers, all over the model's one pooler; "
            f"this model's, after {section.get('depths')}, have poolers of their own. Save it in "
            "our own dialect, or in DeeBERT's.",
            kind="unsupported",
        )
    exits = re.compile(r"exits\.(?P<n>\d+)\.(?P<rest>.*)")
    names = {}
    for name in tensors:
        found = exits.fullmatch(name)
        if found is None:
            last = name.startswith("classifier.")
            names[name] = f"classifiers.{layers - 1}.{name[11:]}" if last else name
        elif found["rest"].startswith("classifier."):
            number = int(found["n"]) // steps - 1
            names[name] = f"classifiers.{number}.{found['rest'].partition('.')[2]}"
    return names


def _alike(one: Stored | None, other: Stored | None) -> bool:
    if one is None or other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return settled(one.array).tobytes() == settled(other.array).tobytes()


def _prefix(names: Iterable[str]) -> str:
    return next((name.partition(".")[0] for name in names if ".embeddings." in name), "bert")


def _from_deebert(
    weights: Weights, config: Mapping[str, Any], layers: int
) -> tuple[Weights, dict[str, Any]]:
    last = f".encoder.highway.{layers - 1}."
    return (
        _renamed(weights, config, "deebert", keep=last),
        _with_exits(config, layers),
    )


def _from_pabee(
    weights: Weights, config: Mapping[str, Any], layers: int
) -> tuple[Weights, dict[str, Any]]:
    prefix = _prefix(weights.tensors)
    pooler = f"{prefix}.pooler" if prefix == "albert" else f"{prefix}.pooler.dense"
    last = f"classifiers.{layers - 1}."
    found = _renamed(weights, config, "pabee", keep=last)
    steps = _steps_a_layer(config)
    tensors, foreign = dict(found.tensors), dict(found.foreign)
    files = dict(found.files)
    for part in _PARTS:
        shared = tensors.get(f"{pooler}.{part}")
        if shared is None:
            raise CheckpointError(
                f"{weights.source} has PABEE's classifiers and not the pooler under them, "
                f"{pooler}.{part}.",
                file=weights.source,
            )
        copies = {f"exits.{n * steps}.dense.{part}": shared for n in range(1, layers)}
        tensors |= copies
        foreign |= dict.fromkeys(copies, f"{pooler}.{part}")
        if last + part not in tensors or f"classifier.{part}" in tensors:
            raise CheckpointError(
                f"{weights.source} has PABEE's classifiers, and lacks {last}{part} or has a "
                "classifier beside them.",
                file=weights.source,
            )
        tensors[f"classifier.{part}"] = tensors.pop(last + part)
        foreign[f"classifier.{part}"] = last + part
        files[f"classifier.{part}"] = files.pop(last + part)
    return replace(found, tensors=tensors, foreign=foreign, files=files), _with_exits(
        config, layers
    )


def _renamed(weights: Weights, config: Mapping[str, Any], dialect: str, keep: str) -> Weights:
    """With our names of the exits, but for those that `keep` their own."""
    prefix = _prefix(weights.tensors)
    rows = research_rows(prefix)
    names = {}
    for name in weights.tensors:
        own = None if keep in name else renamed(name, rows)
        names[name] = own[0] if own is not None and own[0] is not None else name
    counts = Counter(names.values())
    twice = [name for name, new in names.items() if counts[new] > 1]
    if twice:
        raise CheckpointError(
            f"{weights.source} has one exit's tensor under several names: {', '.join(twice[:5])}.",
            file=weights.source,
        )
    steps = _steps_a_layer(config)
    if steps > 1:
        after = re.compile(r"(?<=^exits\.)\d+")
        names = {
            name: after.sub(lambda found: str(int(found[0]) * steps), new)
            for name, new in names.items()
        }
    old = {new: weights.foreign.get(name, name) for name, new in names.items() if new != name}
    return replace(
        weights,
        tensors={names[name]: stored for name, stored in weights.tensors.items()},
        files={names[name]: file for name, file in weights.files.items()},
        foreign={**weights.foreign, **old},
        dialect=dialect,
    )


_NEVER = {"name": "entropy", "threshold": 0.0, "growth": 1.0}
_NEVER_OF_NUMBERS = {"name": "regression_patience", "patience": 0, "threshold": 0.0}
"""Criteria by which no row leaves: their thresholds were options of the code, not in its files."""


def _is_regression(config: Mapping[str, Any]) -> bool:
    labels, problem = config.get("id2label"), config.get("problem_type")
    n_labels = len(labels) if isinstance(labels, Mapping) else config.get("num_labels", 2)
    return bool(
        problem == "regression" or (problem != "multi_label_classification" and n_labels == 1)
    )


def _steps_a_layer(config: Mapping[str, Any]) -> int:
    """The steps of one of the research code's layers: ALBERT's groups may have several of ours."""
    inner = config.get("inner_group_num", 1)
    return inner if isinstance(inner, int) and inner > 0 else 1


def _with_exits(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    steps = _steps_a_layer(config)
    section = config.get("exits") or {
        "format": 1,
        "depths": list(range(steps, layers * steps, steps)),
        "pooler": "first",
        "queries": 1,
        "hidden": config.get("hidden_size"),
        "dropout": config.get("hidden_dropout_prob", 0.1),
        "criterion": _NEVER_OF_NUMBERS if _is_regression(config) else _NEVER,
    }
    named = config.get("architectures")
    names = [_OWN_CLASS.sub("", str(name)) for name in named] if isinstance(named, list) else None
    told = {"problem_type": "regression"} if _is_regression(config) else {}
    return {**config, **told, "exits": section, "architectures": names}
