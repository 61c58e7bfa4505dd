"""`PretrainedModel`: construction, loading and saving, the same for every family."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast, overload

import torch
from torch import Tensor, nn
from typing_extensions import Self

import offramp
from offramp.checkpoints.directory import staged
from offramp.checkpoints.safetensors_file import (
    WEIGHTS_FILE,
    read_header,
    read_tensors,
    write_tensors,
)
from offramp.errors import CheckpointError, ConfigError, NewWeightsWarning
from offramp.models.blueprint import new_blueprint, read_blueprint
from offramp.models.config import CONFIG_FILE, PretrainedConfig
from offramp.models.loading import Expected, LoadingReport, plan
from offramp.models.parts import ModelParts
from offramp.models.tracking import INIT_ARGUMENTS, InitTrackerMeta, written_arguments

C = TypeVar("C", bound="type[PretrainedModel]")


class PretrainedModel(ModelParts, metaclass=InitTrackerMeta):
    """Base of every model: a body under `base_model_prefix`, and heads beside it.

    A family sets the class attributes; a class of it builds its modules in `__init__` and ends by
    calling `init_weights()`. `__init__` takes the configuration and, if need be, more arguments,
    which are saved and loaded with the model as far as JSON can hold them. With
    `config_class = None` it takes its own arguments alone.
    """

    config_class: ClassVar[type[PretrainedConfig]] = PretrainedConfig
    base_model_class: ClassVar[type[PretrainedModel] | None] = None
    """The family's body; `register_base_model` sets it."""
    known_heads: ClassVar[tuple[str, ...]] = ()
    """Modules that files of the family may hold and a class may lack: dropped and reported."""
    optional_modules: ClassVar[tuple[str, ...]] = ()
    """Modules of the body that files may lack (a pooler): initialised and reported."""
    init_config: dict[str, Any]
    """The arguments of construction by name, and `init_class`; see `InitTrackerMeta`."""

    def __init__(self, config: PretrainedConfig | None = None) -> None:
        super().__init__()
        if not self.constructed_from_pretrained_config():
            config = PretrainedConfig() if config is None else config  # type: ignore[call-arg]
        elif not isinstance(config, self.config_class):
            raise ConfigError(
                f"{type(self).__name__} is built from a {self.config_class.__name__}; got a "
                f"{type(config).__name__}. To load weights: {type(self).__name__}"
                ".from_pretrained(directory)."
            )
        config.validate()
        self.config = config
        self._built_from = config.structure()

    @classmethod
    def constructed_from_pretrained_config(cls, init_func: object = None) -> bool:
        """Whether the class is built from a configuration: `config_class` is one.

        `init_func` is taken for PaddleNLP's sake and does not matter.
        """
        found: object = cls.config_class
        return isinstance(found, type) and issubclass(found, PretrainedConfig)

    # ------------------------------------------------------------------ initial weights

    def init_weights(self) -> None:
        """Prune the heads that `config.pruned_heads` names, give initial weights, tie.

        A class calls it at the end of its `__init__`. What was loaded keeps its weights, and
        modules on the meta device get none.
        """
        if self.config.pruned_heads:
            self._prune(self.config.pruned_heads)
        for module in self.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(p.is_meta for p in own) and not getattr(module, "_loaded", False):
                self._init_weights(module)
        self.tie_weights()

    def post_init(self) -> None:
        """`init_weights`, under the name that transformers' classes call at the same place."""
        self.init_weights()

    # ------------------------------------------------------------------ loading

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        from_hf_hub: bool = ...,
        subfolder: str | None = ...,
        *args: Any,
        config: PretrainedConfig | None = ...,
        dtype: torch.dtype | None = ...,
        ignore_mismatched_sizes: bool = ...,
        strict: bool = ...,
        output_loading_info: Literal[False] = ...,
        **kwargs: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        from_hf_hub: bool = ...,
        subfolder: str | None = ...,
        *args: Any,
        config: PretrainedConfig | None = ...,
        dtype: torch.dtype | None = ...,
        ignore_mismatched_sizes: bool = ...,
        strict: bool = ...,
        output_loading_info: Literal[True],
        **kwargs: Any,
    ) -> tuple[Self, LoadingReport]: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        from_hf_hub: bool = False,
        subfolder: str | None = None,
        *args: Any,
        config: PretrainedConfig | None = None,
        dtype: torch.dtype | None = None,
        ignore_mismatched_sizes: bool = False,
        strict: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Self | tuple[Self, LoadingReport]:
        """The model saved in a directory, in eval mode, with its exits if it has any.

        `args` go to the class's `__init__`, after the configuration. `kwargs` that are fields of
        the configuration change it (`config` replaces it whole); the others go to `__init__`, in
        place of the arguments that were saved. Weights keep the file's type unless `dtype` is
        given. With `strict` nothing may be new and nothing left over. With `output_loading_info`
        the result is (model, LoadingReport). Raises ModelNotFoundError, ConfigError,
        CheckpointError or TypeError, and in none of these cases is a model made.
        """
        if not isinstance(from_hf_hub, bool) or not isinstance(subfolder, str | None):
            raise TypeError(
                f"{cls.__name__}.from_pretrained takes (name, from_hf_hub=False, subfolder=None, "
                f"*args); got from_hf_hub={from_hf_hub!r}, subfolder={subfolder!r}. For arguments "
                f"of __init__: {cls.__name__}.from_pretrained(name, False, None, {from_hf_hub!r}), "
                "or by keyword."
            )
        if from_hf_hub:
            raise NotImplementedError(
                "from_hf_hub=True: this offramp opens directories. Download the model first "
                "(huggingface_hub.snapshot_download) and pass its directory."
            )
        directory = Path(pretrained_model_name_or_path) / (subfolder or "")
        blueprint = read_blueprint(cls, directory, config, args, kwargs)
        header = read_header(directory / WEIGHTS_FILE)
        with torch.device("meta"):
            model = cast(Self, blueprint.build())
            if model.config.exits is not None and model._can_exit:
                offramp.build_exits(model, model.config.exits)
        report = plan(
            header,
            model._expected(),
            str(directory / WEIGHTS_FILE),
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        types = {header[name].dtype for name in report.loaded}
        if dtype is None and len(types) > 1:
            raise CheckpointError(
                f"{directory / WEIGHTS_FILE} holds weights of several types "
                f"({', '.join(sorted(types))}). Pass the one to use, e.g. dtype=torch.float32."
            )
        _check_twins(directory / WEIGHTS_FILE, report)
        if strict and (report.initialised or report.dropped):
            raise CheckpointError(f"{directory} is not exactly a {cls.__name__}: {report}.")
        model._fill(read_tensors(directory / WEIGHTS_FILE, report.loaded), report)
        if dtype is not None:
            model.to(dtype)
        if report.initialised:
            warnings.warn(
                f"{cls.__name__}: {', '.join(report.initialised)} is not in {directory} and has "
                "new random weights. Train the model before you use its answers.",
                NewWeightsWarning,
                stacklevel=2,
            )
        model.eval()
        return (model, report) if output_loading_info else model

    @classmethod
    def from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Self:
        """A new model with random weights; `kwargs` go to `__init__`."""
        return cast(Self, new_blueprint(cls, config, kwargs).build())

    # ------------------------------------------------------------------ saving

    def save_pretrained(self, save_dir: str | Path) -> None:
        """Write config.json and model.safetensors; the directory is there whole or not at all."""
        with staged(save_dir) as fresh:
            self.write_files(fresh)

    def save_model_config(self, save_dir: str | Path) -> None:
        """Deprecated: `config.save_pretrained`."""
        warnings.warn(
            "save_model_config is PaddleNLP's old name; use model.config.save_pretrained(dir).",
            DeprecationWarning,
            stacklevel=2,
        )
        self.config.save_pretrained(save_dir)

    def write_files(self, directory: Path) -> None:
        """Write the model's files into an open directory."""
        self._check_savable()
        config = copy.deepcopy(self.config)
        config.architectures = [type(self).__name__]
        config.extra.pop("torch_dtype", None)
        config.extra["dtype"] = str(self.dtype).removeprefix("torch.")
        config.extra.pop(INIT_ARGUMENTS, None)
        arguments = written_arguments(self.init_config, self.base_model_prefix)
        if len(arguments) > 1:  # more than the class's name
            config.extra[INIT_ARGUMENTS] = arguments
        exits = getattr(self, "exits", None)
        config.exits = None if exits is None else exits.section()
        (directory / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        tied = self._tied()
        write_tensors(
            directory / WEIGHTS_FILE,
            {name: tensor for name, tensor in self.state_dict().items() if name not in tied},
        )

    def _check_savable(self) -> None:
        """Raise ConfigError if config or file would not describe the network that is there."""
        for name, built in self._built_from.items():
            if getattr(self.config, name) != built:
                raise ConfigError(
                    f"config.{name} is {getattr(self.config, name)!r} and the model was built with "
                    f"{built!r}. Build a model from the new configuration instead."
                )
        wanted = {layer: heads for layer, heads in self.config.pruned_heads.items() if heads}
        if wanted != self._pruned():
            raise ConfigError(
                f"config.pruned_heads is {wanted} and the layers lack {self._pruned()}. Prune with "
                "prune_heads, and give each model a configuration of its own."
            )
        for name, source in self._tied().items():
            if self.get_parameter(name) is not self.get_parameter(source):
                raise ConfigError(
                    f"{name} is tied to {source} and is another tensor now; one of them would be "
                    "lost. Call tie_weights(), or build the model with tie_word_embeddings=False."
                )

    # ------------------------------------------------------------------ inside

    @property
    def _can_exit(self) -> bool:
        return hasattr(self, "logits")

    def _expected(self) -> Expected:
        prefix = self.base_model_prefix
        body = self.base_model
        at = "" if body is self else prefix + "."
        # Everything beside the body is a head; exits are not: a config that names them has them.
        children = [name for name, _ in self.named_children() if name not in (prefix, "exits")]
        parts = [head for head in self.known_heads if head.partition(".")[0] in children]
        whole = [
            name for name in children if not any(head.startswith(name + ".") for head in parts)
        ]
        tied = self._tied()
        return Expected(
            shapes={
                name: tuple(t.shape) for name, t in self.state_dict().items() if name not in tied
            },
            prefix=prefix,
            heads=(
                *((at + name) for name in self.optional_modules),
                *(() if body is self else (*parts, *whole)),
            ),
            known_heads=(
                *self.known_heads,
                *(f"{prefix}.{name}" for name in self.optional_modules),
                *self.optional_modules,
                "exits",
            ),
            tied=tied,
        )

    def _fill(self, tensors: dict[str, Tensor], report: LoadingReport) -> None:
        learns = {name: parameter.requires_grad for name, parameter in self.named_parameters()}
        self.load_state_dict(tensors, strict=False, assign=True)
        self.tie_weights()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(learns[name])  # an assigned tensor may bring its own flag
        tied = self._tied()
        for path, module in self.named_modules():
            own = module.named_parameters(path, recurse=False)
            new = [name for name, p in own if p.is_meta and name not in tied]
            if not new:
                continue
            if absent := set(new) - set(report.initialised):
                raise AssertionError(f"{absent} was planned as loaded and is not")
            module.to_empty(device="cpu", recurse=False)
            module.to(report.dtype)
            self._init_new(path, module)
        if unmade := [name for name, buffer in self.named_buffers() if buffer.is_meta]:
            raise ConfigError(
                f"{', '.join(unmade)}: a buffer's values are known when it is made alone, and "
                "from_pretrained makes models without values. Compute it in forward instead."
            )
        for module in self.modules():
            module._loaded = True  # type: ignore[assignment]  # for `init_weights`
        self.tie_weights()

    def _init_new(self, path: str, module: nn.Module) -> None:
        """Initial weights of a module that the file does not have, or ConfigError."""
        own = list(module.parameters(recurse=False))
        for parameter in own:
            nn.init.constant_(parameter, torch.nan)
        self._init_weights(module)
        reset = getattr(module, "reset_parameters", None)
        if any(bool(parameter.isnan().any()) for parameter in own) and callable(reset):
            reset()
        if any(bool(parameter.isnan().any()) for parameter in own):
            raise ConfigError(
                f"{type(self).__name__}._init_weights gives {path or 'the model itself'} "
                f"({type(module).__name__}) no initial weights. Override it to do so."
            )


def register_base_model(cls: C) -> C:
    """Decorator of a family's body: every class of the family has it as `base_model_class`.

    It is set on the class's parent, the family's base, and by a second body never displaced.
    Raises TypeError for a class outside a family.
    """
    parent = cls.__bases__[0] if isinstance(cls, type) else object
    if not issubclass(parent, PretrainedModel) or parent is PretrainedModel:
        raise TypeError(
            f"register_base_model takes a class derived from a family's base, such as "
            f"BertPreTrainedModel; got {cls!r}."
        )
    if "base_model_class" not in vars(parent):
        parent.base_model_class = cls
    return cls


def _check_twins(path: Path, report: LoadingReport) -> None:
    for name, other in report.twins.items():
        pair = read_tensors(path, {name: "dropped", other: "loaded"})
        one, two = pair["dropped"], pair["loaded"]
        if one.dtype != two.dtype or not torch.equal(one, two):
            raise CheckpointError(
                f"{path} has different {name} and {other}, which this model ties into one tensor. "
                "Pass tie_word_embeddings=False to keep both."
            )


PreTrainedModel = PretrainedModel
