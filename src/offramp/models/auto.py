"""Classes that find the class: by what a checkpoint says of itself, and what it is wanted for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from offramp.errors import ConfigError
from offramp.hub.names import Request
from offramp.models.base import PretrainedModel
from offramp.models.config import PretrainedConfig
from offramp.models.names import as_path
from offramp.models.opening import check_positions
from offramp.models.registry import find_class, find_config_class, identify
from offramp.storage.steady import reread

_LOOK_UP = ("revision", "cache_dir", "local_files_only", "force_download", "token")


class AutoConfig:
    """The configuration of whatever family a name stands for."""

    def __init__(self) -> None:
        _refuse(type(self))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> PretrainedConfig:
        """As the family's own `from_pretrained`: a directory, a built-in name, or owner/name.

        `kwargs` are fields of the configuration, and `subfolder`, `revision`, `cache_dir`,
        `local_files_only`, `force_download`, `token`. Raises ConfigError for a family that is not
        here.
        """
        request = _request(kwargs, kwargs.pop("subfolder", None))
        changes = {key: value for key, value in kwargs.items() if key not in _LOOK_UP}
        model_type, values = identify(pretrained_model_name_or_path, request)
        return find_config_class(model_type).from_dict(_of_type(values, model_type), **changes)

    @classmethod
    def for_model(cls, model_type: str, **kwargs: Any) -> PretrainedConfig:
        """A new configuration of a type, such as "bert"; `kwargs` are its fields.

        Raises ConfigError, listing the known ones, for a type that is not here.
        """
        return find_config_class(model_type)(**kwargs)


class _AutoModel:
    """One task, any family."""

    task: ClassVar[str]
    """How the names of the classes end."""

    def __init__(self) -> None:
        _refuse(type(self))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        from_hf_hub: bool = False,
        subfolder: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The model, of the class that its family has for this task.

        Arguments and results are those of `PretrainedModel.from_pretrained`. The family is that of
        the tensors' names, or what config.json says: its model_type, or its architectures.
        """
        check_positions(cls.__name__, from_hf_hub, subfolder)
        name = pretrained_model_name_or_path
        return reread(
            lambda: cls._opened(name, from_hf_hub, subfolder, args, dict(kwargs)),
            as_path(name) / (subfolder or ""),
        )

    @classmethod
    def _opened(
        cls,
        name: str | Path,
        from_hf_hub: bool,
        subfolder: str | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        config = kwargs.get("config")
        architectures = None
        if isinstance(config, PretrainedConfig):
            model_type = config.model_type
        else:
            model_type, values = identify(
                name,
                _request(kwargs, subfolder),
                from_hf_hub=from_hf_hub,
                variant=kwargs.get("variant"),
            )
            architectures = values.get("architectures")
            if values.get("model_type") not in (None, model_type):  # the tensors know better
                values = _of_type(values, model_type)
                kwargs["config"] = find_config_class(model_type).from_dict(values)
        chosen = find_class(model_type, cls.task, architectures)
        return chosen.from_pretrained(name, from_hf_hub, subfolder, *args, **kwargs)

    @classmethod
    def from_config(cls, config: PretrainedConfig, **kwargs: Any) -> PretrainedModel:
        """A new model with random weights; `kwargs` go to its `__init__`."""
        if not isinstance(config, PretrainedConfig):
            raise ConfigError(f"{cls.__name__}.from_config takes a configuration; got {config!r}.")
        return find_class(config.model_type, cls.task).from_config(config, **kwargs)


class AutoModel(_AutoModel):
    """The body of whatever family a name stands for."""

    task = "Model"


class AutoModelForPreTraining(_AutoModel):
    """The model with the heads that its family was pretrained with."""

    task = "ForPreTraining"


class AutoModelForMaskedLM(_AutoModel):
    """The model that guesses masked words."""

    task = "ForMaskedLM"


class AutoModelForCausalLM(_AutoModel):
    """The model that says the next word."""

    task = "ForCausalLM"


class AutoModelForNextSentencePrediction(_AutoModel):
    """The model that says whether one sentence follows another."""

    task = "ForNextSentencePrediction"


class AutoModelForSequenceClassification(_AutoModel):
    """The model that gives a row a label."""

    task = "ForSequenceClassification"


class AutoModelForTokenClassification(_AutoModel):
    """The model that gives each token a label."""

    task = "ForTokenClassification"


class AutoModelForQuestionAnswering(_AutoModel):
    """The model that finds an answer in a text."""

    task = "ForQuestionAnswering"


class AutoModelForMultipleChoice(_AutoModel):
    """The model that chooses among several rows."""

    task = "ForMultipleChoice"


def _of_type(values: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    return {**values, "model_type": model_type}


def _request(kwargs: Mapping[str, Any], subfolder: str | None) -> Request:
    options = {name: kwargs[name] for name in _LOOK_UP if name in kwargs}
    return Request(subfolder=subfolder, **options)


def _refuse(cls: type) -> NoReturn:
    raise ConfigError(
        f"{cls.__name__} is not built itself; it finds the class: {cls.__name__}"
        ".from_pretrained(name)."
    )
