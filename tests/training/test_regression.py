"""Numbers as labels: losses and scores by hand, every schedule, and what comes of it."""

import itertools
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exit_models import WORDS, write_body
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file

import offramp
from offramp.errors import ConfigError, DataError
from offramp.exits.criteria import Entropy, LearnedToExit, RegressionPatience, Task
from offramp.runner.loading import load
from offramp.runner.regressor import Estimate, Regressor
from offramp.runner.reranker import Reranker
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.tables import Table
from offramp.training.certainty import is_right
from offramp.training.examples import examples_of
from offramp.training.metrics import pearson, spearman
from offramp.training.options import SCHEDULES, TrainingOptions
from offramp.training.schedules import (
    alternating_loss,
    depth_weighted_loss,
    joint_distillation_loss,
    own_loss,
    ramp_distillation_loss,
    ramp_loss,
)
from offramp.training.thresholds import choose_threshold, isotonic
from offramp.training.train import TrainingReport, train

# ---------------------------------------------------------------------------------------------
# Scores.

# Charles Spearman's measure in the worked example of encyclopedias: ten people's IQ, and hours of
# television a week; the squared differences of their ranks sum to 194.
IQ = torch.tensor([106.0, 100, 86, 101, 99, 103, 97, 113, 112, 110])
HOURS = torch.tensor([7.0, 27, 2, 50, 28, 29, 20, 12, 6, 17])


def test_correlations_by_hand() -> None:
    assert spearman(IQ, HOURS) == pytest.approx(1 - 6 * 194 / (10 * 99))
    # Deviations -1, 0, 1 and -2, 1, 1: 3 / sqrt(2 x 6).
    a_R, b_R = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 3.0, 3.0])
    assert pearson(a_R, b_R) == pytest.approx(3 / math.sqrt(12))
    # Ranks 1, 2, 3 and 1, 2.5, 2.5: deviations -1, 0, 1 and -1, .5, .5.
    assert spearman(a_R, b_R) == pytest.approx(1.5 / math.sqrt(2 * 1.5))
    assert spearman(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 9.0, 10.0])) == (
        pytest.approx(1.0)
    )
    assert pearson(torch.ones(3), a_R) == spearman(torch.ones(3), a_R) == 0.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-4, 4), st.floats(-3, 3, width=16)), min_size=2, max_size=30))
def test_correlations_are_numpy_s(pairs: list[tuple[int, float]]) -> None:
    a, b = (np.array(values, dtype=np.float64) for values in zip(*pairs, strict=True))
    if np.ptp(a) == 0 or np.ptp(b) < 1e-3:
        return
    found = pearson(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-9)
    ranks = [[(np.sum(x < v) + np.sum(x <= v) + 1) / 2 for v in x] for x in (a, b)]
    found = spearman(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)


# ---------------------------------------------------------------------------------------------
# Losses.

# Two rows, labels 1 and 3; exits after layers 1, 2 and 4.
NUMBERS = {
    1: torch.tensor([[0.0], [1.0]]),
    2: torch.tensor([[1.0], [2.0]]),
    4: torch.tensor([[2.0], [3.0]]),
}
LABELS_R = torch.tensor([1.0, 3.0])
SQUARES = {1: (1 + 4) / 2, 2: (0 + 1) / 2, 4: (1 + 0) / 2}


def test_losses_by_hand() -> None:
    assert own_loss(NUMBERS, LABELS_R, 1).item() == pytest.approx(SQUARES[4])
    by_depth = (1 * SQUARES[1] + 2 * SQUARES[2] + 4 * SQUARES[4]) / 7
    assert depth_weighted_loss(NUMBERS, LABELS_R, 1).item() == pytest.approx(by_depth)
    assert alternating_loss(NUMBERS, LABELS_R, 1).item() == pytest.approx(SQUARES[4])
    assert alternating_loss(NUMBERS, LABELS_R, 2).item() == pytest.approx(sum(SQUARES.values()) / 3)
    found = joint_distillation_loss(NUMBERS, LABELS_R, 1, weight=0.5, temperature=2.0)
    # From the last exit: (4 + 4) / 2 and (1 + 1) / 2.
    assert found.item() == pytest.approx(by_depth + 0.5 * (4 + 1) / 2)
    assert ramp_loss(NUMBERS[1], None, LABELS_R).item() == pytest.approx(SQUARES[1])
    found = ramp_distillation_loss(NUMBERS[1], NUMBERS[4], LABELS_R)
    assert found.item() == pytest.approx(4.0)


def test_how_right_a_number_is_by_hand() -> None:
    right_R = is_right(NUMBERS[1], LABELS_R)
    assert right_R.tolist() == pytest.approx([1 - math.tanh(1), 1 - math.tanh(2)])


# ---------------------------------------------------------------------------------------------
# The threshold.


def leaves_at(numbers: list[float], threshold: float) -> int:
    """Which exit a row leaves by: after the first change of less than the threshold."""
    for exit_ in range(1, len(numbers) - 1):
        if abs(numbers[exit_] - numbers[exit_ - 1]) < threshold:
            return exit_
    return len(numbers) - 1


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), max_loss=st.sampled_from([0.0, 0.5, 3.0, 300.0]))
def test_the_threshold_is_the_highest_whose_smoothed_loss_is_allowed(
    seed: int, max_loss: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels_R = torch.rand(40, generator=generator) * 5
    noise_E = torch.tensor([1.5, 1.0, 0.6, 0.3])[:, None]
    numbers_ER = labels_R + noise_E * torch.randn(4, 40, generator=generator)
    task = Task("regression", 1)
    answers = EveryExit((1, 2, 4, 5), numbers_ER[..., None], task)
    choice = choose_threshold(answers, labels_R, max_loss)
    assert isinstance(choice.criterion, RegressionPatience)
    assert (choice.measure, choice.criterion.patience) == ("pearson", 1)

    changes = numbers_ER[:-1].double().diff(dim=0).abs()
    most = changes.max().item() * 1.001
    steps = [0.0, *(most * 10 ** (-3 * step / 99) for step in range(99, -1, -1))]
    rows = numbers_ER.T.tolist()
    correlations, layers = [], []
    for threshold in (float(f"{step:.4g}") for step in steps):
        exits = [leaves_at(numbers, threshold) for numbers in rows]
        said = [numbers[exit_] for numbers, exit_ in zip(rows, exits, strict=True)]
        correlations.append(np.corrcoef(said, labels_R.tolist())[0, 1])
        layers.append(sum(answers.depths[exit_] for exit_ in exits) / 40)
    full = np.corrcoef(numbers_ER[-1].tolist(), labels_R.tolist())[0, 1]
    smooth = isotonic([(full - kept) * 100 for kept in correlations])
    allowed = [i for i, loss in enumerate(smooth) if loss <= max_loss + 1e-9] or [0]
    assert choice.full_score == pytest.approx(full, abs=1e-6)
    assert choice.score == pytest.approx(correlations[allowed[-1]], abs=1e-6)
    assert choice.mean_layers == pytest.approx(layers[allowed[-1]])
    assert all(a <= b for a, b in itertools.pairwise(smooth))
    if max_loss == 300.0:
        assert choice.mean_layers == 2.0  # the second ramp is the first that can compare


def test_with_fewer_than_two_ramps_all_rows_stay() -> None:
    for n_exits in (1, 2):
        answers = EveryExit(
            tuple(range(1, n_exits + 1)), torch.randn(n_exits, 9, 1), Task("regression", 1)
        )
        choice = choose_threshold(answers, torch.randn(9), 5.0)
        assert choice.mean_layers == n_exits
        assert choice.score == choice.full_score


# ---------------------------------------------------------------------------------------------
# Training.


def numbered(n_rows: int, seed: int, source: str = "numbers") -> Table:
    """How many of a text's words are `good`, less those that are `bad`; and 2."""
    rng = random.Random(seed)
    texts, labels = [], []
    for _ in range(n_rows):
        words = [rng.choice(WORDS[2:]) for _ in range(rng.randint(2, 6))]
        goods, bads = rng.randint(0, 2), rng.randint(0, 2)
        words += ["good"] * goods + ["bad"] * bads
        rng.shuffle(words)
        texts.append(" ".join(words))
        labels.append(str(float(goods - bads + 2)))
    return Table(source, texts, labels)


TrainNumbers = Callable[..., tuple[Regressor, TrainingReport]]
OPTIONS = TrainingOptions(
    problem_type="regression", batch_size=16, learning_rate=2e-3, ramp_learning_rate=4e-3,
    patience=9, epochs=6,
)  # fmt: skip


@pytest.fixture
def train_numbers(toy_body: Path, tmp_path: Path) -> TrainNumbers:
    def run(name: str = "out", **changes: object) -> tuple[Regressor, TrainingReport]:
        return train(
            toy_body, numbered(400, 1), tmp_path / name, dev=numbered(80, 2),
            options=replace(OPTIONS, **changes),  # type: ignore[arg-type]
        )  # fmt: skip

    return run


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_schedule_learns_numbers(
    schedule: str, train_numbers: TrainNumbers, tmp_path: Path
) -> None:
    trained, report = train_numbers(schedule=schedule)
    assert isinstance(trained, Regressor)
    by_depth = report.best["dev_pearson_by_depth"]
    assert list(by_depth) == ["1", "2", "3"]
    assert min(by_depth.values()) > 0.75, by_depth
    assert report.best["dev"].keys() == {"pearson", "spearman", "mean_squared_error"}
    assert report.best["score"] == report.best["dev"]["pearson"] > 0.9
    # In frozen stages rows are batched otherwise, and the last digits are others.
    assert report.choice.full_score == pytest.approx(report.best["score"], abs=1e-5)

    regressor = load(tmp_path / "out")
    assert isinstance(regressor, Regressor)
    assert regressor.criterion == report.choice.criterion
    test = numbered(100, 3)
    found = regressor.predict(test.texts)
    assert all(isinstance(one, Estimate) for one in found)
    labels = [float(label) for label in test.labels or []]
    assert np.corrcoef([one.value for one in found], labels)[0, 1] > 0.85
    squared = [(one.value - label) ** 2 for one, label in zip(found, labels, strict=True)]
    assert sum(squared) / 100 < 0.6 * np.var(labels)


def test_what_is_written(train_numbers: TrainNumbers, tmp_path: Path) -> None:
    _, report = train_numbers(epochs=2, score="spearman")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "regression"
    assert config["exits"]["criterion"]["name"] == "regression_patience"
    calibration = config["exits"]["calibration"]
    assert calibration["measure"] == "pearson"
    assert calibration["score"] == report.choice.score
    assert report.best["score"] == report.best["dev"]["spearman"]
    model = load(tmp_path / "out")
    dev = examples_of(numbered(80, 2), model.tokenizer, model.model.config)
    assert dev.labels_R.dtype == torch.float32
    answers = every_exit(model.model, dev.rows)
    for depth, logits_RC in zip(answers.depths, answers.logits_ERC, strict=True):
        by_numpy = np.corrcoef(logits_RC[:, 0], dev.labels_R)[0, 1]
        logged = report.best["dev_pearson_by_depth"][str(depth)]
        assert logged == pytest.approx(by_numpy, abs=1e-5)


def test_transformers_opens_it_and_says_the_same(
    train_numbers: TrainNumbers, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    regressor, _ = train_numbers(epochs=1)
    regressor.criterion = RegressionPatience(1, 0.0)
    peer = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    texts = numbered(8, 5).texts
    for text, said in zip(texts, regressor.predict(texts), strict=True):
        (row,) = regressor.tokenizer.encode([text])
        with torch.no_grad():
            logits = peer(torch.from_numpy(row.ids)[None]).logits
        assert said.value == pytest.approx(logits.item(), abs=1e-4)
        assert said.exit_layer == 3


def test_a_resumed_run_ends_in_the_same_weights(toy_body: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=2, schedule="mixed", certainty=True)

    def run(name: str, stop: int | None = None, resume: bool = False) -> None:
        lines: list[object] = []

        def on_evaluation(line: object) -> None:
            lines.append(line)
            if len(lines) == stop:
                raise KeyboardInterrupt

        train(
            toy_body, numbered(120, 1), tmp_path / name, dev=numbered(40, 2), options=options,
            resume=resume, on_evaluation=on_evaluation,
        )  # fmt: skip

    run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", 4)
    run("stopped", resume=True)
    whole, again = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "stopped"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_certainty_of_numbers(train_numbers: TrainNumbers) -> None:
    regressor, report = train_numbers(epochs=3, certainty=True)
    assert 0 <= report.best["dev_certainty_accuracy"] <= 1
    regressor.criterion = LearnedToExit(0.5)
    assert len(regressor.predict(["good film"])) == 1


def test_a_frozen_body_needs_a_head_of_one_output(
    train_numbers: TrainNumbers, toy_trained: tuple[Path, TrainingReport], tmp_path: Path
) -> None:
    frozen = replace(OPTIONS, freeze_backbone=True, epochs=2)
    with pytest.raises(ConfigError, match="has 2 outputs; one for regression has one"):
        train(toy_trained[0], numbered(40, 1), tmp_path / "no", options=frozen)
    train_numbers("first")
    before = load_file(tmp_path / "first" / "model.safetensors")
    _, report = train(
        tmp_path / "first", numbered(200, 1), tmp_path / "second", dev=numbered(40, 2),
        options=frozen,
    )  # fmt: skip
    after = load_file(tmp_path / "second" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("exits.") for name in changed)
    assert report.best["dev_pearson_by_depth"]["1"] > 0.5


def test_labels_that_are_numbers_are_classes_unless_asked(toy_body: Path, tmp_path: Path) -> None:
    classifier, _ = train(
        toy_body, numbered(60, 1), tmp_path / "out", dev=numbered(20, 2),
        options=TrainingOptions(epochs=1),
    )  # fmt: skip
    assert classifier.labels[:2] == ["0.0", "1.0"]


@pytest.mark.parametrize("label", ["many", "nan", "inf", ""])
def test_labels_that_are_no_numbers_are_refused(label: str, toy_body: Path, tmp_path: Path) -> None:
    table = numbered(20, 1)
    assert table.labels is not None
    table.labels[6] = label
    with pytest.raises(DataError, match=rf"numbers, row 7: the label '{label}' is no number"):
        train(toy_body, table, tmp_path / "out", dev=numbered(5, 2), options=OPTIONS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem_type": "numbers"}, "problem_type is one of .*regression; got 'numbers'"),
        ({"score": "accuracy"}, "pearson, spearman; got 'accuracy'"),
        ({"class_weights": "balanced"}, "class_weights is not for regression"),
        ({"growth": 1.5}, "growth is not for regression"),
        (
            {"temperature": 3.0, "schedule": "joint-distillation"},
            "temperature is not for regression",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**{"problem_type": "regression", **options})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="accuracy, f1, macro_f1; got 'pearson'"):
        TrainingOptions(score="pearson")


# ---------------------------------------------------------------------------------------------
# The regressor.


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regressor")
    train(
        write_body(folder / "body"), numbered(300, 1), folder / "model", dev=numbered(60, 2),
        options=replace(OPTIONS, epochs=4, max_loss=2.0),
    )  # fmt: skip
    return folder / "model"


def test_estimates_do_not_depend_on_the_batch(directory: Path) -> None:
    regressor = load(directory, task="regress")
    regressor.criterion = RegressionPatience(1, 0.3)
    texts = numbered(60, 7).texts
    together = regressor.predict(texts)
    assert len({one.exit_layer for one in together}) > 1
    for text, said in zip(texts, together, strict=True):
        (alone,) = regressor.predict([text])
        assert alone.exit_layer == said.exit_layer
        assert alone.value == pytest.approx(said.value, abs=1e-5)
    as_they_leave = dict(regressor.stream(iter(texts), ordered=False))
    assert [as_they_leave[i].exit_layer for i in range(60)] == [p.exit_layer for p in together]
    assert sorted(as_they_leave) == list(range(60))


def test_values_are_those_of_the_exits(directory: Path) -> None:
    regressor = load(directory)
    regressor.criterion = RegressionPatience(1, 0.3)
    texts = numbered(40, 8).texts
    answers = every_exit(regressor.model, regressor.tokenizer.encode(texts))
    for row, said in enumerate(regressor.predict(texts)):
        place = answers.depths.index(said.exit_layer)
        expected = answers.logits_ERC[place, row, 0].item()
        assert said.value == pytest.approx(expected, abs=1e-4)


def test_what_it_is_opened_as(directory: Path, tmp_path: Path) -> None:
    assert isinstance(load(directory), Regressor)
    assert isinstance(load(directory, task="rerank"), Reranker)
    with pytest.raises(ConfigError, match=r"two labels or more.*task='regress'"):
        load(directory, task="classify")
    regressor = load(directory)
    with pytest.raises(ConfigError, match="Entropy"):
        regressor.criterion = Entropy(0.1)
    regressor.save(tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.criterion == regressor.criterion
    del again.model.exits
    again.save(tmp_path / "plain")
    assert isinstance(load(tmp_path / "plain"), Reranker)
    plain = load(tmp_path / "plain", task="regress")
    assert [one.exit_layer for one in plain.predict(["good film"])] == [3]


def test_a_classifier_is_no_regressor(toy_trained: tuple[Path, TrainingReport]) -> None:
    with pytest.raises(ConfigError, match="outputs of this model is 2"):
        load(toy_trained[0], task="regress")


def test_recalibrate(directory: Path) -> None:
    regressor = load(directory)
    regressor.criterion = RegressionPatience(1, 0.0)
    choice = offramp.recalibrate(regressor, numbered(60, 2), max_loss=2.0)
    assert regressor.criterion == choice.criterion == load(directory).criterion
