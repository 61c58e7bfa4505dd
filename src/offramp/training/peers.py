"""Peers to measure against, where they are installed: transformers, and others that are passed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from offramp.backends import is_available, requires_backends
from offramp.errors import OfframpError, shown
from offramp.runner.rows import Row
from offramp.training.timing import time_in_turn

OpenPeer: TypeAlias = Callable[[Path, Sequence[Row]], Callable[[], Tensor]]
"""Opens what offramp saved in a directory: a call that runs these rows, logits [R, C] in order."""

SAME = 1e-3
"""Logits of the same model in float32 differ by less, in units of the largest or of 1."""


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


class _PeerFailedError(Exception):
    """A peer's call went wrong; what it said is known."""


def time_beside(
    own: Mapping[str, Callable[[], object]],
    peers: Mapping[str, Callable[[], object]],
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """`time_in_turn` of all, and why some peers have no times.

    A peer that fails on the way is left out, and the others begin anew.
    """
    absent: dict[str, str] = {}

    def watched(name: str) -> object:
        try:
            return peers[name]()
        except Exception as error:  # its own fault ends its part, not the measuring
            absent[name] = reason_of(error)
            raise _PeerFailedError from error

    while True:
        beside = {name: partial(watched, name) for name in peers if name not in absent}
        try:
            return time_in_turn({**own, **beside}, rounds, progress), absent
        except _PeerFailedError:
            continue


def reason_of(error: Exception) -> str:
    """Why a peer is not there, in a sentence."""
    if isinstance(error, OfframpError):
        return str(error)
    first = str(error).strip().partition("\n")[0]
    return f"It failed: {type(error).__name__}: {shown(first, 200)}"


def apart(one_RC: Tensor, other_RC: Tensor) -> bool:
    """Whether logits differ by more than rounding does."""
    scale = max(1.0, other_RC.abs().max().item())
    return not difference(one_RC, other_RC) <= SAME * scale  # NaN is apart


def difference(one_RC: Tensor, other_RC: Tensor) -> float:
    """The most by which a logit differs."""
    return (one_RC - other_RC).abs().max().item()


def peer_versions() -> dict[str, str | None]:
    """Of the peers beside transformers."""
    return {
        package: version(package) if is_available(package) else None
        for package in ("onnxruntime", "ctranslate2")
    }


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
