"""Putting ramps on a model: `add_exits`, and the section of config.json they travel in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.exits.criteria import (
    Answer,
    Criterion,
    Entropy,
    RegressionPatience,
    Task,
    check_criterion,
    criterion_from_dict,
)
from offramp.exits.equilibrium import rescaled
from offramp.exits.ramps import POOLERS, TOKENS, Ramp
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel, Flow, Inputs

FORMAT = 1

M = TypeVar("M", bound=PretrainedModel)


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
        if (
            name == "criterion"
        ):  # a loss of torch.nn would become one of the parts, and not be asked
            check_criterion(value)
        super().__setattr__(name, value)

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
            **({} if self.calibration is None else {"calibration": self.calibration}),
        }


class OwnedExits(Exits):
    """A view of ramps that a model has by names of its own.

    Nothing is stored in it: the ramps are the model's, and so are the criterion (`owned_criterion`)
    and its calibration. It is made anew whenever it is asked for.
    """

    def __init__(
        self, owner: PretrainedModel, ramps: Mapping[int, nn.Module], shape: Mapping[str, Any]
    ) -> None:
        nn.ModuleDict.__init__(self, {str(depth): ramp for depth, ramp in ramps.items()})
        self.depths = tuple(ramps)
        self.shape = dict(shape)
        self.certainty = None
        self._owner = (owner,)  # in a tuple: it is none of this module's parts

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


def add_exits(
    model: M,
    depths: Iterable[int] | None = None,
    *,
    pooler: str | None = None,
    queries: int = 4,
    hidden: int | None = None,
    dropout: float = 0.1,
    certainty: bool = False,
    criterion: Criterion | None = None,
) -> M:
    """Put a ramp after each of `depths` layers of `model`; returns the model.

    `depths` count layers from 1 and stop before the last, whose exit is the model's own head; all
    of them by default. `pooler` is `attention` (with so many learned `queries`), `first`, `last` or
    `mean`; `hidden` is the width of the ramp's tanh layer (a third of the model's by default). Of a
    token classifier each token is asked: there `pooler` is `tokens`, and `hidden` a sixth by
    default. `certainty` adds what `LearnedToExit` asks: one linear layer for all ramps. The
    criterion is `Entropy(0)`, or `RegressionPatience(0)` for numbers, until one is chosen: no row
    leaves. One that does not fit the model's task is refused. New ramps are random: train them.
    """
    if not isinstance(model, PretrainedModel) or not hasattr(model, "logits"):
        raise ConfigError(
            "add_exits takes a model that gives each row, or each of its tokens, one answer (it "
            "has `logits`), such as BertForSequenceClassification; got "
            f"{type(model).__name__}."
        )
    if hasattr(model, "exits"):
        raise ConfigError(
            f"This model has exits after layers {model.exits.depths} already. "  # type: ignore[union-attr]
            "Delete them first (del model.exits) to put others."
        )
    n_layers = cast(ExitableModel, model).stack.n_layers
    try:
        chosen = list(range(1, n_layers)) if depths is None else sorted(depths)
    except TypeError:
        raise ConfigError(f"depths are layers, such as [2, 4]; got {depths!r}.") from None
    if not all(isinstance(depth, int) and not isinstance(depth, bool) for depth in chosen):
        raise ConfigError(f"depths are whole numbers, such as [2, 4]; got {chosen}.")
    if not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
        raise ConfigError(f"dropout is a probability from 0 to 1; got {dropout!r}.")
    if len(set(chosen)) < len(chosen) or any(not 1 <= depth < n_layers for depth in chosen):
        raise ConfigError(
            f"Exits lie after different layers from 1 to {n_layers - 1} of this model of "
            f"{n_layers}; got {chosen}. (After layer {n_layers} the model's own head answers.)"
        )
    task = task_of(model)
    pooler = _checked_pooler(pooler, model, task.tokens)
    if criterion is None:
        criterion = RegressionPatience() if task.kind == "regression" else Entropy()
    if not isinstance(certainty, bool):
        raise ConfigError(f"certainty is True or False; got {certainty!r}.")
    check_criterion(criterion).check(replace(task, certainty=certainty, depths=tuple(chosen)))
    width = int(model.config.hidden_size)
    narrow = max(1, width // (6 if task.tokens else 3))
    shape: dict[str, Any] = {
        "pooler": pooler,
        "queries": _at_least_one("queries", queries),
        "hidden": _at_least_one("hidden", narrow if hidden is None else hidden),
        "dropout": dropout,
    }
    ramps = {depth: Ramp(width, model.config.num_labels, **shape) for depth in chosen}
    pooled = width * (queries if pooler == "attention" else 1)
    exits = Exits(ramps, shape, criterion, nn.Linear(pooled, 1) if certainty else None)
    example = next(model.parameters())
    exits.to(device=example.device, dtype=example.dtype)
    model.exits = exits
    if not example.is_meta:
        for module in exits.modules():
            model._init_weights(module)
    exits.train(model.training)
    return model


def build_exits(model: M, section: Mapping[str, Any]) -> M:
    """Put the exits that a configuration's `exits` section describes; their weights come after."""
    if not isinstance(section, Mapping) or not isinstance(section.get("criterion"), Mapping):
        raise ConfigError(
            f"The `exits` section of config.json must be an object with a criterion; it is "
            f"{section!r}."
        )
    values = dict(section)
    found = values.pop("format", None)
    if found != FORMAT:
        raise ConfigError(
            f"The exits of this model are of format {found!r}; this offramp reads {FORMAT}. "
            "Update offramp."
        )
    calibration = values.pop("calibration", None)
    try:
        criterion = criterion_from_dict(values.pop("criterion"))
        if isinstance(owned := getattr(model, "exits", None), OwnedExits):
            if values != {"depths": list(owned.depths), **owned.shape}:
                raise ConfigError(
                    f"The exits of config.json are {values}; a {type(model).__name__} has its own "
                    f"after layers {list(owned.depths)}, {owned.shape}."
                )
        else:
            add_exits(model, **values)
        # Not held against the task yet: another can be set before a run.
        exits_of(model).criterion, exits_of(model).calibration = criterion, calibration
        return model
    except (TypeError, KeyError, RecursionError) as error:  # criteria inside criteria, without end
        raise ConfigError(f"The `exits` section of config.json is malformed: {error}.") from error


def logits_by_depth(
    model: PretrainedModel, inputs: Inputs, *, equilibrium: bool = False
) -> dict[int, Tensor]:
    """Every exit's logits [R, C] and, at the last depth, the model's own; rows in flow order.

    Of a token classifier they are the tokens', [T, C]. With `equilibrium` the gradient that a layer
    gets is the mean of those that the exits behind it send, and not their sum, which is the greater
    the more of them there are: where k exits are left, this one's own counts 1/k and what comes
    from behind (k-1)/k. The gradients of the ramps'
    own weights are what they were (Li et al. 2019, "Improved Techniques for Training Adaptive Deep
    Networks", gradient equilibrium).
    """
    answers = answers_by_depth(model, inputs, equilibrium=equilibrium)
    return {depth: answer.logits_RC for depth, answer in answers.items()}


def answers_by_depth(
    model: PretrainedModel, inputs: Inputs, *, equilibrium: bool = False
) -> dict[int, Answer]:
    """All that `logits_by_depth` gives, and each exit's certainty where they have one."""
    task = cast(ExitableModel, model)
    stack, exits = task.stack, exits_of(model)
    flow, answers = stack.start(inputs), {}
    left = len(exits.depths) + 1
    for i in range(stack.n_layers):
        flow = stack.step(flow, i)
        if i + 1 in exits.depths:
            if equilibrium:
                flow = replace(flow, hidden=rescaled(flow.hidden, 1 / left))
            answers[i + 1] = exits.read(i + 1, stack.finish(flow))
            left -= 1
            if equilibrium:
                flow = replace(flow, hidden=rescaled(flow.hidden, left))
    answers[stack.n_layers] = Answer(task.logits(stack.finish(flow)))
    return answers


def task_of(model: PretrainedModel) -> Task:
    """What the model is asked, and after which layers if it has exits."""
    of = Task.of_tokens if getattr(model, "answers_tokens", False) else Task.of
    exits = getattr(model, "exits", None)
    if not isinstance(exits, Exits):
        return of(model.config)
    return replace(of(model.config, exits.certainty is not None), depths=exits.depths)


def exits_of(model: nn.Module) -> Exits:
    """The model's exits; ConfigError where it has none."""
    exits = getattr(model, "exits", None)
    if not isinstance(exits, Exits):
        raise ConfigError(
            f"This {type(model).__name__} has no exits. Put some with offramp.add_exits(model) and "
            "train them."
        )
    return exits


def _checked_pooler(pooler: str | None, model: PretrainedModel, tokens: bool) -> str:
    """The pooler, or the usual one; ConfigError for one that the model's ramps cannot have."""
    if pooler is None:
        return TOKENS if tokens else POOLERS[0]
    if tokens and pooler != TOKENS:
        raise ConfigError(
            f"{type(model).__name__} answers for each token, and its ramps take {TOKENS!r}; got "
            f"the pooler {pooler!r}, which makes one of a row's tokens. Leave it out."
        )
    if not tokens and pooler == TOKENS:
        raise ConfigError(
            f"The pooler {TOKENS!r} is for models that answer for each token; a "
            f"{type(model).__name__} takes one of {', '.join(POOLERS)}."
        )
    if pooler not in (*POOLERS, TOKENS):
        raise ConfigError(f"A ramp's pooler is one of {', '.join(POOLERS)}; got {pooler!r}.")
    return pooler


def _at_least_one(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1; got {value!r}.")
    return value


__all__ = [
    "Exits",
    "add_exits",
    "answers_by_depth",
    "build_exits",
    "exits_of",
    "logits_by_depth",
    "task_of",
]
