"""`PretrainedModel`: construction, loading and saving, the same for every family."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal, overload

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
from offramp.models.config import CONFIG_FILE, PretrainedConfig
from offramp.models.loading import Expected, LoadingReport, plan


class PretrainedModel(nn.Module):
    """Base of every model: a body under `base_model_prefix`, and heads beside it.

    A family sets the class attributes; a class of it builds its modules in `__init__(config)` and
    ends by calling `init_weights()`.
    """

    config_class: ClassVar[type[PretrainedConfig]] = PretrainedConfig
    base_model_prefix: ClassVar[str] = ""
    known_heads: ClassVar[tuple[str, ...]] = ()
    """Modules that files of the family may hold and a class may lack: dropped and reported."""
    optional_modules: ClassVar[tuple[str, ...]] = ()
    """Modules of the body that files may lack (a pooler): initialised and reported."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise ConfigError(
                f"{type(self).__name__} is built from a {self.config_class.__name__}; got a "
                f"{type(config).__name__}. To load weights: {type(self).__name__}"
                ".from_pretrained(directory)."
            )
        config.validate()
        self.config = config
        self._built_from = config.structure()

    @property
    def base_model(self) -> nn.Module:
        """The body: the attribute named by `base_model_prefix`, or the model itself."""
        body = getattr(self, self.base_model_prefix, self)
        assert isinstance(body, nn.Module)
        return body

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return next(self.parameters()).dtype

    def init_weights(self) -> None:
        """Give every module its initial weights, but for those made on the meta device."""
        for module in self.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(p.is_meta for p in own):
                self._init_weights(module)

    def _init_weights(self, module: nn.Module) -> None:
        """Initial weights of one module; a family or a user's class overrides it."""

    @overload
    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        config: PretrainedConfig | None = ...,
        dtype: torch.dtype | None = ...,
        ignore_mismatched_sizes: bool = ...,
        output_loading_info: Literal[False] = ...,
        **changes: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        config: PretrainedConfig | None = ...,
        dtype: torch.dtype | None = ...,
        ignore_mismatched_sizes: bool = ...,
        output_loading_info: Literal[True],
        **changes: Any,
    ) -> tuple[Self, LoadingReport]: ...

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        config: PretrainedConfig | None = None,
        dtype: torch.dtype | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **changes: Any,
    ) -> Self | tuple[Self, LoadingReport]:
        """The model saved in `directory`, in eval mode, with its exits if it has any.

        `changes` are fields of the configuration; `config` replaces it whole. Weights keep the
        file's type unless `dtype` is given. With `output_loading_info` the result is
        (model, LoadingReport). Raises ModelNotFoundError, ConfigError or CheckpointError, and in
        none of these cases is a model made.
        """
        directory = Path(directory)
        if config is None:
            config = cls.config_class.from_pretrained(directory, **changes)
        elif changes:
            raise ConfigError(f"Pass either config= or {', '.join(changes)}=, and not both.")
        header = read_header(directory / WEIGHTS_FILE)
        with torch.device("meta"):
            model = cls(config)
            if config.exits is not None and model._can_exit:
                offramp.build_exits(model, config.exits)
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

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors; the directory is there whole or not at all."""
        with staged(directory) as fresh:
            self.write_files(fresh)

    def write_files(self, directory: Path) -> None:
        """Write the model's files into an open directory."""
        for name, built in self._built_from.items():
            if getattr(self.config, name) != built:
                raise ConfigError(
                    f"config.{name} is {getattr(self.config, name)!r} and the model was built with "
                    f"{built!r}. Build a model from the new configuration instead."
                )
        config = copy.deepcopy(self.config)
        config.architectures = [type(self).__name__]
        config.extra.pop("torch_dtype", None)
        config.extra["dtype"] = str(self.dtype).removeprefix("torch.")
        exits = getattr(self, "exits", None)
        config.exits = None if exits is None else exits.section()
        (directory / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        write_tensors(directory / WEIGHTS_FILE, self.state_dict())

    @property
    def _can_exit(self) -> bool:
        return hasattr(self, "logits")

    def _expected(self) -> Expected:
        prefix = self.base_model_prefix
        body = self.base_model
        at = "" if body is self else prefix + "."
        # Everything beside the body is a head; exits are not: a config that names them has them.
        heads = [name for name, _ in self.named_children() if name not in (prefix, "exits")]
        return Expected(
            shapes={name: tuple(t.shape) for name, t in self.state_dict().items()},
            prefix=prefix,
            heads=(
                *((at + name) for name in self.optional_modules),
                *(() if body is self else heads),
            ),
            known_heads=(
                *self.known_heads,
                *(f"{prefix}.{name}" for name in self.optional_modules),
                *self.optional_modules,
                "exits",
            ),
        )

    def _fill(self, tensors: dict[str, Tensor], report: LoadingReport) -> None:
        self.load_state_dict(tensors, strict=False, assign=True)
        for parameter in self.parameters():
            parameter.requires_grad_(True)  # a tensor assigned over meta brings its own flag
        for path, module in self.named_modules():
            new = [n for n, p in module.named_parameters(path, recurse=False) if p.is_meta]
            if not new:
                continue
            if absent := set(new) - set(report.initialised):
                raise AssertionError(f"{absent} was planned as loaded and is not")
            module.to_empty(device="cpu", recurse=False)
            module.to(report.dtype)
            self._init_weights(module)
        if unmade := [name for name, buffer in self.named_buffers() if buffer.is_meta]:
            raise ConfigError(
                f"{', '.join(unmade)}: a buffer's values are known when it is made alone, and "
                "from_pretrained makes models without values. Compute it in forward instead."
            )


PreTrainedModel = PretrainedModel
