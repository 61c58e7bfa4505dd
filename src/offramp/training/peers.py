"""transformers as the peer to measure against, where it is installed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offramp.backends import requires_backends
from offramp.runner.rows import Row


def transformers_model(
    directory: str | Path,
    auto_class: str = "AutoModelForSequenceClassification",
    **options: object,
) -> Any:
    """transformers' own model of a directory that offramp saved, exits ignored.

    `options` are passed to its from_pretrained.
    """
    requires_backends("the transformers side", "transformers")
    import transformers

    before, bars = (
        transformers.logging.get_verbosity(),
        transformers.logging.is_progress_bar_enabled(),
    )
    transformers.logging.set_verbosity_error()  # it would list the exits as unexpected
    transformers.logging.disable_progress_bar()
    try:
        model = getattr(transformers, auto_class).from_pretrained(str(directory), **options)
    finally:
        transformers.logging.set_verbosity(before)
        if bars:
            transformers.logging.enable_progress_bar()
    return model.eval()


def transformers_run(
    model: Any, rows: Sequence[Row], *, sort: bool, batch_size: int = 32
) -> Callable[[], Tensor]:
    """A call that runs all rows in padded batches and gives logits [R, C] in input order.

    In file order, or sorted by length, so that batches hold little padding. The batches are
    made here, outside what is timed.
    """
    order, padded = padded_batches(rows, sort=sort, batch_size=batch_size)
    batches = [taken(batch, model) for batch in padded]
    back_R = torch.argsort(torch.tensor(order))

    @torch.inference_mode()
    def run() -> Tensor:
        return torch.cat([model(**batch).logits for batch in batches])[back_R]

    return run


def transformers_tokens(
    model: Any, rows: Sequence[Row], *, sort: bool, batch_size: int = 32
) -> Callable[[], list[Tensor]]:
    """As `transformers_run`, for a model that answers each token: each row's logits [L, C]."""
    order, padded_rows = padded_batches(rows, sort=sort, batch_size=batch_size)
    batches = [taken(batch, model) for batch in padded_rows]
    back = sorted(range(len(order)), key=order.__getitem__)
    lengths = [len(row.ids) for row in rows]

    @torch.inference_mode()
    def run() -> list[Tensor]:
        padded = [logits_LC for batch in batches for logits_LC in model(**batch).logits]
        return [padded[place][:length] for place, length in zip(back, lengths, strict=True)]

    return run


def padded_batches(
    rows: Sequence[Row], *, sort: bool, batch_size: int = 32
) -> tuple[list[int], list[dict[str, Tensor]]]:
    """The order in which rows are run, and the padded batches, by transformers' argument names."""
    order = list(range(len(rows)))
    if sort:
        order.sort(key=lambda i: len(rows[i].ids))
    return order, [_pad(rows, order[i : i + batch_size]) for i in range(0, len(order), batch_size)]


def taken(batch: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """What of a padded batch `model` takes: DistilBERT and MPNet have no token types."""
    known = inspect.signature(model.forward).parameters
    return {name: values for name, values in batch.items() if name in known}


def _pad(rows: Sequence[Row], which: Sequence[int]) -> dict[str, Tensor]:
    length = max(len(rows[i].ids) for i in which)
    ids, types, mask = (torch.zeros(len(which), length, dtype=torch.int64) for _ in range(3))
    for place, i in enumerate(which):
        n = len(rows[i].ids)
        ids[place, :n] = torch.from_numpy(rows[i].ids)
        types[place, :n] = torch.from_numpy(rows[i].types)
        mask[place, :n] = 1
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
