"""What a table of built-in names is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from offramp.hub.names import Source

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class BuiltIn:
    """One family's names, read-only: {name: configuration} and {name: source of its weights}."""

    configurations: Mapping[str, Settings]
    sources: Mapping[str, Source]


def read_only(value: Any) -> Any:
    """Mappings and lists, to any depth, as ones that cannot be changed."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: read_only(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(read_only(item) for item in value)
    return value


def writable(value: Any) -> Any:
    """A copy to the same depth, of dictionaries and lists: the inverse of `read_only`."""
    if isinstance(value, Mapping):
        return {key: writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [writable(item) for item in value]
    return value


def family(model_type: str, rows: Iterable[tuple[str, str | Source, Settings]]) -> BuiltIn:
    """A row is a name, its source and its settings.

    A source in words is owner/name on the hub, or the owner alone of a repository of that name.
    """
    configurations: dict[str, Settings] = {}
    sources: dict[str, Source] = {}
    for name, source, settings in rows:
        if isinstance(source, str):
            source = Source(hub_id=source if "/" in source else f"{source}/{name}")
        configurations[name] = {"model_type": model_type, **settings}
        sources[name] = source
    return BuiltIn(read_only(configurations), read_only(sources))


def sizes(width: int, layers: int, heads: int) -> Settings:
    """A network whose perceptrons are four times as wide as it, as all of these are."""
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


BASE, LARGE = sizes(768, 12, 12), sizes(1024, 24, 16)


def labels(*names: str) -> Settings:
    """What a classifier's outputs are called, as config.json has it."""
    return {"id2label": {str(number): name for number, name in enumerate(names)}}


ONE_SCORE = labels("LABEL_0")
"""A score and no classes."""

ENGLISH, ENGLISH_CASED, CHINESE = 30522, 28996, 21128
"""The sizes of BERT's vocabularies, which other families took over."""
