"""Schedules: each loss as its formula says, and in each stage what learns and what does not."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from exit_models import tiny_model, write_body, write_tokenizer
from safetensors.torch import load_file
from torch import Tensor

from offramp.exits.attach import exits_of
from offramp.runner.classifier import Classifier
from offramp.text.tables import Table
from offramp.text.tokenizer import Tokenizer
from offramp.training.examples import Examples, to_examples
from offramp.training.loop import LOG_FILE
from offramp.training.options import SCHEDULES, TrainingOptions
from offramp.training.run import Run
from offramp.training.schedules import (
    RampStage,
    Stage,
    alternating_loss,
    depth_weighted_loss,
    divergence,
    joint_distillation_loss,
    own_loss,
    ramp_distillation_loss,
    ramp_loss,
    stages,
)
from offramp.training.train import TrainingReport, train, train_exits

TrainToy = Callable[..., tuple[Classifier, TrainingReport]]

# Two rows, labels 0 and 1, of a model with exits after layers 1, 2 and 4. The probabilities of the
# labels: 1/2 and 1/2; 3/4 and 3/4; 1/10 and 1/5.
LOGITS = {
    1: torch.tensor([[0.0, 0.0], [0.0, 0.0]]),
    2: torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]]),
    4: torch.tensor([[0.0, math.log(9)], [math.log(4), 0.0]]),
}
LABELS_R = torch.tensor([0, 1])
LOSSES = {1: math.log(2), 2: math.log(4 / 3), 4: (math.log(10) + math.log(5)) / 2}
WEIGHTS_C = torch.tensor([3.0, 1.0])
WEIGHTED = {1: math.log(2), 2: math.log(4 / 3), 4: (3 * math.log(10) + math.log(5)) / 4}


def kl(teacher: list[float], student: list[float]) -> float:
    """Sum of t ln(t / s), as a book has it."""
    return sum(t * math.log(t / s) for t, s in zip(teacher, student, strict=True))


def at_temperature(p: float, temperature: float) -> list[float]:
    """Two classes of probabilities p and 1 - p, logits divided by the temperature."""
    odds = (p / (1 - p)) ** (1 / temperature)
    return [odds / (1 + odds), 1 / (1 + odds)]


# ---------------------------------------------------------------------------------------------
# Losses by hand.


def test_own_loss_by_hand() -> None:
    assert own_loss(LOGITS, LABELS_R, 1).item() == pytest.approx(LOSSES[4])
    assert own_loss(LOGITS, LABELS_R, 1, WEIGHTS_C).item() == pytest.approx(WEIGHTED[4])


def test_depth_weighted_loss_by_hand() -> None:
    by_hand = (1 * LOSSES[1] + 2 * LOSSES[2] + 4 * LOSSES[4]) / 7
    assert depth_weighted_loss(LOGITS, LABELS_R, 1).item() == pytest.approx(by_hand)
    # Weighted rows: the mean is over the weights.
    by_hand = (1 * WEIGHTED[1] + 2 * WEIGHTED[2] + 4 * WEIGHTED[4]) / 7
    found = depth_weighted_loss(LOGITS, LABELS_R, 1, WEIGHTS_C)
    assert found.item() == pytest.approx(by_hand)


def test_alternating_loss_by_hand() -> None:
    for step in (1, 3, 17):
        assert alternating_loss(LOGITS, LABELS_R, step).item() == pytest.approx(LOSSES[4])
    for step in (2, 4, 18):
        by_hand = (LOSSES[1] + LOSSES[2] + LOSSES[4]) / 3
        assert alternating_loss(LOGITS, LABELS_R, step).item() == pytest.approx(by_hand)
    by_hand = (WEIGHTED[1] + WEIGHTED[2] + WEIGHTED[4]) / 3
    assert alternating_loss(LOGITS, LABELS_R, 2, WEIGHTS_C).item() == pytest.approx(by_hand)


def test_divergence_by_hand() -> None:
    apart = [kl([0.1, 0.9], [0.75, 0.25]), kl([0.8, 0.2], [0.25, 0.75])]
    found = divergence(LOGITS[2], LOGITS[4], LABELS_R)
    assert found.item() == pytest.approx(sum(apart) / 2, rel=1e-5)
    found = divergence(LOGITS[2], LOGITS[4], LABELS_R, WEIGHTS_C)
    assert found.item() == pytest.approx((3 * apart[0] + apart[1]) / 4, rel=1e-5)
    softened = [
        kl(at_temperature(0.1, 2.0), at_temperature(0.75, 2.0)),
        kl(at_temperature(0.8, 2.0), at_temperature(0.25, 2.0)),
    ]
    found = divergence(LOGITS[2], LOGITS[4], LABELS_R, temperature=2.0)
    assert found.item() == pytest.approx(4 * sum(softened) / 2, rel=1e-5)
    assert divergence(LOGITS[4], LOGITS[4], LABELS_R, None, 3.0).item() == pytest.approx(0)


def test_joint_distillation_loss_by_hand() -> None:
    by_hand = (1 * LOSSES[1] + 2 * LOSSES[2] + 4 * LOSSES[4]) / 7
    of_ramp = {
        depth: 9
        * (
            kl(at_temperature(0.1, 3.0), at_temperature(p, 3.0))
            + kl(at_temperature(0.2, 3.0), at_temperature(p, 3.0))
        )
        / 2
        for depth, p in ((1, 0.5), (2, 0.75))
    }
    by_hand += 0.7 * (of_ramp[1] + of_ramp[2]) / 2
    found = joint_distillation_loss(LOGITS, LABELS_R, 1, weight=0.7, temperature=3.0)
    assert found.item() == pytest.approx(by_hand, rel=1e-5)


def test_the_teacher_gets_no_gradient_of_what_it_teaches() -> None:
    gradients = []
    for weight in (0.0, 5.0):
        logits = {depth: x.clone().requires_grad_() for depth, x in LOGITS.items()}
        joint_distillation_loss(logits, LABELS_R, 1, weight=weight, temperature=2.0).backward()
        gradients.append({depth: x.grad for depth, x in logits.items()})
    assert torch.equal(gradients[0][4], gradients[1][4])
    assert not torch.allclose(gradients[0][1], gradients[1][1])


def test_joint_distillation_of_a_model_without_ramps_is_its_own_loss() -> None:
    found = joint_distillation_loss({4: LOGITS[4]}, LABELS_R, 1, weight=1.0, temperature=2.0)
    assert found.item() == pytest.approx(LOSSES[4])


def test_ramp_losses_by_hand() -> None:
    assert ramp_loss(LOGITS[2], None, LABELS_R).item() == pytest.approx(LOSSES[2])
    assert ramp_loss(LOGITS[4], None, LABELS_R, WEIGHTS_C).item() == pytest.approx(WEIGHTED[4])
    apart = [kl([0.1, 0.9], [0.5, 0.5]), kl([0.8, 0.2], [0.5, 0.5])]
    found = ramp_distillation_loss(LOGITS[1], LOGITS[4], LABELS_R)
    assert found.item() == pytest.approx(sum(apart) / 2, rel=1e-5)


def test_logits_far_apart_have_a_finite_divergence() -> None:
    sure, other = torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, 200.0]])
    logits_RC = sure.clone().requires_grad_()
    loss = divergence(logits_RC, other, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(400.0)
    assert logits_RC.grad is not None
    assert logits_RC.grad.tolist() == [[1.0, -1.0]]


# ---------------------------------------------------------------------------------------------
# Stages.


def test_every_schedule_has_stages() -> None:
    names = {
        schedule: [stage.name for stage in stages(TrainingOptions(schedule=schedule))]
        for schedule in SCHEDULES
    }
    assert names == {
        "joint": ["joint"],
        "two-stage": ["backbone", "ramps"],
        "alternating": ["alternating"],
        "self-distillation": ["backbone", "ramps"],
        "joint-distillation": ["joint-distillation"],
        "mixed": ["backbone", "joint"],
    }


@pytest.mark.parametrize(
    ("schedule", "loss"),
    [
        ("joint", ramp_loss),
        ("two-stage", ramp_loss),
        ("self-distillation", ramp_distillation_loss),
    ],
)
def test_with_a_frozen_backbone_there_is_the_ramps_stage_alone(
    schedule: str, loss: Callable[..., Tensor]
) -> None:
    (stage,) = stages(TrainingOptions(schedule=schedule, freeze_backbone=True))
    assert isinstance(stage, RampStage)
    assert stage.loss is loss


def test_options_reach_the_loss() -> None:
    options = TrainingOptions(
        schedule="joint-distillation", distillation_weight=0.7, temperature=3.0
    )
    (stage,) = stages(options)
    assert isinstance(stage, Stage)
    by_hand = joint_distillation_loss(LOGITS, LABELS_R, 1, weight=0.7, temperature=3.0)
    assert torch.equal(stage.loss(LOGITS, LABELS_R, 1, None), by_hand)


# ---------------------------------------------------------------------------------------------
# Training.


@pytest.fixture(scope="module")
def examples(
    toy_data: dict[str, Table], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Examples]:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    return {
        split: to_examples(toy_data[split], tokenizer, {"neg": 0, "pos": 1})
        for split in ("train", "dev")
    }


def changed_by(
    stage: Stage, examples: dict[str, Examples], **options: object
) -> tuple[set[str], dict[str, Tensor]]:
    """The parameters that a run of one stage changes, and all of them after it."""
    model = tiny_model(n_labels=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(0)
    chosen = TrainingOptions(**{"batch_size": 999, "epochs": 1, **options})  # type: ignore[arg-type]
    train_exits(model, stage, examples["train"], examples["dev"], None, Run(chosen))
    after = dict(model.named_parameters())
    changed = {name for name, p in after.items() if not torch.equal(p, before[name])}
    return changed, {name: p.detach().clone() for name, p in after.items()}


def test_a_backbone_stage_leaves_the_ramps_alone(examples: dict[str, Examples]) -> None:
    (stage, _) = stages(TrainingOptions(schedule="mixed"))
    assert isinstance(stage, Stage)
    changed, after = changed_by(stage, examples, batch_size=40)
    assert changed == {name for name in after if not name.startswith("exits.")}


def test_alternating_teaches_the_ramps_in_every_second_step(examples: dict[str, Examples]) -> None:
    (stage,) = stages(TrainingOptions(schedule="alternating"))
    assert isinstance(stage, Stage)
    changed, after = changed_by(stage, examples)  # one step
    assert changed == {name for name in after if not name.startswith("exits.")}
    model = tiny_model(n_labels=2)
    names = ("exits.1.dense.weight", "bert.encoder.layer.0.output.dense.weight")
    seen = [[model.get_parameter(name).detach().clone() for name in names]]

    def look(what: str, step: int, total: int) -> None:
        seen.append([model.get_parameter(name).detach().clone() for name in names])

    options = TrainingOptions(batch_size=48, epochs=1)  # 5 steps
    train_exits(model, stage, examples["train"], examples["dev"], None, Run(options, look))
    moved = [[not torch.equal(a, b) for a, b in zip(*two, strict=True)] for two in pairwise(seen)]
    assert moved == [[False, True], [True, True], [False, True], [True, True], [False, True]]


def test_gradient_equilibrium_is_what_the_body_s_gradients_are_scaled_by(
    examples: dict[str, Examples],
) -> None:
    # Three exits lie behind layer 0, two behind layer 1 and one behind layer 2: their mean is a
    # third, a half and all of their sum. Clipping is by a factor that all have in common.
    (stage,) = stages(TrainingOptions(schedule="joint"))
    assert isinstance(stage, Stage)
    names = [f"bert.encoder.layer.{i}.output.dense.weight" for i in range(3)]
    found = {}
    for equilibrium in (False, True):
        model = tiny_model(n_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        torch.manual_seed(0)
        options = TrainingOptions(batch_size=999, epochs=1, gradient_equilibrium=equilibrium)
        train_exits(model, stage, examples["train"], examples["dev"], None, Run(options))
        found[equilibrium] = [model.get_parameter(name).grad for name in names]  # the only step's
    in_common = found[True][2].norm() / found[False][2].norm()
    for i, share in enumerate((1 / 3, 1 / 2, 1.0)):
        torch.testing.assert_close(
            found[True][i], found[False][i] * share * in_common, rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_schedule_learns_a_toy_task(
    schedule: str, train_toy: TrainToy, tmp_path: Path
) -> None:
    _, report = train_toy(schedule=schedule, epochs=4)
    by_depth = report.best["dev_accuracy_by_depth"]
    assert list(by_depth) == ["1", "2", "3"]
    assert min(by_depth.values()) > 0.85, by_depth
    lines = [json.loads(line) for line in (tmp_path / "out" / LOG_FILE).read_text().splitlines()]
    assert lines == report.log
    planned = [stage.name for stage in stages(TrainingOptions(schedule=schedule))]
    assert list(dict.fromkeys(line["stage"] for line in lines)) == planned
    assert report.best["stage"] == planned[-1]
    for name in planned:
        steps = [line["step"] for line in lines if line["stage"] == name]
        assert steps == sorted(steps)
        epochs = [line["epoch"] for line in lines if line["stage"] == name]
        assert epochs in ([4], [1, 2, 3, 4], [1, 2, 3], [1, 2])


def test_schedules_that_begin_with_the_backbone_have_that_stage_in_common(
    train_toy: TrainToy, tmp_path: Path
) -> None:
    logs, weights = {}, {}
    for schedule in ("two-stage", "self-distillation", "mixed"):
        _, report = train_toy(schedule, schedule=schedule, epochs=2)
        logs[schedule] = [
            {**line, "seconds": 0} for line in report.log if line["stage"] == "backbone"
        ]
        weights[schedule] = load_file(tmp_path / schedule / "model.safetensors")
    assert logs["two-stage"] == logs["self-distillation"] == logs["mixed"]
    assert all(list(line["dev_accuracy_by_depth"]) == ["3"] for line in logs["mixed"])
    # And the frozen stages leave it as it is, whatever the ramps learn from.
    for name, tensor in weights["two-stage"].items():
        same = torch.equal(tensor, weights["self-distillation"][name])
        assert same != name.startswith("exits."), name
    assert any(
        not torch.equal(tensor, weights["mixed"][name])
        for name, tensor in weights["two-stage"].items()
        if not name.startswith("exits.")
    )


def test_the_second_stage_begins_with_the_best_of_the_first(
    train_toy: TrainToy, toy_data: dict[str, Table]
) -> None:
    # With rates of 0 nothing changes: the first evaluation is the best, and the second stage finds
    # what the first one left.
    _, report = train_toy(schedule="mixed", epochs=3, learning_rate=0.0, ramp_learning_rate=0.0)
    scores = [(line["stage"], line["score"]) for line in report.log]
    assert len({score for _, score in scores}) == 1
    # Labels by lot and a high rate: scores go up and down, and the ramps are put on the best.
    rng = random.Random(0)
    noise = {
        split: Table(split, toy_data[split].texts[:n], [rng.choice("ab") for _ in range(n)])
        for split, n in (("train", 160), ("dev", 20))
    }
    spoilt = 0
    for seed in range(3):
        _, report = train_toy(
            f"spoilt-{seed}", data=noise["train"], dev=noise["dev"], schedule="two-stage", epochs=2,
            patience=99, learning_rate=2e-3, evaluations_per_epoch=5, seed=seed,
        )  # fmt: skip
        first = [line["score"] for line in report.log if line["stage"] == "backbone"]
        assert report.log[-1]["score"] == max(first)
        spoilt += first[-1] < max(first)
    assert spoilt


def test_patience_is_each_stage_s_own(train_toy: TrainToy) -> None:
    _, report = train_toy(
        schedule="mixed", epochs=9, learning_rate=0.0, ramp_learning_rate=0.0, patience=1
    )
    assert [(line["stage"], line["epoch"]) for line in report.log] == [
        ("backbone", 1),
        ("backbone", 2),
        ("joint", 1),
        ("joint", 2),
    ]


def test_progress_says_which_stage(
    toy_body: Path, toy_data: dict[str, Table], toy_options: TrainingOptions, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    train(
        toy_body,
        toy_data["train"],
        tmp_path / "out",
        dev=toy_data["dev"],
        options=replace(toy_options, epochs=1, schedule="two-stage"),
        progress=lambda *step: told.append(step),
    )
    assert told == [
        *(("train backbone", step, 15) for step in range(1, 16)),
        *(("train ramps", depth, 3) for depth in (1, 2, 3)),
    ]


def test_a_model_of_one_layer_goes_through_every_schedule(
    train_toy: TrainToy, tmp_path: Path
) -> None:
    start = write_body(tmp_path / "start", num_hidden_layers=1)
    for schedule in SCHEDULES:
        classifier, report = train_toy(schedule, start=start, schedule=schedule)
        assert exits_of(classifier.model).depths == ()
        assert list(report.best["dev_accuracy_by_depth"]) == ["1"]
