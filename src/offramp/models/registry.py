"""From what a checkpoint says of itself to a class, by public name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import offramp
from offramp.checkpoints.finding import find_save
from offramp.checkpoints.weights import open_save
from offramp.errors import ConfigError, ModelNotFoundError, OfframpError
from offramp.hub.names import Request
from offramp.models.base import PretrainedModel
from offramp.models.builtin import FAMILIES as BUILT_IN, all_sources
from offramp.models.config import PretrainedConfig
from offramp.models.config_file import CONFIG_FILE, OLD_CONFIG_FILE, read_config
from offramp.models.names import as_path, exists, is_file, locate, model_files
from offramp.storage.steady import reread

WEIGHTS_FILE = PretrainedModel.resource_files_names["model_state"]


@dataclass(frozen=True)
class Family:
    """How a family's public classes begin ("Bert"), and its tensors ("bert")."""

    classes: str
    prefix: str


FAMILIES: dict[str, Family] = {
    "bert": Family("Bert", "bert"),
    "roberta": Family("Roberta", "roberta"),
    "xlm-roberta": Family("XLMRoberta", "roberta"),
    "camembert": Family("Camembert", "roberta"),
    "albert": Family("Albert", "albert"),
    "ernie": Family("Ernie", "ernie"),
    "distilbert": Family("DistilBert", "distilbert"),
    "electra": Family("Electra", "electra"),
    "mpnet": Family("MPNet", "mpnet"),
}
"""model_type: its family. Of several with one prefix the first is meant where nothing else says."""


HEADS_OF_THEIR_OWN = {"DeeRobertaForSequenceClassification": "roberta.encoder.highway."}
"""Classes of research code with a head that their family's class for the task does not have, and
how tensors begin that they alone have."""


def find_class(model_type: str, task: str, architectures: object = None) -> type[PretrainedModel]:
    """The class of a family for a task: "Model", "ForSequenceClassification", ...

    `architectures` are a configuration's, where there is one. Raises ConfigError, naming those that
    there are, for a type or a task that is not here.
    """
    family = _family(model_type)
    name = family.classes + task
    if isinstance(architectures, list):
        own = [n for n in HEADS_OF_THEIR_OWN if n in architectures and n.endswith(name)]
        name = own[0] if own else name
    if name not in offramp.__all__:
        known = [n for n in offramp.__all__ if n.startswith(family.classes + "For")]
        raise ConfigError(f"There is no {name}. {family.classes} has: {', '.join(known)}.")
    found: Any = getattr(offramp, name)
    return found  # type: ignore[no-any-return]


def find_config_class(model_type: str) -> type[PretrainedConfig]:
    """The configuration class of a family."""
    found: Any = getattr(offramp, f"{_family(model_type).classes}Config")
    return found  # type: ignore[no-any-return]


def sequence_classifier(directory: str | Path) -> type[PretrainedModel]:
    """The classification class of the family whose model lies in `directory`."""
    model_type, values = identify(directory)
    return find_class(model_type, "ForSequenceClassification", values.get("architectures"))


def identify(
    name: str | Path,
    request: Request | None = None,
    *,
    from_hf_hub: bool = False,
    variant: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """(model_type, the values of config.json) of what a name stands for.

    The tensors' names decide where they begin as one family's do, since a configuration may lie;
    then its model_type, then its architectures. These are in the values as the tensors have them
    where those are of a class with a head of its own. Raises ConfigError where nothing is known, or
    model_type and architectures are two families and the tensors do not decide.
    """
    return reread(
        lambda: _identified(name, request or Request(), from_hf_hub, variant), as_path(name)
    )


def _identified(
    name: str | Path, request: Request, from_hf_hub: bool, variant: str | None
) -> tuple[str, dict[str, Any]]:
    if not from_hf_hub and not exists(name):
        for model_type, built_in in BUILT_IN.items():
            if name in built_in.configurations:
                return model_type, dict(built_in.configurations[str(name)])
    place = locate(
        name,
        request,
        model_files((CONFIG_FILE, OLD_CONFIG_FILE), None),
        all_sources(),
        hub_only=from_hf_hub,
    )
    configs = (place.directory / name for name in (CONFIG_FILE, OLD_CONFIG_FILE))
    if place.file is not None and not any(map(is_file, configs)):
        raise ModelNotFoundError(
            f"{name} is a file without a {CONFIG_FILE} beside it. Pass a model's directory."
        )
    values = read_config(place.directory)
    stated = values.get("model_type")
    tensors = _tensors(place.directory, place.file, variant)
    for name_of_class, begins in HEADS_OF_THEIR_OWN.items():
        if any(tensor.startswith(begins) for tensor in tensors):
            values = {**values, "architectures": [name_of_class]}
    prefixed = _by_tensors(tensors)
    named = _by_architectures(values.get("architectures"))
    found = stated or named
    if prefixed and found not in prefixed:
        found = named if named in prefixed else prefixed[0]
    if not found:
        raise ConfigError(
            f"{name} does not say what it is: config.json has no model_type. Load it with the "
            f"class that it belongs to, or add one of {', '.join(FAMILIES)}."
        )
    _family(found)
    if tensors and not prefixed:
        _check_agreed(str(name), found, named, values)
    return found, values


def _check_agreed(name: str, stated: str, named: str | None, values: dict[str, Any]) -> None:
    """ConfigError for two families, where tensors without a prefix would fit either."""
    if named is None or FAMILIES[stated].prefix == FAMILIES[named].prefix:
        return
    raise ConfigError(
        f"config.json of {name} says model_type {stated!r} and architectures "
        f"{values['architectures']}, which are two families, and the tensors' names do not tell "
        f"which it is. Mend config.json, or load it with the class that it belongs to."
    )


def _family(model_type: object) -> Family:
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ConfigError(
            f"This offramp has no models of type {model_type!r}. Known: {', '.join(FAMILIES)}."
        )
    return FAMILIES[str(model_type)]


def _tensors(directory: Path, file: str | None, variant: str | None) -> Collection[str]:
    """The names in the file of weights; none where it cannot be read."""
    try:
        path = directory / file if file else find_save(directory, WEIGHTS_FILE, variant)
        return open_save(path).tensors
    except OfframpError:
        return ()  # loading will say what is wrong


def _by_tensors(names: Collection[str]) -> list[str]:
    """The families of the one prefix that the tensors have, if they have one."""
    prefixes = {family.prefix for family in FAMILIES.values()}
    there = [prefix for prefix in prefixes if any(n.startswith(prefix + ".") for n in names)]
    return [t for t, family in FAMILIES.items() if there == [family.prefix]]


def _by_architectures(names: object) -> str | None:
    if not isinstance(names, list):
        return None
    return _only(
        model_type
        for model_type, family in FAMILIES.items()
        if any(str(name).startswith(family.classes) for name in names)
    )


def _only(found: Iterable[str]) -> str | None:
    listed = list(found)
    return listed[0] if len(listed) == 1 else None
