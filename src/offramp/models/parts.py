"""What a model is made of, and how that is read and changed.

The body, the embeddings, the heads of attention and the layers; `PretrainedModel` adds
construction, loading and saving.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from offramp.errors import ConfigError, UnsupportedError
from offramp.models.config import PretrainedConfig, numbered_heads
from offramp.models.resizing import interpolated_rows, new_size, resize, resized_rows
from offramp.models.walking import is_initialised, mark_initialised, walk
from offramp.nn.blocks import Attention, CheckpointedLayer

RESIZABLE = ("vocab_size", "max_position_embeddings")
"""The fields of a configuration that follow a resize."""


class ModelParts(nn.Module):
    """The parts of a model, found by the names that its family gives."""

    base_model_prefix: ClassVar[str] = ""
    """The attribute that is the body; a body itself has none of that name."""
    input_embeddings_name: ClassVar[str | None] = None
    """Where in the body the embedding of token ids is."""
    position_embeddings_name: ClassVar[str | None] = None
    """Where in the body the embedding of positions is, if they are learned."""
    output_embeddings_name: ClassVar[str | None] = None
    """Where in the model the linear layer to the vocabulary is."""
    tied_weights: ClassVar[Mapping[str, str]] = {}
    """{tensor: the tensor that it shares} while `config.tie_word_embeddings` holds."""

    main_input_name: ClassVar[str] = "input_ids"
    """The argument of `forward` that says how large a batch is; trainers read it."""
    supports_gradient_checkpointing: ClassVar[bool] = True
    """Whether layers can recompute their activations; trainers read it."""

    config: PretrainedConfig
    _built_from: dict[str, Any]
    """The structural fields of `config` that the network has."""
    _input_gradients: RemovableHandle | None = None

    @property
    def base_model(self) -> nn.Module:
        """The body: the attribute named by `base_model_prefix`, or the model itself."""
        body = getattr(self, self.base_model_prefix, self) if self.base_model_prefix else self
        return body if isinstance(body, nn.Module) else self

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return next((p.dtype for p in self.parameters()), torch.get_default_dtype())

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the weights are; tied ones count once."""
        left_out = set()
        if exclude_embeddings:
            tables = (m for m in self.modules() if isinstance(m, nn.Embedding))
            left_out = {id(table.weight) for table in tables}
        return sum(
            p.numel()
            for p in self.parameters()
            if id(p) not in left_out and (p.requires_grad or not only_trainable)
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the weights, and of the buffers unless `return_buffers` is False."""
        held: list[Tensor] = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    # ------------------------------------------------------------------ embeddings

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of token ids; UnsupportedError where a model has none."""
        return self._part("input_embeddings_name")

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another embedding of the same size in its place; a head that is tied to it follows.

        Raises ConfigError for another size: `resize_token_embeddings` changes that.
        """
        _check_size(self.get_input_embeddings(), value)
        self._put_words(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The linear layer to the vocabulary, or None for a model without one."""
        name = self.output_embeddings_name
        return None if name is None else self.get_submodule(name)

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Put another linear layer to the vocabulary in its place, and tie it as it was."""
        if self.output_embeddings_name is None:
            raise UnsupportedError(
                f"{type(self).__name__} has no output embeddings: its head does not answer with "
                "words of the vocabulary."
            )
        old = self.get_submodule(self.output_embeddings_name)
        _check_size(old, value)
        if (getattr(old, "bias", None) is None) != (getattr(value, "bias", None) is None):
            raise ConfigError(
                "The linear layer in place and the other differ in having a bias; the saved model "
                "would be built with the first's."
            )
        _put(self, self.output_embeddings_name, value)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make the pairs of `tied_weights` one tensor each, where `tie_word_embeddings` says so."""
        for name, source in self._tied().items():
            path, _, last = name.rpartition(".")
            setattr(self.get_submodule(path), last, self.get_parameter(source))

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        init: Literal["new", "mean"] = "new",
    ) -> nn.Module:
        """Give the vocabulary another size; returns the input embedding.

        Tokens come or go at the end. New rows are as the model initialises them, or with
        `init="mean"` the mean of the old ones. An output head and its bias follow, tied or not, and
        `config.vocab_size` does. None leaves the size, but for `pad_to_multiple_of`, to a
        multiple of which it is rounded up. Raises ConfigError for a size below 1, or one that cuts
        off the padding token.
        """
        _check_init(init, ("new", "mean"))
        words = cast(nn.Embedding, self.get_input_embeddings())
        size = new_size(len(words.weight), new_num_tokens, pad_to_multiple_of)
        if size == len(words.weight):
            return words
        self._check_tells("vocab_size")
        changed = copy.deepcopy(self.config)
        changed.vocab_size = size
        changed.validate()
        decoder = self.get_output_embeddings()
        if not isinstance(decoder, nn.Linear | None) or not isinstance(words, nn.Embedding):
            odd = words if isinstance(decoder, nn.Linear | None) else decoder
            raise UnsupportedError(
                f"resize_token_embeddings knows nn.Embedding and nn.Linear; this "
                f"{type(self).__name__} has a {type(odd).__name__}. Put one of another size in its "
                "place yourself."
            )
        if decoder is not None:
            bias = self.tied_weights.get(f"{self.output_embeddings_name}.bias")
            if bias is not None:  # the head's own bias, which is the layer's while they are tied
                path, _, last = bias.rpartition(".")
                old = self.get_parameter(bias)
                rows = resized_rows(old.detach(), old.detach().new_zeros(size), "new")
                setattr(self.get_submodule(path), last, nn.Parameter(rows, old.requires_grad))
            resize(decoder, size, init, self._init_weights)
        resize(words, size, init, self._init_weights)
        self.tie_weights()
        self._reconfigure("vocab_size", size)
        return words

    def resize_position_embeddings(
        self,
        new_num_position_embeddings: int,
        init: Literal["new", "interpolate"] = "new",
    ) -> nn.Module:
        """Let rows be longer or shorter; returns the embedding of positions.

        New positions come at the end, as the model initialises them, or with `init="interpolate"`
        the learned ones are stretched. `config.max_position_embeddings` follows. Raises
        UnsupportedError (a NotImplementedError) for a model whose positions are not learned.
        """
        _check_init(init, ("new", "interpolate"))
        if type(new_num_position_embeddings) is not int or new_num_position_embeddings < 1:
            raise ConfigError(
                "resize_position_embeddings takes a whole number of at least 1; got "
                f"{new_num_position_embeddings!r}."
            )
        name = self._name_of("position_embeddings_name")
        self._check_tells("max_position_embeddings")
        old = cast(nn.Embedding, self.base_model.get_submodule(name))
        rows = old.weight.data
        resize(old, new_num_position_embeddings, "new", self._init_weights)
        if init == "interpolate" and len(old.weight) > len(rows):
            old.weight.data = interpolated_rows(rows, len(old.weight))
        self._reconfigure("max_position_embeddings", new_num_position_embeddings)
        return old

    def get_position_embeddings(self) -> nn.Module:
        """The embedding of positions; UnsupportedError where they are not learned."""
        return self._part("position_embeddings_name")

    # ------------------------------------------------------------------ heads of attention

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Take attention heads out: {layer, from 0: heads by their numbers in the whole layer}.

        `config.pruned_heads` keeps them, so that a saved model is built without them. Raises
        ConfigError for a layer or head that is not there, or where none would be left.
        """
        self._check_no_adapters("Pruning would drop")
        self._prune(numbered_heads(heads_to_prune))
        for config in self._configs():
            config.pruned_heads = self._pruned()

    def _prune(self, heads: Mapping[int, Iterable[int]]) -> None:
        layers = [module for module in self.base_model.modules() if isinstance(module, Attention)]
        if not layers:
            raise UnsupportedError(f"{type(self).__name__} has no attention heads to prune.")
        for layer, which in heads.items():
            if not 0 <= layer < len(layers):
                raise ConfigError(
                    f"prune_heads names layer {layer}; the layers are 0 to {len(layers) - 1}."
                )
            layers[layer].check_prunable(which)
        for layer, which in heads.items():
            initialised = is_initialised(layers[layer].core)
            layers[layer].prune(which)
            for module in layers[layer].modules() if initialised else ():
                mark_initialised(module)

    # ------------------------------------------------------------------ running

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """How attention is computed: "sdpa" (torch's fused kernels, packed rows) or "eager".

        "eager" lays rows out with padding and computes probabilities openly, as a reference; the
        answers are the same. Raises ConfigError for other names.
        """
        for module in self.modules():
            if isinstance(module, ModelParts):
                module.config.attn_implementation = attn_implementation

    # ------------------------------------------------------------------ training

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Keep no activations inside layers while training, and compute them again: less memory.

        Of `every_n_layers` layers, the first. Always the non-reentrant kind, and what is kept stays
        on its device, so `{"use_reentrant": False}` and `offload=False` are all that is taken.
        """
        if {**(gradient_checkpointing_kwargs or {})} not in ({}, {"use_reentrant": False}):
            raise ConfigError(
                f"gradient_checkpointing_kwargs={gradient_checkpointing_kwargs!r}; checkpointing "
                "here is non-reentrant and has no other options. Pass nothing."
            )
        if offload:
            raise ConfigError(
                "offload=True: checkpointing here leaves what it keeps on the device. Pass nothing."
            )
        if type(every_n_layers) is not int or every_n_layers < 1:
            raise ConfigError(
                f"every_n_layers is a whole number of at least 1; got {every_n_layers!r}."
            )
        for i, layer in enumerate(self._checkpointed_layers()):
            layer.checkpointed = i % every_n_layers == 0

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """`gradient_checkpointing_enable`, as transformers 5.23 and its Trainer call it."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        for layer in self._checkpointed_layers():
            layer.checkpointed = False

    def activation_checkpointing_disable(self) -> None:
        """`gradient_checkpointing_disable`, under transformers' newer name."""
        self.gradient_checkpointing_disable()

    def enable_input_require_grads(self) -> None:
        """Let gradients reach embedded tokens though the embedding itself is frozen.

        Checkpointing here does not need it; scripts that train adapters call it.
        """
        self.disable_input_require_grads()
        embedding = self.get_input_embeddings()
        self._input_gradients = embedding.register_forward_hook(_require_gradient)

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        if self._input_gradients is not None:
            self._input_gradients.remove()
        self._input_gradients = None

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether any layer recomputes its activations."""
        return any(isinstance(m, CheckpointedLayer) and m.checkpointed for m in self.modules())

    @property
    def is_activation_checkpointing(self) -> bool:
        """`is_gradient_checkpointing`, under transformers' newer name."""
        return self.is_gradient_checkpointing

    def _checkpointed_layers(self) -> list[CheckpointedLayer]:
        layers = [m for m in self.modules() if isinstance(m, CheckpointedLayer)]
        if not layers:
            raise UnsupportedError(f"{type(self).__name__} has no layers to checkpoint.")
        return layers

    # ------------------------------------------------------------------ inside

    def _init_weights(self, module: nn.Module) -> None:
        """Give one module its own parameters' initial values; a class overrides it.

        `init_weights` calls it for each module with parameters, as do resizing for new rows and
        `from_pretrained` for what the file lacks: there a parameter that is left without values
        by it and by the module's `reset_parameters` raises ConfigError.
        """

    @property
    def _keys_to_ignore_on_save(self) -> list[str]:
        """The tied tensors, which no file holds: transformers' Trainer asks when it loads one."""
        return list(self._tied())

    def _keep_weights(self) -> None:
        """Let `init_weights` leave the weights that there are alone from here on."""
        for _, module in walk(self):
            own = module._parameters.values()
            if not any(parameter is not None and parameter.is_meta for parameter in own):
                mark_initialised(module)

    def _tied(self) -> dict[str, str]:
        return dict(self.tied_weights) if self.config.tie_word_embeddings else {}

    def _put_words(self, value: nn.Module) -> None:
        _put(self.base_model, self._name_of("input_embeddings_name"), value)
        self.tie_weights()

    def _pruned(self) -> dict[int, list[int]]:
        """The heads that the layers lack, as `config.pruned_heads` has them."""
        layers = [module for module in self.base_model.modules() if isinstance(module, Attention)]
        lacking = (sorted({*range(a.core.n_heads)} - {*a.core.heads}) for a in layers)
        return {layer: heads for layer, heads in enumerate(lacking) if heads}

    def _part(self, attribute: str) -> nn.Module:
        """The module of the body that stands under the family's name for it."""
        name = self._name_of(attribute)
        try:
            return self.base_model.get_submodule(name)
        except AttributeError:
            raise UnsupportedError(
                f"{type(self).__name__} has no {name} where its body is looked for: in the "
                f"attribute {self.base_model_prefix!r}, or else in the model itself."
            ) from None

    def _name_of(self, attribute: str) -> str:
        name: str | None = getattr(self, attribute)
        if name is None:
            what = attribute.removesuffix("_name").replace("_", " ")
            raise UnsupportedError(f"{type(self).__name__} has no {what}.")
        return name

    def _check_tells(self, name: str) -> None:
        """Raise UnsupportedError unless configuration or init arguments say this number."""
        arguments = (getattr(module, "init_config", {}) for module in (self, self.base_model))
        if not hasattr(self.config, name) and not any(name in known for known in arguments):
            raise UnsupportedError(
                f"{type(self).__name__} is built from neither a configuration nor an argument with "
                f"a {name}, so that the resized model could not be built again."
            )

    def _check_no_adapters(self, what: str) -> None:
        """Raise ConfigError if PEFT has put modules of its own in place of the model's."""
        if any(type(module).__module__.startswith("peft.") for module in self.modules()):
            raise ConfigError(
                f"{what} the PEFT adapters inside this {type(self).__name__}. Save adapters with "
                "the PeftModel's save_pretrained, or merge them into the model first: "
                "model = peft_model.merge_and_unload()."
            )

    def _reconfigure(self, name: str, value: int) -> None:
        """Set a number of the configuration or init arguments that the network follows already."""
        name = self.config.attribute_map.get(name, name)
        for config in self._configs():
            if hasattr(config, name):
                setattr(config, name, value)
        for module in (self, self.base_model):
            for known in (getattr(module, "_built_from", {}), getattr(module, "init_config", {})):
                if name in known:
                    known[name] = value

    def _configs(self) -> list[PretrainedConfig]:
        """The model's configuration, and its body's where that is another."""
        body: PretrainedConfig = getattr(self.base_model, "config", self.config)
        return [self.config] if body is self.config else [self.config, body]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's; what was loaded is kept by an `init_weights` that comes after."""
        result = super().load_state_dict(*args, **kwargs)
        self._keep_weights()
        return result


def _require_gradient(module: nn.Module, args: object, output: Tensor) -> None:
    output.requires_grad_(True)


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"{path} takes a module, such as nn.Embedding; got {type(module).__name__}."
        )
    if is_initialised(root.get_submodule(path)):
        mark_initialised(module)
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def _check_size(old: nn.Module, new: nn.Module) -> None:
    one, two = (getattr(module, "weight", None) for module in (old, new))
    if isinstance(one, Tensor) and isinstance(new, nn.Module) and not isinstance(two, Tensor):
        raise ConfigError(f"The other embedding, a {type(new).__name__}, has no weight to save.")
    if isinstance(one, Tensor) and isinstance(two, Tensor) and one.shape != two.shape:
        raise ConfigError(
            f"The embedding in place is {list(one.shape)} and the other {list(two.shape)}. "
            "resize_token_embeddings changes the number of tokens."
        )


def _check_init(init: str, known: tuple[str, ...]) -> None:
    if init not in known:
        raise ConfigError(f"init is one of {', '.join(known)}; got {init!r}.")
