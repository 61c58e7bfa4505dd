"""Batches of a family, and pairs of models: transformers' own, and offramp's of its files."""

from __future__ import annotations

import dataclasses
import math
import zlib
from pathlib import Path
from typing import Any

import torch
import transformers
from parity_draws import FORMS, MASKS, PADDED, PAIRS, ROWS, Case, Draws, Tensors, cases_of
from parity_families import Family
from torch import Tensor

import offramp

LOOK = {"output_hidden_states": True, "output_attentions": True}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One configuration and one batch.

    `real` [R, L] are the positions to compare; R is rows, or rows x choices. The masks say the
    same: `mask` as drawn, `pairs` of query and key, `their_mask` as transformers takes it. A mask
    of pairs does not tell which tokens have a loss: `labels_of_pairs` do.
    """

    config: dict[str, Any]
    train: bool
    inputs: Tensors
    real: Tensor
    mask: Tensor | None
    pairs: Tensor
    labels_of_pairs: Tensors
    their_inputs: Tensors
    their_mask: Tensor | None


def drawn(family: Family, case_name: str, mask_name: str, seed: int) -> Drawn:
    case, place = cases_of(family.classes)[case_name], list(MASKS).index(mask_name)
    case_number = zlib.crc32(case_name.encode())
    draw = Draws(zlib.crc32(family.classes.encode()), case_number, place, seed)
    train = (place + seed) % 2 == 0
    values = family.draw(draw, 0.0 if train else draw.pick(0.1, 0.5)) | case.config
    if mask_name in PADDED and "summary_type" in values:
        values["summary_type"] = "first"  # the others of transformers read padding
    config = getattr(transformers, f"{family.classes}Config")(**values)
    length = draw.whole(2, family.longest(config))
    shape = (draw.whole(1, 5), *([draw.whole(2, 4)] if case.choices else []), length)
    n_rows = math.prod(shape[:-1])

    mask, real = MASKS[mask_name](draw, n_rows, length), torch.ones(n_rows, length).bool()
    if mask is not None and mask_name == PAIRS:
        pairs = mask
        lowest = torch.finfo(torch.float64).min  # their open attention adds it to the scores
        seen = mask.tril() if family.causal else mask  # they take it to be all that there is
        their_mask = torch.zeros(mask.shape).double().masked_fill(~seen, lowest)[:, None]
    else:
        real = real if mask is None else mask.bool()
        pairs = real.view(*shape[:-1], 1, length).expand(*shape, length)
        if mask is not None:
            mask = mask.view(shape).to(draw.pick(torch.int64, torch.bool, torch.float32))
        their_mask = mask
        if mask is None and family.causal:  # or they would take other positions for other texts
            their_mask = torch.ones(shape)

    possible = batch(draw, family, config, shape)
    if not case.choices and draw.pick(True, False):
        possible["position_ids"] = possible["position_ids"][:1]  # the same for all rows
    form = FORMS[(case_number + place + 3 * seed) % len(FORMS)]
    if "use_task_id" in values and values["use_task_id"] and draw.pick(True, False):
        form = (*form, "task_type_ids")
    if family.causal and case.task == ROWS:
        form = tuple(name for name in form if name not in ("inputs_embeds", "input_ids"))
        pad = family.pad_of(config)
        possible["input_ids"][possible["input_ids"] == pad] = 0
        possible["input_ids"][~real.view(shape)] = pad
        form = (*form, "input_ids")
    inputs = {name: possible[name] for name in form if name in possible}
    labels = case.labels(draw, config, real.view(shape))
    told: Tensors = {}
    if not case.pairs_have_loss:
        labels = {} if mask_name == PAIRS else labels
        told = {name: x.masked_fill(~real.view(shape), -100) for name, x in labels.items()}
    return Drawn(
        values,
        train,
        inputs | labels,
        real,
        mask,
        pairs,
        told,
        as_they_take(family, case, inputs) | labels,
        their_mask,
    )


def batch(draw: Draws, family: Family, config: Any, shape: tuple[int, ...]) -> Tensors:
    """All that a batch of this shape can be given as. Padding tokens may be anywhere in it."""
    ids = draw.ids(config.vocab_size, *shape)
    pad = family.pad_of(config)
    if pad is not None:
        ids[draw.coins(*shape, odds=draw.pick(0, 0.4))] = pad
    found = {
        "input_ids": ids,
        "position_ids": draw.ids(config.max_position_embeddings, *shape),
        "inputs_embeds": draw.normal(*shape, family.width_of_embeds(config)).requires_grad_(),
    }
    if family.token_types:
        found["token_type_ids"] = draw.ids(config.type_vocab_size, *shape)
    if hasattr(config, "task_type_vocab_size"):
        found["task_type_ids"] = draw.ids(config.task_type_vocab_size, *shape)
    return found


def as_they_take(family: Family, case: Case, inputs: Tensors) -> Tensors:
    """The inputs where transformers forgets that multiple choice has a dimension more."""
    forgotten = {"Ernie": "task_type_ids", "DistilBert": "position_ids"}.get(family.classes)
    if not case.choices:
        return inputs
    return {k: v.flatten(0, 1) if k == forgotten else v for k, v in inputs.items()}


def reference(
    name: str, values: dict[str, Any], dtype: torch.dtype, noise: float, **options: Any
) -> Any:
    """transformers' model of a class in a type, with random weights, in eval mode.

    Biases, norms and the row of padding are random too: their initial values would hide one that
    is left out. `values` are its configuration's and `options` its constructor's.
    """
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**values), **options).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model.eval()


def pair(
    name: str,
    values: dict[str, Any],
    folder: Path,
    dtype: torch.dtype,
    noise: float,
    **options: Any,
) -> tuple[Any, Any]:
    """transformers' model in a type, and what offramp reads of the files it saves; in eval mode."""
    theirs = reference(name, values | {"attn_implementation": "eager"}, dtype, noise, **options)
    theirs.save_pretrained(folder)
    return theirs, getattr(offramp, name).from_pretrained(folder, **options)


def at_real(case: Case, output: Any, real: Tensor) -> Tensors:
    """What a model returned, by name, at real positions: elsewhere offramp's answers are zeros."""
    found: Tensors = {}
    for name in (field.name for field in dataclasses.fields(output)):
        value = getattr(output, name)
        if isinstance(value, tuple):  # a layer each: [R, L, D], or attentions [R, H, L, L]
            layers = value if name == "hidden_states" else [each.transpose(1, 2) for each in value]
            found |= {f"{name}/{i}": each[real] for i, each in enumerate(layers)}
        elif value is not None:
            found[name] = value[real] if name in case.of_tokens else value
    return found
