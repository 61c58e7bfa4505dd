"""The table: accuracies are those of a recount, the chosen line is the rule's."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from exit_models import toy_rows

from offramp.errors import ConfigError, DataError, OfframpError, UnsupportedError
from offramp.exits.attach import exits_of
from offramp.exits.criteria import Entropy
from offramp.runner.loading import load
from offramp.runner.rows import Row
from offramp.runner.run import Runner
from offramp.runner.sweep import every_exit
from offramp.text.tables import Table
from offramp.training.evaluation import Evaluation, Line, evaluate
from offramp.training.examples import to_examples
from offramp.training.peers import OpenPeer
from offramp.training.thresholds import choose_threshold
from offramp.training.timing import Ratio
from offramp.training.train import TrainingReport

Trained = tuple[Path, TrainingReport]
QUICK = {"rounds": 1, "timing_rows": 8, "transformers": False}


@pytest.fixture(scope="module")
def hard(toy_data: dict[str, Table]) -> Table:
    """Test rows with every fifth label wrong, so that no accuracy is 1."""
    labels = toy_data["test"].labels
    assert labels is not None
    turned = {"pos": "neg", "neg": "pos"}
    return Table(
        "hard",
        toy_data["test"].texts,
        [turned[label] if i % 5 == 0 else label for i, label in enumerate(labels)],
    )


@pytest.fixture(scope="module")
def evaluation(toy_trained: Trained, hard: Table, toy_data: dict[str, Table]) -> Evaluation:
    return evaluate(
        toy_trained[0],
        hard,
        dev=toy_data["dev"],
        thresholds=[0.05, 0.3, 0.69],
        rounds=2,
        timing_rows=10,
        transformers=True,
    )


def test_accuracies_are_those_of_a_recount(
    evaluation: Evaluation, toy_trained: Trained, hard: Table
) -> None:
    classifier = load(toy_trained[0])
    assert hard.labels is not None
    asked = [line for line in evaluation.lines if line.threshold is not None]
    assert {0.05, 0.3, 0.69} <= {line.threshold for line in asked}
    for line in asked:
        found = classifier.predict(hard.texts, threshold=line.threshold)
        right = [p.label == label for p, label in zip(found, hard.labels, strict=True)]
        assert line.scores["accuracy"] == pytest.approx(sum(right) / len(right))
        layers = [p.exit_layer for p in found]
        assert line.mean_layers == pytest.approx(sum(layers) / len(layers))
        assert line.system == f"exits at {line.threshold!r}"
    assert len({line.mean_layers for line in asked}) > 1


def test_plain_and_truncated_lines(
    evaluation: Evaluation, toy_trained: Trained, hard: Table
) -> None:
    classifier = load(toy_trained[0])
    examples = to_examples(hard, classifier.tokenizer, {"neg": 0, "pos": 1})
    lines = {line.system: line for line in evaluation.lines}
    for depth, name in {1: "truncated to 1", 2: "truncated to 2", 3: "plain"}.items():
        line = lines[name]
        found = Runner(classifier.model, exits=False, depth=depth).run(examples.rows)
        right = (found.logits_RC.argmax(-1) == examples.labels_R).double().mean().item()
        assert line.scores["accuracy"] == pytest.approx(right)
        assert line.mean_layers == depth
        assert line.depth == (None if depth == 3 else depth)
        assert line.threshold is None
        assert not line.chosen


def test_the_chosen_line_is_the_rule_s_on_dev(
    evaluation: Evaluation, toy_trained: Trained, toy_data: dict[str, Table]
) -> None:
    classifier = load(toy_trained[0])
    dev = to_examples(toy_data["dev"], classifier.tokenizer, {"neg": 0, "pos": 1})
    choice = choose_threshold(every_exit(classifier.model, dev.rows), dev.labels_R, 0.25, 2.25)
    assert evaluation.choice == choice
    assert evaluation.chosen.threshold == choice.criterion.threshold
    assert [line.chosen for line in evaluation.lines].count(True) == 1


def test_without_dev_the_saved_threshold_is_the_chosen_one(
    toy_trained: Trained, hard: Table
) -> None:
    evaluation = evaluate(toy_trained[0], hard, **QUICK)  # type: ignore[arg-type]
    assert evaluation.choice is None
    assert evaluation.chosen.threshold == load(toy_trained[0]).threshold
    others = [line.threshold for line in evaluation.lines if line.threshold is not None]
    shares = [math.log(2) * share for share in (0.03, 0.06, 0.12, 0.2, 0.35, 0.5)]
    assert others == sorted(others)
    rest = [t for t in others if t != evaluation.chosen.threshold or len(others) == 6]
    assert rest == pytest.approx(shares, abs=5.1e-5)


def test_loss_is_the_paired_difference_in_points(
    toy_trained: Trained, hard: Table, tmp_path: Path
) -> None:
    classifier = load(toy_trained[0])
    assert hard.labels is not None
    ramp = exits_of(classifier.model).ramp(1)
    with (
        torch.no_grad()
    ):  # sure of class 0, so that exits lose rows and win some of the mislabelled
        ramp.classifier.weight.zero_()
        ramp.classifier.bias.copy_(torch.tensor([9.0, 0.0]))
    classifier.save(tmp_path / "model")
    evaluation = evaluate(tmp_path / "model", hard, **QUICK)  # type: ignore[arg-type]
    full, fast = (
        [
            p.label == label
            for p, label in zip(
                classifier.predict(hard.texts, threshold=threshold), hard.labels, strict=True
            )
        ]
        for threshold in (0.0, evaluation.chosen.threshold)
    )
    differences = [one - two for one, two in zip(full, fast, strict=True)]
    assert set(differences) == {-1, 0, 1}
    n = len(differences)
    mean = sum(differences) / n
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    expected = [100 * mean, 100 * (mean - 1.96 * error), 100 * (mean + 1.96 * error)]
    assert list(evaluation.loss) == pytest.approx(expected)


def test_speeds_are_against_systems_without_thresholds(evaluation: Evaluation) -> None:
    peers = {"transformers, file order", "transformers, sorted"}
    others = {"plain", "truncated to 1", "truncated to 2"} | peers
    for line in evaluation.lines:
        assert set(line.speed) == others - {line.system}
        assert line.seconds > 0
        for ratio in line.speed.values():
            assert 0 < ratio.low <= ratio.median <= ratio.high
    assert (evaluation.rows, evaluation.timed_rows, evaluation.rounds) == (80, 10, 2)


def test_what_is_timed_against_transformers_answers_as_it_does(
    evaluation: Evaluation, toy_trained: Trained, hard: Table
) -> None:
    assert evaluation.transformers_difference is not None
    assert 0 <= evaluation.transformers_difference < 1e-4
    alone = evaluate(toy_trained[0], hard, **QUICK)  # type: ignore[arg-type]
    assert alone.transformers_difference is None


def test_peers_that_are_passed(toy_trained: Trained, hard: Table) -> None:
    """Each with its difference and speed, or the reason why it is not there."""
    classifier = load(toy_trained[0])

    def peer(off: float = 0.0, lasts: int = 99) -> OpenPeer:
        def opened(directory: Path, rows: Sequence[Row]) -> Callable[[], torch.Tensor]:
            assert directory == toy_trained[0]
            calls = iter(range(lasts))

            def run() -> torch.Tensor:
                if next(calls, None) is None:
                    raise ValueError("it is\ntired")
                return Runner(classifier.model, exits=False).run(rows).logits_RC + off

            return run

        return opened

    def closed(directory: Path, rows: Sequence[Row]) -> Callable[[], torch.Tensor]:
        raise UnsupportedError("It has no such family.")

    peers = {"same": peer(1e-6), "other": peer(0.5), "closed": closed, "tired": peer(lasts=2)}
    told: list[tuple[str, int, int]] = []
    found = evaluate(toy_trained[0], hard, peers=peers, progress=lambda *s: told.append(s), **QUICK)  # type: ignore[arg-type]
    assert found.peer_differences == {"same": pytest.approx(1e-6, abs=2e-6)}
    assert found.absent == {
        "other": "Its logits differ from the plain model's by 0.5: it is another model.",
        "closed": "It has no such family.",
        "tired": "It failed: ValueError: it is",
    }
    for line in found.lines:
        assert {"same", "other", "closed", "tired"} & set(line.speed) == {"same"}
    assert told[:4] == [("open", number, 4) for number in (1, 2, 3, 4)]
    json.dumps(found.to_dict(), allow_nan=False)


def test_evaluation_is_json(evaluation: Evaluation) -> None:
    values = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert values["rows"] == 80
    assert [line["system"] for line in values["lines"]] == [x.system for x in evaluation.lines]
    assert values["lines"][0]["scores"]["accuracy"] == evaluation.lines[0].scores["accuracy"]
    assert values["machine"]["torch"] == torch.__version__
    assert values["loss"] == list(evaluation.loss)


def test_truncation_as_good_by_hand() -> None:
    def line(system: str, accuracy: float, layers: float, depth: int | None = None) -> Line:
        speed = {"plain": Ratio(1.0, 1.0, 1.0)}
        return Line(system, {"accuracy": accuracy}, layers, 1.0, speed, depth=depth)

    plain = line("plain", 0.90, 6)
    cuts = [line(f"truncated to {k}", a, k, k) for k, a in ((1, 0.6), (2, 0.8), (3, 0.79))]
    table = Evaluation([plain, *cuts], 1, 1, 1, (0, 0, 0), None, None, "pos", {})
    for accuracy, system in (
        (0.5, "truncated to 1"),
        (0.79, "truncated to 2"),
        (0.8, "truncated to 2"),
        (0.85, "plain"),
        (0.95, "plain"),
    ):
        assert table.truncation_as_good(line("exits", accuracy, 2.5)).system == system


def test_a_threshold_is_not_reported_on_the_rows_it_was_chosen_on(
    toy_trained: Trained, hard: Table
) -> None:
    assert hard.labels is not None
    distinct = sorted(set(map(str, hard.texts)))
    for shared in (len(distinct), len(distinct) // 2 + 1):
        texts = [*distinct[:shared], "good of another file"]
        dev = Table("again", list(texts), ["pos"] * len(texts))
        with pytest.raises(DataError, match=f"{shared} texts of hard are in again too"):
            evaluate(toy_trained[0], hard, dev=dev, **QUICK)  # type: ignore[arg-type]


def test_bad_input_is_refused(toy_trained: Trained, hard: Table) -> None:
    strange = Table("odd.tsv", ["a", "b"], ["pos", "post"])
    with pytest.raises(DataError, match=r"odd\.tsv, row 2: the label 'post'.*'pos'"):
        evaluate(toy_trained[0], strange, **QUICK)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"odd\.tsv, row 2"):
        evaluate(toy_trained[0], hard, dev=strange, **QUICK)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="entropy threshold"):
        evaluate(toy_trained[0], hard, thresholds=[-0.1], **QUICK)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"rounds": 0}, {"timing_rows": 0}, {"timing_rows": -1}])
def test_measuring_nothing_is_refused(
    changes: dict[str, int], toy_trained: Trained, hard: Table
) -> None:
    with pytest.raises(OfframpError, match=next(iter(changes))):
        evaluate(toy_trained[0], hard, **(QUICK | changes))  # type: ignore[arg-type]


def test_one_row_is_enough(toy_trained: Trained) -> None:
    text, label = toy_rows(1, seed=50)[0]
    evaluation = evaluate(toy_trained[0], Table("one", [text], [label]), **QUICK)  # type: ignore[arg-type]
    assert all(map(math.isfinite, evaluation.loss))
    json.dumps(evaluation.to_dict(), allow_nan=False)


@pytest.mark.parametrize("saved", [1 / 3, 0.333333])
def test_thresholds_that_print_alike(
    saved: float, toy_trained: Trained, hard: Table, tmp_path: Path
) -> None:
    classifier = load(toy_trained[0])
    classifier.threshold = saved
    classifier.save(tmp_path / "third")
    evaluation = evaluate(tmp_path / "third", hard, thresholds=[0.333333, 1 / 3], **QUICK)  # type: ignore[arg-type]
    assert [line.chosen for line in evaluation.lines].count(True) == 1
    assert evaluation.chosen.threshold == saved
    assert [x.threshold for x in evaluation.lines if x.threshold] == [0.333333, 1 / 3]
    assert math.isfinite(evaluation.loss[0])


def test_a_runner_of_the_chosen_line_leaves_early(
    evaluation: Evaluation, toy_trained: Trained, hard: Table
) -> None:
    classifier = load(toy_trained[0])
    rows = classifier.tokenizer.encode(hard.texts)
    threshold = evaluation.chosen.threshold
    assert threshold is not None
    results = Runner(classifier.model, criterion=Entropy(threshold, 2.25)).run(rows)
    assert results.mean_layers == pytest.approx(evaluation.chosen.mean_layers)
    assert results.mean_layers < 3
