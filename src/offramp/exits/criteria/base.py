"""What a criterion is: the question asked after each ramp, its answer, and how it is saved."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from offramp.errors import ConfigError, nearest
from offramp.exits.criteria.task import LARGEST, MULTI_LABEL, WORDS, Kind, Task

if TYPE_CHECKING:
    from offramp.exits.criteria.combined import AllOf, AnyOf


class RowsOf(NamedTuple):
    """Which row each of U tokens is of: `row_U`, from 0 to `n_rows` - 1. Rows may have none."""

    row_U: Tensor
    n_rows: int

    def most(self, values_U: Tensor) -> Tensor:
        """Each row's largest of values that are at least 0, [R]; 0 for a row of no tokens."""
        none_R = values_U.new_zeros(self.n_rows)
        return none_R.scatter_reduce(0, self.row_U, values_U, "amax")

    def least(self, values_U: Tensor) -> Tensor:
        """Each row's smallest value, [R] float64; infinite for a row of no tokens."""
        none_R = torch.full((self.n_rows,), torch.inf, dtype=torch.float64)
        return none_R.scatter_reduce(0, self.row_U, values_U.double(), "amin")


class Answer(NamedTuple):
    """What a ramp says of R rows.

    `logits_RC` in the model's type. `certainty_R`, where the exits have a regressor for it, is ln(p
    / (1 - p)) of the probability p that the ramp is right. `size_R` is what `size` gives, where
    that is not to be found from these. With `rows` all of these are of U tokens, and `rows` says of
    which rows.
    """

    logits_RC: Tensor
    certainty_R: Tensor | None = None
    size_R: Tensor | None = None
    rows: RowsOf | None = None

    def size(self) -> Tensor:
        """A row's largest number without its sign, or 1 if that is larger; [R], float64.

        Float products are off by a part of it, whatever the row's smaller numbers are.
        """
        if self.size_R is not None:
            return self.size_R
        size_R = self.logits_RC.abs().amax(-1)
        if self.certainty_R is not None:
            size_R = size_R.maximum(self.certainty_R.abs())
        size_R = size_R.double()
        size_R = size_R if self.rows is None else self.rows.most(size_R)
        return size_R.clamp(1, LARGEST)

    def is_nan(self) -> Tensor:
        """The rows of which it says something that is not a number, [R] bool."""
        nan_R = self.logits_RC.isnan().any(-1)
        nan_R = nan_R if self.certainty_R is None else nan_R | self.certainty_R.isnan()
        return nan_R if self.rows is None else self.rows.most(nan_R.long()) > 0


class Decision(NamedTuple):
    """A criterion's answer at one depth.

    `leave_R` bool; `state_RS` is for the next depth. `slack_R` is by how much each logit (and the
    certainty) may change, at least, before the decision does or what the state counts: the runner
    decides rows with too little of it again, alone. Logits that the state keeps from the ramp
    before are not exact either: they may have changed by as large a part of their `Answer.size`.
    """

    leave_R: Tensor
    slack_R: Tensor
    state_RS: Tensor


class Criterion(abc.ABC):
    """Decides after each ramp which rows leave. Immutable, so threads may share one.

    A criterion of your own is a frozen dataclass with a `name` and an `update`. Two of them make
    one: `a & b` lets a row leave when both do, `a | b` when one does.
    """

    name: ClassVar[str]
    """What config.json calls the criterion; each class has its own."""
    fits: ClassVar[tuple[Kind, ...]] = tuple(WORDS)
    """The kinds of task that it can decide about, as `problem_type` has them; all by default."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Make a class that has a name known to `criterion_from_dict`."""
        super().__init_subclass__(**options)
        if "name" in vars(cls):
            _register(cls)

    def start(self, n_rows: int, n_classes: int) -> Tensor:
        """The state before the first ramp, [R, S]; S = 0 for a criterion without memory.

        S does not change from ramp to ramp.
        """
        return torch.zeros(n_rows, 0)

    @abc.abstractmethod
    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        """Ask after `depth` layers (counted from 1) with that ramp's logits.

        Rows whose logits are NaN go on to the end, whatever is said of them.
        """

    def ask(self, state_RS: Tensor, depth: int, answer: Answer) -> Decision:
        """`update` with all that the ramp says: what the runner calls."""
        return self.update(state_RS, depth, answer.logits_RC)

    def check(self, task: Task) -> None:
        """Raise ConfigError for a task that it does not fit.

        `task.depths` are the layers after which it will be asked, where that is known.
        """
        if task.kind not in self.fits:
            raise ConfigError(
                f"{self} is for models that say {' or '.join(WORDS[kind] for kind in self.fits)}; "
                f"this one says {WORDS[task.kind]} (num_labels {task.n_outputs}, {task.kind}). "
                f"{_REMEDIES[task.kind]}"
            )

    def for_task(self, task: Task) -> Criterion:
        """The criterion as a run asks it; ConfigError for a task that it does not fit.

        Where a row may have several labels it is asked about each (`each_label`), and where its
        tokens have one each, about each of those (`each_token`).
        """
        self.check(task)
        if task.tokens:
            return self.each_token()
        return self.each_label() if task.kind == MULTI_LABEL else self

    def each_label(self) -> Criterion:
        """The same question about each label of a row, which leaves when all of them may.

        One that decides about the row as a whole gives itself.
        """
        from offramp.exits.criteria.units import EachLabel

        return EachLabel(self)

    def each_token(self) -> Criterion:
        """The same question about each token of a row, which leaves when all of them may.

        What it gives is asked with an `Answer` of tokens, and its state is of tokens too.
        """
        from offramp.exits.criteria.units import EachToken

        return EachToken(self)

    def to_dict(self) -> dict[str, Any]:
        """The name and the dataclass's fields: JSON values, from which `from_dict` makes its equal.

        Raises ConfigError for a class that has no name of its own, or is no dataclass.
        """
        cls = type(self)
        name = getattr(cls, "name", None)
        if _CRITERIA.get(str(name)) is not cls:
            raise ConfigError(
                f"A file cannot say which criterion {cls.__name__} is: the class needs a `name` of "
                "its own."
            )
        return {"name": name, **{field: getattr(self, field) for field in _fields(cls)}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The criterion that `to_dict` described; a field that is not there has its default.

        Raises ConfigError for a field that is lacking and has none, or that nothing here knows.
        """
        settings = {name: value for name, value in values.items() if name != "name"}
        fields = _fields(cls)
        for name in settings:
            if name not in fields:
                raise ConfigError(
                    f"The exit criterion {cls.name!r} has no setting {name!r}. "
                    f"{nearest(str(name), fields)} A newer offramp may know it."
                )
        for name, field in fields.items():
            default = (field.default, field.default_factory)
            if name not in settings and all(x is dataclasses.MISSING for x in default):
                raise lacking(cls.name, name)
        return cls(**settings)

    def __and__(self, other: Criterion) -> AllOf:
        from offramp.exits.criteria.combined import AllOf

        return AllOf.joined(self, other)

    def __or__(self, other: Criterion) -> AnyOf:
        from offramp.exits.criteria.combined import AnyOf

        return AnyOf.joined(self, other)


_REMEDIES: dict[Kind, str] = {
    "regression": "Take RegressionPatience(2, threshold), for one, or MinDepth(layers).",
    "single_label_classification": "Take Entropy(threshold), for one, or MinDepth(layers).",
    "multi_label_classification": "Take MaxProbability(threshold), for one, or MinDepth(layers).",
}


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """A criterion's settings by name; ConfigError where they are not known."""
    if not dataclasses.is_dataclass(cls):
        raise ConfigError(
            f"{cls.__name__} is no dataclass, so its settings are not known. Put "
            "@dataclass(frozen=True) above it, or write its to_dict and from_dict."
        )
    return {field.name: field for field in dataclasses.fields(cls)}


_CRITERIA: dict[str, type[Criterion]] = {}


def _register(cls: type[Criterion]) -> None:
    known = _CRITERIA.get(cls.name)
    # Not another class, but the same one again: of a notebook's cell that is run twice, say.
    again = known is not None and (known.__module__, known.__qualname__) == (
        cls.__module__,
        cls.__qualname__,
    )
    if known is not None and not again:
        raise ConfigError(
            f"Two criteria are named {cls.name!r}, {known.__module__}.{known.__qualname__} and "
            f"{cls.__module__}.{cls.__qualname__}. Give one of them another `name`."
        )
    _CRITERIA[cls.name] = cls


def criterion_from_dict(values: Mapping[str, Any]) -> Criterion:
    """The criterion that a configuration's section describes.

    Raises ConfigError where none has that name: a class of your own is known once the module that
    defines it is imported.
    """
    name = values["name"] if isinstance(values, dict) and "name" in values else None
    if not isinstance(name, str) or name not in _CRITERIA:
        raise ConfigError(
            f"No exit criterion is named {name!r}. {nearest(str(name), _CRITERIA)} One of your own "
            "is known once the module that defines it is imported; a newer one needs a newer "
            "offramp."
        )
    try:
        return _CRITERIA[name].from_dict(values)
    except KeyError as error:  # of a from_dict of somebody's own
        raise lacking(name, error.args[0] if error.args else "?") from None


def ask_rows(
    criterion: Criterion, state_RS: Tensor, depth: int, answer: Answer, lost_R: Tensor
) -> tuple[Decision, Tensor]:
    """Ask, and keep the rows that are `lost_R`: some ramp's numbers for them were not any.

    Those go on to the end, whatever this ramp says. Returns the decision, and who is lost now.
    Raises ConfigError for a decision that is none (`asked`).
    """
    leave_R, slack_R, state_RS = asked(criterion, state_RS, depth, answer)
    lost_R = lost_R | answer.is_nan()
    slack_R = torch.where(lost_R, torch.inf, slack_R.double())
    return Decision(leave_R & ~lost_R, slack_R, state_RS), lost_R


def asked(criterion: Criterion, state_RS: Tensor, depth: int, answer: Answer) -> Decision:
    """`criterion.ask`; ConfigError for what is no `Decision` about so many rows."""
    said: object = criterion.ask(state_RS, depth, answer)
    at = f"{type(criterion).__name__} answered after layer {depth} with"
    if not isinstance(said, Decision):
        raise ConfigError(
            f"{at} {_described(said)}; expected Decision(leave_R, slack_R, state_RS)."
        )
    n_rows = len(answer.logits_RC) if answer.rows is None else answer.rows.n_rows
    for name, values, shape, meant in (
        ("leave_R", said.leave_R, (n_rows,), "whether each row leaves, of bool"),
        ("slack_R", said.slack_R, (n_rows,), "a number for each row"),
        ("state_RS", said.state_RS, state_RS.shape, "as the state that it was given"),
    ):
        good = isinstance(values, Tensor) and values.shape == shape
        if not good or (name == "leave_R" and values.dtype != torch.bool):
            raise ConfigError(
                f"{at} a Decision whose {name} is {_described(values)}; expected a tensor "
                f"{list(shape)}, {meant}."
            )
    return said


def begun(criterion: Criterion, n_rows: int, n_classes: int) -> Tensor:
    """`criterion.start`, in float64; ConfigError for what is no state of so many rows."""
    state_RS: object = criterion.start(n_rows, n_classes)
    if not isinstance(state_RS, Tensor) or state_RS.dim() != 2 or len(state_RS) != n_rows:
        raise ConfigError(
            f"{type(criterion).__name__} begins with the state {_described(state_RS)}; expected a "
            f"tensor [{n_rows}, S], some numbers for each row."
        )
    return state_RS.double()  # whatever the first was: the next may have what whole numbers lack


def check_criterion(value: object) -> Criterion:
    """The same; ConfigError for what is no criterion."""
    if isinstance(value, Criterion):
        return value
    got = repr(value)
    if isinstance(value, type):
        got = f"the class {value.__name__}, and not one made of it, with its settings"
    raise ConfigError(
        f"A criterion decides which rows leave, such as offramp.Entropy(0.3); got {got}."
    )


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_described, value))})"
    return f"{value!r} ({type(value).__name__})"


def everybody(leaves: bool, state_RS: Tensor) -> Decision:
    """All rows leave, or none, whatever their logits are, and the state is as it was."""
    n_rows = len(state_RS)
    return Decision(
        leave_R=torch.full((n_rows,), leaves),
        slack_R=torch.full((n_rows,), torch.inf, dtype=torch.float64),
        state_RS=state_RS,
    )


def above(score_R: Tensor, bound: float, rate: float) -> tuple[Tensor, Tensor]:
    """Which scores are above a bound, and their slack; both [R].

    A score moves `rate` times as far as the logits at most. The bound may be infinite.
    """
    return score_R > bound, (score_R - bound).abs() / rate


def check_number(value: object, low: float, high: float, what: str) -> None:
    """ConfigError, which begins with `what`, unless it is a number from low to high."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise ConfigError(f"{what}; got {value!r}.{_plainly(value, 'float')}")


def check_whole(value: object, low: int, what: str) -> None:
    """ConfigError, which begins with `what`, unless it is a whole number of at least `low`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value < 2**31:
        raise ConfigError(f"{what}; got {value!r}.{_plainly(value, 'int')}")


def _plainly(value: object, kind: str) -> str:
    """How to pass a number of another library's, which no configuration could hold."""
    return f" Pass {kind}(x), a plain number." if hasattr(value, "item") else ""


def lacking(name: str, field: object) -> ConfigError:
    """The error of a section without a setting."""
    return ConfigError(f"The exit criterion {name!r} in the config lacks {field!r}.")
