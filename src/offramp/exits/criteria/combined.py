"""Several criteria as one: `a & b`, `a | b`."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from offramp.errors import ConfigError
from offramp.exits.criteria.base import (
    Answer,
    Criterion,
    Decision,
    asked,
    begun,
    criterion_from_dict,
    lacking,
)
from offramp.exits.criteria.task import Task
from offramp.exits.criteria.units import EachLabel, EachToken


@dataclass(frozen=True)
class _Combined(Criterion):
    """Asks several criteria; their states lie side by side. Who decides is what differs."""

    of: tuple[Criterion, ...]
    """The criteria, two or more."""

    def __post_init__(self) -> None:
        good = isinstance(self.of, tuple) and all(isinstance(part, Criterion) for part in self.of)
        if not good or len(self.of) < 2:
            raise ConfigError(
                f"{type(self).__name__} takes a tuple of two criteria or more; got {self.of!r}."
            )

    @classmethod
    def joined(cls, one: Criterion, other: Criterion) -> Self:
        """Both in one; of one that is such a combination already, its parts."""
        parts = [part.of if type(part) is cls else (part,) for part in (one, other)]
        return cls(parts[0] + parts[1])

    def start(self, n_rows: int, n_classes: int) -> Tensor:
        """The states side by side, [R, S]."""
        starts = [begun(part, n_rows, n_classes) for part in self.of]
        return torch.cat(starts, -1)

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """`ask`, by logits alone."""
        return self.ask(state_RS, depth, Answer(logits_RC))

    def ask(self, state_RS: Tensor, depth: int, answer: Answer) -> Decision:
        """Ask each of them with its own state."""
        n_classes = answer.logits_RC.shape[-1]
        widths = [part.start(0, n_classes).shape[-1] for part in self.of]
        states = torch.split(state_RS, widths, -1)
        parts = zip(self.of, states, strict=True)
        said = [asked(part, own, depth, answer) for part, own in parts]
        leave_PR = torch.stack([decision.leave_R for decision in said])
        slack_PR = torch.stack([decision.slack_R.double() for decision in said])
        leave_R, can_alone_PR = self.outcome(leave_PR)
        # Where one of them alone is enough for the outcome, the firmest of those holds it; else
        # all are needed. A state is to stay the same whoever decides.
        alone_R = torch.where(can_alone_PR, slack_PR, -torch.inf).amax(0)
        slack_R = torch.where(can_alone_PR.any(0), alone_R, slack_PR.amin(0))
        for width, own_R in zip(widths, slack_PR, strict=True):
            slack_R = slack_R.minimum(own_R) if width else slack_R
        state_RS = torch.cat([decision.state_RS.double() for decision in said], -1)
        return Decision(leave_R, slack_R, state_RS)

    def check(self, task: Task) -> None:
        """Raise ConfigError for a task that one of them does not fit."""
        for part in self.of:
            part.check(task)

    def each_label(self) -> Criterion:
        """All of them about each label; if one decides about the whole row, each by itself."""
        return self._each(EachLabel, tuple(part.each_label() for part in self.of))

    def each_token(self) -> Criterion:
        """All of them about each token; if one decides about the whole row, each by itself."""
        return self._each(EachToken, tuple(part.each_token() for part in self.of))

    def _each(
        self, kind: type[EachLabel] | type[EachToken], parts: tuple[Criterion, ...]
    ) -> Criterion:
        whole = all(isinstance(part, kind) for part in parts)
        return kind(self) if whole else type(self)(parts)

    @staticmethod
    @abc.abstractmethod
    def outcome(leave_PR: Tensor) -> tuple[Tensor, Tensor]:
        """Who leaves [R], and which of the decisions [P, R] are enough for that by themselves."""

    def to_dict(self) -> dict[str, Any]:
        """The name, and under `of` what each of the criteria is."""
        return {**super().to_dict(), "of": [part.to_dict() for part in self.of]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The criterion that `to_dict` described."""
        if "of" not in values:
            raise lacking(cls.name, "of")
        parts = values["of"]
        if not isinstance(parts, Sequence) or isinstance(parts, str):
            raise ConfigError(f"`of` of the criterion {cls.name!r} is a list; it is {parts!r}.")
        return super().from_dict({**values, "of": tuple(map(criterion_from_dict, parts))})


@dataclass(frozen=True)
class AllOf(_Combined):
    """A row leaves when all of several criteria let it: `a & b`."""

    name: ClassVar[str] = "all"

    @staticmethod
    def outcome(leave_PR: Tensor) -> tuple[Tensor, Tensor]:
        """All have to agree to a row's leaving; one is enough to keep it."""
        return leave_PR.all(0), ~leave_PR


@dataclass(frozen=True)
class AnyOf(_Combined):
    """A row leaves when one of several criteria lets it: `a | b`."""

    name: ClassVar[str] = "any"

    @staticmethod
    def outcome(leave_PR: Tensor) -> tuple[Tensor, Tensor]:
        """One is enough for a row to leave; all have to agree to keep it."""
        return leave_PR.any(0), leave_PR
