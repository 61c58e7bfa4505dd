"""Criteria that ask how sure one ramp is, by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from offramp.errors import ConfigError
from offramp.exits.criteria.base import Criterion, Decision, above, check_number, lacking
from offramp.exits.criteria.task import CLASSES, LARGEST, SINGLE_LABEL, Task, finite


@dataclass(frozen=True)
class Entropy(Criterion):
    """A row leaves when the entropy of the ramp's softmax is strictly below a threshold.

    In nats: 0 is certainty, ln C is no idea. The ramp after the first layer has `threshold`, each
    next layer's is `growth` times as high: deep ramps agree with the full model at entropies at
    which shallow ones do not. With threshold 0 no row leaves early; with growth 1 it is the
    criterion of Xin et al. 2020, "DeeBERT: Dynamic Early Exiting for Accelerating BERT Inference".
    """

    name: ClassVar[str] = "entropy"
    fits = CLASSES
    threshold: float = 0.0
    """Nats, at the ramp after the first layer."""
    growth: float = 1.0
    """By what the threshold is multiplied from layer to layer, from 0.1 to 10."""

    def __post_init__(self) -> None:
        check_number(
            self.threshold,
            0,
            LARGEST,
            "An entropy threshold is a number of at least 0, in nats (ln C is the most that C "
            "classes can have, .69 for two)",
        )
        check_number(
            self.growth,
            0.1,
            10,
            "growth is by what the threshold is multiplied from layer to layer, from 0.1 to 10",
        )

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Rows leave whose entropy is below threshold x growth^(depth - 1)."""
        entropy_R = logits_entropy(logits_RC)
        threshold = self.threshold * self.growth ** (depth - 1)
        return Decision(entropy_R < threshold, entropy_slack(entropy_R, threshold), state_RS)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The criterion that `to_dict` described; growth 1 where none is given."""
        if "threshold" not in values:  # for a file without one, "no row leaves" would be a guess
            raise lacking(cls.name, "threshold")
        return super().from_dict(values)


@dataclass(frozen=True)
class LayerEntropy(Criterion):
    """`Entropy` with a threshold of its own for each layer, as DeeBERT's code keeps them."""

    name: ClassVar[str] = "layer_entropy"
    fits = CLASSES
    thresholds: tuple[float, ...]
    """Nats, one for each layer from the first on; of 0 or below: no row leaves there."""

    def __post_init__(self) -> None:
        try:
            thresholds = tuple(self.thresholds)  # a file has a list
        except TypeError:
            thresholds = ()
        if not thresholds:
            raise ConfigError(
                "LayerEntropy takes thresholds in nats, one for each layer from the first on, such "
                f"as (0.1, 0.2); got {self.thresholds!r}."
            )
        object.__setattr__(self, "thresholds", thresholds)
        for value in self.thresholds:
            check_number(value, -LARGEST, LARGEST, "LayerEntropy takes a number of nats a layer")

    def check(self, task: Task) -> None:
        """Raise ConfigError for a task that it does not fit, or exits without a threshold."""
        super().check(task)
        if task.depths:
            self._check_depth(max(task.depths))

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Rows leave whose entropy is strictly below the layer's threshold."""
        self._check_depth(depth)
        threshold = max(0.0, self.thresholds[depth - 1])
        return Entropy(threshold).update(state_RS, depth, logits_RC)

    def _check_depth(self, depth: int) -> None:
        if depth > len(self.thresholds):
            raise ConfigError(
                f"LayerEntropy has thresholds for {len(self.thresholds)} layers, and the exit "
                f"after layer {depth} asks. Give one for each layer."
            )

    def to_dict(self) -> dict[str, Any]:
        """The name, and the thresholds as a list."""
        return {"name": self.name, "thresholds": list(self.thresholds)}


@dataclass(frozen=True)
class NormalizedEntropy(Criterion):
    """A row leaves when its entropy, as a part of the most there can be, is below a threshold.

    H / ln C: 0 is certainty, 1 is no idea, whatever the number of classes. With threshold 0 no row
    leaves early.
    """

    name: ClassVar[str] = "normalized_entropy"
    fits = CLASSES
    threshold: float
    """From 0 to 1."""

    def __post_init__(self) -> None:
        check_number(
            self.threshold, 0, 1, "The threshold of a normalised entropy is a number from 0 to 1"
        )

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Rows leave whose H / ln C is strictly below the threshold."""
        part_R = logits_entropy(logits_RC) / math.log(logits_RC.shape[-1])
        return Decision(part_R < self.threshold, entropy_slack(part_R, self.threshold), state_RS)


@dataclass(frozen=True)
class MaxProbability(Criterion):
    """A row leaves when the softmax gives its best class a probability above a threshold.

    1 / C is no idea. With threshold 1 no row leaves early, below 1 / C all leave at the first exit.
    """

    name: ClassVar[str] = "max_probability"
    fits = CLASSES
    threshold: float
    """A probability, from 0 to 1."""

    def __post_init__(self) -> None:
        check_number(self.threshold, 0, 1, "A probability's threshold is a number from 0 to 1")

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Rows leave whose best probability is strictly above the threshold."""
        best_R1, rest_R = _best_and_rest(logits_RC, 1)
        # Log-odds, which go on where the probability is 1 to the last digit: those of a class move
        # by twice a change of the logits at most (up by its own, down by that of the others), and
        # so does the largest of them.
        odds_R = best_R1[:, 0] - rest_R
        return Decision(*above(odds_R, log_odds(self.threshold), 2), state_RS)


@dataclass(frozen=True)
class Margin(Criterion):
    """A row leaves when its best class is ahead of the second by more than a threshold.

    The difference of their probabilities, from 0 to 1. With threshold 1 no row leaves early.
    """

    name: ClassVar[str] = "margin"
    fits = CLASSES
    threshold: float
    """A difference of probabilities, from 0 to 1."""

    def __post_init__(self) -> None:
        check_number(
            self.threshold, 0, 1, "The threshold of a margin of probabilities is from 0 to 1"
        )

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Rows leave whose margin is strictly above the threshold."""
        best_R2, rest_R = _best_and_rest(logits_RC, 2)
        # The derivatives of m = p1 - p2 by the logits sum to 2 p1 (1 - m), all taken as positive,
        # and 2 p1 <= 1 + m: so artanh m moves no more than the logits do. Twice that is the
        # log-odds of 1 + m = 2 p1 + rest to 1 - m = 2 p2 + rest.
        twice_R2 = torch.logaddexp(best_R2 + math.log(2), rest_R[:, None])
        score_R = (twice_R2[:, 0] - twice_R2[:, 1]) / 2
        return Decision(*above(score_R, log_odds((1 + self.threshold) / 2) / 2, 1), state_RS)


@dataclass(frozen=True)
class Energy(Criterion):
    """A row leaves when the energy of its logits, -T ln sum exp(z / T), is below a threshold.

    Low energy is certainty. It is of the logits' own size, and reads how large they are, not only
    how they differ: choose the threshold from those of the model. Liu et al. 2020, "Energy-based
    Out-of-distribution Detection".
    """

    name: ClassVar[str] = "energy"
    fits = (SINGLE_LABEL,)  # a label that is absent has the energy 0 and would never leave
    threshold: float
    """Any finite number, in the logits' units; most are negative."""
    temperature: float = 1.0
    """T, from 0.001 to 1000."""

    def __post_init__(self) -> None:
        check_number(
            self.threshold,
            -LARGEST,
            LARGEST,
            "An energy threshold is a finite number, in the logits' units",
        )
        check_number(
            self.temperature, 1e-3, 1e3, "An energy's temperature is a number from 0.001 to 1000"
        )

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Rows leave whose energy is strictly below the threshold."""
        # A smooth maximum: it moves by no more than the logits do.
        low_R = self.temperature * (finite(logits_RC) / self.temperature).logsumexp(-1)
        return Decision(*above(low_R, -self.threshold, 1), state_RS)


def logits_entropy(logits_RC: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, [R], float64; finite for any logits but NaN.

    From log-probabilities: the sum of exponentials that the research code divides by overflows for
    logits of 89 in float32 and 12 in float16, and its NaN keeps the surest rows in.
    """
    log_p_RC = finite(logits_RC).log_softmax(-1)
    return -(log_p_RC.exp() * log_p_RC).sum(-1)


def entropy_slack(entropy_R: Tensor, threshold: float) -> Tensor:
    """By how much logits may change before their entropy is on the other side of a threshold, [R].

    In nats, or any other unit of both.
    """
    if threshold <= 0:  # nothing gets below
        return torch.full_like(entropy_R, torch.inf)
    # |dH| <= 2 H |dlogits|, so ln H moves by at most twice a change of the logits.
    return (entropy_R.log() - math.log(threshold)).abs() / 2


def log_odds(probability: float) -> float:
    """ln(p / (1 - p)): minus and plus infinity for 0 and 1."""
    if probability <= 0 or probability >= 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability) - math.log1p(-probability)


def _best_and_rest(logits_RC: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The `n` largest logits [R, n], falling, and the log of the others' summed exponentials [R].

    That is -inf where there are no others.
    """
    logits_RC = finite(logits_RC)
    best = logits_RC.topk(n, dim=-1)
    rest_RC = logits_RC.scatter(-1, best.indices, -torch.inf)
    return best.values, rest_RC.logsumexp(-1)
