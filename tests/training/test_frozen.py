"""Ramps on a frozen backbone: it is not touched, it runs once, the ramps learn."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from exit_models import random_rows, tiny_model, write_tokenizer
from safetensors.torch import load_file

from offramp.errors import ConfigError, ReplacedExitsWarning, TrainingError
from offramp.exits.attach import add_exits, exits_of
from offramp.models.bert import BertForSequenceClassification
from offramp.nn.blocks import EncoderLayer
from offramp.runner.classifier import Classifier
from offramp.runner.loading import load
from offramp.runner.sweep import every_exit
from offramp.text.tables import Table
from offramp.text.tokenizer import Tokenizer
from offramp.training import frozen as frozen_stage
from offramp.training.examples import Examples, to_examples
from offramp.training.frozen import train_ramps
from offramp.training.options import TrainingOptions
from offramp.training.run import Run
from offramp.training.schedules import RampStage, stages
from offramp.training.scoring import evaluate_exits
from offramp.training.train import TrainingReport, train

Trained = tuple[Path, TrainingReport]
RAMPS, DISTILLED = (
    stages(TrainingOptions(schedule=schedule, freeze_backbone=True))[0]
    for schedule in ("two-stage", "self-distillation")
)

TrainToy = Callable[..., tuple[Classifier, TrainingReport]]


@pytest.fixture(scope="module")
def frozen_options(toy_options: TrainingOptions) -> TrainingOptions:
    return replace(toy_options, epochs=8, freeze_backbone=True)


@pytest.fixture(scope="module")
def frozen(
    toy_trained: Trained,
    toy_data: dict[str, Table],
    frozen_options: TrainingOptions,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    output = tmp_path_factory.mktemp("frozen") / "model"
    _, report = train(
        toy_trained[0], toy_data["train"], output, dev=toy_data["dev"], options=frozen_options
    )
    return output, report


@pytest.fixture
def train_frozen(train_toy: TrainToy, toy_trained: Trained) -> TrainToy:
    """`train_toy` with the options of `frozen`."""
    return partial(train_toy, start=toy_trained[0], epochs=8, freeze_backbone=True)


def test_body_and_head_stay_bit_for_bit(toy_trained: Trained, frozen: Trained) -> None:
    before = load_file(toy_trained[0] / "model.safetensors")
    after = load_file(frozen[0] / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("exits.") for name in changed)
    assert {name.split(".")[1] for name in changed} == {"1", "2"}


def test_ramps_learn(frozen: Trained, toy_data: dict[str, Table]) -> None:
    directory, report = frozen
    classifier = load(directory)
    dev = to_examples(toy_data["dev"], classifier.tokenizer, {"neg": 0, "pos": 1})
    (line,) = report.log
    saved = evaluate_exits(classifier.model, dev, "accuracy")
    # What was logged is what was saved: each ramp has the weights of its best epoch.
    assert line["dev_accuracy_by_depth"] == saved["dev_accuracy_by_depth"]
    assert line["score"] == saved["score"]
    assert min(line["dev_accuracy_by_depth"].values()) > 0.9
    torch.manual_seed(0)
    untrained = add_exits(BertForSequenceClassification.from_pretrained(directory, exits=None))
    fresh, learnt = (
        [
            torch.nn.functional.cross_entropy(logits_RC, dev.labels_R).item()
            for logits_RC in every_exit(model, dev.rows).logits_ERC
        ]
        for model in (untrained, classifier.model)
    )
    assert learnt[0] < fresh[0] * 0.75
    assert learnt[1] < fresh[1] * 0.75
    assert learnt[2] == pytest.approx(fresh[2], rel=1e-4)  # the head's
    assert classifier.threshold == report.choice.criterion.threshold
    assert json.loads((directory / "metrics.jsonl").read_text()) == line


def test_each_ramp_keeps_its_best_epoch(
    frozen_options: TrainingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Labels by lot and a high rate: dev scores wander, and the last is hardly ever the best.
    generator = torch.Generator().manual_seed(0)
    training, dev = (
        Examples(random_rows(n, n), torch.randint(2, (n,), generator=generator)) for n in (160, 40)
    )
    model = tiny_model(n_labels=2)
    options = replace(frozen_options, epochs=12, ramp_learning_rate=0.01)
    run = Run(options)
    problem, seen = frozen_stage.PROBLEMS[options.problem_type], []

    def judge(logits_RC: torch.Tensor, labels_R: torch.Tensor) -> float:
        seen.append(problem.judge(logits_RC, labels_R))
        return seen[-1]

    heard = {options.problem_type: replace(problem, judge=judge)}
    with monkeypatch.context() as patch:
        patch.setattr(frozen_stage, "PROBLEMS", heard)
        train_ramps(model, RAMPS, training, dev, None, run)
    (line,) = run.log
    saved = evaluate_exits(model, dev, "accuracy")["dev_accuracy_by_depth"]
    assert saved == line["dev_accuracy_by_depth"]
    epochs = [seen[at : at + 12] for at in range(0, len(seen), 12)]
    assert [saved[str(depth)] for depth in exits_of(model).depths] == [max(of) for of in epochs]
    assert any(of[-1] < max(of) for of in epochs)


def test_the_frozen_body_computes_in_the_precision_asked_for(
    frozen_options: TrainingOptions,
) -> None:
    rows = Examples(random_rows(20), torch.arange(20) % 2)
    for precision in ("float32", "bfloat16"):
        model, found = tiny_model(n_labels=2), set()
        layer = model.get_submodule("bert.encoder.layer.0.intermediate.dense")
        layer.register_forward_hook(lambda *at, found=found: found.add(at[-1].dtype))
        options = replace(frozen_options, epochs=1, precision=precision)
        train_ramps(model, RAMPS, rows, rows, None, Run(options))
        # Dev's rows are always in float32.
        assert found == {torch.float32, getattr(torch, precision)}


def test_of_equally_accurate_epochs_the_one_of_lower_loss_is_kept(
    toy_data: dict[str, Table], frozen_options: TrainingOptions, tmp_path: Path
) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    training, dev = (
        to_examples(toy_data[split], tokenizer, {"neg": 0, "pos": 1}) for split in ("train", "dev")
    )
    kept = []
    for epochs in range(5, 16):  # the longer runs begin as the shorter ones
        torch.manual_seed(0)
        model = tiny_model(n_labels=2)
        options = replace(frozen_options, epochs=epochs)
        train_ramps(model, RAMPS, training, dev, None, Run(options))
        logits_RC = every_exit(model, dev.rows).logits_ERC[0]
        right = int((logits_RC.argmax(-1) == dev.labels_R).sum())
        kept.append((right, -torch.nn.functional.cross_entropy(logits_RC, dev.labels_R).item()))
    for before, after in pairwise(kept):
        assert after[0] >= before[0]
        assert after[0] > before[0] or after[1] >= before[1] - 1e-6
    assert any(a[0] == b[0] and b[1] > a[1] + 1e-4 for a, b in pairwise(kept)), kept


@pytest.mark.parametrize(
    ("stage", "epochs", "before"), [(RAMPS, 1, 0), (RAMPS, 5, 0), (DISTILLED, 5, 1)]
)
def test_each_token_passes_each_layer_once(
    stage: RampStage,
    epochs: int,
    before: int,
    toy_data: dict[str, Table],
    frozen_options: TrainingOptions,
    tmp_path: Path,
) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    training, dev = (
        to_examples(toy_data[split], tokenizer, {"neg": 0, "pos": 1}) for split in ("train", "dev")
    )
    model = tiny_model(n_labels=2)
    passed = [0] * 3
    layers = [module for module in model.modules() if isinstance(module, EncoderLayer)]
    for i, layer in enumerate(layers):

        def count(_: object, inputs: tuple[torch.Tensor], __: object, i: int = i) -> None:
            passed[i] += len(inputs[0])

        layer.register_forward_hook(count)
    told: list[tuple[str, int, int]] = []
    options = replace(frozen_options, epochs=epochs)
    train_ramps(model, stage, training, dev, None, Run(options, lambda *step: told.append(step)))
    to_train, to_score = (sum(len(row.ids) for row in rows.rows) for rows in (training, dev))
    # Whatever the number of epochs; those to learn from once more before, for the model's answers.
    assert passed == [to_train * (1 + before) + to_score] * 3
    assert told == [("train", depth, 3) for depth in (1, 2, 3)]


def test_frozen_is_the_same_for_the_same_seed(
    frozen: Trained, train_frozen: TrainToy, tmp_path: Path
) -> None:
    weights = {"first": load_file(frozen[0] / "model.safetensors")}
    for name, seed in (("again", 0), ("other", 1)):
        torch.manual_seed(5)
        train_frozen(name, seed=seed)
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    for key, tensor in weights["first"].items():
        assert torch.equal(tensor, weights["again"][key]), key
    key = "exits.1.dense.weight"
    assert not torch.equal(weights["first"][key], weights["other"][key])


def test_only_the_depths_asked_for(train_frozen: TrainToy) -> None:
    with pytest.warns(ReplacedExitsWarning):
        classifier, report = train_frozen(epochs=1, depths=(2,), pooler="first")
    assert exits_of(classifier.model).depths == (2,)
    assert list(report.log[0]["dev_accuracy_by_depth"]) == ["2", "3"]


def test_a_body_without_a_head_of_these_classes_is_refused(
    toy_body: Path,
    toy_trained: Trained,
    toy_data: dict[str, Table],
    frozen_options: TrainingOptions,
    tmp_path: Path,
) -> None:
    data = toy_data["train"]
    with pytest.raises(ConfigError, match="Fine-tune the model first"):
        train(toy_body, data, tmp_path / "out", options=frozen_options)
    assert data.labels is not None
    numbered = Table("n", data.texts, [str(int(label == "pos")) for label in data.labels])
    with pytest.raises(ConfigError, match=r"\['neg', 'pos'\]; the data's are \['0', '1'\]"):
        train(toy_trained[0], numbered, tmp_path / "out", options=frozen_options)
    # A body whose config happens to name the classes still has no head.
    named = Table("n", data.texts, [f"LABEL_{int(label == 'pos')}" for label in data.labels])
    with pytest.raises(ConfigError, match=r"lacks classifier\.weight"):
        train(toy_body, named, tmp_path / "out", options=frozen_options)
    assert not list(tmp_path.iterdir())


def test_ramps_that_are_not_numbers_are_not_saved(train_frozen: TrainToy, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="learning_rate"):
        train_frozen(ramp_learning_rate=1e30)
    assert not list(tmp_path.iterdir())


def test_ramps_that_the_last_step_ruins_are_not_saved(
    train_frozen: TrainToy, toy_data: dict[str, Table], tmp_path: Path
) -> None:
    labels = toy_data["train"].labels
    assert labels is not None
    # One step alone: the loss is that of the weights before it.
    data = Table("few", toy_data["train"].texts[:100], labels[:100])
    with pytest.raises(TrainingError, match="no numbers any more"):
        train_frozen(data=data, epochs=1, ramp_learning_rate=3.3e37)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------
# Self-distillation: the model's own answers in place of the labels.


def test_distilled_ramps_do_not_see_the_labels(frozen_options: TrainingOptions) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, dev = random_rows(160, 1), Examples(random_rows(40, 2), torch.randint(2, (40,)))
    weights = []
    for _ in range(2):
        training = Examples(rows, torch.randint(2, (160,), generator=generator))
        model = tiny_model(n_labels=2)
        torch.manual_seed(0)
        train_ramps(model, DISTILLED, training, dev, None, Run(frozen_options))
        weights.append(exits_of(model).state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_distilled_ramps_answer_as_the_model_does(
    train_frozen: TrainToy, toy_trained: Trained, toy_data: dict[str, Table], tmp_path: Path
) -> None:
    # Labels that are all wrong: what the ramps learn is what the model says.
    labels = toy_data["train"].labels
    assert labels is not None
    wrong = [{"pos": "neg", "neg": "pos"}[label] for label in labels]
    data = Table("wrong", toy_data["train"].texts, wrong)
    _, report = train_frozen(data=data, schedule="self-distillation")
    assert min(report.best["dev_accuracy_by_depth"].values()) > 0.9
    before = load_file(toy_trained[0] / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("exits.") for name in changed)
