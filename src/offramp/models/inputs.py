"""Rows before the first layer: a padded batch, or rows of ids, packed where that can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offramp.errors import InputError
from offramp.models.checks import check_tensor
from offramp.nn.layout import Layout, Packed, Padded, ordinals


@dataclass(frozen=True, slots=True)
class Inputs:
    """Rows before the first layer. Token-indexed fields are [T] or [B, L] as `layout` says.

    `positions` is a token's place in its own row, padding and holes of the mask counted.
    `position_ids` replaces it in the position embedding where the caller gave one; `embeds`
    ([.., D]) replaces the word embedding of `ids`. `ordinals` are those of `nn.layout.ordinals`,
    where tokens of the batch were left out that a body with a `padding_id` counts. `task_types` are
    ERNIE's.
    """

    layout: Layout
    row_ids_R: Tensor
    positions: Tensor
    ids: Tensor | None = None
    token_types: Tensor | None = None
    position_ids: Tensor | None = None
    embeds: Tensor | None = None
    ordinals: Tensor | None = None
    task_types: Tensor | None = None

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[npt.ArrayLike],
        token_types: Sequence[npt.ArrayLike],
        row_ids: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> Inputs:
        """Packed rows of token ids, in the order given (order of length is fastest).

        `row_ids` are what the rows are called from here on; 0, 1, 2, ... by default.
        """
        arrays, types = ([np.asarray(row) for row in side] for side in (rows, token_types))
        if len(arrays) == 0 or any(array.size == 0 for array in arrays):
            raise InputError("Packed rows have at least one token each, and there is at least one.")
        if [array.shape for array in arrays] != [array.shape for array in types]:
            raise InputError("Each row has one token type a token; got other lengths.")
        if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in (*arrays, *types)):
            raise InputError("Rows and their token types are lists of whole numbers.")
        lengths_R = torch.tensor([len(array) for array in arrays], dtype=torch.int64)
        layout = Packed.of(lengths_R)
        positions_T = torch.arange(layout.n_tokens) - layout.starts_R.repeat_interleave(lengths_R)
        return cls(
            layout=layout,
            row_ids_R=torch.tensor(range(len(arrays)) if row_ids is None else row_ids),
            positions=positions_T.to(device, non_blocking=True),
            ids=torch.from_numpy(np.concatenate(arrays).astype(np.int64)).to(
                device, non_blocking=True
            ),
            token_types=torch.from_numpy(np.concatenate(types).astype(np.int64)).to(
                device, non_blocking=True
            ),
        )

    @classmethod
    def from_padded(
        cls,
        ids: Tensor | None,
        mask: Tensor | None,
        token_types: Tensor | None = None,
        position_ids: Tensor | None = None,
        embeds: Tensor | None = None,
        task_types: Tensor | None = None,
        *,
        padding_id: int | None = None,
        packs_holes: bool = True,
        pack: bool = True,
    ) -> Inputs:
        """A padded batch: `ids` [B, L] or `embeds` [B, L, D]; `mask` None, [B, L] or [B, L, L].

        A 2-D mask is packed: each row's real tokens, holes closed, rows in order of length. A row
        whose first position is masked keeps the batch padded, because poolers that read the first
        position read it all the same; so do `pack=False`, and a hole without `packs_holes`.
        `padding_id` is the body's.
        """
        _check_batch(ids, mask, token_types, position_ids, embeds, task_types)
        given = cast(Tensor, embeds if ids is None else ids)
        n_rows, length = given.shape[:2]
        layout = Padded(n_rows, length, None if mask is None else mask.to(given.device) != 0)

        def whole(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.expand(n_rows, length)

        counted = ids is not None and padding_id is not None
        padded = cls(
            layout=layout,
            row_ids_R=torch.arange(n_rows),
            positions=torch.arange(length, device=given.device).expand(n_rows, length),
            ids=ids,
            token_types=whole(token_types),
            position_ids=whole(position_ids),
            embeds=embeds,
            ordinals=ordinals(given, layout, cast(int, padding_id)) if counted else None,
            task_types=whole(task_types),
        )
        return padded._packed(packs_holes) if pack else padded

    def take(self, rows: slice) -> Inputs:
        """These successive rows only (views)."""
        layout, tokens = self.layout.take(rows)

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[tokens]

        return Inputs(
            layout=layout,
            row_ids_R=self.row_ids_R[rows],
            positions=self.positions[tokens],
            ids=pick(self.ids),
            token_types=pick(self.token_types),
            position_ids=pick(self.position_ids),
            embeds=pick(self.embeds),
            ordinals=pick(self.ordinals),
            task_types=pick(self.task_types),
        )

    @staticmethod
    def check_range(name: str, ids: Tensor | None, size: int) -> None:
        """Raise InputError if an id has no row in a table of `size`.

        On a GPU the check would wait for the device, and the device's own assertion stays. A
        traced program is without it.
        """
        if ids is None or ids.device.type != "cpu" or ids.numel() == 0 or is_traced():
            return
        low, high = (int(x) for x in ids.aminmax())
        if low < 0 or high >= size:
            raise InputError(
                f"{name} holds {low if low < 0 else high}; this model takes 0 to {size - 1}."
            )

    def _packed(self, packs_holes: bool) -> Inputs:
        """A padded batch packed, if it can be."""
        keys = cast(Padded, self.layout).keys
        n_rows, length = self.positions.shape
        if n_rows == 0 or length == 0 or (keys is not None and keys.dim() == 3):
            return self
        keys = None if keys is None else keys.cpu()
        if keys is None or bool(keys.all()):
            layout = Packed.of(torch.full((n_rows,), length, dtype=torch.int64))
            return self._gathered(layout, self.row_ids_R, None)
        if not bool(keys[:, 0].all()):
            return self
        if not packs_holes and bool((keys[:, 1:] > keys[:, :-1]).any()):
            return self
        lengths_R = keys.sum(1)
        order_R = torch.argsort(lengths_R, stable=True)
        tokens_T = (order_R[:, None] * length + torch.arange(length))[keys[order_R]]
        return self._gathered(Packed.of(lengths_R[order_R]), order_R, tokens_T)

    def _gathered(self, layout: Packed, row_ids_R: Tensor, tokens_T: Tensor | None) -> Inputs:
        """These tokens as packed rows; all of them, in their order, with None."""
        index = None if tokens_T is None else tokens_T.to(self.positions.device, non_blocking=True)

        def gather(x: Tensor | None) -> Tensor | None:
            if x is None or index is None:
                return None if x is None else x.flatten(0, 1)
            return x.flatten(0, 1).index_select(0, index)

        return Inputs(
            layout=layout,
            row_ids_R=row_ids_R,
            positions=cast(Tensor, gather(self.positions)),
            ids=gather(self.ids),
            token_types=gather(self.token_types),
            position_ids=gather(self.position_ids),
            embeds=gather(self.embeds),
            ordinals=gather(self.ordinals),
            task_types=gather(self.task_types),
        )


def _check_batch(
    ids: Tensor | None,
    mask: Tensor | None,
    token_types: Tensor | None,
    position_ids: Tensor | None,
    embeds: Tensor | None,
    task_types: Tensor | None,
) -> None:
    """InputError for arguments that are no batch together."""
    named = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": token_types,
        "position_ids": position_ids,
        "inputs_embeds": embeds,
        "task_type_ids": task_types,
    }
    for name, value in named.items():
        check_tensor(name, value)
    if (ids is None) == (embeds is None):
        raise InputError("Pass either input_ids or inputs_embeds, and not both.")
    given = cast(Tensor, embeds if ids is None else ids)
    if given.dim() != (3 if ids is None else 2):
        raise InputError(
            "input_ids must be [batch, length] and inputs_embeds [batch, length, width]; "
            f"got {tuple(given.shape)}."
        )
    n_rows, length = given.shape[:2]
    if n_rows and not length:
        raise InputError(f"{n_rows} rows without a token; a row has one at least.")
    beside = {
        "token_type_ids": token_types,
        "position_ids": position_ids,
        "task_type_ids": task_types,
    }
    for name, value in {"input_ids": ids, **beside}.items():
        if value is not None and value.dtype not in (torch.int64, torch.int32):
            raise InputError(f"{name} must be int64 or int32; got {value.dtype}.")
    if mask is not None and tuple(mask.shape) not in ((n_rows, length), (n_rows, length, length)):
        raise InputError(
            f"attention_mask must be [{n_rows}, {length}] or [{n_rows}, {length}, {length}] "
            f"beside these inputs; got {list(mask.shape)}."
        )
    for name, value in beside.items():
        if value is not None and tuple(value.shape) not in ((n_rows, length), (1, length)):
            raise InputError(
                f"{name} must be [{n_rows}, {length}] beside these inputs; got {list(value.shape)}."
            )


def is_traced() -> bool:
    """Whether torch makes a program of what runs, which must not depend on tensors' values."""
    return bool(torch.jit.is_tracing()) or torch.compiler.is_compiling()  # type: ignore
