"""Options: what cannot be is refused when it is said, by name."""

import dataclasses
import math

import pytest

from offramp.errors import ConfigError
from offramp.training.options import SCHEDULES, TrainingOptions


def test_defaults_are_good() -> None:
    options = TrainingOptions()
    assert (options.epochs, options.batch_size, options.seed) == (3, 32, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.epochs = 4  # type: ignore[misc]


COUNTS = ("epochs", "batch_size", "accumulate", "patience", "evaluations_per_epoch", "queries")
RATES = ("learning_rate", "ramp_learning_rate", "weight_decay", "warmup", "max_loss")
OF_DISTILLATION = ("distillation_weight", "temperature")


@pytest.mark.parametrize("value", [0, -1, 1.5, math.inf, "3", True])
def test_counts_are_whole_and_at_least_1(value: object) -> None:
    for name in COUNTS:
        with pytest.raises(ConfigError, match=name):
            TrainingOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-0.1, -1, math.nan, math.inf, "0.1", True])
def test_rates_are_numbers_of_at_least_0(value: object) -> None:
    for name in (*RATES, *OF_DISTILLATION):
        with pytest.raises(ConfigError, match=name):
            TrainingOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 0.0, 1])
def test_rates_may_be_0_and_whole(value: float) -> None:
    for name in RATES:
        assert getattr(TrainingOptions(**{name: value}), name) == value  # type: ignore[arg-type]


def test_warmup_is_a_share() -> None:
    TrainingOptions(warmup=1.0)
    with pytest.raises(ConfigError, match=r"from 0 to 1; got 1\.1"):
        TrainingOptions(warmup=1.1)


def test_precision_is_one_that_exists() -> None:
    for precision in ("float32", "bfloat16"):
        assert TrainingOptions(precision=precision).precision == precision
    with pytest.raises(ConfigError, match="float32, bfloat16; got 'float16'"):
        TrainingOptions(precision="float16")


def test_score_is_one_that_exists() -> None:
    for score in ("accuracy", "f1", "macro_f1"):
        assert TrainingOptions(score=score).score == score
    with pytest.raises(ConfigError, match="accuracy, f1, macro_f1; got 'auc'"):
        TrainingOptions(score="auc")


@pytest.mark.parametrize(
    "weights", ["even", {"pos": -1.0}, {"pos": math.nan}, {"pos": math.inf}, {"pos": "heavy"}]
)
def test_class_weights_are_balanced_or_numbers_of_at_least_0(weights: object) -> None:
    with pytest.raises(ConfigError, match=r"class.weight"):
        TrainingOptions(class_weights=weights)  # type: ignore[arg-type]
    TrainingOptions(class_weights="balanced")
    TrainingOptions(class_weights={"pos": 3, "neg": 0.5})


@pytest.mark.parametrize("growth", [0, 11, math.nan, "2", True])
def test_growth_is_a_modest_factor_or_left_to_the_depth(growth: object) -> None:
    with pytest.raises(ConfigError, match="growth"):
        TrainingOptions(growth=growth)  # type: ignore[arg-type]
    assert TrainingOptions().growth is None
    assert TrainingOptions(growth=1).growth == 1


def test_schedules_are_those_that_there_are() -> None:
    for name in SCHEDULES:
        assert TrainingOptions(schedule=name).schedule == name
    with pytest.raises(ConfigError, match=r"'twostage'\. Did you mean 'two-stage'\?"):
        TrainingOptions(schedule="twostage")


@pytest.mark.parametrize("schedule", ["alternating", "joint-distillation", "mixed"])
def test_a_frozen_backbone_is_for_schedules_that_can_leave_it(schedule: str) -> None:
    with pytest.raises(ConfigError, match=f"in '{schedule}' the body learns"):
        TrainingOptions(schedule=schedule, freeze_backbone=True)


def test_gradient_equilibrium_is_for_bodies_that_several_exits_teach() -> None:
    for schedule in ("joint", "alternating", "joint-distillation", "mixed"):
        assert TrainingOptions(schedule=schedule, gradient_equilibrium=True).gradient_equilibrium
    for options in (
        {"schedule": "two-stage"},
        {"schedule": "self-distillation"},
        {"freeze_backbone": True},
    ):
        with pytest.raises(ConfigError, match="several exits teach the body"):
            TrainingOptions(gradient_equilibrium=True, **options)  # type: ignore[arg-type]


def test_distillation_s_settings_are_its_own() -> None:
    for name in OF_DISTILLATION:
        assert getattr(TrainingOptions(schedule="joint-distillation", **{name: 3.0}), name) == 3.0
        with pytest.raises(ConfigError, match=f"{name} is of the schedule 'joint-distillation'"):
            TrainingOptions(**{name: 3.0})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="temperature divides logits"):
        TrainingOptions(schedule="joint-distillation", temperature=0)
