"""What a training run can be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from offramp.errors import ConfigError, nearest
from offramp.exits.criteria import Entropy
from offramp.exits.criteria.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL

SCORES: dict[str, tuple[str, ...]] = {
    SINGLE_LABEL: ("accuracy", "f1", "macro_f1"),
    MULTI_LABEL: ("micro_f1", "macro_f1"),
    REGRESSION: ("pearson", "spearman"),
}
"""By what a model may be the best, of each `problem_type`; the first where none is asked for."""
TAGGER_SCORE = "f1"
"""Of a tagger, where none is asked for."""

SCHEDULES = (
    "joint",
    "two-stage",
    "alternating",
    "self-distillation",
    "joint-distillation",
    "mixed",
)
"""What `offramp.training.schedules` knows."""
SCHEDULE, TAGGER_SCHEDULE = "joint", "two-stage"
"""Where none is asked for."""
PRECISIONS = ("float32", "bfloat16")
_COUNTS = ("epochs", "batch_size", "accumulate", "patience", "evaluations_per_epoch", "queries")
_FREEZABLE = ("joint", "two-stage", "self-distillation")
_NUMBERS = (
    "learning_rate",
    "ramp_learning_rate",
    "weight_decay",
    "warmup",
    "max_loss",
    "distillation_weight",
    "temperature",
)
_BALANCED = ("joint", "alternating", "joint-distillation", "mixed")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Settings of `offramp.train` and `offramp.train_tagger`.

    A schedule is a stage or two; each stage has so many `epochs`, rates that rise and fall, a best
    checkpoint and `patience` of its own. `freeze_backbone` is for a model that is fine-tuned
    already: the body and its head stay as they are and only the ramps learn, from hidden states
    that the body computes once. In that stage, and in the second one of `two-stage` and
    `self-distillation`, `epochs`, `ramp_learning_rate`, `weight_decay`, `class_weights` and `seed`
    apply, and each ramp keeps the epoch of its best dev accuracy (a tagger's: of words). A tagger's
    exits read every token, so there `pooler` and `queries` are refused.
    """

    problem_type: str = SINGLE_LABEL
    """What labels are, as a model's configuration has it: `single_label_classification`, words of
    which a row has one; `multi_label_classification`, lists of words, of which a row has any number
    (binary cross-entropy, the mean over labels); `regression`, numbers, which the model's only
    output is to say (squared error; numbers of about the size of 1 to 10 are learnt fastest)."""

    schedule: str | None = None
    """What learns when, and by which loss; `joint` by default, and for a tagger `two-stage`, by
    which words keep the tags that they have without exits:
    `joint`, everything by the mean over exits weighted by depth (Zhou et al. 2020, PABEE);
    `two-stage`, the model alone, then the ramps on the frozen body (Xin et al. 2020, DeeBERT);
    `alternating`, the model's own loss and the mean over all exits in turn (Xin et al. 2021,
    BERxiT);
    `self-distillation`, the model alone, then the ramps by its answers (Liu et al. 2020, FastBERT);
    `joint-distillation`, as `joint`, and the ramps by the last exit's answers (Phuong and Lampert
    2019);
    `mixed`, the model alone, then `joint` from there (Kubaty et al. 2024)."""

    epochs: int = 3
    batch_size: int = 32
    """Rows that pass the model together."""
    accumulate: int = 1
    """Batches a step, whose gradients are added up: what `batch_size` times as many rows would
    give, in the memory of one batch."""
    precision: str = "float32"
    """Of what passes the model in training: `bfloat16` is for hardware that is faster with it
    (torch.autocast). Weights, losses and evaluations stay float32."""
    learning_rate: float = 5e-5
    """Peak rate of the body."""
    ramp_learning_rate: float = 5e-4
    """Peak rate of ramps and of the model's own new head."""
    weight_decay: float = 0.01
    warmup: float = 0.1
    """Share of the steps over which the rate rises; it falls to 0 over the rest."""
    seed: int = 0
    patience: int = 2
    """Evaluations without a better dev score after which training stops."""
    evaluations_per_epoch: int = 1
    class_weights: Mapping[str, float] | str | None = None
    """Loss weight by label; `balanced` for inverse class frequency; None for 1 each."""
    score: str | None = None
    """What the best checkpoint is best in, on dev, at full depth: accuracy, f1 or macro_f1; where a
    row has any number of labels micro_f1 or macro_f1; for regression pearson or spearman. The first
    by default; for a tagger f1, of entities (macro_f1: the mean over their types)."""
    freeze_backbone: bool = False
    """Train ramps alone; with `joint` (or `two-stage`) by the labels, with `self-distillation` by
    the answers of the model's own head. Ramps that the model has, of the depths and the form that
    are asked for, go on from where they are; others are replaced, with a warning."""
    gradient_equilibrium: bool = False
    """Let the gradient that a layer gets be the mean, not the sum, of those of the exits behind it
    (Li et al. 2019), where several exits teach the body."""
    distillation_weight: float = 1.0
    """Of `joint-distillation`: how much what the last exit says counts beside the labels."""
    temperature: float = 2.0
    """Of `joint-distillation`: by what logits are divided before they are compared."""
    max_loss: float = 0.25
    """Points of dev accuracy, smoothed, that the threshold may lose against full depth; where a row
    has any number of labels hundredths of micro F1, for regression of Pearson's correlation, for a
    tagger of the F1 of entities."""
    growth: float | None = None
    """By what the chosen threshold rises from layer to layer (see `Entropy`); 1.5 for six layers
    and as much over the whole depth for others by default. Regression has none."""
    depths: tuple[int, ...] | None = None
    """Layers with an exit after them, from 1; all but the last by default. A tagger with `()` has
    none, and is trained at full depth."""
    pooler: str = "attention"
    queries: int = 4
    certainty: bool = False
    """Teach the exits, too, to say how sure they are (`add_exits(certainty=True)`): what
    `LearnedToExit` asks. The chosen criterion is an entropy nevertheless; set another after it."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if type(value) is not int or value < 1:  # isinstance would take True
                raise ConfigError(f"{name} must be a whole number of at least 1; got {value!r}.")
        for name in _NUMBERS:
            _check_number(name, getattr(self, name))
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be a whole number from 0; got {self.seed!r}.")
        for name in ("certainty", "freeze_backbone", "gradient_equilibrium"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is True or False; got {getattr(self, name)!r}.")
        if self.warmup > 1:
            raise ConfigError(f"warmup is a share of the steps, from 0 to 1; got {self.warmup}.")
        if self.growth is not None:
            Entropy(growth=self.growth)  # refuses one that cannot be
        if self.problem_type not in SCORES:
            raise ConfigError(
                f"problem_type is one of {', '.join(SCORES)}; got {self.problem_type!r}."
            )
        known = SCORES[self.problem_type]
        if self.score is not None and self.score not in known:
            raise ConfigError(
                f"score is one of {', '.join(known)}; got {self.score!r}."
                + (f" (problem_type is {self.problem_type!r}.)" if self._is_other else "")
            )
        self._check_problem()
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision is one of {', '.join(PRECISIONS)}; got {self.precision!r}."
            )
        self._check_schedule()
        given = self.class_weights
        if given is not None and given != "balanced" and not isinstance(given, Mapping):
            raise ConfigError(
                f"class_weights is 'balanced' or a weight for each label; got "
                f"{self.class_weights!r}."
            )
        if isinstance(self.class_weights, Mapping):
            for label, weight in self.class_weights.items():
                _check_number(f"the class weight of {label!r}", weight)
            if self.class_weights and not any(self.class_weights.values()):
                raise ConfigError(
                    "class_weights are 0 for each label; then no row counts, and nothing is learnt."
                )

    @property
    def _is_other(self) -> bool:
        return self.problem_type != SINGLE_LABEL

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers."""
        return self.problem_type == REGRESSION

    def _check_problem(self) -> None:
        of_numbers = {
            "growth": "no entropy has a threshold",
            "temperature": "what the last exit says is learnt by squared error",
        }
        refused = {"class_weights": "a row has no one class"} if self._is_other else {}
        for name, reason in {**refused, **(of_numbers if self.is_regression else {})}.items():
            if getattr(self, name) != getattr(type(self), name):
                raise ConfigError(
                    f"{name} is not for {self.problem_type}, where {reason}; leave it out."
                )

    def scheduled(self, default: str) -> TrainingOptions:
        """The same, with this schedule where none is asked for."""
        return self if self.schedule is not None else replace(self, schedule=default)

    def _check_schedule(self) -> None:
        schedule = SCHEDULE if self.schedule is None else self.schedule
        if schedule not in SCHEDULES:
            raise ConfigError(
                f"No schedule is named {schedule!r}. {nearest(str(schedule), SCHEDULES)}"
            )
        if self.freeze_backbone and schedule not in _FREEZABLE:
            raise ConfigError(
                f"freeze_backbone trains ramps alone, and in {schedule!r} the body learns "
                f"with them. It goes with {', '.join(_FREEZABLE)}."
            )
        if self.gradient_equilibrium and (self.freeze_backbone or schedule not in _BALANCED):
            raise ConfigError(
                "gradient_equilibrium is for schedules in which several exits teach the body: "
                f"{', '.join(_BALANCED)}, without freeze_backbone."
            )
        if self.temperature == 0:
            raise ConfigError("temperature divides logits; expected a number above 0, got 0.")
        for name in ("distillation_weight", "temperature"):
            if getattr(self, name) != getattr(type(self), name) and (
                schedule != "joint-distillation"
            ):
                raise ConfigError(
                    f"{name} is of the schedule 'joint-distillation', and this one is "
                    f"{schedule!r}; leave it out."
                )


def _check_number(name: str, value: object) -> None:
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ConfigError(f"{name} must be a number of at least 0; got {value!r}.")
