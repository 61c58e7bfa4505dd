"""An ordinary forward: a padded batch through all layers, and its results laid out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from offramp.errors import InputError
from offramp.models.checks import check_tensor
from offramp.models.config import PretrainedConfig
from offramp.models.flow import Flow, LayerStack, run_layers
from offramp.models.inputs import Inputs, is_traced
from offramp.models.outputs import ModelOutput
from offramp.models.walking import walk
from offramp.nn.attention import Probe

Output = TypeVar("Output", bound=ModelOutput)


@dataclass(frozen=True, slots=True)
class Options:
    """What `forward` can be asked for beside its answer.

    `head_mask` [H] or [N, H] multiplies each head's attention (1 keeps it, 0 silences it).
    """

    output_hidden_states: bool = False
    output_attentions: bool = False
    head_mask: Tensor | None = None
    return_dict: bool = True
    eager: bool = False
    """Attention computed openly, on padded rows, as it is where attentions are asked for."""

    @classmethod
    def asked(
        cls,
        config: PretrainedConfig,
        output_hidden_states: bool | None,
        output_attentions: bool | None,
        head_mask: Tensor | None,
        return_dict: bool | None,
    ) -> Options:
        """What `forward` was given, and what the configuration says for what is None."""
        hidden, attentions = output_hidden_states, output_attentions
        return cls(
            output_hidden_states=config.output_hidden_states if hidden is None else hidden,
            output_attentions=config.output_attentions if attentions is None else attentions,
            head_mask=head_mask,
            return_dict=config.return_dict if return_dict is None else return_dict,
            eager=config.attn_implementation == "eager",
        )

    def result(self, output: Output) -> Output | tuple[Any, ...]:
        """The output, or its tuple."""
        return output if self.return_dict else output.to_tuple()


@dataclass(frozen=True, slots=True)
class Passed:
    """A padded batch that has passed all layers, with ways back to its shape [B, L]."""

    flow: Flow
    n_rows: int
    length: int
    options: Options

    def rows(self, values_R: Tensor) -> Tensor:
        """A value a row, in the order of the batch."""
        return self.flow.in_input_order(values_R)

    def tokens(self, values: Tensor) -> Tensor:
        """Values a token as [B, L, ..], zeros at masked positions."""
        return self.flow.to_padded(values, self.n_rows, self.length)

    @property
    def real_mask(self) -> Tensor:
        """Which positions are not masked, [B, L] bool."""
        one_a_token = torch.ones_like(self.flow.hidden[..., :1], dtype=torch.bool)
        return self.tokens(one_a_token)[..., 0]

    @property
    def hidden_states(self) -> tuple[Tensor, ...] | None:
        """After the embedding and after each layer, N + 1 times [B, L, D], where asked for."""
        trace = self.flow.trace
        return None if trace is None else tuple(map(self.tokens, trace))

    @property
    def attentions(self) -> tuple[Tensor, ...] | None:
        """Each layer's attention probabilities, N times [B, H, L, L], where asked for."""
        probe = self.flow.probe
        asked = self.options.output_attentions and probe is not None
        return tuple(probe.probabilities) if asked and probe is not None else None


def pass_layers(
    stack: LayerStack,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    options: Options,
    task_type_ids: Tensor | None = None,
    first_alone: bool = False,
) -> Passed:
    """A padded batch through all layers; the arguments are those of `forward`.

    With `first_alone` nothing but the first tokens' last hidden states is read.
    """
    inputs, probe = read_batch(
        stack,
        input_ids,
        attention_mask,
        token_type_ids,
        position_ids,
        inputs_embeds,
        options,
        task_type_ids,
    )
    flow = run_layers(
        stack,
        inputs,
        trace=options.output_hidden_states,
        probe=probe,
        first_alone=first_alone and not _is_watched(stack),
    )
    shape = input_ids.shape if input_ids is not None else cast(Tensor, inputs_embeds).shape
    return Passed(flow, shape[0], shape[1], options)


def read_batch(
    stack: LayerStack,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    options: Options,
    task_type_ids: Tensor | None = None,
) -> tuple[Inputs, Probe | None]:
    """What the arguments of `forward` are before the first layer, and who looks into attention."""
    head_mask = options.head_mask
    if head_mask is not None:
        shared = getattr(stack, "head_mask_rows", None)  # ALBERT's: some steps have one row
        n_layers = stack.n_layers if shared is None else stack.config.num_hidden_layers
        n_heads = stack.config.num_attention_heads
        if head_mask.shape not in ((n_heads,), (n_layers, n_heads)):
            raise InputError(
                f"head_mask must be [{n_heads}] or [{n_layers}, {n_heads}], a number a head or a "
                f"layer's head; got {list(head_mask.shape)}."
            )
        head_mask = head_mask.expand(n_layers, -1)
        head_mask = head_mask if shared is None else head_mask[shared]
    look = options.output_attentions or options.eager or head_mask is not None
    if attention_mask is None and input_ids is not None:
        pad = getattr(stack.config, "pad_token_id", None)
        if pad is not None and getattr(stack.config, "mask_padding", False):
            attention_mask = input_ids != pad
    if token_type_ids is not None and getattr(stack, "types_are_words", False):
        inputs_embeds = _with_types(stack, input_ids, inputs_embeds, token_type_ids)
        input_ids = token_type_ids = None
    inputs = Inputs.from_padded(
        input_ids,
        attention_mask,
        token_type_ids,
        position_ids,
        inputs_embeds,
        task_type_ids,
        padding_id=getattr(stack, "padding_id", None),
        packs_holes=getattr(stack, "packs_holes", True),
        # What is traced must not depend on the mask's values.
        pack=not (look or is_traced()),
    )
    return inputs, Probe(head_mask, keeps=options.output_attentions) if look else None


def _with_types(
    stack: LayerStack, ids: Tensor | None, embeds: Tensor | None, types: Tensor
) -> Tensor:
    """The words' embeddings and those of their types, which are words too: GPT-2's."""
    for name, value in (("input_ids", ids), ("token_type_ids", types)):
        check_tensor(name, value)
        Inputs.check_range(name, value, stack.config.vocab_size)
    if (ids is None) == (embeds is None):
        raise InputError("Pass either input_ids or inputs_embeds, and not both.")
    words = cast(Any, stack).get_input_embeddings()
    given = words(ids) if embeds is None else embeds
    if types.shape not in (given.shape[:2], (1, given.shape[1])):
        raise InputError(
            f"token_type_ids must be {list(given.shape[:2])} beside these inputs; got "
            f"{list(types.shape)}."
        )
    embedded: Tensor = given + words(types)
    return embedded


def _is_watched(stack: LayerStack) -> bool:
    """Whether a hook looks at what the last layer gives, which must then be all of it."""
    layers = getattr(stack, "layers", None)
    looked_at = layers[-1] if layers else stack
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for _, module in walk(cast(nn.Module, looked_at))
    )
