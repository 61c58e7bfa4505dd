"""`PretrainedModel`: construction, loading and saving, the same for every family."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast, overload

import torch
from torch import Tensor
from typing_extensions import Self

import offramp
from offramp.checkpoints.directory import staged
from offramp.checkpoints.file_names import SAFETENSORS_FILE, replaced_by
from offramp.checkpoints.renames import Row
from offramp.errors import ConfigError, NewWeightsWarning, UnsupportedError
from offramp.generation.mixin import GenerationMixin
from offramp.hub.names import Request, Source
from offramp.models.blueprint import build_again, new_blueprint
from offramp.models.builtin import read_only
from offramp.models.config import PretrainedConfig
from offramp.models.config_file import CONFIG_FILE, OLD_CONFIG_FILE
from offramp.models.loading import LoadingReport
from offramp.models.names import companions_in, companions_of
from offramp.models.opening import Opening, check_positions, open_model
from offramp.models.parts import ModelParts
from offramp.models.saving import weights_file, write_model, written_dialect
from offramp.models.sharing import HubMixin
from offramp.models.tables import MODEL_STATE, ModelNames, freeze_tables
from offramp.models.tracking import InitTrackerMeta, is_building
from offramp.models.walking import is_initialised, walk

C = TypeVar("C", bound="type[PretrainedModel]")


class PretrainedModel(ModelParts, GenerationMixin, HubMixin, metaclass=InitTrackerMeta):
    """Base of every model: a body under `base_model_prefix`, and heads beside it.

    A family sets the class attributes; a class of it builds its modules in `__init__` and ends by
    calling `init_weights()`. `__init__` takes the configuration and, if need be, more arguments,
    which are saved and loaded with the model as far as JSON can hold them. With
    `config_class = None` it takes its own arguments alone.
    """

    config_class: ClassVar[type[PretrainedConfig]] = PretrainedConfig
    """The class of `config`; None for a model that is built from its own arguments alone."""
    model_config_file: ClassVar[str] = CONFIG_FILE
    """The configuration's file; model_config.json is read where it is absent."""
    resource_files_names: ClassVar[Mapping[str, str]] = read_only({MODEL_STATE: SAFETENSORS_FILE})
    """{"model_state": the weights' file}."""
    pretrained_init_configuration: ClassVar[Mapping[str, Mapping[str, Any]]] = read_only({})
    """{built-in name: its configuration}, read-only."""
    pretrained_resource_files_map: ClassVar[Mapping[str, Mapping[str, Source | str]]] = read_only(
        {MODEL_STATE: {}}
    )
    """{"model_state": {built-in name: where its files are}}, read-only; a text is a hub id."""
    model_name_list: ClassVar[ModelNames] = ModelNames()
    """Every built-in name of the class: a list, on the class and on an instance."""
    base_model_class: ClassVar[type[PretrainedModel] | None] = None
    """The family's body; `register_base_model` sets it."""
    known_heads: ClassVar[tuple[str, ...]] = ()
    """Modules that files of the family may hold and a class may lack: dropped and reported."""
    optional_modules: ClassVar[tuple[str, ...]] = ()
    """Modules of the body that files may lack (a pooler): initialised and reported."""
    owns_exits: ClassVar[bool] = False
    """Whether its exits are parts of its own, by the names that research code gave them."""
    paddle_names: ClassVar[tuple[Row, ...]] = ()
    """What PaddleNLP calls the family's tensors; none where its files are not read."""
    paddle_defaults: ClassVar[Mapping[str, Any]] = {}
    """Settings that PaddleNLP's config.json leaves out: its defaults, where they are not ours."""
    config: PretrainedConfig
    """What the model was built from; resizing and pruning keep it up to date."""
    init_config: dict[str, Any]
    """The arguments of construction by name, and `init_class`; see `InitTrackerMeta`."""
    name_or_path: str
    """What `from_pretrained` opened; empty for a new model. PEFT keeps it beside an adapter."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        freeze_tables(cls)

    def __init__(self, config: PretrainedConfig | None = None) -> None:
        super().__init__()
        if not self.constructed_from_pretrained_config():
            config = PretrainedConfig() if config is None else config
        elif not isinstance(config, self.config_class):
            raise ConfigError(
                f"{type(self).__name__} is built from a {self.config_class.__name__} of offramp; "
                f"got a {type(config).__name__} of {type(config).__module__}. To load weights: "
                f"{type(self).__name__}.from_pretrained(directory)."
            )
        config.validate()
        self._take(config)
        self.name_or_path = ""
        self._companions: dict[str, bytes] = {}  # files that lay beside the weights
        self._dialect = "own"  # of the files that it was loaded from

    def _take(self, config: PretrainedConfig) -> None:
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

        A class calls it at the end of its `__init__`, and a head's `_init_weights` holds for the
        body that is built inside it. What was loaded or built before keeps its weights. While
        `from_pretrained` builds a model its modules are on the meta device, where `_init_weights`
        gives no weights, but what else it sets (a norm's eps) is set.
        """
        if self.config.pruned_heads:
            self._prune(self.config.pruned_heads)
        for _, module in walk(self):
            if module._parameters and not is_initialised(module):
                self._init_weights(module)
        self.tie_weights()
        if not is_building():
            self._keep_weights()

    def post_init(self) -> None:
        """`init_weights`, under the name that transformers' classes call at the same place."""
        self.init_weights()

    # ------------------------------------------------------------------ loading

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        from_hf_hub: bool = ...,
        subfolder: str | None = ...,
        *args: Any,
        output_loading_info: Literal[False] = ...,
        **kwargs: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        from_hf_hub: bool = ...,
        subfolder: str | None = ...,
        *args: Any,
        output_loading_info: Literal[True],
        **kwargs: Any,
    ) -> tuple[Self, LoadingReport]: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        from_hf_hub: bool = False,
        subfolder: str | None = None,
        *args: Any,
        config: PretrainedConfig | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        load_state_as_np: bool = False,
        ignore_mismatched_sizes: bool = False,
        strict: bool = False,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        mmap: bool = True,
        allow_legacy_pickle: bool = False,
        uint16_is_bfloat16: bool = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        token: str | bool | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Self | tuple[Self, LoadingReport]:
        """The model that a name stands for, in eval mode, with its exits if it has any.

        The name is, in this order: a directory or one file of weights; a built-in name
        (`model_name_list`), whose files an installed package, the hub's cache, a mirror or the hub
        has; or owner/name on the hub. Both may end in @ and a revision. With `from_hf_hub` it is a
        name on the hub and nothing else; None is nothing at all, for `config` and `state_dict`.
        `subfolder` is a folder inside. What is fetched is verified before it is used.

        `args` go to the class's `__init__`, after the configuration. `kwargs` that are fields of
        the configuration change it; the others go to `__init__`, in place of the arguments that
        were saved. The options are:

        - `config`: a configuration in place of the file's.
        - `state_dict`: tensors in place of the file's; they are copied.
        - `dtype`: `torch.float32`, "float16", ...; the file's where it is None or "auto".
          `torch_dtype` is its older name.
        - `device`: where the model goes; torch's default device where it is None.
        - `load_state_as_np`: keep the weights in host memory, as views of the mapped file, even
          where torch's default device is another.
        - `ignore_mismatched_sizes`: initialise a head whose size differs.
        - `strict`: nothing may be new, nothing left over.
        - `variant`: the word in model.VARIANT.safetensors.
        - `use_safetensors`: with True only those are read, with False PyTorch's or PaddleNLP's.
        - `mmap`: with False the weights are copied into memory. A mapped file must not be cut short
          while the model lives: touching what is gone ends the process (SIGBUS).
        - `allow_legacy_pickle`: read PyTorch's format of before 1.6, as data like the others.
        - `uint16_is_bfloat16`: what Paddle writes as uint16 is bfloat16; config.json's dtype says
          so too.
        - `revision`, `cache_dir`, `local_files_only`, `force_download`, `token`: for names on the
          hub.
        - `output_loading_info`: return (model, LoadingReport).

        Raises ModelNotFoundError, HubError, ConfigError, CheckpointError or TypeError, and in none
        of these cases is a model made.
        """
        check_positions(cls.__name__, from_hf_hub, subfolder)
        if dtype is not None and torch_dtype not in (None, dtype):
            raise ConfigError(f"dtype={dtype} and torch_dtype={torch_dtype} are one setting.")
        opening = Opening(
            Request(revision, subfolder, cache_dir, local_files_only, force_download, token),
            from_hf_hub,
            config,
            state_dict,
            dtype if torch_dtype is None else torch_dtype,
            device,
            load_state_as_np,
            ignore_mismatched_sizes,
            strict,
            variant,
            use_safetensors,
            mmap,
            allow_legacy_pickle,
            uint16_is_bfloat16,
        )
        model, report = open_model(cls, pretrained_model_name_or_path, opening, args, kwargs)
        if report.initialised:
            warnings.warn(
                f"{cls.__name__}: {', '.join(report.initialised)} is not in "
                f"{pretrained_model_name_or_path} and has new random weights. Train the model "
                "before you use its answers.",
                NewWeightsWarning,
                stacklevel=2,
            )
        return (model, report) if output_loading_info else model

    @classmethod
    def from_init_config(cls, init_config: Mapping[str, Any]) -> Self:
        """A new model of the arguments that another's `init_config` keeps.

        The configuration is copied; a model among the arguments is built again too.
        """
        return cast(Self, build_again(cls, init_config))

    @classmethod
    def from_config(cls, config: PretrainedConfig, **kwargs: Any) -> Self:
        """A new model with random weights; `kwargs` go to `__init__`."""
        return cast(Self, new_blueprint(cls, config, kwargs).build())

    # ------------------------------------------------------------------ saving

    def exit_settings(self) -> dict[str, Any]:
        """What config.json keeps of a class that `owns_exits`, beside the section of its exits."""
        return {}

    def take_exit_settings(self, values: Mapping[str, Any]) -> None:
        """Take what `exit_settings` gave, of a configuration's keys; ConfigError for bad values."""

    def save_pretrained(
        self,
        save_dir: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        *,
        max_shard_size: int | str | None = None,
        variant: str | None = None,
        dialect: str = "own",
        safe_serialization: bool = True,
        save_function: object = None,
    ) -> None:
        """Write config.json, model.safetensors and the files that came with the model.

        These are the tokenizer's and generation_config.json, where it was loaded with such and the
        directory has none of its own. It is there whole or not at all. Weights of an earlier save
        do not stay in it, but those of a variant leave the others; other files do stay.
        `state_dict` is written in place of the model's own tensors, whose names and shapes it must
        have. Weights of more than `max_shard_size` (bytes, or "5GB") go into several files with an
        index. `variant` is a word in the file's name: model.VARIANT.safetensors. `dialect` is whose
        names, settings and file are written: "own" (transformers'), "paddle" (PaddleNLP's, as
        model_state.pdparams), "deebert" or "pabee" (the research code's, as pytorch_model.bin), or
        "keep" for those that the model was loaded from. Nothing is written where `is_main_process`
        is False. `save_function` (accelerate's) is not called: one file is
        written as another. Raises SaveError for a path that is a file, and
        ConfigError for a model that its configuration does not describe, and CheckpointError for
        one that has what the dialect has not.
        """
        if not safe_serialization:
            raise UnsupportedError(
                "safe_serialization=False asks for a pickle, which can run code when it is read; "
                "offramp writes safetensors alone."
            )
        if not is_main_process:
            return
        replaced = replaced_by(weights_file(self, written_dialect(self, dialect)), variant)
        if variant is None:
            replaced = re.compile(f"{replaced.pattern}|{re.escape(OLD_CONFIG_FILE)}")
        with staged(save_dir, replaced) as fresh:
            self.write_files(
                fresh,
                state_dict=state_dict,
                max_shard_size=max_shard_size,
                variant=variant,
                dialect=dialect,
            )
            there = companions_in(Path(save_dir).expanduser())
            for name, content in self._companions.items():
                if not there.intersection(companions_of(name)):
                    (fresh / name).write_bytes(content)

    def save_model_config(self, save_dir: str | Path) -> None:
        """Deprecated: `config.save_pretrained`."""
        warnings.warn(
            "save_model_config is PaddleNLP's old name; use model.config.save_pretrained(dir).",
            DeprecationWarning,
            stacklevel=2,
        )
        self.config.save_pretrained(save_dir)

    def write_files(
        self,
        directory: Path,
        *,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str | None = None,
        variant: str | None = None,
        dialect: str = "own",
    ) -> None:
        """Write configuration and weights into an open directory; see `save_pretrained`."""
        write_model(
            self,
            directory,
            state_dict=state_dict,
            max_shard_size=max_shard_size,
            variant=variant,
            dialect=dialect,
        )

    def write_for_hub(self, directory: Path, max_shard_size: int | str | None) -> None:
        """Write what `save_pretrained` would into an empty directory."""
        self.write_files(directory, max_shard_size=max_shard_size)
        for name, content in self._companions.items():
            (directory / name).write_bytes(content)

    def certificate_in_words(self) -> str | None:
        """What the model card says of the exits' certificate; None where none holds."""
        found: str | None = offramp.certificate_card(self)
        return found


def register_base_model(cls: C) -> C:
    """Decorator of a family's body: every class of the family has it as `base_model_class`.

    It is set on the class's parent, the family's base, and by a second body never displaced.
    Raises TypeError for a class outside a family.
    """
    bases = cls.__bases__ if isinstance(cls, type) else ()
    families = [b for b in bases if issubclass(b, PretrainedModel) and b.base_model_prefix]
    if not families:
        raise TypeError(
            f"register_base_model takes a class derived from a family's base, such as "
            f"BertPreTrainedModel; got {cls!r}."
        )
    parent = families[0]
    known = parent.base_model_class
    if known is None or known.base_model_prefix != cls.base_model_prefix:
        parent.base_model_class = cls
    return cls


PreTrainedModel = PretrainedModel
"""transformers' spelling of `PretrainedModel`: the same class."""
