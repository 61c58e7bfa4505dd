"""Criteria that remember what earlier ramps said.

A row that stays carries a count from ramp to ramp. With patience 0 nobody leaves: all layers.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.exits.criteria.base import (
    Answer,
    Criterion,
    Decision,
    check_number,
    check_whole,
    everybody,
)
from offramp.exits.criteria.confidence import entropy_slack, logits_entropy
from offramp.exits.criteria.task import CLASSES, LARGEST, REGRESSION, finite, lead

_PATIENCE = "patience is how many ramps in a row, a whole number of at least 0 (nobody leaves)"


@dataclass(frozen=True)
class Patience(Criterion):
    """A row leaves when `patience` ramps in a row have each named the class of the one before.

    So no row leaves before ramp number `patience` + 1. Zhou et al. 2020, "BERT Loses Patience: Fast
    and Robust Inference with Early Exit" (PABEE).
    """

    name: ClassVar[str] = "patience"
    fits = CLASSES
    patience: int
    """Agreements in a row; with 0 nobody leaves."""

    def __post_init__(self) -> None:
        check_whole(self.patience, 0, _PATIENCE)

    def start(self, n_rows: int, n_classes: int) -> Tensor:
        """The class that was named last, -1 for none yet, and the agreements in a row: [R, 2]."""
        return torch.tensor([[-1.0, 0.0]], dtype=torch.float64).repeat(n_rows, 1)

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Count on, or begin anew where another class is named."""
        if self.patience == 0:
            return everybody(False, state_RS)
        label_R = logits_RC.argmax(-1).to(state_RS.dtype)
        count_R = torch.where(label_R == state_RS[:, 0], state_RS[:, 1] + 1, 0)
        return Decision(
            leave_R=count_R >= self.patience,
            slack_R=lead(logits_RC),  # so far the best class stays the best
            state_RS=torch.stack([label_R, count_R], -1),
        )


@dataclass(frozen=True)
class ConfidentPatience(Criterion):
    """A row leaves when the entropy of `patience` ramps in a row was strictly below a threshold.

    Which classes they named does not matter. Zhang et al. 2022, "PCEE-BERT: Accelerating BERT
    Inference via Patient and Confident Early Exiting".
    """

    name: ClassVar[str] = "confident_patience"
    fits = CLASSES
    patience: int
    """Sure ramps in a row; with 0 nobody leaves."""
    threshold: float
    """Nats."""

    def __post_init__(self) -> None:
        check_whole(self.patience, 0, _PATIENCE)
        check_number(
            self.threshold,
            0,
            LARGEST,
            "An entropy threshold is a number of at least 0, in nats (ln C is the most that C "
            "classes can have, .69 for two)",
        )

    def start(self, n_rows: int, n_classes: int) -> Tensor:
        """The sure ramps in a row, [R, 1]."""
        return torch.zeros(n_rows, 1, dtype=torch.float64)

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Count on, or begin anew where a ramp is not sure."""
        if self.patience == 0:
            return everybody(False, state_RS)
        entropy_R = logits_entropy(logits_RC)
        count_R = torch.where(entropy_R < self.threshold, state_RS[:, 0] + 1, 0)
        return Decision(
            leave_R=count_R >= self.patience,
            slack_R=entropy_slack(entropy_R, self.threshold),
            state_RS=count_R[:, None],
        )


class _NearBefore(Criterion):
    """Counts the ramps in a row whose answer was near that of the ramp before.

    What counts as near is the one step that differs.
    """

    patience: int

    def start(self, n_rows: int, n_classes: int) -> Tensor:
        """The near ones in a row (-1 before the first ramp), the last answer's size, its logits.

        [R, 2 + C].
        """
        state_RS = torch.zeros(n_rows, n_classes + 2, dtype=torch.float64)
        state_RS[:, 0] = -1
        return state_RS

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """`ask`, by logits alone."""
        return self.ask(state_RS, depth, Answer(logits_RC))

    def ask(self, state_RS: Tensor, depth: int, answer: Answer) -> Decision:
        """Count on, or begin anew where the answer is not near the one before."""
        if self.patience == 0:
            return everybody(False, state_RS)
        now_RC, size_R = finite(answer.logits_RC), answer.size()
        count_R, size_before_R, before_RC = state_RS[:, 0], state_RS[:, 1], state_RS[:, 2:]
        # What is kept of the ramp before is off by a part of its own size.
        near_R, slack_R = self.near(before_RC, now_RC, size_before_R / size_R)
        first_R = count_R < 0
        count_R = torch.where(near_R & ~first_R, count_R + 1, 0)
        return Decision(
            leave_R=count_R >= self.patience,
            slack_R=torch.where(first_R, torch.inf, slack_R),
            state_RS=torch.cat([count_R[:, None], size_R[:, None], now_RC], -1),
        )

    @abc.abstractmethod
    def near(self, before_RC: Tensor, now_RC: Tensor, off_R: Tensor) -> tuple[Tensor, Tensor]:
        """Which answers are near the one before, and the slack, both [R].

        The logits before may change too, `off_R` times as much as those of now.
        """


@dataclass(frozen=True)
class JensenShannonPatience(_NearBefore):
    """A row leaves when `patience` ramps in a row each changed the distribution by little.

    By a Jensen-Shannon divergence to that of the ramp before which is strictly below a threshold,
    in nats: 0 is the same distribution, ln 2 no class in common. Gao et al. 2023, "F-PABEE:
    Flexible-patience-based Early Exiting for Single-label and Multi-label Text Classification
    Tasks".
    """

    name: ClassVar[str] = "jensen_shannon_patience"
    fits = CLASSES
    patience: int
    """Small changes in a row; with 0 nobody leaves."""
    threshold: float
    """Nats, from 0 (nobody leaves) to ln 2."""

    def __post_init__(self) -> None:
        check_whole(self.patience, 0, _PATIENCE)
        check_number(
            self.threshold,
            0,
            math.log(2),
            "The threshold of a Jensen-Shannon divergence is in nats, a number from 0 to ln 2 = "
            ".693",
        )

    def near(self, before_RC: Tensor, now_RC: Tensor, off_R: Tensor) -> tuple[Tensor, Tensor]:
        """Those whose divergence to the one before is below the threshold."""
        divergence_R = jensen_shannon(before_RC, now_RC)
        near_R = divergence_R < self.threshold
        if self.threshold == 0:
            return near_R, torch.full_like(divergence_R, torch.inf)
        # With m the mean of p and q and L = ln(p / m), which is at most ln 2, the derivatives of
        # JS by the logits of p sum to E_p |L - E_p L| / 2 at most, that is sqrt(E_p L^2) / 2. As
        # E_p exp(-L) = 1, KL(p|m) = E_p (exp(-L) - 1 + L), and that is .402 L^2 at least where L
        # is at most ln 2. So p's logits move JS by .789 sqrt(KL(p|m)) of their own change, q's
        # likewise; the two KL are 2 JS together: sqrt(JS) moves by .558 of the root of the summed
        # squares of both changes.
        gap_R = (divergence_R.sqrt() - math.sqrt(self.threshold)).abs()
        return near_R, gap_R / (0.56 * (1 + off_R.square()).sqrt())


@dataclass(frozen=True)
class RegressionPatience(_NearBefore):
    """A row leaves when `patience` ramps in a row each changed the number by less than a threshold.

    For regression; of several outputs, the one that changed most. Zhou et al. 2020 (PABEE).
    """

    name: ClassVar[str] = "regression_patience"
    fits = (REGRESSION,)
    patience: int = 0
    """Small changes in a row; with 0 nobody leaves."""
    threshold: float = 0.0
    """In the outputs' units, at least 0 (nobody leaves)."""

    def __post_init__(self) -> None:
        check_whole(self.patience, 0, _PATIENCE)
        check_number(
            self.threshold,
            0,
            LARGEST,
            "The threshold of a regression's change is a number of at least 0, in the outputs' "
            "units",
        )

    def near(self, before_RC: Tensor, now_RC: Tensor, off_R: Tensor) -> tuple[Tensor, Tensor]:
        """Those that changed by less than the threshold."""
        change_R = (now_RC - before_RC).abs().amax(-1)
        near_R = change_R < self.threshold
        if self.threshold == 0:
            return near_R, torch.full_like(change_R, torch.inf)
        # The change moves by as much as both ends do together.
        return near_R, (change_R - self.threshold).abs() / (1 + off_R)


@dataclass(frozen=True)
class Voting(Criterion):
    """A row leaves when enough of the ramps so far have named the same class.

    That is: when (the votes of the class that most of them named) / n^power is strictly above the
    threshold, n being the number of ramps that were asked. At the first ramp this is 1. With power
    1 it is the share of the votes, with power 0 their number. The row's answer is that of the ramp
    where it leaves. Sun et al. 2021, "Early Exiting with Ensemble Internal Classifiers".
    """

    name: ClassVar[str] = "voting"
    fits = CLASSES
    threshold: float
    """At least 0; from 1 on, a row stays at the first ramp."""
    power: float = 1.0
    """From 0 to 10."""

    def __post_init__(self) -> None:
        check_number(self.threshold, 0, LARGEST, "A voting threshold is a number of at least 0")
        check_number(self.power, 0, 10, "power is that of the number of ramps, from 0 to 10")

    def start(self, n_rows: int, n_classes: int) -> Tensor:
        """The votes for each class, [R, C]."""
        return torch.zeros(n_rows, n_classes, dtype=torch.float64)

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Count this ramp's vote, and then the votes."""
        votes_RC = state_RS + F.one_hot(logits_RC.argmax(-1), logits_RC.shape[-1])
        n_R = votes_RC.sum(-1).long()
        # By a table: torch's powers may differ in the last digit with a row's place in the batch.
        most = int(n_R.max()) if len(n_R) else 0
        powers = torch.tensor([float(n) ** self.power for n in range(most + 1)]).double()
        return Decision(
            leave_R=votes_RC.amax(-1) / powers[n_R] > self.threshold,
            slack_R=lead(logits_RC),  # so far the best class stays the best
            state_RS=votes_RC,
        )


def jensen_shannon(one_RC: Tensor, two_RC: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the softmax of two sets of logits, [R], float64, in nats.

    From 0 to ln 2; finite for any logits but NaN.
    """
    log_p_RC, log_q_RC = (finite(logits_RC).log_softmax(-1) for logits_RC in (one_RC, two_RC))
    # The sum over classes of m f(d) with m = (p + q) / 2 and d = |ln p - ln q| / 2, where f(d) is
    # d tanh d - ln cosh d: no term is below 0, and those of equal distributions are 0.
    d_RC = (log_p_RC - log_q_RC).abs() / 2
    near_RC = d_RC.clamp(max=0.5)
    near_RC = near_RC * near_RC.tanh() + torch.log1p(-near_RC.tanh().square()) / 2
    odds_RC = (-2 * d_RC).exp()
    far_RC = math.log(2) - odds_RC.log1p() - 2 * d_RC * odds_RC / (1 + odds_RC)
    mean_RC = (log_p_RC.exp() + log_q_RC.exp()) / 2
    return (mean_RC * torch.where(d_RC < 0.5, near_RC, far_RC)).sum(-1)
