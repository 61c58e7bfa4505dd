"""When a row may leave: criteria over a ramp's logits, vectorised over rows."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from offramp.errors import ConfigError, nearest


class Decision(NamedTuple):
    """A criterion's answer at one depth.

    `leave_R` bool; `slack_R` by how much the logits may change, at least, before the answer or the
    state does: the runner decides rows with too little of it again, alone; `state_RS` is for the
    next depth.
    """

    leave_R: Tensor
    slack_R: Tensor
    state_RS: Tensor


class Criterion(abc.ABC):
    """Decides after each ramp which rows leave. Immutable, so threads may share one."""

    name: ClassVar[str]
    """What config.json calls the criterion."""

    def start(self, n_rows: int) -> Tensor:
        """The state before the first ramp, [R, S]; S = 0 for a criterion without memory."""
        return torch.zeros(n_rows, 0)

    @abc.abstractmethod
    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Ask after `depth` layers (counted from 1) with that ramp's logits."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """JSON values from which `from_dict` makes an equal criterion."""

    @classmethod
    @abc.abstractmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The criterion that `to_dict` described."""


@dataclass(frozen=True)
class Entropy(Criterion):
    """A row leaves when the entropy of the ramp's softmax is strictly below a threshold.

    In nats: 0 is certainty, ln C is no idea. The ramp after the first layer has `threshold`, each
    next layer's is `growth` times as high: deep ramps agree with the full model at entropies at
    which shallow ones do not. With threshold 0 no row leaves early; with growth 1 it is the
    criterion of Xin et al. 2020, "DeeBERT: Dynamic Early Exiting for Accelerating BERT Inference".
    """

    name: ClassVar[str] = "entropy"
    threshold: float = 0.0
    """Nats, at the ramp after the first layer."""
    growth: float = 1.0
    """By what the threshold is multiplied from layer to layer, from 0.1 to 10."""

    def __post_init__(self) -> None:
        good = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not good or not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ConfigError(
                f"An entropy threshold is a number of at least 0, in nats (ln C is the most that C "
                f"classes can have, .69 for two); got {self.threshold!r}."
            )
        good = isinstance(self.growth, (int, float)) and not isinstance(self.growth, bool)
        if not good or not 0.1 <= self.growth <= 10:
            raise ConfigError(
                "growth is by what the threshold is multiplied from layer to layer, from 0.1 to "
                f"10; got {self.growth!r}."
            )

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Rows leave whose entropy is below threshold x growth^(depth - 1); NaN stays in."""
        entropy_R = logits_entropy(logits_RC)
        threshold = self.threshold * self.growth ** (depth - 1)
        # |dH| <= 2 H |dlogits|, so ln H moves by at most twice a change of the logits. Nothing
        # gets below a threshold of 0.
        if threshold > 0:
            slack_R = (entropy_R.log() - math.log(threshold)).abs() / 2
        else:
            slack_R = torch.full_like(entropy_R, torch.inf)
        return Decision(
            leave_R=entropy_R < threshold,  # False for NaN: such a row goes on
            slack_R=slack_R,
            state_RS=state_RS,
        )

    def to_dict(self) -> dict[str, Any]:
        """The name, the threshold and the growth."""
        return {"name": self.name, "threshold": self.threshold, "growth": self.growth}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The criterion that `to_dict` described; growth 1 where none is given."""
        return cls(values["threshold"], values.get("growth", 1.0))


def logits_entropy(logits_RC: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, [R], float64; finite for any logits but NaN.

    From log-probabilities: the sum of exponentials that the research code divides by overflows for
    logits of 89 in float32 and 12 in float16, and its NaN keeps the surest rows in.
    """
    log_p_RC = logits_RC.double().clamp(-1e300, 1e300).log_softmax(-1)
    return -(log_p_RC.exp() * log_p_RC).sum(-1)


_CRITERIA: dict[str, type[Criterion]] = {Entropy.name: Entropy}


def criterion_from_dict(values: Mapping[str, Any]) -> Criterion:
    """The criterion that a configuration's section describes."""
    name = values.get("name")
    if name not in _CRITERIA:
        raise ConfigError(f"No exit criterion is named {name!r}. {nearest(str(name), _CRITERIA)}")
    try:
        return _CRITERIA[name].from_dict(values)
    except KeyError as error:
        raise ConfigError(f"The exit criterion {name!r} in the config lacks {error}.") from None
