"""What a model has its ramps in, and the criterion that asks them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.exits.criteria import Answer, Criterion, Task, check_criterion
from offramp.exits.ramps import FirstTokenRamp, Ramp
from offramp.models.base import PretrainedModel
from offramp.models.flow import Flow

FORMAT = 1
"""Of the section of config.json that exits travel in."""


class Exits(nn.ModuleDict):
    """A model's ramps by depth (1 is after the first layer), and the criterion that asks them.

    `criterion` may be replaced at any time; a run keeps the one it began with. What is no criterion
    is refused at once, one that does not fit the model's task when a run begins. With `certainty`
    there is a regressor that all ramps share: of what one of them pooled, how sure it is that the
    ramp is right. What it learns sends no gradient to the ramps or the body.
    """

    certainty: nn.Linear | None

    def __init__(
        self,
        ramps: Mapping[int, nn.Module],
        shape: Mapping[str, Any],
        criterion: Criterion,
        certainty: nn.Linear | None = None,
    ) -> None:
        """`ramps` by depth, all of one `shape`: what the configuration says of them."""
        super().__init__({str(depth): ramp for depth, ramp in ramps.items()})
        self.depths = tuple(ramps)
        self.shape = dict(shape)
        self.certainty = certainty
        self.criterion = criterion
        self.calibration: dict[str, Any] | None = None
        """How the criterion was chosen, as JSON values; kept in the config, not interpreted."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Raise ConfigError for a criterion that is none."""
        if name == "criterion":  # a loss of torch.nn would become a part, and not be asked
            check_criterion(value)
        super().__setattr__(name, value)

    @property
    def after_all(self) -> FirstTokenRamp | None:
        """A ramp after the last layer, asked before the model's own head: DeeBERT's classes' alone.

        It is none of `depths`, and no part of this module.
        """
        return None

    def ramp(self, depth: int) -> Ramp:
        """The ramp after `depth` layers."""
        return cast(Ramp, self[str(depth)])

    def answer(self, depth: int, pooled: Tensor) -> Answer:
        """What the ramp after `depth` layers says of rows that it pooled."""
        logits_RC = self.ramp(depth).answer(pooled)
        if self.certainty is None:
            return Answer(logits_RC)
        return Answer(logits_RC, self.certainty(pooled.detach())[:, 0])

    def read(self, depth: int, flow: Flow) -> Answer:
        """What the ramp after `depth` layers says of a finished flow."""
        ramp = self.ramp(depth)
        if self.certainty is None:
            return Answer(ramp(flow))  # as a module, so that hooks see it
        return self.answer(depth, ramp.pool(flow))

    def section(self) -> dict[str, Any]:
        """What config.json keeps of the exits."""
        return {
            "format": FORMAT,
            "depths": list(self.depths),
            **self.shape,
            **({} if self.certainty is None else {"certainty": True}),
            "criterion": self.criterion.to_dict(),
            **({} if self.calibration is None else {"calibration": self._calibration_now()}),
        }

    def _calibration_now(self) -> dict[str, Any]:
        """The calibration, without a certificate of another criterion than there is now."""
        values = dict(self.calibration or {})
        certificate = values.get("certificate")
        if isinstance(certificate, Mapping):
            own = json.dumps(self.criterion.to_dict())
            if json.dumps(certificate.get("criterion")) != own:
                del values["certificate"]
        return values


class OwnedExits(Exits):
    """A view of ramps that a model has by names of its own.

    Nothing is stored in it: the ramps are the model's, and so are the criterion (`owned_criterion`)
    and its calibration.
    """

    def __init__(
        self,
        owner: PretrainedModel,
        ramps: Mapping[int, nn.Module],
        dropout: float,
        after_all: FirstTokenRamp | None = None,
    ) -> None:
        """`ramps` are over first tokens, and as wide as the model."""
        nn.ModuleDict.__init__(self, {str(depth): ramp for depth, ramp in ramps.items()})
        self.depths = tuple(ramps)
        width = owner.config.hidden_size
        self.shape = {"pooler": "first", "queries": 1, "hidden": width, "dropout": dropout}
        self.certainty = None
        self._owner, self._after_all = (owner,), (after_all,)  # in tuples: no parts of this module

    @property
    def after_all(self) -> FirstTokenRamp | None:
        """The owner's, if it has one."""
        return self._after_all[0]

    @property
    def criterion(self) -> Criterion:
        """What the model keeps of when rows leave; what is set must be such as it can keep."""
        return cast(Criterion, cast(Any, self._owner[0]).owned_criterion)

    @criterion.setter
    def criterion(self, value: Criterion) -> None:
        cast(Any, self._owner[0]).owned_criterion = value

    @property
    def calibration(self) -> dict[str, Any] | None:
        """How the criterion was chosen, as JSON values."""
        return vars(self._owner[0]).get("_calibration")

    @calibration.setter
    def calibration(self, value: dict[str, Any] | None) -> None:
        vars(self._owner[0])["_calibration"] = value


class _LastView:
    """The view that a model made last. Copies and pickles of the model begin without one."""

    def __init__(self, parts: object = None, view: OwnedExits | None = None) -> None:
        self.parts, self.view = parts, view

    def __deepcopy__(self, memo: object) -> _LastView:
        return _LastView()

    def __reduce__(self) -> tuple[Any, ...]:
        return _LastView, ()


def owned_exits(
    owner: PretrainedModel, parts: tuple[object, ...], make: Callable[[], OwnedExits]
) -> OwnedExits:
    """The owner's view of its exits: the last one, while it is of this owner and these `parts`."""
    parts = (owner, *parts)
    last = vars(owner).get("_last_view")
    if last is None or last.view is None or last.parts != parts:
        last = vars(owner)["_last_view"] = _LastView(parts, make())
    return cast(OwnedExits, last.view)


def exits_of(model: nn.Module) -> Exits:
    """The model's exits; ConfigError where it has none."""
    exits = getattr(model, "exits", None)
    if not isinstance(exits, Exits):
        raise ConfigError(
            f"This {type(model).__name__} has no exits. Put some with offramp.add_exits(model) and "
            "train them."
        )
    return exits


def task_of(model: PretrainedModel) -> Task:
    """What the model is asked, and after which layers if it has exits."""
    of = Task.of_tokens if getattr(model, "answers_tokens", False) else Task.of
    exits = getattr(model, "exits", None)
    if not isinstance(exits, Exits):
        return of(model.config)
    return replace(of(model.config, exits.certainty is not None), depths=exits.depths)
