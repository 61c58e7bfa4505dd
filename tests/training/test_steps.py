"""One step: batches that are put together, and the precision of what passes the model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exit_models import random_rows, tiny_model
from safetensors.torch import load_file
from tagged_data import TOY_TAGS, tagged_table
from task_models import tiny, write_vocabulary
from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.exits.attach import add_exits
from offramp.models.base import PretrainedModel
from offramp.models.bert import BertForTokenClassification
from offramp.runner.classifier import Classifier
from offramp.runner.loading import load
from offramp.runner.tagger import Tagger
from offramp.text.tables import Table
from offramp.text.tokenizer import Tokenizer
from offramp.training.examples import Examples, to_examples
from offramp.training.options import TrainingOptions
from offramp.training.run import Run
from offramp.training.schedules import Stage, stages
from offramp.training.scoring import evaluate_exits
from offramp.training.tagged import to_tagged_examples
from offramp.training.train import TrainingReport, train_exits

TrainToy = Callable[..., tuple[Classifier, TrainingReport]]

STILL = {"learning_rate": 0.0, "ramp_learning_rate": 0.0, "epochs": 1}
"""Weights that do not change: the gradients that are left are the last step's."""


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def random_examples(n: int, seed: int, n_classes: int = 3) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    return Examples(random_rows(n, seed), torch.randint(n_classes, (n,), generator=generator))


def gradients(model: PretrainedModel) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def last_gradients(
    options: TrainingOptions, weights_C: Tensor | None, training: Examples
) -> tuple[dict[str, Tensor], list[float]]:
    """Of the last step of an epoch, and the losses of the log."""
    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    without_dropout(model)
    (stage,) = stages(options)
    assert isinstance(stage, Stage)
    run = Run(options)
    train_exits(model, stage, training, random_examples(9, 5), weights_C, run)
    return gradients(model), [line["loss"] for line in run.log]


# ---------------------------------------------------------------------------------------------
# Accumulation.


@pytest.mark.parametrize("schedule", ["joint", "joint-distillation"])
@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 5.0]])
@pytest.mark.parametrize(
    ("n_rows", "size"),
    [(64, 16), (50, 16), (57, 5)],  # 16 each; 16, 16, 16 and 2; steps of 20, of which one is of 17
)
def test_batches_put_together_are_one_batch(
    n_rows: int, size: int, weights: list[float] | None, schedule: str
) -> None:
    weights_C = None if weights is None else torch.tensor(weights)
    training = random_examples(n_rows, 1)
    together, apart = (
        last_gradients(
            TrainingOptions(
                batch_size=batch_size, accumulate=accumulate, schedule=schedule, **STILL
            ),
            weights_C,
            training,
        )
        for batch_size, accumulate in ((4 * size, 1), (size, 4))
    )
    assert together[0].keys() == apart[0].keys()
    for name, gradient in together[0].items():
        torch.testing.assert_close(apart[0][name], gradient, rtol=0, atol=1e-6)
    assert apart[1] == pytest.approx(together[1])
    # As it would not be if each batch counted the same, or the labels' weights did not.
    largest = max(gradient.abs().max() for gradient in together[0].values())
    assert largest > 1e-3


def test_sentences_put_together_count_by_their_words(tmp_path: Path) -> None:
    write_vocabulary(tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path, max_length=64)
    found = []
    for batch_size, accumulate in ((32, 1), (8, 4)):
        torch.manual_seed(0)
        config = tiny(
            id2label=dict(enumerate(TOY_TAGS)),
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model = add_exits(BertForTokenClassification(config))
        without_dropout(model)
        tagger = Tagger(model, tokenizer)
        training = to_tagged_examples(tagged_table(30, 3), tagger, model.config.label2id)
        weights_C = torch.tensor([1.0, 3.0, 0.5, 2.0, 1.0])
        options = TrainingOptions(batch_size=batch_size, accumulate=accumulate, **STILL)
        (joint,) = stages(options)
        assert isinstance(joint, Stage)
        train_exits(model, joint, training, training, weights_C, Run(options))
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-6)


def test_accumulated_steps_are_counted_as_steps(train_toy: TrainToy) -> None:
    _, report = train_toy(batch_size=8, accumulate=4, epochs=2)
    assert [line["step"] for line in report.log] == [8, 16]  # 240 rows, 32 a step


def test_rows_that_do_not_count_teach_nothing() -> None:
    # Batches of nothing but the class of weight 0: there is no mean over them.
    training = Examples(random_rows(24, 1), torch.tensor([0] * 20 + [1] * 4))
    weights_C = torch.tensor([0.0, 1.0, 1.0])
    model = tiny_model()
    (stage,) = stages(TrainingOptions())
    assert isinstance(stage, Stage)
    run = Run(TrainingOptions(batch_size=2, accumulate=2, epochs=1))
    train_exits(model, stage, training, random_examples(9, 5), weights_C, run)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


# ---------------------------------------------------------------------------------------------
# Precision.


@pytest.mark.parametrize("schedule", ["joint", "self-distillation", "joint-distillation"])
def test_bfloat16_learns_nearly_the_same(
    schedule: str, train_toy: TrainToy, tmp_path: Path
) -> None:
    logs, weights = {}, {}
    for precision in ("float32", "bfloat16"):
        _, report = train_toy(precision, precision=precision, schedule=schedule, epochs=3)
        logs[precision] = [line["loss"] for line in report.log]
        weights[precision] = load_file(tmp_path / precision / "model.safetensors")
    assert logs["bfloat16"] != logs["float32"]
    assert logs["bfloat16"] == pytest.approx(logs["float32"], rel=0.05)
    assert {tensor.dtype for tensor in weights["bfloat16"].values()} == {torch.float32}
    name = "exits.1.dense.weight"
    assert not torch.equal(weights["float32"][name], weights["bfloat16"][name])


@pytest.mark.parametrize("schedule", ["joint", "two-stage"])
def test_bfloat16_is_of_training_alone(
    schedule: str, train_toy: TrainToy, toy_data: dict[str, Table], tmp_path: Path
) -> None:
    _, report = train_toy(precision="bfloat16", schedule=schedule, epochs=2)
    classifier = load(tmp_path / "out")
    dev = to_examples(toy_data["dev"], classifier.tokenizer, {"neg": 0, "pos": 1})
    saved = evaluate_exits(classifier.model, dev, "accuracy")
    assert saved["dev_accuracy_by_depth"] == report.best["dev_accuracy_by_depth"]


def test_losses_are_of_float32_logits_that_bfloat16_gave() -> None:
    seen: dict[str, list[Tensor]] = {}
    (joint,) = stages(TrainingOptions())
    assert isinstance(joint, Stage)
    for precision in ("float32", "bfloat16"):
        seen[precision] = []

        def loss(
            logits: dict[int, Tensor],
            labels_R: Tensor,
            step: int,
            weights_C: Tensor | None,
            kept: list[Tensor] = seen[precision],
        ) -> Tensor:
            found = joint.loss(logits, labels_R, step, weights_C)
            kept.extend([*(x.detach() for x in logits.values()), found.detach()])
            return found

        model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        without_dropout(model)
        options = TrainingOptions(precision=precision, batch_size=99, **STILL)
        training = random_examples(20, 1)
        train_exits(model, replace(joint, loss=loss), training, training, None, Run(options))
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    for one, other in zip(seen["float32"], seen["bfloat16"], strict=True):
        assert other.dtype == torch.float32
        assert 0 < (one - other).abs().max() < 0.2 * one.abs().max()


def test_a_precision_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision is one of"):
        TrainingOptions(precision="half")
