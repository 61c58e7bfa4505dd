"""The table of models that say numbers, or any number of labels: figures by plain formulas."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exit_models import WORDS, tiny_model, write_tokenizer

from offramp.errors import CheckpointError, ConfigError, DataError
from offramp.exits.attach import exits_of
from offramp.exits.criteria import (
    Criterion,
    Entropy,
    FixedDepth,
    MaxProbability,
    MinDepth,
    Patience,
    RegressionPatience,
)
from offramp.runner.loading import load
from offramp.runner.multi_label import MultiLabelClassifier
from offramp.runner.regressor import Regressor
from offramp.runner.reranker import Reranker
from offramp.runner.sweep import every_exit
from offramp.text.tables import Table
from offramp.training.evaluation import Evaluation, Line, evaluate
from offramp.training.examples import examples_of
from offramp.training.thresholds import choose_threshold, default_growth

QUICK: dict[str, Any] = {"rounds": 1, "timing_rows": 8, "transformers": False}
SHARES = (0.03, 0.06, 0.12, 0.2, 0.35, 0.5)
NAMES = ("film", "music", "story")

Written = Callable[..., Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Writes a random model of four layers with exits, whose answers are spread over its depth."""

    def write(kind: str | None, n_labels: int, criterion: Criterion | None = None) -> Path:
        settings: dict[str, Any] = {"problem_type": kind, "num_hidden_layers": 4}
        if n_labels > 1:
            settings["id2label"] = dict(enumerate(NAMES[:n_labels]))
        model = tiny_model(3, n_labels=n_labels, **settings)
        if criterion is not None:
            exits_of(model).criterion = criterion
        place = tmp_path_factory.mktemp("written") / "model"
        model.save_pretrained(place)
        write_tokenizer(place)
        return place

    return write


def texts_of(n_rows: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(n_rows)]


def numbers(place: Path, n_rows: int, seed: int, source: str = "numbers") -> Table:
    """What the model says at full depth, and noise."""
    rng = np.random.default_rng(seed)
    texts = texts_of(n_rows, seed)
    regressor = load(place, task="regress")
    regressor.criterion = FixedDepth(4)
    said = np.array([one.value for one in regressor.predict(texts)])
    noisy = said + rng.normal(scale=0.7 * said.std(), size=n_rows)
    return Table(source, [*texts], [repr(float(value)) for value in noisy])


def labels(place: Path, n_rows: int, seed: int, source: str = "labels") -> Table:
    """What the model says at full depth, every fifth answer turned."""
    rng = random.Random(seed)
    texts = texts_of(n_rows, seed)
    classifier = load(place, task="multilabel")
    classifier.criterion = FixedDepth(4)
    rows = [
        tuple(name for name in NAMES if (name in one.labels) != (rng.random() < 0.2))
        for one in classifier.predict(texts)
    ]
    return Table(source, [*texts], rows)


def criterion_of(line: Line) -> Criterion:
    """What makes the model answer as the line's system does."""
    return line.criterion or FixedDepth(line.depth or 4)


def floats(table: Table) -> np.ndarray:
    return np.array([float(str(label)) for label in table.labels or []])


def ranks(values: np.ndarray) -> np.ndarray:
    return np.array([np.sum(values < v) + np.sum(values <= v) for v in values])


# ---------------------------------------------------------------------------------------------
# Numbers.


@pytest.fixture(scope="module")
def regressing(written: Written) -> Path:
    return written("regression", 1, RegressionPatience(1, 0.5))


@pytest.fixture(scope="module")
def rows(regressing: Path) -> Table:
    return numbers(regressing, 70, 1)


@pytest.fixture(scope="module")
def of_numbers(regressing: Path, rows: Table) -> Evaluation:
    dev = numbers(regressing, 60, 2, "dev")
    return evaluate(
        regressing, rows, dev=dev, max_loss=8.0, rounds=2, timing_rows=10, transformers=True
    )


def test_numbers_are_those_of_a_recount(
    of_numbers: Evaluation, regressing: Path, rows: Table
) -> None:
    regressor, true = load(regressing), floats(rows)
    assert isinstance(regressor, Regressor)
    for line in of_numbers.lines:
        regressor.criterion = criterion_of(line)
        found = regressor.predict(rows.texts)
        said = np.array([one.value for one in found])
        assert line.scores == pytest.approx(
            {
                "pearson": np.corrcoef(said, true)[0, 1],
                "spearman": np.corrcoef(ranks(said), ranks(true))[0, 1],
                "mean_squared_error": np.mean((said - true) ** 2),
            },
            rel=1e-4,
        )
        assert line.mean_layers == pytest.approx(np.mean([one.exit_layer for one in found]))
    systems = [line.system for line in of_numbers.lines]
    assert systems[:4] == ["plain", "truncated to 1", "truncated to 2", "truncated to 3"]
    assert len({line.mean_layers for line in of_numbers.lines}) > 6


def test_the_chosen_distance_is_the_rule_s_on_dev(of_numbers: Evaluation, regressing: Path) -> None:
    regressor = load(regressing)
    dev = examples_of(numbers(regressing, 60, 2), regressor.tokenizer, regressor.model.config)
    choice = choose_threshold(every_exit(regressor.model, dev.rows), dev.labels_R, 8.0)
    assert of_numbers.choice == choice
    assert of_numbers.chosen.criterion == choice.criterion
    assert of_numbers.chosen.threshold == choice.threshold > 0
    assert (of_numbers.measure, of_numbers.positive) == ("pearson", None)


def test_distances_are_shares_of_the_largest_change(
    of_numbers: Evaluation, regressing: Path, rows: Table
) -> None:
    def largest(texts: list[Any]) -> float:
        regressor, said = load(regressing), []
        for depth in (1, 2, 3):
            regressor.criterion = FixedDepth(depth)
            said.append([one.value for one in regressor.predict(texts)])
        return float(np.abs(np.diff(said, axis=0)).max())

    def thresholds(evaluation: Evaluation) -> list[float]:
        found = [x.threshold for x in evaluation.lines if x.threshold is not None and not x.chosen]
        assert found == sorted(found)
        return found

    by_dev = [share * largest(texts_of(60, 2)) for share in SHARES]
    assert thresholds(of_numbers) == pytest.approx(by_dev, rel=2e-3)
    by_data = [share * largest(rows.texts) for share in SHARES]
    assert thresholds(evaluate(regressing, rows, **QUICK)) == pytest.approx(by_data, rel=2e-3)


def test_the_loss_of_numbers_is_a_paired_bootstrap(
    of_numbers: Evaluation, regressing: Path, rows: Table
) -> None:
    regressor, true = load(regressing), floats(rows)
    said = []
    for criterion in (FixedDepth(4), of_numbers.chosen.criterion):
        assert criterion is not None
        regressor.criterion = criterion
        said.append(np.array([one.value for one in regressor.predict(rows.texts)]))
    rng, losses = np.random.default_rng(5), []
    for _ in range(20_000):
        drawn = rng.integers(len(true), size=len(true))
        full, fast = (np.corrcoef(one[drawn], true[drawn])[0, 1] for one in said)
        losses.append(100 * (full - fast))
    full, fast = (np.corrcoef(one, true)[0, 1] for one in said)
    loss, low, high = of_numbers.loss
    assert loss == pytest.approx(100 * (full - fast), rel=1e-3)
    ends = np.quantile(losses, [0.025, 0.975])
    assert [low, high] == pytest.approx(ends, abs=0.1 * np.ptp(ends))
    assert low < loss < high


def test_transformers_says_the_same_numbers(of_numbers: Evaluation) -> None:
    assert of_numbers.transformers_difference is not None
    assert 0 <= of_numbers.transformers_difference < 1e-4
    assert "transformers, sorted" in of_numbers.chosen.speed


def test_evaluation_of_numbers_is_json(of_numbers: Evaluation) -> None:
    values = json.loads(json.dumps(of_numbers.to_dict(), allow_nan=False))
    assert (values["measure"], values["positive"]) == ("pearson", None)
    (chosen,) = [line for line in values["lines"] if line["chosen"]]
    assert of_numbers.chosen.criterion is not None
    assert chosen["criterion"] == of_numbers.chosen.criterion.to_dict()
    assert values["choice"]["criterion"] == chosen["criterion"]
    assert values["lines"][0]["criterion"] is None


def test_as_good_is_by_the_measure(of_numbers: Evaluation) -> None:
    cuts = [line for line in of_numbers.lines if line.depth is not None]
    for line in of_numbers.lines:
        if line.criterion is None:
            continue
        good = [x for x in cuts if x.scores["pearson"] >= line.scores["pearson"]]
        expected = min(good, key=lambda x: x.mean_layers).system if good else "plain"
        assert of_numbers.truncation_as_good(line).system == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda threshold: RegressionPatience(2, threshold),
        lambda threshold: RegressionPatience(1, threshold) & MinDepth(3),
        lambda threshold: RegressionPatience(2, threshold) | MinDepth(3),
    ],
    ids=["alone", "and", "or"],
)
def test_what_is_saved_beside_the_distance_is_kept(
    make: Callable[[float], Criterion], written: Written
) -> None:
    place = written("regression", 1, make(0.4))
    found = evaluate(place, numbers(place, 20, 4), thresholds=[0.9, 0.1], **QUICK)
    assert found.chosen.criterion == make(0.4)
    assert found.chosen.system == "exits at 0.4"
    asked = [line for line in found.lines if line.criterion is not None]
    assert [line.criterion for line in asked] == [make(0.1), make(0.4), make(0.9)]
    assert [line.threshold for line in asked] == [0.1, 0.4, 0.9]


def test_one_output_that_is_not_said_to_be_a_number(written: Written) -> None:
    place = written(None, 1, RegressionPatience(1, 0.5))
    assert isinstance(load(place), Reranker)
    found = evaluate(place, numbers(place, 20, 4), **QUICK)
    assert found.measure == "pearson"
    assert found.chosen.threshold == 0.5


# ---------------------------------------------------------------------------------------------
# Any number of labels.


@pytest.fixture(scope="module")
def labelling(written: Written) -> Path:
    return written("multi_label_classification", 3, Entropy(0.3, 1.2))


@pytest.fixture(scope="module")
def lists(labelling: Path) -> Table:
    return labels(labelling, 70, 1)


@pytest.fixture(scope="module")
def of_labels(labelling: Path, lists: Table) -> Evaluation:
    return evaluate(labelling, lists, rounds=1, timing_rows=10, transformers=True)


def counts(said: set[str], there: set[str]) -> tuple[int, int]:
    """Twice the hits, and all that were said or there: F1 is their sums' ratio."""
    return 2 * len(said & there), len(said) + len(there)


def test_labels_are_those_of_a_recount(
    of_labels: Evaluation, labelling: Path, lists: Table
) -> None:
    classifier = load(labelling)
    assert isinstance(classifier, MultiLabelClassifier)
    for line in of_labels.lines:
        classifier.criterion = criterion_of(line)
        found = classifier.predict(lists.texts)
        pairs = [(set(x.labels), set(y)) for x, y in zip(found, lists.labels or [], strict=True)]
        hits, total = np.sum([counts(*pair) for pair in pairs], axis=0)
        by_label = [
            np.sum([counts(said & {name}, there & {name}) for said, there in pairs], axis=0)
            for name in NAMES
        ]
        assert line.scores == pytest.approx(
            {
                "micro_f1": hits / total,
                "macro_f1": np.mean([own / all_ for own, all_ in by_label]),
                "exact_match": np.mean([said == there for said, there in pairs]),
            }
        )
        assert line.mean_layers == pytest.approx(np.mean([one.exit_layer for one in found]))
    assert of_labels.chosen.criterion == Entropy(0.3, 1.2)
    others = [x.threshold for x in of_labels.lines if x.threshold is not None and not x.chosen]
    assert others == pytest.approx([math.log(2) * share for share in SHARES], rel=1e-3)
    assert {x.criterion.growth for x in of_labels.lines if isinstance(x.criterion, Entropy)} == {
        1.2
    }
    assert (of_labels.measure, of_labels.positive) == ("micro_f1", None)
    assert of_labels.transformers_difference is not None
    assert of_labels.transformers_difference < 1e-4


def test_the_loss_of_labels_is_a_paired_bootstrap(
    of_labels: Evaluation, labelling: Path, lists: Table
) -> None:
    classifier = load(labelling)
    by_row = []
    for criterion in (FixedDepth(4), Entropy(0.3, 1.2)):
        classifier.criterion = criterion
        found = classifier.predict(lists.texts)
        pairs = zip(found, lists.labels or [], strict=True)
        by_row.append(np.array([counts(set(x.labels), set(y)) for x, y in pairs]))
    n, rng = len(lists), np.random.default_rng(5)
    times = rng.multinomial(n, [1 / n] * n, size=20_000)  # of each row in each draw
    sums = [times @ own for own in by_row]
    losses = 100 * (sums[0][:, 0] / sums[0][:, 1] - sums[1][:, 0] / sums[1][:, 1])
    full, fast = (own[:, 0].sum() / own[:, 1].sum() for own in by_row)
    loss, low, high = of_labels.loss
    assert loss == pytest.approx(100 * (full - fast))
    ends = np.quantile(losses, [0.025, 0.975])
    assert [low, high] == pytest.approx(ends, abs=0.1 * np.ptp(ends))
    assert low < loss < high


def test_labels_by_a_threshold_chosen_on_dev(labelling: Path, lists: Table) -> None:
    found = evaluate(
        labelling, lists, dev=labels(labelling, 60, 2), max_loss=5.0, thresholds=[0.2], **QUICK
    )
    assert found.choice is not None
    assert found.choice.measure == "micro_f1"
    assert found.chosen.criterion == found.choice.criterion == Entropy(found.choice.threshold, 1.2)
    assert 0.2 in [line.threshold for line in found.lines]


# ---------------------------------------------------------------------------------------------
# Criteria of other kinds.


@pytest.mark.parametrize(
    "saved", [MaxProbability(0.7), Patience(1), MinDepth(2), MinDepth(2) & Entropy(0.2)]
)
def test_a_criterion_of_another_kind_is_reported(saved: Criterion, written: Written) -> None:
    place = written(None, 3, saved)
    texts = texts_of(40, 6)
    table = Table("classes", [*texts], [random.Random(text).choice(NAMES) for text in texts])
    found = evaluate(place, table, thresholds=[0.3], **QUICK)
    assert found.chosen.criterion == saved
    assert found.chosen.system == f"exits by {saved}"
    assert found.chosen.threshold is None
    assert found.positive is None
    others = [line for line in found.lines if line.criterion is not None and not line.chosen]
    assert [line.criterion for line in others] == [Entropy(0.3, default_growth(4))]
    classifier = load(place, task="classify")
    answers = classifier.predict(texts)
    right = [x.label == label for x, label in zip(answers, table.labels or [], strict=True)]
    assert found.chosen.scores["accuracy"] == pytest.approx(np.mean(right))
    assert found.chosen.mean_layers == pytest.approx(np.mean([x.exit_layer for x in answers]))
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [x["criterion"] for x in values["lines"] if x["chosen"]] == [
        json.loads(json.dumps(saved.to_dict()))
    ]


def test_numbers_without_patience(written: Written) -> None:
    place = written("regression", 1, RegressionPatience(0, 0.3))
    found = evaluate(place, numbers(place, 20, 4), thresholds=[0.3], **QUICK)
    assert found.chosen.criterion == RegressionPatience(0, 0.3)
    assert found.chosen.mean_layers == 4
    assert found.loss == (0, 0, 0)
    (other,) = [line for line in found.lines if line.threshold is not None]
    assert other.criterion == RegressionPatience(1, 0.3)


def test_a_criterion_that_does_not_fit_is_refused(written: Written) -> None:
    place = written("regression", 1, Entropy(0.3))
    table = numbers(place, 20, 4)
    with pytest.raises(ConfigError, match=r"Take RegressionPatience\(2, threshold\)"):
        evaluate(place, table, **QUICK)
    dev = numbers(place, 20, 5)
    assert isinstance(evaluate(place, table, dev=dev, **QUICK).chosen.threshold, float)


# ---------------------------------------------------------------------------------------------
# Bad input.


def test_labels_of_another_kind_are_refused(
    regressing: Path, labelling: Path, rows: Table, lists: Table
) -> None:
    with pytest.raises(DataError, match="labels, row 1: the label is a list"):
        evaluate(regressing, lists, **QUICK)
    with pytest.raises(DataError, match="numbers, row 1: the label '.*' is no list"):
        evaluate(labelling, rows, **QUICK)
    words = Table("words", ["a film", "a story"], ["1.5", "good"])
    with pytest.raises(DataError, match="words, row 2: the label 'good' is no number"):
        evaluate(regressing, words, **QUICK)
    with pytest.raises(DataError, match="words, row 2: the label 'good' is no number"):
        evaluate(regressing, rows, dev=words, **QUICK)
    strange = Table("strange", ["a film"], [("film", "musik")])
    with pytest.raises(DataError, match=r"strange, row 1: the label 'musik'.*'music'"):
        evaluate(labelling, strange, **QUICK)


def test_thresholds_that_cannot_be_are_refused(
    regressing: Path, labelling: Path, rows: Table, lists: Table
) -> None:
    with pytest.raises(ConfigError, match="a regression's change is a number of at least 0"):
        evaluate(regressing, rows, thresholds=[0.1, -0.1], **QUICK)
    with pytest.raises(ConfigError, match="entropy threshold"):
        evaluate(labelling, lists, thresholds=[math.nan], **QUICK)


def test_dev_is_another_split(regressing: Path, rows: Table) -> None:
    with pytest.raises(DataError, match="70 texts of numbers are in numbers too"):
        evaluate(regressing, rows, dev=rows, **QUICK)


def test_models_that_cannot_be_evaluated(
    written: Written, regressing: Path, rows: Table, tmp_path: Path
) -> None:
    regressor = load(regressing)
    del regressor.model.exits
    regressor.save(tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"has no exits\. Put some with"):
        evaluate(tmp_path / "plain", rows, **QUICK)
    regressor.model.base_model.save_pretrained(tmp_path / "body")
    write_tokenizer(tmp_path / "body")
    with pytest.raises(CheckpointError, match="not a trained classifier"):
        evaluate(tmp_path / "body", rows, **QUICK)


def test_one_row_of_numbers(regressing: Path) -> None:
    found = evaluate(regressing, Table("one", ["a film"], ["2"]), **QUICK)
    assert found.loss == (0, 0, 0)
    json.dumps(found.to_dict(), allow_nan=False)
