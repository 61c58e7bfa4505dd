"""Answers that take several rows each: the choices of a prompt, the windows of a long text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from torch import Tensor

from offramp.exits.decisions import MARGIN
from offramp.runner.ahead import ahead
from offramp.runner.progress import Meter, OnProgress
from offramp.runner.rows import BLOCK, TOKENS, Row, n_tokens
from offramp.runner.text_model import TextModel
from offramp.runner.threads import cpu_threads

T = TypeVar("T")
R = TypeVar("R", bound=Row)
A = TypeVar("A")
G = TypeVar("G", bound="Group[Any, Any]")


@dataclass(frozen=True, slots=True)
class Group(Generic[T, R]):
    """What was asked, and the rows that are read for it, one at least."""

    asked: T
    rows: Sequence[R]


def answers(
    owner: TextModel,
    asked: Iterable[T],
    groups: Callable[[Iterator[T]], Iterator[Group[T, R]]],
    read: Callable[[Sequence[R]], Sequence[Tensor]],
    decide: Callable[[Group[T, R], Sequence[Tensor]], tuple[A, float]],
    threads: int | None,
    progress: OnProgress | None = None,
) -> Iterator[A]:
    """The answer to each that is asked, in order, in bounded memory.

    `groups` makes their rows, one group each. `read` gives every row's values, and `decide` makes a
    group's answer of its own, with a slack: how far values may move before the answer is another.
    Where the last digits could, which depend on the rows of a batch, the group is read again alone.
    """
    margin, meter = MARGIN.get(owner.model.dtype, 0.1), Meter(progress)
    with ahead(asked, lambda some: gather_groups(groups(some))) as windows:
        for window in windows:
            found: list[A] = []
            with cpu_threads(threads):
                values = iter(_read(owner, read, [row for group in window for row in group.rows]))
                for group in window:
                    own = list(islice(values, len(group.rows)))
                    answer, slack = decide(group, own)
                    scale = max(1.0, *(value.abs().amax().item() for value in own))
                    if slack < margin * scale and len(window) > 1:
                        answer, _ = decide(group, _read(owner, read, group.rows))
                    found.append(answer)
            tokens = sum(n_tokens(group.rows) for group in window)
            meter.add(len(window), tokens, len(window) * owner.stack.n_layers)
            yield from found


def lead(logits: Tensor) -> float:
    """How far values [.., C] may move, each its own way, before another one is the largest."""
    if logits.shape[-1] < 2 or logits.numel() == 0:
        return float("inf")
    best = logits.double().topk(2, dim=-1).values
    return ((best[..., 0] - best[..., 1]) / 2).min().item()


def _read(
    owner: TextModel, read: Callable[[Sequence[R]], Sequence[Tensor]], rows: Sequence[R]
) -> Sequence[Tensor]:
    values = read(rows)
    for value in values:
        owner.check_finite(value)
    return values


def gather_groups(
    groups: Iterable[G], most_rows: int = BLOCK, most_tokens: int = TOKENS
) -> Iterator[list[G]]:
    """Groups in windows of bounded size, and of one group at least.

    One ends at each multiple of `BLOCK` groups.
    """
    window: list[G] = []
    rows = tokens = 0
    for number, group in enumerate(groups, start=1):
        size = n_tokens(group.rows)
        if window and (rows + len(group.rows) > most_rows or tokens + size > most_tokens):
            yield window
            window, rows, tokens = [], 0, 0
        window.append(group)
        rows, tokens = rows + len(group.rows), tokens + size
        if number % BLOCK == 0:
            yield window
            window, rows, tokens = [], 0, 0
    if window:
        yield window
