"""Rows of token ids: windows of bounded size, and microbatches of like length inside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offramp.models.flow import Flow, LayerStack, run_layers
from offramp.models.inputs import Inputs
from offramp.nn.layout import Packed


class Row(Protocol):
    """Token ids and, beside each, 0 for the first text and 1 for the second."""

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """[T] of the row's tokens, the special ones included."""

    @property
    def types(self) -> npt.NDArray[np.int64]:
        """[T], beside `ids`."""


R = TypeVar("R", bound=Row)


class CountedRow(NamedTuple):
    """A row of a token classifier, and which of its tokens' answers are read."""

    ids: npt.NDArray[np.int64]
    """[T], as in `Row`."""
    types: npt.NDArray[np.int64]
    """[T], as in `Row`."""
    counted: npt.NDArray[np.bool_]
    """[T]: these tokens alone say when the row may leave."""


BLOCK = 4096
"""No window has rows from both sides of a multiple of so many: a stream that begins there has the
windows, and so the last digits, that it would have had from the beginning."""


TOKENS = 32_768
"""About so many a window has, where nothing else is said: on a CPU the fastest of four numbers
(docs/notes.md)."""


def gather(
    rows: Iterable[R], most_rows: int = BLOCK, most_tokens: int = TOKENS
) -> Iterator[list[R]]:
    """`rows` in windows of bounded size, read as they are asked for.

    One ends at each multiple of `most_rows`. An error of `rows` is raised after the window of the
    rows before it.
    """
    window: list[R] = []
    tokens, number = 0, 0
    failure: Exception | None = None
    unread = iter(rows)
    while True:
        try:
            row = next(unread)
        except StopIteration:
            break
        except Exception as error:
            failure = error
            break
        if window and tokens + len(row.ids) > most_tokens:
            yield window
            window, tokens = [], 0
        window.append(row)
        tokens, number = tokens + len(row.ids), number + 1
        if number % most_rows == 0:
            yield window
            window, tokens = [], 0
    if window:
        yield window
    if failure is not None:
        raise failure


def n_tokens(rows: Iterable[Row]) -> int:
    """How many tokens rows have together."""
    return sum(len(row.ids) for row in rows)


def by_length(rows: Sequence[Row], device: torch.device | str = "cpu") -> Inputs:
    """Packed rows in order of length, each called by its place in `rows`."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    ordered = [rows[i] for i in order]
    ids, types = [row.ids for row in ordered], [row.types for row in ordered]
    return Inputs.from_rows(ids, types, order, device)


@torch.inference_mode()
def read_rows(
    stack: LayerStack,
    rows: Sequence[Row],
    read: Callable[[Flow], Tensor],
    device: torch.device,
    *,
    first_alone: bool = False,
) -> Tensor:
    """What `read` makes of each row of a window after all layers, in the order of `rows`.

    `read` takes a finished flow and gives a value a row, [R, ..]; it is called while the hidden
    states are in the processor's cache, and they are not kept. `first_alone` says that it reads
    nothing but the first tokens, for which alone the last layer is then run.
    """
    inputs = by_length(rows, device)
    parts = split(inputs, tokens_at_once(device))
    flows = (run_layers(stack, part, first_alone=first_alone) for part in parts)
    values = torch.cat([read(flow) for flow in flows])
    return values[torch.argsort(inputs.row_ids_R).to(values.device)]


@torch.inference_mode()
def read_tokens(
    stack: LayerStack, rows: Sequence[Row], read: Callable[[Flow], Tensor], device: torch.device
) -> list[Tensor]:
    """As `read_rows`, for a `read` that gives a value a token, [T, ..]: each row's, on the host."""
    found: dict[int, Tensor] = {}
    for part in split(by_length(rows, device), tokens_at_once(device)):
        flow = run_layers(stack, part)
        values = torch.split(read(flow).cpu(), cast(Packed, flow.layout).lengths_R.tolist())
        found |= zip(flow.row_ids_R.tolist(), values, strict=True)
    return [found[place] for place in range(len(rows))]


def tokens_at_once(device: torch.device) -> int:
    """The tokens of a microbatch that keep the device busy and its cache from running over.

    On a CPU 2,048 were the fastest by 6% (docs/notes.md), on two cores; more cores share more.
    """
    if device.type == "cuda":
        return 128 * torch.cuda.get_device_properties(device).multi_processor_count
    return max(2048, 512 * torch.get_num_threads())


def split(inputs: Inputs, tokens: int) -> Iterator[Inputs]:
    """Packed inputs in microbatches."""
    parts = list(microbatches(cast(Packed, inputs.layout), tokens))
    yield from [inputs] if len(parts) == 1 else map(inputs.take, parts)


def microbatches(layout: Packed, tokens: int) -> Iterator[slice]:
    """Successive rows in equal shares of at most about `tokens` tokens, and of one row at least."""
    shares = max(1, round(layout.n_tokens / tokens))
    if shares == 1:
        yield slice(0, layout.n_rows)
        return
    share = layout.n_tokens / shares
    bounds = ((layout.starts_R + layout.lengths_R / 2) / share).long().clamp(max=shares - 1)
    _, counts = torch.unique_consecutive(bounds, return_counts=True)
    start = 0
    for count in counts.tolist():
        yield slice(start, start + count)
        start += count
