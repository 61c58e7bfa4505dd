"""The tables that a class of models goes by: file names, and built-in names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.errors import ConfigError
from offramp.models.builtin import read_only

if TYPE_CHECKING:
    from offramp.models.base import PretrainedModel

MODEL_STATE = "model_state"
"""The key of `resource_files_names` under which the weights' file stands."""
_OF_NAMES = ("pretrained_init_configuration", "pretrained_resource_files_map")


class ModelNames:
    """`model_name_list`: every built-in name, asked of the class or of an instance."""

    def __get__(self, instance: object, owner: type[PretrainedModel]) -> list[str]:
        return list(owner.pretrained_init_configuration)


def freeze_tables(cls: type[PretrainedModel]) -> None:
    """Make the class's own tables read-only; ConfigError for what could not be gone by."""
    for table in ("resource_files_names", *_OF_NAMES):
        if table in vars(cls):
            setattr(cls, table, read_only(vars(cls)[table]))
    file = cls.resource_files_names.get(MODEL_STATE, "")
    if set(cls.resource_files_names) != {MODEL_STATE} or not file.endswith(".safetensors"):
        raise ConfigError(
            f'{cls.__name__}.resource_files_names is {{"{MODEL_STATE}": file}}, the file\'s name '
            f"ending in .safetensors; got {dict(cls.resource_files_names)!r}."
        )
    if set(cls.pretrained_resource_files_map) != set(cls.resource_files_names):
        raise ConfigError(
            f"{cls.__name__}.pretrained_resource_files_map has the keys of resource_files_names, "
            f"{MODEL_STATE}; got {', '.join(cls.pretrained_resource_files_map) or 'none'}."
        )
    sources = set(cls.pretrained_resource_files_map[MODEL_STATE])
    if alone := sources ^ set(cls.pretrained_init_configuration):
        raise ConfigError(
            f"{cls.__name__}: {', '.join(sorted(alone)[:5])} must stand both in "
            f"{' and in '.join(_OF_NAMES)}."
        )
