"""Any number of labels a row: losses and scores by hand, every schedule, and what comes of it."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exit_models import WORDS
from hypothesis import given, settings, strategies as st

import offramp
from offramp.errors import ConfigError, DataError
from offramp.exits.criteria import Entropy, LearnedToExit, Task
from offramp.runner.loading import load
from offramp.runner.multi_label import MultiLabelClassifier
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.tables import Table, read_table
from offramp.training.certainty import is_right
from offramp.training.examples import examples_of
from offramp.training.metrics import label_scores
from offramp.training.options import SCHEDULES, TrainingOptions
from offramp.training.schedules import depth_weighted_loss, divergence, own_loss
from offramp.training.thresholds import choose_threshold
from offramp.training.train import TrainingReport, train

TrainLabels = Callable[..., tuple[MultiLabelClassifier, TrainingReport]]

# Two rows and two labels: probabilities 3/4 and 1/2; 1/5 and 9/10. The labels: the first; both.
LOGITS_RC = torch.tensor([[math.log(3), 0.0], [-math.log(4), math.log(9)]])
THERE_RC = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
LOSS = -(math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 5) + math.log(9 / 10)) / 4


def test_losses_by_hand() -> None:
    nothing_RC = torch.zeros(2, 2)
    assert own_loss({2: LOGITS_RC}, THERE_RC, 1).item() == pytest.approx(LOSS)
    found = depth_weighted_loss({1: nothing_RC, 2: LOGITS_RC}, THERE_RC, 1)
    assert found.item() == pytest.approx((math.log(2) + 2 * LOSS) / 3)


def bernoulli(teacher: float, student: float) -> float:
    return teacher * math.log(teacher / student) + (1 - teacher) * math.log(
        (1 - teacher) / (1 - student)
    )


def test_divergence_by_hand() -> None:
    teachers = [3 / 4, 1 / 2, 1 / 5, 9 / 10]
    by_hand = sum(bernoulli(p, 0.5) for p in teachers) / 4
    found = divergence(torch.zeros(2, 2), LOGITS_RC, THERE_RC)
    assert found.item() == pytest.approx(by_hand, rel=1e-5)
    # At temperature 2 odds are roots: 3 to sqrt 3, 1/4 to 1/2, 9 to 3.
    softened = [math.sqrt(3) / (1 + math.sqrt(3)), 1 / 2, 1 / 3, 3 / 4]
    by_hand = 4 * sum(bernoulli(p, 0.5) for p in softened) / 4
    found = divergence(torch.zeros(2, 2), LOGITS_RC, THERE_RC, None, 2.0)
    assert found.item() == pytest.approx(by_hand, rel=1e-5)
    assert divergence(LOGITS_RC, LOGITS_RC, THERE_RC).item() == pytest.approx(0, abs=1e-7)


def test_right_is_all_labels_right() -> None:
    logits_RC = torch.tensor([[2.0, -1.0], [2.0, -1.0]])
    assert is_right(logits_RC, THERE_RC).tolist() == [1, 0]


def test_scores_by_hand() -> None:
    said_RC = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]]).bool()
    there_RC = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    # Of the first label 2 hits, 2 said, 3 there; of the second 1, 2 and 2; of the third nothing.
    assert label_scores(said_RC, there_RC) == pytest.approx(
        {"micro_f1": 2 * 3 / 9, "macro_f1": (4 / 5 + 2 / 4 + 0) / 3, "exact_match": 2 / 4}
    )
    nothing_RC = torch.zeros(2, 2).bool()
    assert label_scores(nothing_RC, nothing_RC)["micro_f1"] == 0.0


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000), max_loss=st.sampled_from([0.0, 2.0, 300.0]))
def test_the_threshold_asks_the_least_sure_label(seed: int, max_loss: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    there_RC = (torch.rand(40, 3, generator=generator) > 0.5).float()
    skill_E = torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    logits_ERC = skill_E * (there_RC - 0.5) * 2 + torch.randn(3, 40, 3, generator=generator)
    answers = EveryExit((1, 2, 4), logits_ERC, Task("multi_label_classification", 3))
    choice = choose_threshold(answers, there_RC, max_loss, growth=1.5)
    assert isinstance(choice.criterion, Entropy)
    assert choice.measure == "micro_f1"
    layers, hits, total = [], 0, 0
    for row in range(40):
        for place, depth in enumerate(answers.depths):
            p = logits_ERC[place, row].double().sigmoid()
            most = float((-(p * p.log() + (1 - p) * (1 - p).log())).max())
            if place == 2 or most < choice.criterion.threshold * 1.5 ** (depth - 1):
                said = logits_ERC[place, row] > 0
                hits += int((said & (there_RC[row] > 0)).sum())
                total += int(said.sum()) + int(there_RC[row].sum())
                layers.append(depth)
                break
    assert choice.mean_layers == pytest.approx(sum(layers) / 40)
    assert choice.score == pytest.approx(2 * hits / total)
    if max_loss == 300.0:
        assert choice.mean_layers < 2


# ---------------------------------------------------------------------------------------------
# Training.


def labelled(n_rows: int, seed: int, source: str = "labelled") -> Table:
    """`film` and `music` are labels of the texts that have these words."""
    rng = random.Random(seed)
    texts, labels = [], []
    for _ in range(n_rows):
        own = tuple(word for word in ("film", "music") if rng.random() < 0.5)
        words = [word for word in rng.choices(WORDS, k=5) if word not in ("film", "music")]
        words = [*words, "the", *own]
        rng.shuffle(words)
        texts.append(" ".join(words))
        labels.append(own)
    return Table(source, texts, labels)


OPTIONS = TrainingOptions(
    problem_type="multi_label_classification", batch_size=16, learning_rate=2e-3,
    ramp_learning_rate=4e-3, patience=9, epochs=5,
)  # fmt: skip


@pytest.fixture
def train_labels(toy_body: Path, tmp_path: Path) -> TrainLabels:
    def run(name: str = "out", **changes: object) -> tuple[MultiLabelClassifier, TrainingReport]:
        return train(
            toy_body, labelled(600, 1), tmp_path / name, dev=labelled(60, 2),
            options=replace(OPTIONS, **changes),  # type: ignore[arg-type]
        )  # fmt: skip

    return run


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_schedule_learns_labels(
    schedule: str, train_labels: TrainLabels, tmp_path: Path
) -> None:
    trained, report = train_labels(schedule=schedule)
    assert isinstance(trained, MultiLabelClassifier)
    by_depth = report.best["dev_micro_f1_by_depth"]
    assert list(by_depth) == ["1", "2", "3"]
    assert min(by_depth.values()) > 0.85, by_depth
    assert report.best["score"] == report.best["dev"]["micro_f1"] > 0.9
    classifier = load(tmp_path / "out")
    assert isinstance(classifier, MultiLabelClassifier)
    assert classifier.labels == ["film", "music"]
    test = labelled(80, 3)
    found = classifier.predict(test.texts)
    exact = [one.labels == own for one, own in zip(found, test.labels or [], strict=True)]
    assert sum(exact) / 80 > 0.85
    assert {len(one.labels) for one in found} == {0, 1, 2}
    for one in found:
        assert len(one.probabilities) == len(one.labels)
        assert all(0.5 < p <= 1 for p in one.probabilities)


def test_what_is_written_and_read(train_labels: TrainLabels, tmp_path: Path) -> None:
    _, report = train_labels(epochs=2, score="macro_f1", certainty=True)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "film", "1": "music"}
    assert config["exits"]["calibration"]["measure"] == "micro_f1"
    assert report.best["score"] == report.best["dev"]["macro_f1"]
    classifier = load(tmp_path / "out")
    assert classifier.criterion == report.choice.criterion
    dev = examples_of(labelled(60, 2), classifier.tokenizer, classifier.model.config)
    answers = every_exit(classifier.model, dev.rows)
    by_hand = label_scores(answers.logits_ERC[0] > 0, dev.labels_R > 0)["micro_f1"]
    assert report.best["dev_micro_f1_by_depth"]["1"] == pytest.approx(by_hand, abs=1e-5)
    choice = offramp.recalibrate(classifier, labelled(60, 2))
    assert choice == report.choice
    classifier.criterion = LearnedToExit(0.9)
    classifier.predict(["a film"])
    with pytest.raises(ConfigError, match=r"task='multilabel'"):
        load(tmp_path / "out", task="classify")


def test_answers_are_those_of_the_exits(train_labels: TrainLabels) -> None:
    classifier, _ = train_labels(epochs=3)
    classifier.criterion = Entropy(0.5, 1.2)
    texts = labelled(40, 8).texts
    answers = every_exit(classifier.model, classifier.tokenizer.encode(texts))
    expected = answers.apply(Entropy(0.5, 1.2))
    together = classifier.predict(texts)
    assert len({one.exit_layer for one in together}) > 1
    leaving = dict(classifier.stream(texts, ordered=False))
    for row, said in enumerate(together):
        assert said.exit_layer == int(expected.exit_layers_R[row])
        p_C = expected.logits_RC[row].sigmoid().tolist()
        own = [(n, p) for n, p in zip(("film", "music"), p_C, strict=True) if p > 0.5]
        assert said.labels == tuple(n for n, _ in own) == leaving[row].labels
        assert said.probabilities == pytest.approx([p for _, p in own], abs=1e-4)


# ---------------------------------------------------------------------------------------------
# Tables.


def test_lists_of_labels_are_read(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": ["x", 3]}, {"text": "b", "label": []}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert read_table(path).labels == [("x", "3"), ()]
    assert Table.of({"text": ["a", "b"], "label": [["x", 3], ()]}).labels == [("x", "3"), ()]
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.List(datasets.ClassLabel(names=["x", "y"])),
        }
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [[1, 0], []]}, features)
    assert Table.of(data).labels == [("y", "x"), ()]


@pytest.mark.parametrize(
    ("labels", "problem_type", "message"),
    [
        ([("a",), "b"] * 5, "multi_label_classification", "row 2: the label 'b' is no list"),
        (["a", ("b", "c")] * 5, "single_label_classification", r"row 2: the label is a list, \["),
        ([("1",), "2"] * 5, "regression", "row 1: the label is a list"),
        ([("a",), ()] * 5, "multi_label_classification", r"only the labels \['a'\]"),
    ],
)
def test_labels_of_another_kind_are_refused(
    labels: list[object], problem_type: str, message: str, toy_body: Path, tmp_path: Path
) -> None:
    table = Table("mixed", ["good film"] * 10, labels)  # type: ignore[arg-type]
    options = TrainingOptions(problem_type=problem_type)
    with pytest.raises(DataError, match=message):
        train(toy_body, table, tmp_path / "out", dev=table, options=options)
    assert not list(tmp_path.iterdir())


def test_labels_and_options_that_are_not_known(toy_body: Path, tmp_path: Path) -> None:
    dev = Table("dev", ["a film"], [("film", "musical")])
    with pytest.raises(DataError, match="dev, row 1: the label 'musical' was not seen"):
        train(toy_body, labelled(40, 1), tmp_path / "out", dev=dev, options=OPTIONS)
    with pytest.raises(ConfigError, match="class_weights is not for multi_label"):
        replace(OPTIONS, class_weights="balanced")
    with pytest.raises(ConfigError, match="micro_f1, macro_f1; got 'accuracy'"):
        replace(OPTIONS, score="accuracy")
    assert not list(tmp_path.iterdir())
