"""Peeks: where an exit's layer is run for the one token that the exit reads, before it is asked.

The layer makes keys and values of all tokens and finishes the read one; it is completed for the
rows that stay. That pays where enough rows leave. What a peek reads differs in the last digits from
what the whole layer gives, so a row in doubt costs the layer once more.
"""

from __future__ import annotations

from typing import cast

from offramp.exits.container import Exits, exits_of
from offramp.exits.criteria import Criterion
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel, Flow, PeekableStack
from offramp.nn.layout import Packed
from offramp.runner.prepare import is_int8

MANY = 8
"""Microbatches of a window in which one peek in vain is lost among the rest."""
DOUBTED = 1 / 8
"""The share of peeked rows in doubt from which a window has no more peeks."""


class LeaveRates:
    """Which share of rows left at each depth, of those that were asked lately.

    Runs may share it, and threads: it says where time is saved, and never what a row's answer is.
    """

    def __init__(self) -> None:
        self._of_depth: dict[int, tuple[float, float]] = {}

    def add(self, depth: int, asked: int, left: int) -> None:
        """So many were asked there, and so many of them left beyond doubt."""
        before, left_before = self._of_depth.get(depth, (0.0, 0.0))
        fade = 0.5 if before > 1024 else 1.0
        self._of_depth[depth] = (before * fade + asked, left_before * fade + left)

    def expected(self, depth: int, unknown: float = 1.0) -> float:
        """The share that is to be expected; `unknown` before any was asked."""
        asked, left = self._of_depth.get(depth, (0.0, 0.0))
        return left / asked if asked else unknown


class Peeks:
    """Where a window of so many rows and `microbatches` makes peeks.

    Nowhere in a row alone: it is what others are held to, and must not depend on former rows. Nor
    under a criterion that carries numbers from exit to exit, for those would be a peek's, nor in
    eight bits, where a last digit may become a step of the whole numbers.
    """

    def __init__(
        self,
        model: PretrainedModel,
        criterion: Criterion | None,
        last: int,
        n_rows: int,
        microbatches: float,
        rates: LeaveRates,
        exits: Exits | None = None,
    ) -> None:
        self._model, self._last, self._rates, self._exits = model, last, rates, exits
        stack = cast(ExitableModel, model).stack
        remembers = criterion is not None and criterion.start(1, model.config.num_labels).numel()
        self._possible = (
            n_rows > 1
            and isinstance(stack, PeekableStack)
            and model.device.type == "cpu"
            and not remembers
            and not is_int8(model)
        )
        self._n_layers = stack.n_layers
        # Where little is run, hope costs more than what a first microbatch would show is worth.
        self._unknown = 1.0 if microbatches >= MANY else 0.0

    def wanted(self, flow: Flow, depth: int) -> bool:
        """Whether layer `depth` is run for what its exit reads, and then for who stays."""
        if not self._possible or depth == self._n_layers:
            return False
        exits = self._exits or exits_of(self._model)
        if not getattr(exits.ramp(depth), "pools_one", False):
            return False
        if depth == self._last:
            return True  # where all leave
        layout = cast(Packed, flow.layout)
        expected = self._rates.expected(depth, self._unknown)
        return expected > worth_a_peek(layout.n_rows, layout.n_tokens)

    def doubted(self, share: float) -> None:
        """Take notice that such a share of rows could not be decided by a peek."""
        self._possible = self._possible and share < DOUBTED


def worth_a_peek(n_rows: int, n_tokens: int) -> float:
    """The share of a microbatch's rows that must leave for a peek to pay.

    A fit of what was measured (docs/notes.md): a peek computes first tokens twice, and calls twice
    as many kernels.
    """
    return 0.02 + 1.5 * n_rows / n_tokens + 20 / n_tokens
