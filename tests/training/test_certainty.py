"""The regressor of certainty: its loss by hand, what it learns, and what it leaves alone."""

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exit_models import random_rows, tiny_model, write_body
from safetensors.torch import load_file

from offramp.errors import ConfigError
from offramp.exits.attach import add_exits, answers_by_depth, exits_of
from offramp.exits.criteria import Answer, LearnedToExit
from offramp.runner.classifier import Classifier
from offramp.runner.loading import load
from offramp.runner.sweep import every_exit
from offramp.text.tables import Table
from offramp.training.certainty import (
    Pooled,
    certainty_loss,
    is_right,
    regressor_accuracy,
    train_regressor,
)
from offramp.training.examples import Examples, to_examples
from offramp.training.options import SCHEDULES, TrainingOptions
from offramp.training.run import Run
from offramp.training.schedules import Stage, stages
from offramp.training.train import TrainingReport, train, train_exits

TrainToy = Callable[..., tuple[Classifier, TrainingReport]]
REGRESSOR = {"exits.certainty.weight", "exits.certainty.bias"}


def auc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Share of the pairs of one right and one wrong answer in which the right one scores higher."""
    pairs = [(a, b) for a, yes in zip(scores, right, strict=True) if yes
             for b, no in zip(scores, right, strict=True) if not no]  # fmt: skip
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)


def test_auc_by_hand() -> None:
    assert auc([3, 1, 2, 2], [True, False, True, False]) == (1 + 1 + 1 + 0.5) / 4


# ---------------------------------------------------------------------------------------------
# By hand.

# Two rows of labels 0 and 1. The ramp after layer 1 is right about the first, that after layer 2
# about both; certainties are 3/4 and 1/2, 9/10 and 1/5.
ANSWERS = {
    1: Answer(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([math.log(3), 0.0])),
    2: Answer(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([math.log(9), -math.log(4)])),
    3: Answer(torch.tensor([[0.0, 9.0], [0.0, 9.0]])),
}
LABELS_R = torch.tensor([0, 1])


def test_the_loss_by_hand() -> None:
    first, second = (-math.log(3 / 4), -math.log(1 / 2)), (-math.log(9 / 10), -math.log(1 / 5))
    found = certainty_loss(ANSWERS, LABELS_R)
    assert found is not None
    assert found.item() == pytest.approx((sum(first) / 2 + sum(second) / 2) / 2)
    weighted = certainty_loss(ANSWERS, LABELS_R, torch.tensor([3.0, 1.0]))
    assert weighted is not None
    by_hand = [(3 * a + b) / 4 for a, b in (first, second)]
    assert weighted.item() == pytest.approx(sum(by_hand) / 2)
    assert certainty_loss({3: ANSWERS[3]}, LABELS_R) is None


def test_right_and_its_accuracy_by_hand() -> None:
    right_XR = torch.stack([is_right(ANSWERS[depth].logits_RC, LABELS_R) for depth in (1, 2)])
    assert right_XR.tolist() == [[1, 0], [1, 1]]
    certainty_XR = torch.tensor([[1.0, 0.0], [2.0, -1.0]])  # says right, right, right, wrong
    assert regressor_accuracy(certainty_XR, right_XR) == 0.5


def test_a_regressor_finds_the_line_that_parts_right_from_wrong() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(3):  # ramps
        pooled_RP = torch.randn(400, 5, generator=generator)
        right_R = (pooled_RP[:, 1] - pooled_RP[:, 3] > 0.4).float()
        seen.append(Pooled(pooled_RP, right_R, torch.ones(len(right_R))))
    torch.manual_seed(0)
    regressor = torch.nn.Linear(5, 1)
    options = TrainingOptions(epochs=200, ramp_learning_rate=0.05, weight_decay=0.0)
    train_regressor(regressor, seen, options)
    with torch.no_grad():
        certainty_XR = torch.stack([regressor(x)[:, 0] for x, _, _ in seen])
    assert regressor_accuracy(certainty_XR, torch.stack([of.right_R for of in seen])) > 0.97
    weights = regressor.weight[0] / regressor.weight[0, 1]
    assert weights.tolist() == pytest.approx([0, 1, 0, -1, 0], abs=0.1)
    assert (regressor.bias / regressor.weight[0, 1]).item() == pytest.approx(-0.4, abs=0.1)


def test_it_sends_no_gradient_further() -> None:
    model = tiny_model(n_labels=2)
    del model.exits
    add_exits(model, certainty=True)
    rows = random_rows(6)
    examples = Examples(rows, torch.tensor([0, 1] * 3))
    answers = answers_by_depth(model, examples.inputs(range(6)))
    loss = certainty_loss(answers, examples.labels_R)
    assert loss is not None
    loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == REGRESSOR


@pytest.mark.parametrize("schedule", ["joint", "alternating", "joint-distillation"])
def test_all_else_learns_what_it_would_without_it(schedule: str) -> None:
    # Without dropout, whose draws would be others.
    generator = torch.Generator().manual_seed(0)
    training, dev = (
        Examples(random_rows(n, n), torch.randint(2, (n,), generator=generator)) for n in (60, 20)
    )
    (stage,) = stages(TrainingOptions(schedule=schedule))
    assert isinstance(stage, Stage)
    after = {}
    for certainty in (False, True):
        model = tiny_model(n_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        ramps = exits_of(model).state_dict()
        del model.exits
        add_exits(model, dropout=0.0, certainty=certainty)
        exits_of(model).load_state_dict(ramps, strict=False)
        options = TrainingOptions(
            schedule=schedule, epochs=2, batch_size=16, learning_rate=1e-3, certainty=certainty
        )
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        train_exits(model, stage, training, dev, None, Run(options))
        after[certainty] = model.state_dict()
        assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert after[True].keys() - after[False].keys() == REGRESSOR
    for name, tensor in after[False].items():
        assert torch.equal(tensor, after[True][name]), name


# ---------------------------------------------------------------------------------------------
# Training.


def doubtful(n_rows: int, seed: int) -> Table:
    """`good` is pos and `bad` neg; of rows with `music` the label is drawn by lot."""
    rng = random.Random(seed)
    texts, labels = [], []
    for _ in range(n_rows):
        words = rng.choices(["film", "plot", "actor", "scene", "the", "a"], k=rng.randint(2, 6))
        label, lot = rng.choice(["neg", "pos"]), rng.random() < 0.5
        words.append({"neg": "bad", "pos": "good"}[label])
        if lot:
            words.append("music")
            label = rng.choice(["neg", "pos"])
        rng.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    return Table("doubtful", texts, labels)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_certainty_parts_right_answers_from_wrong_ones(
    schedule: str, train_toy: TrainToy, tmp_path: Path
) -> None:
    _, report = train_toy(
        data=doubtful(800, 1), dev=doubtful(200, 2), schedule=schedule, certainty=True, epochs=8,
        ramp_learning_rate=8e-3,
    )  # fmt: skip
    classifier = load(tmp_path / "out")
    test = to_examples(doubtful(200, 3), classifier.tokenizer, {"neg": 0, "pos": 1})
    answers = every_exit(classifier.model, test.rows)
    assert answers.certainty_XR is not None
    for certainty_R, logits_RC in zip(answers.certainty_XR, answers.logits_ERC[:-1], strict=True):
        right = (logits_RC.argmax(-1) == test.labels_R).tolist()
        assert 20 < right.count(False) < 100
        # Half of the rows are sure and half are lots: .75 is what knowing which gives, about.
        print("AUC", schedule, auc(certainty_R.tolist(), right))
    classifier.criterion = LearnedToExit(0.9)
    layers = [p.exit_layer for p in classifier.predict(doubtful(60, 4).texts)]
    assert 1 < sum(layers) / 60 < 3
    lots = ["music" in text for text in doubtful(60, 4).texts]
    means = [
        sum(n for n, lot in zip(layers, lots, strict=True) if lot is kind) / lots.count(kind)
        for kind in (False, True)
    ]
    assert means[0] < means[1] - 1, means
    assert 0.6 < report.best["dev_certainty_accuracy"] <= 1


def test_what_is_logged_is_what_was_saved(train_toy: TrainToy, tmp_path: Path) -> None:
    dev = doubtful(60, 2)
    for schedule in ("mixed", "two-stage"):
        _, report = train_toy(
            schedule, data=doubtful(160, 1), dev=dev, schedule=schedule, certainty=True, epochs=2
        )
        assert ["dev_certainty_accuracy" in line for line in report.log] == [
            line["stage"] != "backbone" for line in report.log
        ]
        model = load(tmp_path / schedule)
        held = to_examples(dev, model.tokenizer, {"neg": 0, "pos": 1})
        answers = every_exit(model.model, held.rows)
        assert answers.certainty_XR is not None
        hits = [
            (sure >= 0) == (int(logits_C.argmax()) == label)
            for certainty_R, logits_RC in zip(
                answers.certainty_XR.tolist(), answers.logits_ERC[:-1], strict=True
            )
            for sure, logits_C, label in zip(
                certainty_R, logits_RC, held.labels_R.tolist(), strict=True
            )
        ]
        by_hand = sum(hits) / len(hits)
        assert report.best["dev_certainty_accuracy"] == pytest.approx(by_hand, abs=1e-5)
        kept = json.loads((tmp_path / schedule / "config.json").read_text())["exits"]
        assert kept["certainty"] is True


@pytest.mark.parametrize("schedule", ["joint", "two-stage"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_ends_in_the_same_bytes(
    schedule: str, stop: int, toy_data: dict[str, Table], toy_options: TrainingOptions,
    tmp_path: Path,
) -> None:  # fmt: skip
    body = write_body(tmp_path / "body")
    options = replace(toy_options, schedule=schedule, epochs=3, certainty=True)

    def run(name: str, stop: int | None = None, resume: bool = False) -> dict[str, torch.Tensor]:
        seen = {"told": 0, "ramps": 0}

        def on_evaluation(line: dict[str, object]) -> None:
            seen["told"] += 1
            if schedule == "joint" and seen["told"] == stop:
                raise KeyboardInterrupt

        def progress(what: str, done: int, total: int) -> None:
            if what == "train ramps" and done == stop:
                raise KeyboardInterrupt

        train(
            body, toy_data["train"], tmp_path / name, dev=toy_data["dev"], options=options,
            resume=resume, on_evaluation=on_evaluation, progress=progress,
        )  # fmt: skip
        return load_file(tmp_path / name / "model.safetensors")

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop)
    again = run("stopped", resume=True)
    assert REGRESSOR <= whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_a_model_without_ramps_has_nothing_to_be_sure_of(
    train_toy: TrainToy, tmp_path: Path
) -> None:
    start = write_body(tmp_path / "start", num_hidden_layers=1)
    for schedule in ("joint", "two-stage"):
        _, report = train_toy(schedule, start=start, schedule=schedule, certainty=True)
        assert "dev_certainty_accuracy" not in report.best


def test_certainty_is_yes_or_no() -> None:
    with pytest.raises(ConfigError, match="certainty is True or False; got 1"):
        TrainingOptions(certainty=1)  # type: ignore[arg-type]
