"""Joint training: it learns, the same seed gives the same weights, the best is what is kept."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exit_models import tiny_config, tiny_model, write_body, write_tokenizer
from safetensors.torch import load_file

from offramp.errors import ConfigError, DataError, OfframpError, TrainingError
from offramp.exits.attach import exits_of
from offramp.models.bert import BertForSequenceClassification
from offramp.runner.classifier import Classifier
from offramp.runner.loading import load
from offramp.runner.sweep import every_exit
from offramp.storage.manifest import MANIFEST_FILE
from offramp.text.tables import Table
from offramp.training.examples import to_examples
from offramp.training.loop import LOG_FILE, class_weights
from offramp.training.options import TrainingOptions
from offramp.training.scoring import evaluate_exits
from offramp.training.thresholds import choose_threshold
from offramp.training.train import (
    TrainingReport,
    train,
)

Trained = tuple[Path, TrainingReport]
TrainToy = Callable[..., tuple[Classifier, TrainingReport]]


def one_epoch(options: TrainingOptions, **changes: object) -> TrainingOptions:
    return replace(options, **{"epochs": 1, **changes})  # type: ignore[arg-type]


def by_depth_of(directory: Path, table: Table) -> dict[str, float]:
    """Accuracy of each exit of a saved model, row by row."""
    classifier = load(directory)
    examples = to_examples(table, classifier.tokenizer, classifier.model.config.label2id)
    answers = every_exit(classifier.model, examples.rows)
    return {
        str(depth): sum(
            int(logits_C.argmax()) == label
            for logits_C, label in zip(logits_RC, examples.labels_R.tolist(), strict=True)
        )
        / len(examples)
        for depth, logits_RC in zip(answers.depths, answers.logits_ERC, strict=True)
    }


def nothing_left(folder: Path) -> bool:
    return not list(folder.iterdir())


# ---------------------------------------------------------------------------------------------


def test_a_toy_task_is_learnt(toy_trained: Trained, toy_data: dict[str, Table]) -> None:
    directory, report = toy_trained
    assert report.best["score"] > 0.9
    assert report.best["dev"]["accuracy"] == report.best["score"]
    assert report.choice.full_score > 0.9
    classifier = load(directory)
    assert classifier.labels == ["neg", "pos"]
    found = classifier.predict(toy_data["test"].texts)
    right = [p.label == y for p, y in zip(found, toy_data["test"].labels or [], strict=True)]
    assert sum(right) / len(right) > 0.9
    assert report.log[-1]["loss"] < report.log[0]["loss"] / 2


def test_what_is_written(toy_trained: Trained) -> None:
    directory, report = toy_trained
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "model.safetensors",
        MANIFEST_FILE,
        "tokenizer.json",
        "tokenizer_config.json",
        LOG_FILE,
    }
    lines = [json.loads(line) for line in (directory / LOG_FILE).read_text().splitlines()]
    assert lines == report.log
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines] == [15, 30, 45, 60, 75]
    for line in lines:
        assert list(line["dev_accuracy_by_depth"]) == ["1", "2", "3"]
        assert line["dev_accuracy_by_depth"]["3"] == pytest.approx(line["score"], abs=1e-5)


def test_the_threshold_is_chosen_on_dev_and_saved(
    toy_trained: Trained, toy_data: dict[str, Table]
) -> None:
    directory, report = toy_trained
    classifier = load(directory)
    assert classifier.threshold == report.choice.criterion.threshold
    dev = to_examples(toy_data["dev"], classifier.tokenizer, {"neg": 0, "pos": 1})
    answers = every_exit(classifier.model, dev.rows)
    assert choose_threshold(answers, dev.labels_R, 0.25, growth=2.25) == report.choice
    assert classifier.growth == 2.25  # three layers; 1.5 ** 6 over the whole depth


def test_same_seed_same_weights(train_toy: TrainToy, tmp_path: Path) -> None:
    weights, logs = {}, {}
    for name, seed in (("one", 4), ("two", 4), ("other", 5)):
        torch.manual_seed(len(logs))  # the process's own state must not matter
        _, report = train_toy(name, seed=seed)
        weights[name] = load_file(tmp_path / name / "model.safetensors")
        logs[name] = [{**line, "seconds": 0} for line in report.log]
    assert weights["one"].keys() == weights["two"].keys()
    for key, tensor in weights["one"].items():
        assert torch.equal(tensor, weights["two"][key]), key
    assert logs["one"] == logs["two"]
    for key in ("bert.encoder.layer.0.output.dense.weight", "classifier.weight"):
        assert not torch.equal(weights["one"][key], weights["other"][key])


def test_random_states_are_left_alone(train_toy: TrainToy) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    train_toy()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]


def test_the_best_checkpoint_is_kept_and_reported(
    train_toy: TrainToy, toy_data: dict[str, Table], tmp_path: Path
) -> None:
    # Labels by lot and a high rate: scores go up and down, and on 20 rows many tie.
    rng = random.Random(0)
    noise = {
        split: Table(split, toy_data[split].texts[:n], [rng.choice("ab") for _ in range(n)])
        for split, n in (("train", 160), ("dev", 20))
    }
    worse_after, tied_with_other_ramps = 0, 0
    for seed in range(5):
        _, report = train_toy(
            str(seed),
            data=noise["train"],
            dev=noise["dev"],
            epochs=3,
            learning_rate=8e-3,
            evaluations_per_epoch=5,
            patience=99,
            seed=seed,
        )
        scores = [line["score"] for line in report.log]
        tied = [line for line in report.log if line["score"] == max(scores)]
        worse_after += scores[-1] < max(scores)
        tied_with_other_ramps += len({str(line["dev_accuracy_by_depth"]) for line in tied}) > 1
        assert report.best["score"] == max(scores)
        saved = by_depth_of(tmp_path / str(seed), noise["dev"])
        assert report.best["dev_accuracy_by_depth"] == pytest.approx(saved, abs=1e-5), seed
    assert worse_after
    assert tied_with_other_ramps


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_when_nothing_gets_better(patience: int, train_toy: TrainToy) -> None:
    _, report = train_toy(epochs=9, learning_rate=0.0, ramp_learning_rate=0.0, patience=patience)
    assert [line["epoch"] for line in report.log] == list(range(1, patience + 2))
    assert len({line["score"] for line in report.log}) == 1


@pytest.mark.parametrize("evaluations", [1, 2, 4])
def test_evaluations_per_epoch(evaluations: int, train_toy: TrainToy) -> None:
    _, report = train_toy(epochs=3, evaluations_per_epoch=evaluations)
    for epoch in (1, 2, 3):  # of 15 steps
        steps = [line["step"] for line in report.log if line["epoch"] == epoch]
        assert len(steps) == evaluations
        assert steps[-1] == 15 * epoch
        spans = [b - a for a, b in zip([15 * (epoch - 1), *steps], steps, strict=False)]
        assert max(spans) == math.ceil(15 / evaluations)


def test_rates_are_the_body_s_and_the_ramps(
    train_toy: TrainToy, toy_body: Path, tmp_path: Path
) -> None:
    train_toy(learning_rate=0.0)
    before = load_file(toy_body / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in before.items():
        assert torch.equal(after[f"bert.{name}"], tensor), name
    # New biases begin at 0.
    assert after["classifier.bias"].any()
    assert after["exits.1.classifier.bias"].any()


# ---------------------------------------------------------------------------------------------
# Class weights.


def test_class_weights_by_hand() -> None:
    numbers_N = torch.tensor([0] * 6 + [1] * 3 + [2])
    labels = ["a", "b", "c"]
    assert class_weights(numbers_N, labels, TrainingOptions()) is None
    # As sklearn has it: n / (classes x count).
    balanced = class_weights(numbers_N, labels, TrainingOptions(class_weights="balanced"))
    assert balanced is not None
    assert balanced.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    named = class_weights(numbers_N, labels, TrainingOptions(class_weights={"c": 4, "a": 0.5}))
    assert named is not None
    assert named.tolist() == [0.5, 1.0, 4.0]
    with pytest.raises(ConfigError, match=r"'d'\. Known: a, b, c"):
        class_weights(numbers_N, labels, TrainingOptions(class_weights={"d": 1}))


def test_class_weights_change_what_is_learnt(
    train_toy: TrainToy, toy_data: dict[str, Table]
) -> None:
    shares = {}
    for name, weights in (("none", None), ("pos", {"pos": 50.0}), ("neg", {"neg": 50.0})):
        classifier, _ = train_toy(name, class_weights=weights, learning_rate=1e-4)
        found = classifier.predict(toy_data["test"].texts, threshold=0)
        shares[name] = sum(p.label == "pos" for p in found) / len(found)
    assert shares["neg"] < shares["none"] < shares["pos"]


# ---------------------------------------------------------------------------------------------
# What is refused, with nothing left behind.


def test_a_loss_that_is_not_a_number_stops_training(train_toy: TrainToy, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss at step \d+ is (nan|inf).*learning_rate"):
        train_toy(learning_rate=1e30)
    assert nothing_left(tmp_path)


def test_weights_that_the_last_step_ruins_are_not_saved(
    train_toy: TrainToy, tmp_path: Path
) -> None:
    # One step alone: the loss is that of the weights before it.
    with pytest.raises(TrainingError):
        train_toy(batch_size=999, learning_rate=1e30)
    assert nothing_left(tmp_path)


def test_bad_data_is_refused(toy_body: Path, toy_data: dict[str, Table], tmp_path: Path) -> None:
    good = toy_data["train"]
    one_class = Table("one.tsv", good.texts, ["pos"] * len(good))
    with pytest.raises(DataError, match=r"one\.tsv has only the labels \['pos'\]"):
        train(toy_body, one_class, tmp_path / "out")
    unlabelled = Table("none.tsv", good.texts, None)
    with pytest.raises(DataError, match=r"none\.tsv was read without labels"):
        train(toy_body, unlabelled, tmp_path / "out")
    strange = Table("dev.tsv", ["a", "b"], ["pos", "neutral"])
    with pytest.raises(DataError, match=r"dev\.tsv, row 2: the label 'neutral'"):
        train(toy_body, good, tmp_path / "out", dev=strange)
    few = Table("few.tsv", ["a", "b"], ["pos", "neg"])
    with pytest.raises(DataError, match="too few to hold some out"):
        train(toy_body, few, tmp_path / "out")
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (3,)}, "from 1 to 2"),
        ({"depths": (1, 1)}, "different layers"),
        ({"pooler": "max"}, "pooler"),
        ({"class_weights": {"poss": 2.0}}, r"'poss'\. Did you mean 'pos'"),
    ],
)
def test_bad_options_are_refused(
    changes: dict[str, object],
    message: str,
    toy_body: Path,
    toy_data: dict[str, Table],
    toy_options: TrainingOptions,
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(
            toy_body, toy_data["train"], tmp_path / "out", options=one_epoch(toy_options, **changes)
        )
    assert nothing_left(tmp_path)


def test_f1_is_for_two_classes(
    toy_body: Path, toy_data: dict[str, Table], toy_options: TrainingOptions, tmp_path: Path
) -> None:
    good = toy_data["train"]
    three = Table("three.tsv", good.texts, [str(i % 3) for i in range(len(good))])
    seen: list[int] = []
    with pytest.raises(ConfigError, match=r"'f1' is for two classes and three\.tsv has 3"):
        train(
            toy_body,
            three,
            tmp_path / "out",
            options=one_epoch(toy_options, score="f1"),
            progress=lambda stage, done, total: seen.append(done),
        )
    assert nothing_left(tmp_path)
    assert not seen, "known from the labels, and told after an epoch"


def test_an_output_that_cannot_be_is_refused_before_training(
    toy_body: Path, toy_data: dict[str, Table], toy_options: TrainingOptions, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    seen: list[int] = []
    for output in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(OfframpError, match="is a file"):
            train(
                toy_body,
                toy_data["train"],
                output,
                options=one_epoch(toy_options),
                progress=lambda stage, done, total: seen.append(done),
            )
    assert not seen
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_fills_leaves_no_half_model(
    train_toy: TrainToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text = Path.write_text

    def full(path: Path, *args: object, **kwargs: object) -> int:
        if path.name == LOG_FILE:
            raise OSError(28, "No space left on device")
        return write_text(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        train_toy()
    # What was learnt is not lost: test_resuming.py goes on with it.
    assert [path.name for path in tmp_path.iterdir()] == [".out.training"]


# ---------------------------------------------------------------------------------------------
# What it starts from and what it leaves.


def test_trains_on_what_a_tenth_was_held_out_of(
    toy_body: Path, toy_data: dict[str, Table], toy_options: TrainingOptions, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    _, report = train(
        toy_body,
        toy_data["train"],
        tmp_path / "out",
        options=one_epoch(toy_options),
        max_length=16,
        progress=lambda *step: told.append(step),
    )
    steps = report.log[0]["step"]
    assert steps < 15  # of 240 rows in batches of 16
    assert [step for step in told if step[0] == "train"] == [
        ("train", done, steps) for done in range(1, steps + 1)
    ]
    assert load(tmp_path / "out").tokenizer.max_length == 16


def test_an_output_that_is_there_is_replaced_and_other_files_are_kept(
    train_toy: TrainToy, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    tiny_model(n_labels=5).save_pretrained(output)
    (output / "notes.txt").write_text("mine")
    (output / LOG_FILE).write_text("an earlier run's\n")
    train_toy("out")
    assert load(output).labels == ["neg", "pos"]
    assert (output / "notes.txt").read_text() == "mine"
    assert "earlier" not in (output / LOG_FILE).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_starts_from_a_classifier_of_another_task(train_toy: TrainToy, tmp_path: Path) -> None:
    # A head of five classes and exits of its own: both make room for new ones.
    start = tmp_path / "start"
    tiny_model(n_labels=5, pooler="mean").save_pretrained(start)
    write_tokenizer(start)
    classifier, _ = train_toy(start=start, depths=(2,))
    assert classifier.labels == ["neg", "pos"]
    assert exits_of(classifier.model).depths == (2,)
    assert exits_of(classifier.model).shape["pooler"] == "attention"
    assert exits_of(load(tmp_path / "out").model).depths == (2,)


def test_starts_from_its_own_head_where_it_fits(
    train_toy: TrainToy, toy_trained: Trained, tmp_path: Path
) -> None:
    directory, _ = toy_trained
    train_toy(start=directory, learning_rate=0.0, ramp_learning_rate=0.0)
    before = load_file(directory / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_half_precision_weights_are_trained_in_float32(train_toy: TrainToy, tmp_path: Path) -> None:
    start = write_body(tmp_path / "start")
    torch.manual_seed(0)
    BertForSequenceClassification(tiny_config()).to(torch.bfloat16).save_pretrained(start)
    train_toy(start=start)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_pairs_are_learnt(train_toy: TrainToy) -> None:
    # Which of two texts is the good one: only the segments tell.
    rng = random.Random(0)
    sides = [rng.randrange(2) for _ in range(300)]
    words = ("good film", "bad film")
    pairs = [(words[side], words[1 - side]) for side in sides]
    table = Table("pairs", list(pairs), [str(side) for side in sides])
    cut = 240
    classifier, report = train_toy(
        data=Table("pairs", table.texts[:cut], [str(s) for s in sides[:cut]]),
        dev=Table("pairs", table.texts[cut:], [str(s) for s in sides[cut:]]),
        epochs=2,
    )
    assert report.best["score"] > 0.9
    found = classifier.predict([("good film", "bad film"), ("bad film", "good film")])
    assert [p.label for p in found] == ["0", "1"]


def test_evaluate_exits_by_hand(toy_trained: Trained, toy_data: dict[str, Table]) -> None:
    directory, _ = toy_trained
    classifier = load(directory)
    test = to_examples(toy_data["test"], classifier.tokenizer, {"neg": 0, "pos": 1})
    classifier.model.train()
    found = evaluate_exits(classifier.model, test, "macro_f1")
    assert not classifier.model.training
    assert found["dev_accuracy_by_depth"] == pytest.approx(
        by_depth_of(directory, toy_data["test"]), abs=1e-5
    )
    assert found["score"] == found["dev"]["macro_f1"]


def test_a_model_of_one_layer_is_trained_without_exits(
    train_toy: TrainToy, toy_data: dict[str, Table], tmp_path: Path
) -> None:
    start = write_body(tmp_path / "start", num_hidden_layers=1)
    classifier, _ = train_toy(start=start)
    assert exits_of(classifier.model).depths == ()
    assert {p.exit_layer for p in load(tmp_path / "out").predict(toy_data["test"].texts)} == {1}
